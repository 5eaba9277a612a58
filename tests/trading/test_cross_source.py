"""Two sources of the same bars: what agrees, what does not, what only one has."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.test_quality import at, made
from trading.calendars import calendar
from trading.cross_source import Agreement, compare
from trading.timeframes import Timeframe

BARS = made(calendar("XNYS"), date(2014, 6, 5), date(2014, 6, 6), Timeframe.M15)


def compared(second: object, **limits: float | None) -> Agreement:
    values = {"tick_size": 0.01, "price_ticks": 2.0, "price_percent": 0.0, "volume_percent": None, **limits}
    return compare(BARS, second, **values)  # type: ignore[arg-type]


def test_equal_bars_agree() -> None:
    found = compared(BARS, volume_percent=1.0)
    assert (found.rows, found.paired, found.share, found.widest) == ((), len(BARS), 0.0, 0.0)


def test_closes_apart_by_the_tolerance_agree_and_by_more_do_not() -> None:
    assert compared(at(BARS, 4, close=BARS.close[4] + 0.02)).rows == ()
    assert compared(at(BARS, 4, close=BARS.close[4] - 0.03)).rows == (4,)


def test_the_wider_of_ticks_and_percent_counts() -> None:
    assert compared(at(BARS, 4, close=BARS.close[4] * 1.005), price_percent=1.0).rows == ()
    assert compared(at(BARS, 4, close=BARS.close[4] * 1.02), price_percent=1.0).rows == (4,)


def test_volumes_count_only_when_asked_for() -> None:
    other = at(BARS, 4, volume=BARS.volume[4] * 2)
    assert compared(other).rows == ()
    assert compared(other, volume_percent=10.0).rows == (4,)


def test_bars_only_one_source_has_are_counted_and_not_judged() -> None:
    found = compared(BARS.rows(slice(3, None)))
    assert (found.rows, found.only_first, found.only_second) == ((), 3, 0)


def test_without_common_bars_nothing_can_be_said() -> None:
    later = replace(BARS, close_time=BARS.close_time + 1)
    assert np.isnan(compared(later).share)


def test_what_is_no_number_agrees_with_nothing() -> None:
    assert compared(at(BARS, 4, close=float("nan"))).rows == (4,)


@given(st.sets(st.integers(0, len(BARS) - 1)), st.sets(st.integers(0, len(BARS) - 1)))
def test_exactly_the_changed_bars_that_both_have_disagree(wrong: set[int], dropped: set[int]) -> None:
    close = BARS.close.copy()
    close[sorted(wrong)] += 1.0
    keep = np.array([i for i in range(len(BARS)) if i not in dropped], np.int64)
    assert set(compared(replace(BARS, close=close).rows(keep)).rows) == wrong - dropped
