"""Five timeframes from the minutes of 100 symbols, 100,000 each, against a hand-written numba loop per timeframe that checks
nothing. peak_memory: of all five together, reference: the minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

from bench.core import Row, at_most, forget_peak_memory, peak_memory_mb, rate, ratio_at_most, timed_pair
from bench.reference_data import megabytes, resample_by_hand, walk
from trading.bars import Bars
from trading.calendars import calendar
from trading.resample import resample
from trading.timeframes import Timeframe

TARGETS = (Timeframe.M5, Timeframe.M15, Timeframe.H1, Timeframe.H4, Timeframe.D1)
_GOAL = ratio_at_most(2)


def run(quick: bool) -> Iterator[Row]:
    cal = calendar("XNYS")
    count, rows, times = (2, 10_000, 1) if quick else (100, 100_000, 3)
    bars = [walk(f"S{i:03d}", date(2017, 1, 1), date(2018, 6, 30), i, rows) for i in range(count)]
    total = count * rows / 1e6

    def ours(timeframe: Timeframe) -> Callable[[Bars], Bars]:
        return lambda b: resample(b, timeframe, cal)

    def by_hand(timeframe: Timeframe) -> Callable[[Bars], Bars]:
        return lambda b: resample_by_hand(b, timeframe)

    def all_of(makers: list[Callable[[Bars], Bars]]) -> Callable[[], None]:
        def call() -> None:
            for b in bars:
                for make in makers:
                    make(b)

        return call

    for timeframe in TARGETS:
        for b in bars[:3]:
            got, expected = ours(timeframe)(b), by_hand(timeframe)(b).known_at(int(b.close_time[-1]))
            if got.content_hash() != expected.content_hash():
                raise AssertionError(f"{timeframe}: the two do not agree")
    for timeframe in TARGETS:
        mine, theirs = timed_pair(all_of([ours(timeframe)]), all_of([by_hand(timeframe)]), times)
        yield rate(f"1m_to_{timeframe}", total, "M bars/s", mine, theirs, _GOAL)
    forget_peak_memory()
    mine, theirs = timed_pair(all_of([ours(t) for t in TARGETS]), all_of([by_hand(t) for t in TARGETS]), times)
    yield Row("five_timeframes", mine.wall, "s", theirs.wall, mine.wall / theirs.wall, goal=_GOAL)
    yield Row("peak_memory", peak_memory_mb(), "MB", megabytes(bars), goal=at_most(1000))
