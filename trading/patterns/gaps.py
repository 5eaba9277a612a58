"""Fair value gaps: three bars of which the middle one ran so far that the first and the third do not overlap."""

from __future__ import annotations

import numpy as np
from numba import njit

from trading.patterns.base import Bars, Floats, Mapping, Parameter, Sequence, pattern, whole

_INPUTS = ("high", "low")
_KEPT = 64  # open gaps remembered; the oldest is forgotten first
_SCHOOL = 'three-bar imbalance; Michael Huddleston ("ICT"), fair value gap'

_MINIMUM = Parameter("minimum", "", 0.0, 0.0, 10.0, whole=False)
_DEPTH = Parameter("depth", "", 0.0, 0.0, 1.0, whole=False)
_AGE = whole("max_age", 500, 1, 5000)


@njit(cache=True)
def _gaps(
    high: Floats, low: Floats, minimum: float, depth: float, max_age: int
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """Formed: (signal, upper, lower). Mitigated: (signal, upper, lower). Each float64 (T,)."""
    n = len(high)
    formed, upper, lower = np.zeros(n), np.full(n, np.nan), np.full(n, np.nan)
    hit, hit_upper, hit_lower = np.zeros(n), np.full(n, np.nan), np.full(n, np.nan)
    side_of, top_of, bottom_of = np.zeros(_KEPT), np.zeros(_KEPT), np.zeros(_KEPT)
    row_of = np.zeros(_KEPT, np.int64)
    count = 0
    for i in range(n):
        kept = 0
        for g in range(count):  # oldest first, so that the newest gap reached is the one reported
            side, top, bottom = side_of[g], top_of[g], bottom_of[g]
            reached = False
            if side > 0.0:
                reached = low[i] <= top - depth * (top - bottom)
            else:
                reached = high[i] >= bottom + depth * (top - bottom)
            if reached:
                hit[i], hit_upper[i], hit_lower[i] = side, top, bottom
            elif i - row_of[g] < max_age:
                side_of[kept], top_of[kept], bottom_of[kept], row_of[kept] = side, top, bottom, row_of[g]
                kept += 1
        count = kept
        if i < 2:
            continue
        least = minimum * (high[i - 1] - low[i - 1])
        side = 0.0
        if low[i] > high[i - 2] and low[i] - high[i - 2] >= least:
            side, upper[i], lower[i] = 1.0, low[i], high[i - 2]
        elif high[i] < low[i - 2] and low[i - 2] - high[i] >= least:
            side, upper[i], lower[i] = -1.0, low[i - 2], high[i]
        if side != 0.0:
            formed[i] = side
            if count == _KEPT:
                for g in range(1, count):
                    side_of[g - 1], top_of[g - 1], bottom_of[g - 1] = side_of[g], top_of[g], bottom_of[g]
                    row_of[g - 1] = row_of[g]
                count -= 1
            side_of[count], top_of[count], bottom_of[count], row_of[count] = side, upper[i], lower[i], i
            count += 1
    return formed, upper, lower, hit, hit_upper, hit_lower


@pattern(
    "fair_value_gap", _INPUTS, ("upper", "lower"), (_MINIMUM,), before=lambda _: 2,
    what="fair value gap, at the bar that forms it",
    definition="up: low > high[2]; down: high < low[2]; and the gap is at least `minimum` times the range of the bar between. "
    "Known at the close of the third bar. upper, lower: the edges of the gap formed at this bar.",
    reference=_SCHOOL,
)  # fmt: skip
def _formed(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    return _gaps(columns[0], columns[1], float(p["minimum"]), 0.0, 1)[:3]


@pattern(
    "fair_value_gap_mitigated", _INPUTS, ("upper", "lower"), (_MINIMUM, _DEPTH, _AGE), before=lambda _: 3,
    settle=lambda p: int(p["max_age"]), what="price is back in a fair value gap for the first time",
    definition="a later bar trades at least `depth` of the way into an open gap (0: touches it, 1: fills it): its low for a gap "
    "up, its high for a gap down. signal: 1 for a gap up, -1 for a gap down; of several the newest gap. Each gap counts once "
    f"and is forgotten after `max_age` bars, or when {_KEPT} newer ones are open. upper, lower: the edges of that gap.",
    reference=_SCHOOL,
)  # fmt: skip
def _mitigated(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    return _gaps(columns[0], columns[1], float(p["minimum"]), float(p["depth"]), int(p["max_age"]))[3:]
