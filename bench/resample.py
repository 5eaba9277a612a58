"""Five timeframes from one-minute bars, against a hand-written numba loop per timeframe that checks nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

from bench.core import Row, best_of_pair
from bench.reference_data import resample_by_hand, walk
from trading.bars import Bars
from trading.calendars import calendar
from trading.resample import resample
from trading.timeframes import Timeframe

TARGETS = (Timeframe.M5, Timeframe.M15, Timeframe.H1, Timeframe.H4, Timeframe.D1)


def run(quick: bool) -> Iterator[Row]:
    cal = calendar("XNYS")
    rows, rounds, distinct = (10_000, 1, 2) if quick else (100_000, 10, 10)
    bars = [walk(f"S{i}", date(2017, 1, 1), date(2018, 6, 30), i, rows) for i in range(distinct)]
    total = rows * rounds * distinct

    def ours(timeframe: Timeframe) -> Callable[[Bars], Bars]:
        return lambda b: resample(b, timeframe, cal)

    def by_hand(timeframe: Timeframe) -> Callable[[Bars], Bars]:
        return lambda b: resample_by_hand(b, timeframe)

    def all_of(makers: list[Callable[[Bars], Bars]]) -> Callable[[], None]:
        def call() -> None:
            for _ in range(rounds):
                for b in bars:
                    for make in makers:
                        make(b)

        return call

    for timeframe in TARGETS:
        got, expected = ours(timeframe)(bars[0]), by_hand(timeframe)(bars[0]).known_at(int(bars[0].close_time[-1]))
        if got.content_hash() != expected.content_hash():
            raise AssertionError(f"{timeframe}: the two do not agree")
    for timeframe in TARGETS:
        seconds, theirs = best_of_pair(all_of([ours(timeframe)]), all_of([by_hand(timeframe)]), 3)
        yield Row(f"1m_to_{timeframe}", total / seconds / 1e6, "M bars/s", total / theirs / 1e6, seconds / theirs)
    seconds, theirs = best_of_pair(all_of([ours(t) for t in TARGETS]), all_of([by_hand(t) for t in TARGETS]), 3)
    yield Row("five_timeframes", seconds, "s", theirs, seconds / theirs)
