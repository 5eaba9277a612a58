"""A live subscription: in order, once, nothing lost, whatever the connection does."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.feeds._live_state import expected_closes
from resources.feeds.live import LivePolicy, LiveSubscription, bar_close
from resources.feeds.protocol import BarClose, Capabilities, FeedError, Heartbeat, LiveEvent
from tests.doubles.live_server import (
    After,
    Beat,
    Cut,
    Garbage,
    LiveServer,
    Market,
    Miss,
    Refuse,
    Send,
    Stall,
    Step,
    WireFeed,
    free_then_closed_port,
)
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_number, to_us

M1 = Timeframe.M1
DAY = date(2026, 3, 4)
OPEN = to_us(datetime(2026, 3, 4, tzinfo=UTC))
BTC = Instrument("BTCUSD", AssetClass.CRYPTO, "CRYPTO", Decimal("0.01"), "USD", "wire", "BTCUSD", M1)
ETH = replace(BTC, symbol="ETHUSD", feed_symbol="ETHUSD")
QUICK = LivePolicy(
    stale_seconds=0.3, silence_seconds=0.6, backoff_first_seconds=0.005, backoff_most_seconds=0.02, repair_seconds=1.0,
    repair_again_seconds=0.1,
)  # fmt: skip


def history(symbol: str = "BTCUSD", count: int = 60, missing: Iterable[int] = ()) -> Bars:
    """Minute bars 1..count of DAY, without the `missing` ones. The k-th closes k minutes after the open at price k."""
    k = np.array([i for i in range(1, count + 1) if i not in set(missing)])
    price = 100.0 + k
    return Bars(
        symbol, M1, OPEN + k * US_PER_MINUTE, np.full(len(k), session_number(DAY), np.int32), price, price + 1, price - 1, price,
        np.ones(len(k)),
    )  # fmt: skip


def bar(k: int, symbol: str = "BTCUSD") -> BarClose:
    """The k-th bar of DAY."""
    return bar_close(history(symbol, k), k - 1)


def sent(*numbers: int, moves: bool = True) -> Send:
    return Send(tuple(bar(k) for k in numbers), moves)


def at(k: int) -> int:
    return OPEN + k * US_PER_MINUTE


async def collect(
    subscription: LiveSubscription, count: int, seconds: float = 120.0, each: Callable[[BarClose], None] = lambda b: None
) -> list[BarClose]:
    """The first `count` bars it passes on."""
    got: list[BarClose] = []
    stream = subscription.bars()
    try:
        async with asyncio.timeout(seconds):
            async for item in stream:
                got.append(item)
                each(item)
                if len(got) == count:
                    return got
    except TimeoutError:
        raise AssertionError(f"{len(got)} of {count} bars: {numbers(got)}; {subscription.status()}") from None
    finally:
        await stream.aclose()  # type: ignore[attr-defined]
    raise AssertionError("the subscription ended")


def numbers(bars: Sequence[BarClose]) -> list[int]:
    return [(b.close_time - OPEN) // US_PER_MINUTE for b in bars]


def listen(
    steps: Sequence[Step],
    count: int,
    *,
    start: int = 0,
    held: Bars | None = None,
    policy: LivePolicy = QUICK,
    tolerated: int = 0,
    heartbeat_seconds: float | None = 0.1,
) -> tuple[list[BarClose], LiveSubscription, LiveServer]:
    """Run a server with `steps` and collect `count` bars; what the desk holds already ends with bar `start`."""
    market = Market(at(start))
    with LiveServer(market, steps) as server:
        feed = WireFeed(lambda: server.port, {"BTCUSD": held or history()}, market, heartbeat_seconds)
        subscription = LiveSubscription(
            feed, [BTC], M1, last={"BTCUSD": at(start)}, market_time=market, policy=policy, tolerated={"BTCUSD": tolerated}
        )

        def on_bar(_: BarClose) -> None:
            server.passed += 1

        return asyncio.run(collect(subscription, count, each=on_bar)), subscription, server


# ---- the ordinary day ------------------------------------------------------------------------------------------------


def test_bars_come_as_they_are_sent() -> None:
    bars, subscription, server = listen([sent(1), After(1), sent(2), Beat(), sent(3)], 3)
    assert bars == [bar(1), bar(2), bar(3)]
    assert server.connections == 1
    assert subscription.trouble() == {}


def test_what_closed_before_it_listened_comes_from_history_first() -> None:
    bars, subscription, _ = listen([sent(5)], 5)
    assert numbers(bars) == [1, 2, 3, 4, 5]
    assert not any(b.late for b in bars)
    assert subscription.symbols["BTCUSD"].repaired >= 4


# ---- disconnects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Cut(), Cut(half=True), Garbage(), Stall()], ids=["cut", "half a line", "garbage", "stall"])
def test_a_hole_left_by_a_broken_connection_is_filled_before_newer_bars_go_on(cut: Step) -> None:
    steps: list[Step] = [sent(1), sent(2), After(2), cut, Miss(bar(4)), sent(5)]
    bars, subscription, server = listen(steps, 5)
    assert numbers(bars) == [1, 2, 3, 4, 5]
    assert bars == [bar(k) for k in range(1, 6)]
    assert server.connections == 2
    assert subscription.status()["reconnects"] == 1


def test_many_breaks_lose_nothing_and_repeat_nothing() -> None:
    steps: list[Step] = []
    for k in range(1, 41):
        ways: list[list[Step]] = [
            [sent(k)], [Miss(bar(k)), Cut()], [sent(k), Cut(half=True)], [Cut(), Refuse(), sent(k)], [sent(k), Garbage(), Cut()],
        ]  # fmt: skip
        steps += ways[k % 5]
    bars, _, server = listen([*steps, sent(41)], 41)
    assert numbers(bars) == list(range(1, 42))
    assert server.connections > 20


def test_two_instruments_are_repaired_together_in_order_of_time() -> None:
    market = Market(at(0))
    steps: list[Step] = [sent(1), Send((bar(1, "ETHUSD"),)), Cut(), Miss(bar(4)), Send((bar(5), bar(5, "ETHUSD")))]
    with LiveServer(market, steps) as server:
        feed = WireFeed(lambda: server.port, {"BTCUSD": history(), "ETHUSD": history("ETHUSD")}, market)
        both = LiveSubscription(feed, [BTC, ETH], M1, last={"BTCUSD": at(0), "ETHUSD": at(0)}, market_time=market, policy=QUICK)
        bars = asyncio.run(collect(both, 10))
    assert [b.close_time for b in bars] == sorted(b.close_time for b in bars)
    for symbol in ("BTCUSD", "ETHUSD"):
        assert numbers([b for b in bars if b.symbol == symbol]) == [1, 2, 3, 4, 5]


# ---- odd bars --------------------------------------------------------------------------------------------------------


def test_repeated_bars_are_dropped_and_counted() -> None:
    bars, subscription, _ = listen([sent(1, 1), After(1), sent(2), After(2), sent(1), sent(2, 3)], 3)
    assert numbers(bars) == [1, 2, 3]
    assert subscription.symbols["BTCUSD"].duplicates >= 3


def test_a_bar_overtaken_by_a_newer_one_comes_from_history_in_its_place() -> None:
    bars, subscription, _ = listen([sent(1), After(1), sent(3), After(3), sent(2), sent(4)], 4)
    assert numbers(bars) == [1, 2, 3, 4]
    assert subscription.symbols["BTCUSD"].duplicates >= 1


def test_a_late_bar_that_history_did_not_have_is_passed_on_as_late() -> None:
    bars, subscription, _ = listen(
        [sent(1), After(1), sent(3), After(2), sent(2), After(3), sent(4)], 4, held=history(missing=[2])
    )
    assert [(k, b.late) for k, b in zip(numbers(bars), bars, strict=True)] == [(1, False), (3, False), (2, True), (4, False)]
    assert subscription.symbols["BTCUSD"].late == 1


def test_a_bar_told_differently_is_passed_on_so_that_the_contradiction_is_recorded() -> None:
    other = replace(bar(1), close=101.5)
    bars, subscription, _ = listen([sent(1), sent(2), After(2), Send((other,)), After(3), sent(3)], 4)
    assert bars[2] == replace(other, late=True)
    assert subscription.symbols["BTCUSD"].corrected == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"close": math.nan}, {"high": math.inf}, {"session": session_number(DAY) + 1}, {"close_time": at(2) + 1},
        {"close_time": at(30)}, {"timeframe": Timeframe.H1},
    ],
    ids=lambda w: next(iter(w)),
)  # fmt: skip
def test_a_bar_that_cannot_be_is_not_believed_and_its_place_is_filled(wrong: dict[str, object]) -> None:
    nonsense = replace(bar(2), **wrong)  # type: ignore[arg-type]
    steps: list[Step] = [sent(1), After(1), Send((nonsense,), moves=False), Miss(bar(2)), sent(3)]
    bars, subscription, server = listen(steps, 3)
    assert bars == [bar(1), bar(2), bar(3)]
    assert subscription.symbols["BTCUSD"].malformed == 1
    assert server.connections == 1


def test_a_symbol_nobody_asked_for_is_ignored() -> None:
    bars, subscription, _ = listen([sent(1), After(1), Send((bar(2, "XXX"),)), sent(3)], 3)
    assert numbers(bars) == [1, 2, 3]
    assert subscription.unknown == 1


def test_minutes_in_which_nobody_trades_are_no_hole_where_that_is_usual() -> None:
    held = history(missing=[2, 3])
    market = Market(at(0))
    with LiveServer(market, [sent(1), sent(4)]) as server:
        feed = WireFeed(lambda: server.port, {"BTCUSD": held}, market)
        quiet = LiveSubscription(
            feed, [BTC], M1, last={"BTCUSD": at(0)}, market_time=market, policy=QUICK, tolerated={"BTCUSD": 2}
        )
        bars = asyncio.run(collect(quiet, 2))
    assert numbers(bars) == [1, 4]
    assert feed.asked == 1  # at the connection, not for the two quiet minutes


# ---- when history cannot help ----------------------------------------------------------------------------------------


def test_newer_bars_go_on_when_history_fails_the_symbol_is_in_trouble_and_the_hole_is_filled_later() -> None:
    market = Market(at(0))
    troubles: list[str] = []
    with LiveServer(market, [sent(1), After(1), Cut(), Miss(bar(3)), sent(4), Beat()]) as server:
        feed = WireFeed(lambda: server.port, {"BTCUSD": history()}, market)
        subscription = LiveSubscription(feed, [BTC], M1, last={"BTCUSD": at(0)}, market_time=market, policy=QUICK)

        def on_bar(item: BarClose) -> None:
            server.passed += 1
            k = numbers([item])[0]
            troubles.append(subscription.trouble().get("BTCUSD", ""))
            feed.history_fails = "the archive is closed" if k == 1 else "" if k == 4 else feed.history_fails

        bars = asyncio.run(collect(subscription, 4, each=on_bar))
    assert [(k, b.late) for k, b in zip(numbers(bars), bars, strict=True)] == [(1, False), (4, False), (2, True), (3, True)]
    assert troubles[0] == ""
    assert "00:01:00Z to 2026-03-04T00:0" in troubles[1]
    assert "the archive is closed" in troubles[1]
    assert subscription.trouble() == {}


# ---- back-off --------------------------------------------------------------------------------------------------------


class Silent:
    """A feed whose connection fails a number of times, then gives one bar and fails again."""

    def __init__(self, failures: Sequence[int]) -> None:
        self.left = list(failures)

    def capabilities(self) -> Capabilities:
        return Capabilities("silent", frozenset({M1}), live=True)

    def lookup(self, text: str) -> list[str]:
        return []

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        return Bars.empty(instrument.symbol, timeframe)

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[LiveEvent]:
        if self.left and self.left[0] > 0:
            self.left[0] -= 1
            raise ConnectionRefusedError("nobody there")
        number = 6 - len(self.left)
        self.left = self.left[1:]
        yield bar(number)
        raise ConnectionResetError("gone again")


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_bar() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    policy = LivePolicy(backoff_first_seconds=1.0, backoff_most_seconds=10.0)
    subscription = LiveSubscription(
        Silent([6, 2]), [BTC], M1, last={"BTCUSD": at(3)}, market_time=Market(at(10)), policy=policy, sleep=sleep,
        random=lambda: 1.0, tolerated={"BTCUSD": 99},
    )  # fmt: skip
    asyncio.run(collect(subscription, 2))
    assert pauses == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 1.0, 2.0, 4.0]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_never_longer_than_the_bound_nor_shorter_than_half_its_step(failures: int, drawn: float) -> None:
    policy = LivePolicy(backoff_first_seconds=0.5, backoff_most_seconds=30.0)
    step = min(30.0, 0.5 * 2.0 ** (failures - 1) if failures < 60 else 30.0)
    assert step / 2 <= policy.backoff(failures, lambda: drawn) <= step


# ---- freshness -------------------------------------------------------------------------------------------------------


def test_a_bar_that_does_not_come_is_seen_within_the_tolerance() -> None:
    market = Market(at(0))
    subscription = LiveSubscription(Silent([]), [BTC], M1, last={"BTCUSD": at(0)}, market_time=market)
    subscription.connected = True
    market.reach(at(1) + 9_999_999)
    assert subscription.trouble() == {}
    market.reach(at(1) + 10_000_000)
    assert "1 bar(s) overdue, the first since 2026-03-04T00:01:00Z; nothing yet" in subscription.trouble()["BTCUSD"]
    subscription.symbols["BTCUSD"].take(bar(1), 0)
    assert subscription.trouble() == {}
    market.reach(at(4))
    assert "2 bar(s) overdue, the first since 2026-03-04T00:02:00Z; the last bar closed at" in subscription.trouble()["BTCUSD"]


def test_nothing_is_overdue_while_the_venue_is_closed() -> None:
    stock = replace(BTC, symbol="IBM", calendar="XNYS")
    friday_close = calendar("XNYS").bounds(date(2015, 12, 24))[1]  # 13:00 in New York: a half day
    market = Market(friday_close)
    subscription = LiveSubscription(Silent([]), [stock], M1, last={"IBM": friday_close}, market_time=market)
    subscription.connected = True
    monday_open = calendar("XNYS").bounds(date(2015, 12, 28))[0]
    market.reach(monday_open + 69_999_999)
    assert subscription.trouble() == {}
    market.reach(monday_open + 70_000_000)
    assert iso(monday_open + US_PER_MINUTE) in subscription.trouble()["IBM"]


def test_a_dead_connection_is_trouble_even_before_a_bar_is_due() -> None:
    market = Market(at(0))
    hourly = replace(BTC, native_timeframe=Timeframe.H1)
    feed = WireFeed(free_then_closed_port, {"BTCUSD": history()}, market)
    subscription = LiveSubscription(feed, [hourly], M1, last={"BTCUSD": at(0)}, market_time=market, policy=QUICK)

    async def refused() -> None:
        stream = subscription.bars()
        first = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(120):
            while not (subscription.trouble() and subscription.status()["failures"] > 3):
                await asyncio.sleep(0.01)
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await stream.aclose()  # type: ignore[attr-defined]

    asyncio.run(refused())
    assert "no connection for" in subscription.trouble()["BTCUSD"]
    assert "ConnectionRefusedError" in subscription.trouble()["BTCUSD"]


def test_lunch_breaks_and_half_days_have_the_bars_the_calendar_says() -> None:
    tokyo = calendar("XTKS")
    opened, closed = tokyo.bounds(DAY)
    due = expected_closes(tokyo, M1, opened, closed)
    assert len(due) == ((closed - opened) // US_PER_MINUTE) - 60
    assert expected_closes(tokyo, Timeframe.D1, opened, closed).tolist() == [closed]
    assert len(expected_closes(tokyo, M1, closed, closed + 3_600_000_000)) == 0


# ---- any order of faults ---------------------------------------------------------------------------------------------


class Scripted:
    """A feed in this process whose every connection plays the next part of a script; history knows all by `market`."""

    def __init__(self, parts: list[list[BarClose]], market: Market) -> None:
        self.parts, self.market = parts, market

    def capabilities(self) -> Capabilities:
        return Capabilities("scripted", frozenset({M1}), live=True, heartbeat_seconds=60)

    def lookup(self, text: str) -> list[str]:
        return []

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        return history(count=20).known_at(self.market())

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[LiveEvent]:
        yield Heartbeat(self.market())
        for item in self.parts.pop(0) if self.parts else [bar(20)]:
            self.market.reach(item.close_time)
            yield item
            await asyncio.sleep(0)
        raise FeedError("cut")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.integers(1, 19), max_size=8), max_size=5))
def test_whatever_is_sent_in_whatever_order_each_bar_is_passed_on_once_and_newer_ones_never_before_older_ones(
    script: list[list[int]],
) -> None:
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)

    market = Market(at(0))
    feed = Scripted([[bar(k) for k in part] for part in script], market)
    subscription = LiveSubscription(feed, [BTC], M1, last={"BTCUSD": at(0)}, market_time=market, policy=QUICK, sleep=sleep)
    bars = asyncio.run(collect(subscription, 20))
    assert numbers(bars) == list(range(1, 21))
    assert not any(b.late for b in bars)
