"""One tick: ten indicators brought up to date, a rule of them decided, a trailing stop and a target checked.

The indicators are TA-Lib's streaming handles, which keep their state and answer in constant time; the levels are
trading.matching's. mean: microseconds a tick; mean_processor: the same in processor time, which other work on the machine
disturbs less; p99: of ticks timed one by one, clock reading included. by_functions: by TA-Lib's functions over the last bars at
each tick, which is what a strategy without handles would do. Every value of every handle is compared with the functions over
the whole series, or the benchmark fails. A seeded walk on a tick grid.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import talib
from numpy.typing import NDArray

from bench.core import Row, at_most
from trading.matching import limit_fill, stop_fill, trail_on_grid

Floats = NDArray[np.float64]
HISTORY = 300
TICK = 0.01
INDICATORS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SMA", {"timeperiod": 10}), ("SMA", {"timeperiod": 30}), ("EMA", {"timeperiod": 20}), ("EMA", {"timeperiod": 50}),
    ("RSI", {"timeperiod": 14}), ("MOM", {"timeperiod": 10}), ("ROC", {"timeperiod": 10}), ("STDDEV", {"timeperiod": 20}),
    ("TRIX", {"timeperiod": 10}), ("CMO", {"timeperiod": 14}),
)  # fmt: skip
DISTANCE = 0.25  # of the stop behind the best price, and half of the target's


def prices(rows: int, seed: int = 5) -> Floats:
    """`rows` trade prices: a geometric walk on the cent grid."""
    steps = np.random.default_rng(seed).normal(0, 2e-4, rows)
    return np.round(100.0 * np.exp(np.cumsum(steps)), 2)


class Watch:
    """One instrument's indicators, rule and open position. A tick enters where the rule holds and nothing is open."""

    def __init__(self, history: Floats) -> None:
        self._updates: list[Callable[[float], float]] = [
            getattr(talib.stream, name)(history, **params).update for name, params in INDICATORS
        ]
        self.stop = self.target = float("nan")
        self.held = False
        self.entries = self.exits = 0

    def on_tick(self, price: float) -> tuple[float, ...]:
        """Bring everything up to date with one trade. Returns the indicators' values, in the order of INDICATORS."""
        u_fast, u_slow, u_trend, u_long, u_rsi, u_momentum, u_change, u_deviation, u_trix, u_cmo = self._updates
        # Every one is brought up to date before the rule is asked: it stops asking at the first that says no.
        fast, slow, trend, long_trend, rsi = u_fast(price), u_slow(price), u_trend(price), u_long(price), u_rsi(price)
        momentum, change, deviation = u_momentum(price), u_change(price), u_deviation(price)
        trix, cmo = u_trix(price), u_cmo(price)
        # The fast average above the slow one, both trends up, not overbought, momentum behind it, some movement.
        wanted = (
            fast > slow and trend > long_trend and rsi < 70.0 and momentum > 0.0 and change > 0.0 and deviation > 0.0
            and trix > 0.0 and cmo > 0.0
        )  # fmt: skip
        if self.held:
            # The matching functions are asked where a level is met or moves: what they would answer elsewhere is known.
            if price <= self.stop:
                self._leave(stop_fill(-1, self.stop, price, price, price))
            elif price >= self.target:
                self._leave(limit_fill(-1, self.target, price, price, price))
            elif price - DISTANCE > self.stop:
                self.stop = trail_on_grid(1, self.stop, DISTANCE, TICK, price, price)
        elif wanted:
            self.held, self.entries = True, self.entries + 1
            self.stop, self.target = price - DISTANCE, price + 2 * DISTANCE
        return fast, slow, trend, long_trend, rsi, momentum, change, deviation, trix, cmo

    def _leave(self, price: float) -> None:
        if price != price:
            raise AssertionError("a level was met and nothing filled")
        self.held, self.exits = False, self.exits + 1


def batch_values(window: Floats) -> list[float]:
    """The newest value of every indicator by TA-Lib's functions."""
    return [float(getattr(talib, name)(window, **params)[-1]) for name, params in INDICATORS]


def check(series: Floats) -> None:
    """Raises AssertionError unless the handles' values are those of the functions over the whole series, to the bit."""
    watch, told = Watch(series[:HISTORY]), []
    for price in series[HISTORY:].tolist():
        told.append(watch.on_tick(price))
    expected = np.array([getattr(talib, name)(series, **params)[HISTORY:] for name, params in INDICATORS])
    np.testing.assert_array_equal(np.array(told).T, expected)
    if not (watch.entries > 3 and watch.exits > 3):
        raise AssertionError("the rule entered or the stop ended hardly anything: the benchmark measures nothing")


def run(quick: bool) -> Iterator[Row]:
    """Rows mean, mean_processor, p99 and by_functions."""
    count = 5_000 if quick else 200_000
    series = prices(HISTORY + count)
    check(series[: HISTORY + 20_000])
    ticks = series[HISTORY:].tolist()
    mean = processor = p99 = float("inf")
    clock = time.perf_counter_ns
    for _ in range(2 if quick else 5):
        watch = Watch(series[:HISTORY])
        gc.collect()
        used, begun = time.process_time_ns(), clock()
        for price in ticks:
            watch.on_tick(price)
        mean = min(mean, (clock() - begun) / count / 1e3)
        processor = min(processor, (time.process_time_ns() - used) / count / 1e3)
        # Once more for the slowest ones: here every tick carries the reading of the clock.
        watch, taken = Watch(series[:HISTORY]), [0] * count
        gc.collect()
        before = clock()
        for i, price in enumerate(ticks):
            watch.on_tick(price)
            now = clock()
            taken[i] = now - before
            before = now
        p99 = min(p99, float(np.percentile(taken, 99)) / 1e3)
    yield Row("mean", round(mean, 3), "us", 2.0, round(mean / 2.0, 3), goal=at_most(2.0))
    yield Row("mean_processor", round(processor, 3), "us", 2.0, round(processor / 2.0, 3), goal=at_most(2.0))
    yield Row("p99", round(p99, 3), "us", 10.0, round(p99 / 10.0, 3), goal=at_most(10.0))
    some = 200 if quick else 2_000
    begun = time.perf_counter_ns()
    for i in range(HISTORY, HISTORY + some):
        batch_values(series[i - HISTORY : i])
    batch = (time.perf_counter_ns() - begun) / some / 1e3
    yield Row("by_functions", round(batch, 3), "us")
