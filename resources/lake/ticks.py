"""Prices as whole ticks and back, in one pass and bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

EXACT = 2.0**53
"""Whole numbers below this are exact floats."""


@numba.njit(cache=True, nogil=True)
def to_ticks(open_: Any, high: Any, low: Any, close: Any, step: Any, scale: Any, out: Any) -> Any:
    """Fill out (4, T) int64 with open, high above the body, low below the body, close in ticks of step / scale.

    Returns the widest absolute value, or -1 when any price would not come back bit for bit (NaN, -0.0, off the grid).
    """
    limit = EXACT / step
    widest = 0
    for i in range(len(open_)):
        for k in range(4):
            price = open_[i] if k == 0 else high[i] if k == 1 else low[i] if k == 2 else close[i]
            scaled = np.rint(price * scale / step)
            if not abs(scaled) < limit:
                return -1
            whole = np.int64(scaled)
            if np.float64(whole * step) / scale != price or (price == 0.0 and math.copysign(1.0, price) < 0.0):
                return -1
            out[k, i] = whole
        top = max(out[0, i], out[3, i])
        bottom = min(out[0, i], out[3, i])
        out[1, i] -= top
        out[2, i] = bottom - out[2, i]
        for k in range(4):
            widest = max(widest, abs(out[k, i]))
    return widest


@numba.njit(cache=True, nogil=True)
def from_ticks(open_: Any, above: Any, below: Any, close: Any, step: Any, scale: Any, out: Any) -> Any:
    """Fill out (4, T) float64 with open, high, low, close: one correctly rounded division each."""
    for i in range(len(open_)):
        o = np.int64(open_[i])
        c = np.int64(close[i])
        out[0, i] = np.float64(o * step) / scale
        out[1, i] = np.float64((max(o, c) + above[i]) * step) / scale
        out[2, i] = np.float64((min(o, c) - below[i]) * step) / scale
        out[3, i] = np.float64(c * step) / scale


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
