"""What every feed must do. Inherit FeedSuite, give the fixtures `feed` and `case`, and pass."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import date, timedelta

import numpy as np
import pytest

from resources.feeds.protocol import Feed, FeedError, SymbolNotFound
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_number


@dataclass(frozen=True)
class FeedCase:
    """One instrument the feed has: a span with bars in every session but `absent`, and a span before any data."""

    instrument: Instrument
    timeframe: Timeframe
    start: date
    end: date
    empty: tuple[date, date]
    rows: int


class FeedSuite:
    """Inherited by every feed's test class, which provides the fixtures `feed` and `case`."""

    def test_it_is_a_feed_that_says_what_it_can(self, feed: Feed, case: FeedCase) -> None:
        assert isinstance(feed, Feed)
        capabilities = feed.capabilities()
        assert capabilities.name == case.instrument.feed
        assert case.timeframe in capabilities.timeframes

    def test_lookup_finds_the_symbol_first_whatever_its_case(self, feed: Feed, case: FeedCase) -> None:
        symbol = case.instrument.feed_symbol
        for text in (symbol, symbol.lower(), symbol.upper()):
            assert feed.lookup(text)[0] == symbol
        assert symbol in feed.lookup(symbol.rpartition("/")[2][:3])
        assert feed.lookup("no such thing at all") == []

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

    def test_the_same_question_gets_the_same_bytes(self, feed: Feed, case: FeedCase) -> None:
        ask = (case.instrument, case.timeframe, case.start, case.end)
        first = feed.history(*ask)
        expected = first.content_hash()
        first.close[:] = -1.0  # what a caller does to its bars is its own affair
        assert feed.history(*ask).content_hash() == expected

    def test_a_shorter_question_gets_a_part_of_the_same_answer(self, feed: Feed, case: FeedCase) -> None:
        whole = feed.history(case.instrument, case.timeframe, case.start, case.end)
        last = date(1970, 1, 1) + timedelta(days=int(whole.session[-1]))
        part = feed.history(case.instrument, case.timeframe, last, last)
        assert part.content_hash() == whole.rows(whole.session == whole.session[-1]).content_hash()

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

    def test_without_live_data_it_says_so(self, feed: Feed, case: FeedCase) -> None:
        if feed.capabilities().live:
            pytest.skip("this feed is live: its own tests exercise subscribe")

        async def listen() -> None:
            async for _ in feed.subscribe([case.instrument], case.timeframe):
                raise AssertionError("a bar from a feed that is not live")

        with pytest.raises(FeedError, match="no live data"):
            asyncio.run(listen())
