"""What every feed must do. Inherit FeedSuite, give the fixtures `feed` and `case`, and pass.

A feed with a request budget also gives `limited`, a live one `live`; one whose source can be damaged in a test gives
`damaged`. A feed whose capabilities promise a budget or live data and that gives no such fixture fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import numpy as np
import pytest

from resources.feeds.protocol import BarClose, Feed, FeedError, LiveEvent, MalformedData, RateLimited, SymbolNotFound
from trading.bars import Bars, concat
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_date, session_number

MANY = 10_000
"""More requests than any budget of a test allows."""


@dataclass(frozen=True)
class FeedCase:
    """One instrument the feed has: a span with bars in every session but `absent`, and a span before any data."""

    instrument: Instrument
    timeframe: Timeframe
    start: date
    end: date
    empty: tuple[date, date]
    rows: int


@dataclass(frozen=True)
class LimitedCase:
    """A feed with a small budget. allowance: requests its plan allows now; seen(): requests its source has got.

    now(): the budget's clock, UTC us, when that is not the real one.
    """

    feed: Feed
    allowance: int
    seen: Callable[[], int]
    now: Callable[[], int] = field(default=lambda: time.time_ns() // 1000)


@dataclass(frozen=True)
class DamagedCase:
    """A feed whose source is damaged for `day` only. names: what the error must say (a regular expression)."""

    feed: Feed
    day: date
    names: str
    good_day: date


@dataclass(frozen=True)
class LiveCase:
    """A live feed that emits at least `bars` bars of `instruments` within seconds, and what cuts its connection."""

    feed: Feed
    instruments: Sequence[Instrument]
    timeframe: Timeframe
    bars: int = 6


class FeedSuite:
    """Inherited by every feed's test class, which provides the fixtures `feed` and `case`."""

    @pytest.fixture
    def limited(self) -> LimitedCase | None:
        """Given by feeds with a request budget."""
        return None

    @pytest.fixture
    def damaged(self) -> DamagedCase | None:
        """Given by feeds whose source a test can damage."""
        return None

    @pytest.fixture
    def live(self) -> LiveCase | None:
        """Given by live feeds."""
        return None

    # -- what it says of itself ----------------------------------------------------------------------------------------

    def test_it_is_a_feed_that_says_what_it_can(self, feed: Feed, case: FeedCase) -> None:
        assert isinstance(feed, Feed)
        capabilities = feed.capabilities()
        assert capabilities.name == case.instrument.feed
        assert case.timeframe in capabilities.timeframes
        for limit in (capabilities.requests_per_minute, capabilities.requests_per_day, capabilities.page_size):
            assert limit is None or limit > 0

    def test_lookup_finds_the_symbol_first_whatever_its_case(self, feed: Feed, case: FeedCase) -> None:
        symbol = case.instrument.feed_symbol
        for text in (symbol, symbol.lower(), symbol.upper()):
            assert feed.lookup(text)[0] == symbol
        assert symbol in feed.lookup(symbol.rpartition("/")[2][:3])
        assert feed.lookup("no such thing at all") == []

    # -- history -------------------------------------------------------------------------------------------------------

    def test_bars_ascend_inside_their_sessions_and_the_range(self, feed: Feed, case: FeedCase) -> None:
        bars = feed.history(case.instrument, case.timeframe, case.start, case.end)
        venue = calendar(case.instrument.calendar)
        assert len(bars) == case.rows
        assert (bars.symbol, bars.timeframe) == (case.instrument.symbol, case.timeframe)
        assert np.all(np.diff(bars.close_time) > 0)
        assert np.array_equal(venue.session_of(bars.close_time), bars.session)
        assert session_number(case.start) <= bars.session[0]
        assert bars.session[-1] <= session_number(case.end)
        for name in ("open", "high", "low", "close", "volume"):
            assert getattr(bars, name).dtype == np.float64
            assert np.all(np.isfinite(getattr(bars, name)))

    def test_close_times_are_utc_and_on_the_grid_of_the_session(self, feed: Feed, case: FeedCase) -> None:
        bars = feed.history(case.instrument, case.timeframe, case.start, case.end)
        venue = calendar(case.instrument.calendar)
        assert bars.close_time.dtype == np.int64
        for number in np.unique(bars.session):
            opened, closed = venue.bounds(int(number))
            times = bars.close_time[bars.session == number]
            assert opened < times[0]
            assert times[-1] <= closed
            if case.timeframe.intraday:
                assert np.all(((times - opened) % (case.timeframe.minutes * 60_000_000) == 0) | (times == closed))
            else:
                assert times.tolist() == [closed]

    def test_the_same_question_gets_the_same_bytes(self, feed: Feed, case: FeedCase) -> None:
        ask = (case.instrument, case.timeframe, case.start, case.end)
        first = feed.history(*ask)
        expected = first.content_hash()
        first.close[:] = -1.0  # what a caller does to its bars is its own affair
        assert feed.history(*ask).content_hash() == expected

    def test_a_shorter_question_gets_a_part_of_the_same_answer(self, feed: Feed, case: FeedCase) -> None:
        whole = feed.history(case.instrument, case.timeframe, case.start, case.end)
        last = session_date(int(whole.session[-1]))
        part = feed.history(case.instrument, case.timeframe, last, last)
        assert part.content_hash() == whole.rows(whole.session == whole.session[-1]).content_hash()

    def test_a_long_question_is_the_union_of_its_pages(self, feed: Feed, case: FeedCase) -> None:
        whole = feed.history(case.instrument, case.timeframe, case.start, case.end)
        page_size = feed.capabilities().page_size
        if page_size is not None:
            assert len(whole) > page_size, "the case is shorter than one page and shows nothing"
        sessions = [session_date(int(n)) for n in np.unique(whole.session)]
        cuts = [sessions[:1], sessions[1 : len(sessions) // 2 + 1], sessions[len(sessions) // 2 + 1 :]]
        pages = [feed.history(case.instrument, case.timeframe, cut[0], cut[-1]) for cut in cuts if cut]
        assert concat(pages).content_hash() == whole.content_hash()

    def test_after_a_cut_it_goes_on_behind_the_last_bar(self, feed: Feed, case: FeedCase) -> None:
        whole = feed.history(case.instrument, case.timeframe, case.start, case.end)
        for at in sorted({1, len(whole) // 3, len(whole) // 2, len(whole) - 1} - {0}):
            held = whole.rows(slice(0, at))
            again = feed.history(case.instrument, case.timeframe, session_date(int(held.session[-1])), case.end)
            rest = again.rows(again.close_time > held.close_time[-1])
            assert concat([held, rest]).content_hash() == whole.content_hash()

    def test_nothing_there_is_an_empty_answer(self, feed: Feed, case: FeedCase) -> None:
        assert len(feed.history(case.instrument, case.timeframe, *case.empty)) == 0
        assert len(feed.history(case.instrument, case.timeframe, case.end, case.start - timedelta(days=1))) == 0

    def test_an_unknown_symbol_is_named(self, feed: Feed, case: FeedCase) -> None:
        unknown = replace(case.instrument, feed_symbol=case.instrument.feed_symbol + "zzz")
        with pytest.raises(SymbolNotFound, match=r"(?i)zzz"):
            feed.history(unknown, case.timeframe, case.start, case.end)

    def test_a_timeframe_it_does_not_have_is_refused(self, feed: Feed, case: FeedCase) -> None:
        for timeframe in set(Timeframe) - feed.capabilities().timeframes:
            with pytest.raises(FeedError, match=str(timeframe)):
                feed.history(case.instrument, timeframe, case.start, case.end)

    # -- faults --------------------------------------------------------------------------------------------------------

    def test_a_budget_is_never_exceeded(self, feed: Feed, case: FeedCase, limited: LimitedCase | None) -> None:
        promised = feed.capabilities()
        if limited is None:
            assert promised.requests_per_minute is None, "a feed with a budget gives the fixture `limited`"
            assert promised.requests_per_day is None, "a feed with a budget gives the fixture `limited`"
            return
        ask = (case.instrument, case.timeframe, case.end, case.end)

        def use_up() -> None:
            for _ in range(MANY):
                limited.feed.history(*ask)

        with pytest.raises(RateLimited) as refused:
            use_up()
        assert 0 < limited.seen() <= limited.allowance
        assert refused.value.retry_wall > limited.now()
        before = limited.seen()
        with pytest.raises(RateLimited):
            limited.feed.history(*ask)
        assert limited.seen() == before, "a refused question must not reach the source"

    def test_a_malformed_payload_is_named_and_the_rest_stays_readable(self, case: FeedCase, damaged: DamagedCase | None) -> None:
        if damaged is None:
            pytest.skip("its source is damaged by tests of its own")
        with pytest.raises(MalformedData, match=damaged.names):
            damaged.feed.history(case.instrument, case.timeframe, damaged.day, damaged.day)
        assert len(damaged.feed.history(case.instrument, case.timeframe, damaged.good_day, damaged.good_day))

    # -- live ----------------------------------------------------------------------------------------------------------

    def test_without_live_data_it_says_so(self, feed: Feed, case: FeedCase) -> None:
        if feed.capabilities().live:
            pytest.skip("this feed is live")

        async def listen() -> None:
            async for _ in feed.subscribe([case.instrument], case.timeframe):
                raise AssertionError("a bar from a feed that is not live")

        with pytest.raises(FeedError, match="no live data"):
            asyncio.run(listen())

    def test_live_bars_are_those_of_history_in_order_once(self, feed: Feed, live: LiveCase | None) -> None:
        if live is None:
            assert not feed.capabilities().live, "a live feed gives the fixture `live`"
            return
        bars = asyncio.run(_listen(live, live.bars))
        assert len(bars) == live.bars
        _check_live(live, bars)

    def test_after_a_cut_live_and_history_leave_no_gap(self, feed: Feed, live: LiveCase | None) -> None:
        if live is None:
            assert not feed.capabilities().live, "a live feed gives the fixture `live`"
            return

        async def cut_and_go_on() -> list[BarClose]:
            got = await _listen(live, live.bars // 2)
            stream = live.feed.subscribe(live.instruments, live.timeframe)
            newer = await _take(stream, live.bars // 2)
            last = {b.symbol: b.close_time for b in got}
            joined = {(b.symbol, b.close_time): b for b in got}
            for instrument in live.instruments:
                first_new = min((b.close_time for b in newer if b.symbol == instrument.symbol), default=None)
                if first_new is None or instrument.symbol not in last:
                    continue
                held = await asyncio.to_thread(_closes, live, instrument, newer)
                joined |= {(b.symbol, b.close_time): b for b in held if last[b.symbol] < b.close_time < first_new}
            joined |= {(b.symbol, b.close_time): b for b in newer}
            return sorted(joined.values(), key=lambda b: (b.close_time, b.symbol))

        bars = asyncio.run(cut_and_go_on())
        assert len(bars) >= live.bars // 2 * 2
        _check_live(live, bars)


async def _take(stream: AsyncIterator[LiveEvent], count: int) -> list[BarClose]:
    got: list[BarClose] = []
    try:
        async with asyncio.timeout(20):
            async for event in stream:
                if isinstance(event, BarClose):
                    got.append(event)
                    if len(got) >= count:
                        return got
    finally:
        await stream.aclose()  # type: ignore[attr-defined]
    raise AssertionError(f"the subscription ended after {len(got)} bars, expected {count}")


async def _listen(live: LiveCase, count: int) -> list[BarClose]:
    return await _take(live.feed.subscribe(live.instruments, live.timeframe), count)


def _closes(live: LiveCase, instrument: Instrument, around: Sequence[BarClose]) -> list[BarClose]:
    """History of the sessions of `around` (and the one before), as bar closes."""
    sessions = [b.session for b in around if b.symbol == instrument.symbol]
    bars = live.feed.history(instrument, live.timeframe, session_date(min(sessions) - 4), session_date(max(sessions)))
    return [_close(bars, row) for row in range(len(bars))]


def _close(bars: Bars, row: int) -> BarClose:
    o, h, low, c, v = (float(getattr(bars, name)[row]) for name in ("open", "high", "low", "close", "volume"))
    return BarClose(bars.symbol, bars.timeframe, int(bars.close_time[row]), int(bars.session[row]), o, h, low, c, v)


def _check_live(live: LiveCase, bars: Sequence[BarClose]) -> None:
    """Ascending per symbol, once each, no gap between the first and the last, equal to history."""
    for instrument in live.instruments:
        mine = [b for b in bars if b.symbol == instrument.symbol]
        if not mine:
            continue
        times = [b.close_time for b in mine]
        assert times == sorted(set(times))
        held = [b for b in _closes(live, instrument, mine) if times[0] <= b.close_time <= times[-1]]
        assert [(b.close_time, b.open, b.high, b.low, b.close, b.volume) for b in mine] == [
            (b.close_time, b.open, b.high, b.low, b.close, b.volume) for b in held
        ]
