"""Swing points: highs and lows that the bars around them confirm.

Bill Williams ("Trading Chaos", 1995) calls the form with two bars on each side a fractal; chart literature calls it a
pivot. It is known `right` bars after it happened, and only from then on does anything here look at it.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.patterns.base import Bars, Floats, Mapping, Sequence, pattern, whole

Rows = NDArray[np.int64]

LEFT_RIGHT = (whole("left", 3, 1, 250), whole("right", 3, 1, 250))


def span(p: Mapping[str, float]) -> int:
    """Bars before the first possible confirmation."""
    return int(p["left"]) + int(p["right"])


@njit(cache=True)
def confirmed(high: Floats, low: Floats, left: int, right: int) -> tuple[Rows, Rows]:
    """int64 (T,) twice: row of the swing high, and of the swing low, that bar i confirms; -1 = none.

    Row j = i - right is a swing high when its high is above the highs of the `left` bars before it and not below those of
    the `right` bars after it; of equal highs next to each other the first is it. Lows are mirrored.
    """
    n = len(high)
    high_at, low_at = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
    for i in range(left + right, n):
        j = i - right
        is_high, is_low = True, True
        for k in range(j - left, j):
            if high[k] >= high[j]:
                is_high = False
            if low[k] <= low[j]:
                is_low = False
        for k in range(j + 1, i + 1):
            if high[k] > high[j]:
                is_high = False
            if low[k] < low[j]:
                is_low = False
        if is_high:
            high_at[i] = j
        if is_low:
            low_at[i] = j
    return high_at, low_at


def _latest(at: Rows, values: Floats) -> tuple[Floats, Floats, Floats]:
    """Of the latest confirmed swing at each bar: its price, its age in bars, and the price of the one before it."""
    n = len(at)
    rows = np.flatnonzero(at >= 0)
    newest = np.searchsorted(rows, np.arange(n), side="right") - 1
    price, age, previous = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    known, twice = newest >= 0, newest >= 1
    swing = at[rows]
    price[known] = values[swing[newest[known]]]
    age[known] = (np.arange(n)[known] - swing[newest[known]]).astype(np.float64)
    previous[twice] = values[swing[newest[twice] - 1]]
    return price, age, previous


@pattern(
    "swing", ("high", "low"), ("high", "low", "high_age", "low_age", "previous_high", "previous_low"), LEFT_RIGHT,
    before=span, what="swing points, known when confirmed",
    definition="bar j is a swing high when high[j] is above the highs of the `left` bars before it and not below those of the "
    "`right` bars after it; it is known at the close of bar j + right. Lows mirrored. signal: 1 at the bar that confirms a "
    "swing low, -1 at the one that confirms a swing high, 0 when both or none. high, low: the latest confirmed ones; "
    "high_age, low_age: bars since they happened; previous_high, previous_low: the ones before.",
    reference='Bill Williams, "Trading Chaos" (fractal: 2 and 2)',
)  # fmt: skip
def _swing(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    high, low = columns
    high_at, low_at = confirmed(high, low, int(p["left"]), int(p["right"]))
    tops, top_age, top_before = _latest(high_at, high)
    bottoms, bottom_age, bottom_before = _latest(low_at, low)
    signal = (low_at >= 0).astype(np.float64) - (high_at >= 0).astype(np.float64)
    return signal, tops, bottoms, top_age, bottom_age, top_before, bottom_before
