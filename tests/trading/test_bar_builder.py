"""Bars from trades: one by one as at once, on drawn trades and on a real exchange's frames."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterable
from datetime import date
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.feeds.live import LivePolicy, LiveSubscription
from resources.feeds.protocol import BarClose, Capabilities, Heartbeat, LiveEvent
from tests.paths import market_data
from trading.bar_builder import TradeBarBuilder, bars_of_trades
from trading.bars import TURNOVER_QUANTUM, Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_MINUTE, Timeframe, iso

M1, H1, D1 = Timeframe.M1, Timeframe.H1, Timeframe.D1
WEDNESDAY = date(2026, 3, 4)


@given(st.data())
def test_bars_built_trade_by_trade_are_those_built_at_once(data: st.DataObject) -> None:
    venue = calendar(data.draw(st.sampled_from(["XNYS", "CRYPTO", "XTKS"])))
    timeframe = data.draw(st.sampled_from([M1, Timeframe.M5, H1, D1]))
    opened, closed = venue.bounds(venue.sessions(date(2026, 3, 2), date(2026, 3, 6))[0])
    times = sorted(data.draw(st.lists(st.integers(opened - 10**9, closed + 10**9), max_size=60)))
    prices = data.draw(st.lists(st.integers(1, 10**6), min_size=len(times), max_size=len(times)))
    sizes = data.draw(st.lists(st.integers(1, 10**6), min_size=len(times), max_size=len(times)))
    price, size = np.array(prices, np.float64) / 100, np.array(sizes, np.float64) / 10_000
    bars = bars_of_trades("X", timeframe, venue, np.array(times, np.int64), price, size)
    builder = TradeBarBuilder(timeframe, venue)
    made = [b for t, p, s in zip(times, price.tolist(), size.tolist(), strict=True) if (b := builder.add(t, p, s))]
    made += [b for b in [builder.close_until(2**62)] if b]
    assert [
        (b.close_time, b.session, b.open, b.high, b.low, b.close, b.volume, b.turnover, float(b.trades)) for b in made
    ] == list(
        zip(
            *(getattr(bars, n).tolist() for n in ("close_time", "session", "open", "high", "low", "close", "volume")),
            ([] if bars.turnover is None else bars.turnover.tolist()),
            ([] if bars.trades is None else bars.trades.tolist()),
            strict=True,
        )
    )  # fmt: skip
    assert builder.outside + sum(b.trades for b in made) == len(times)


def test_a_trade_of_a_closed_bar_is_counted_and_changes_nothing() -> None:
    venue = calendar("CRYPTO")
    start = venue.bounds(WEDNESDAY)[0]
    builder = TradeBarBuilder(M1, venue)
    assert builder.add(start + 5, 10.0, 1.0) is None
    bar = builder.add(start + 60_000_000, 11.0, 2.0)  # the very end belongs to the next bar
    assert bar is not None
    assert (bar.close, bar.trades) == (10.0, 1)
    assert builder.add(start + 59_999_999, 99.0, 1.0) is None
    assert builder.late == 1
    later = builder.close_until(start + 120_000_000)
    assert later is not None
    assert (later.high, later.trades, later.turnover) == (11.0, 1, 22.0)


# ---- Binance BTCUSDT, 8 August 2024: raw websocket frames ------------------------------------------------------------------

CRYPTO = calendar("CRYPTO")


class Trade(NamedTuple):
    time: int
    price: float
    size: float


@lru_cache(maxsize=1)
def _frames(path: Path) -> list[Trade]:
    """The trades of the frames in order of arrival, by the exchange's own time (ms)."""
    found = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            _stamp, _, text = line.partition(" ")
            data = json.loads(text).get("data", {})
            if data.get("e") == "trade":
                found.append(Trade(int(data["T"]) * 1000, float(data["p"]), float(data["q"])))
    return found


@pytest.fixture
def trades() -> list[Trade]:
    return _frames(market_data() / "hftbacktest" / "examples" / "spot" / "btcusdt_20240808.gz")


def at_once(trades: list[Trade]) -> Bars:
    time, price, size = (np.array(column) for column in zip(*trades, strict=True))
    return bars_of_trades("BTCUSDT", M1, CRYPTO, time.astype(np.int64), price, size)


def test_binance_trades_become_minutes_with_turnover_and_trade_count(trades: list[Trade]) -> None:
    bars = at_once(trades)
    assert len(trades) == 9757
    assert (iso(int(bars.close_time[0])), iso(int(bars.close_time[-1]))) == ("2024-08-08T23:55:00Z", "2024-08-09T00:01:00Z")
    assert bars.trades is not None
    assert bars.turnover is not None
    assert bars.trades.sum() == len(trades)
    for row, close in enumerate(bars.close_time.tolist()):  # a reference that anybody can check
        mine = [t for t in trades if close - US_PER_MINUTE <= t.time < close]
        prices = [t.price for t in mine]
        expected = (prices[0], max(prices), min(prices), prices[-1], float(len(mine)))
        assert (bars.open[row], bars.high[row], bars.low[row], bars.close[row], bars.trades[row]) == expected
        assert bars.volume[row] == pytest.approx(sum(t.size for t in mine))
        money = sum(t.price * t.size for t in mine)
        assert abs(bars.turnover[row] - money) <= len(mine) * TURNOVER_QUANTUM / 2
        assert bars.low[row] <= bars.vwap[row] <= bars.high[row]


def test_binance_trades_one_by_one_make_the_same_minutes(trades: list[Trade]) -> None:
    builder = TradeBarBuilder(M1, CRYPTO)
    made = [bar for trade in trades if (bar := builder.add(*trade))]
    bars = at_once(trades)
    assert [(b.close_time, b.open, b.high, b.low, b.close, b.volume, b.turnover, b.trades) for b in made] == [
        tuple(float(getattr(bars, n)[k]) if n != "close_time" else int(bars.close_time[k]) for n in COLUMNS)
        for k in range(len(bars) - 1)  # the last minute has not ended
    ]
    assert builder.late == builder.outside == 0


COLUMNS = ("close_time", "open", "high", "low", "close", "volume", "turnover", "trades")


class Frames:
    """A live feed over the frames that loses its connection twice; what passed meanwhile is in history."""

    def __init__(self, trades: list[Trade], cuts: list[int]) -> None:
        self.trades, self.cuts, self.at = trades, cuts, 0

    def market_time(self) -> int:
        return self.trades[min(self.at, len(self.trades) - 1)].time

    def capabilities(self) -> Capabilities:
        return Capabilities("frames", frozenset({M1}), live=True, heartbeat_seconds=1.0)

    def lookup(self, text: str) -> list[str]:
        return ["BTCUSDT"]

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        return at_once(self.trades).known_at(self.market_time())

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[LiveEvent]:
        builder, whole_from = TradeBarBuilder(M1, CRYPTO), self.market_time()
        yield Heartbeat(self.market_time())
        while self.at < len(self.trades):
            if self.cuts and self.at >= self.cuts[0]:
                self.cuts.pop(0)
                self.at += 1500  # what nobody hears
                raise ConnectionResetError("cut")
            bar = builder.add(*self.trades[self.at])
            self.at += 1
            if bar is not None and bar.close_time - US_PER_MINUTE >= whole_from:  # the minute it began in is not whole
                values = (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.turnover, float(bar.trades))
                yield BarClose("BTCUSDT", M1, bar.close_time, bar.session, *values)
                await asyncio.sleep(0)


def test_a_live_subscription_over_binance_frames_survives_cuts_without_losing_a_minute(trades: list[Trade]) -> None:
    coin = Instrument("BTCUSDT", AssetClass.CRYPTO, "CRYPTO", Decimal("0.01"), "USDT", "frames", "BTCUSDT", M1)
    expected = at_once(trades)
    feed = Frames(trades, [2000, 6000])
    subscription = LiveSubscription(
        feed, [coin], M1, last={"BTCUSDT": int(expected.close_time[0]) - US_PER_MINUTE}, market_time=feed.market_time,
        policy=LivePolicy(backoff_first_seconds=0.001, backoff_most_seconds=0.002),
    )  # fmt: skip

    async def listen() -> list[BarClose]:
        got: list[BarClose] = []
        async with asyncio.timeout(20):
            async for bar in subscription.bars():
                got.append(bar)
                if bar.close_time == int(expected.close_time[-2]):
                    return got
        return got

    bars = asyncio.run(listen())
    assert [b.close_time for b in bars] == expected.close_time[:-1].tolist()
    assert [(b.close, b.volume, b.turnover, b.trades) for b in bars] == list(
        zip(
            expected.close[:-1].tolist(), expected.volume[:-1].tolist(),
            (expected.turnover if expected.turnover is not None else np.empty(0))[:-1].tolist(),
            (expected.trades if expected.trades is not None else np.empty(0))[:-1].tolist(), strict=True,
        )
    )  # fmt: skip
    assert subscription.connects == 3
