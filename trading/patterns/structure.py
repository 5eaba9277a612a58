"""Market structure: closes beyond confirmed swings continue a trend (break of structure) or turn it (change of character).

Terms after the price-action schools that follow Wyckoff ("smart money concepts"); no school states one exact rule, so
the rule here is the definition.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trading.patterns.base import Bars, Floats, Mapping, Sequence, pattern
from trading.patterns.swings import LEFT_RIGHT, Rows, confirmed, span

_INPUTS = ("high", "low", "close")
_SCHOOL = 'price-action structure after Wyckoff; "smart money concepts"'


@njit(cache=True)
def _breaks(high: Floats, low: Floats, close: Floats, high_at: Rows, low_at: Rows) -> tuple[Floats, Floats, Floats, Floats]:
    """(continuing break, turning break, broken level, trend), each float64 (T,)."""
    n = len(close)
    continuing, turning = np.zeros(n), np.zeros(n)
    level, trend = np.full(n, np.nan), np.zeros(n)
    top, bottom, now = np.nan, np.nan, 0.0
    for i in range(n):
        if high_at[i] >= 0:
            top = high[high_at[i]]
        if low_at[i] >= 0:
            bottom = low[low_at[i]]
        side = 0.0
        if close[i] > top:
            side, level[i], top = 1.0, top, np.nan
        elif close[i] < bottom:
            side, level[i], bottom = -1.0, bottom, np.nan
        if side != 0.0:
            if now == side:
                continuing[i] = side
            elif now == -side:
                turning[i] = side
            now = side
        trend[i] = now
    return continuing, turning, level, trend


def _of(columns: Sequence[Floats], p: Mapping[str, float], which: int) -> tuple[Floats, ...]:
    high, low, close = columns
    found = _breaks(high, low, close, *confirmed(high, low, int(p["left"]), int(p["right"])))
    signal = found[which]
    return signal, np.where(signal != 0, found[2], np.nan), found[3]


_RULE = (
    "a break up is a close above the latest confirmed swing high that no close has broken yet; it sets the trend up. Down "
    "mirrored. The first break of the window sets the trend and is no signal. "
)


@pattern(
    "break_of_structure", _INPUTS, ("level", "trend"), LEFT_RIGHT, before=span, settle=lambda p: 20 * span(p),
    what="break of structure: a close beyond the last swing, with the trend",
    definition=_RULE + "signal: 1 for a break up in an uptrend, -1 for a break down in a downtrend. level: the swing broken at "
    "this bar. trend: 1, -1, or 0 before the first break.",
    reference=_SCHOOL,
)  # fmt: skip
def _bos(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    return _of(columns, p, 0)


@pattern(
    "change_of_character", _INPUTS, ("level", "trend"), LEFT_RIGHT, before=span, settle=lambda p: 20 * span(p),
    what="change of character: a close beyond the last swing, against the trend",
    definition=_RULE + "signal: 1 for a break up in a downtrend, -1 for a break down in an uptrend. level: the swing broken at "
    "this bar. trend: as it is after the break.",
    reference=_SCHOOL,
)  # fmt: skip
def _choch(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    return _of(columns, p, 1)
