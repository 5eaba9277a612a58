"""10,000 conditions of plans at one bar close, against a plain Python loop over the same conditions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date

from bench.core import Row, best_of_pair
from bench.reference_data import walk
from trading.bars import Bars
from trading.execution_functions.base import Trigger
from trading.execution_functions.close_above import CloseAbove
from trading.execution_functions.close_below import CloseBelow
from trading.execution_functions.closes_beyond import ClosesBeyond
from trading.execution_functions.indicator_condition import IndicatorCondition
from trading.execution_functions.level import FixedLevel
from trading.frame import Frame
from trading.monitors import Monitor, Monitors
from trading.timeframes import Timeframe

SYMBOLS = 50


def made(bars: dict[str, Bars], count: int, indicators: int) -> list[Monitor]:
    """Monitors around the last prices, `indicators` of them on indicators."""
    dice, monitors = random.Random(7), []
    for n in range(count):
        symbol = f"S{n % SYMBOLS}"
        price = round(float(bars[symbol].close[-1]) * dice.uniform(0.99, 1.01), 2)
        levels: list[Trigger] = [
            CloseAbove(level=price), CloseBelow(level=price), FixedLevel(price=price),
            ClosesBeyond(direction="above", level=price, count=3),
        ]  # fmt: skip
        trigger = levels[n % 4]
        if n < indicators:
            average = {"indicator": "sma", "params": {"period": 10 + n % 5}}
            trigger = IndicatorCondition.model_validate({"condition": {">": ["close", average]}})
        monitors.append(Monitor(f"m{n}", symbol, Timeframe.M1, trigger))
    return monitors


def by_hand(monitors: list[Monitor], bars: dict[str, Bars]) -> list[str]:
    """The plain loop: every trigger asked for itself over the last bars of its symbol."""
    held = []
    for monitor in monitors:
        if monitor.trigger.holds(Frame({Timeframe.M1: bars[monitor.symbol]}, Timeframe.M1))[-1]:
            held.append(monitor.key)
    return held


def run(quick: bool) -> Iterator[Row]:
    count = 200 if quick else 10_000
    bars = {f"S{i}": walk(f"S{i}", date(2017, 1, 1), date(2018, 6, 30), i, 500) for i in range(SYMBOLS)}
    closed = {(symbol, Timeframe.M1) for symbol in bars}
    windows = {symbol: {Timeframe.M1: b} for symbol, b in bars.items()}
    for name, indicators in (("levels", 0), ("levels_and_2_percent_indicators", count // 50)):
        monitors = made(bars, count, indicators)
        watched = Monitors(monitors)

        def ours(watched: Monitors = watched) -> list[str]:
            return watched.at_close(closed, lambda symbol, timeframe: bars[symbol], lambda m: windows[m.symbol])

        def plain(monitors: list[Monitor] = monitors) -> list[str]:
            return by_hand(monitors, bars)

        if sorted(ours()) != sorted(plain()):
            raise AssertionError(f"{name}: the two do not agree")
        seconds, reference = best_of_pair(ours, plain, 3)
        yield Row(f"{count}_{name}", seconds * 1e3, "ms per close", reference * 1e3, seconds / reference)
