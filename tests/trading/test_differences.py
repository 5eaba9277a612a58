"""Two tellings of the same bars: what differs, and by how many ticks."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import numpy as np

from tests.trading.test_resample import full_sessions
from trading.calendars import calendar
from trading.differences import difference

BARS = full_sessions(calendar("XNYS"), date(2014, 6, 26), date(2014, 6, 26)).rows(slice(0, 20))


def test_equal_bars_differ_in_nothing() -> None:
    assert not difference(BARS, BARS, 0.01)
    assert difference(BARS, BARS, 0.01).words() == "none"


def test_changed_added_and_removed_bars_are_told_apart() -> None:
    high = BARS.high.copy()
    high[3] += 0.05
    high[4] -= 0.02
    found = difference(BARS.rows(slice(0, 18)), replace(BARS, high=high).rows(slice(2, 20)), 0.01)
    assert (found.changed, found.added, found.removed) == (2, 2, 2)
    assert found.ticks == 5.0
    assert found.close_times == tuple(BARS.close_time[[0, 1, 3, 4, 18, 19]].tolist())
    assert found.words() == "2 changed (at most 5 ticks), 2 added, 2 removed"


def test_a_volume_that_differs_is_a_change_of_no_ticks() -> None:
    found = difference(BARS, replace(BARS, volume=BARS.volume + 1), 0.01)
    assert (found.changed, found.ticks) == (20, 0.0)


def test_a_price_that_is_no_number_is_the_largest_difference() -> None:
    close = BARS.close.copy()
    close[0] = np.nan
    assert difference(BARS, replace(BARS, close=close), 0.01).ticks == math.inf
