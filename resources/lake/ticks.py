"""Prices as whole ticks and back, in one pass and bit for bit; rows checked and cut into sessions in one pass.

The loops have no branches and let a division by zero pass, so that the compiler works on several rows at once.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

EXACT = 2.0**53
"""Whole numbers below this are exact floats."""

NARROW = 2.0**30
"""Ticks below this, and their differences, fit 32 bits."""

MISSING = -(2**31)
"""Stored for NaN where NaN means missing (the side of a quote nobody made); no tick is as low."""

_NEGATIVE_ZERO = -(2**63)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def to_narrow_ticks(open_: Any, high: Any, low: Any, close: Any, step: Any, scale: Any, out: Any) -> Any:
    """Fill out (4, T) int32 with open, high above the body, low below the body, close in ticks of step / scale.

    Returns False when a price would not come back bit for bit (NaN, -0.0, off the grid) or is too large.
    """
    bits_o, bits_h, bits_l, bits_c = open_.view(np.int64), high.view(np.int64), low.view(np.int64), close.view(np.int64)
    per_unit = scale / step  # a guess of the tick is enough: what counts is that it gives the price back, bit for bit
    bad = False
    for i in range(len(open_)):
        o = np.rint(open_[i] * per_unit)
        h = np.rint(high[i] * per_unit)
        w = np.rint(low[i] * per_unit)
        c = np.rint(close[i] * per_unit)
        bad |= (not (abs(o) < NARROW)) | (o * step / scale != open_[i]) | (bits_o[i] == _NEGATIVE_ZERO)
        bad |= (not (abs(h) < NARROW)) | (h * step / scale != high[i]) | (bits_h[i] == _NEGATIVE_ZERO)
        bad |= (not (abs(w) < NARROW)) | (w * step / scale != low[i]) | (bits_l[i] == _NEGATIVE_ZERO)
        bad |= (not (abs(c) < NARROW)) | (c * step / scale != close[i]) | (bits_c[i] == _NEGATIVE_ZERO)
        out[0, i] = np.int32(o)
        out[1, i] = np.int32(h - max(o, c))
        out[2, i] = np.int32(min(o, c) - w)
        out[3, i] = np.int32(c)
    return not bad


@numba.njit(cache=True, nogil=True)
def to_ticks(open_: Any, high: Any, low: Any, close: Any, step: Any, scale: Any, out: Any) -> Any:
    """to_narrow_ticks into out (4, T) int64, for prices of any size a float holds exactly."""
    limit = EXACT / step
    for i in range(len(open_)):
        for k in range(4):
            price = open_[i] if k == 0 else high[i] if k == 1 else low[i] if k == 2 else close[i]
            scaled = np.rint(price * scale / step)
            if not abs(scaled) < limit:
                return False
            whole = np.int64(scaled)
            if np.float64(whole * step) / scale != price or (price == 0.0 and math.copysign(1.0, price) < 0.0):
                return False
            out[k, i] = whole
        out[1, i] -= max(out[0, i], out[3, i])
        out[2, i] = min(out[0, i], out[3, i]) - out[2, i]
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def from_ticks(open_: Any, above: Any, below: Any, close: Any, step: Any, scale: Any, out: Any) -> Any:
    """Fill out (4, T) float64 with open, high, low, close: one correctly rounded division each."""
    for i in range(len(open_)):
        o = np.int64(open_[i])
        c = np.int64(close[i])
        out[0, i] = np.float64(o * step) / scale
        out[1, i] = np.float64((max(o, c) + above[i]) * step) / scale
        out[2, i] = np.float64((min(o, c) - below[i]) * step) / scale
        out[3, i] = np.float64(c * step) / scale


@numba.njit(cache=True, nogil=True)
def to_whole(values: Any, scale: Any, out: Any) -> Any:
    """Fill out (T,) int32 with values * scale; False when one would not come back bit for bit."""
    bits = values.view(np.int64)
    bad = False
    for i in range(len(values)):
        scaled = values[i] * scale
        whole = np.rint(scaled)
        bad |= (whole != scaled) | (not (abs(whole) < NARROW)) | (bits[i] == _NEGATIVE_ZERO)
        out[i] = np.int32(whole)
    return not bad


@numba.njit(cache=True, nogil=True)
def faults(close_time: Any, session: Any) -> Any:
    """(does close_time fail to ascend?, does session go back?, how often session changes)."""
    stuck = False
    back = False
    changes = 0
    for i in range(1, len(close_time)):
        stuck |= close_time[i] <= close_time[i - 1]
        back |= session[i] < session[i - 1]
        changes += session[i] != session[i - 1]
    return stuck, back, changes


def warm_up() -> None:
    """Load the compiled reading kernel, so that a process forked from this one does not: the first load takes a second."""
    for kind in (np.int64, np.int32):
        ticks = np.zeros(1, kind)
        for values in (ticks, _frozen(ticks)):
            from_ticks(values, values, values, values, 1, 100.0, np.empty((4, 1)))


def _frozen(values: Any) -> Any:
    """A read-only copy, as columns of a file are: a type of its own to the compiler."""
    frozen = values.copy()
    frozen.flags.writeable = False
    return frozen
