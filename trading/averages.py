"""Where a fast simple average of closes stands above a slow one, in one walk over the closes."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_CLEAR = 1e-12
"""Relative distance of the two averages above which rounding cannot turn their order round."""


@njit(cache=True, nogil=True)
def _above(close: NDArray[np.float64], fast: int, slow: int, out: NDArray[np.bool_]) -> None:
    total_fast, total_slow = 0.0, 0.0
    first = min(slow - 1, len(close))
    for i in range(first):
        total_fast += close[i]
        total_slow += close[i]
        if i >= fast - 1:
            total_fast -= close[i - fast + 1]
        out[i] = False
    now, old_fast, old_slow, known = close[first:], close[slow - fast :], close, out[first:]
    for k in range(len(now)):
        price = now[k]
        total_fast += price
        total_slow += price
        left, right = total_fast * slow, total_slow * fast
        gap = left - right
        known[k] = gap > 0.0
        if abs(gap) <= _CLEAR * abs(left):  # a tie but for rounding: as two divisions round it
            known[k] = total_fast / fast > total_slow / slow
        total_fast -= old_fast[k]
        total_slow -= old_slow[k]


def fast_above_slow(close: NDArray[np.float64], fast: int, slow: int) -> NDArray[np.bool_]:
    """bool (T,): is the mean of the last `fast` closes above that of the last `slow`? False before there are `slow` of them.

    close: float64 (T,), finite. The sums run in TA-Lib's order, so that the answer is ``talib.SMA(close, fast) >
    talib.SMA(close, slow)`` at every row, ties included, without the two arrays. Raises ValueError unless 1 <= fast < slow.
    """
    if not 1 <= fast < slow:
        raise ValueError(f"averages of {fast} and {slow} closes: expected 1 <= fast < slow")
    column = np.ascontiguousarray(close, np.float64).view()
    column.flags.writeable = False  # one compiled kernel for every caller
    out = np.empty(len(column), np.bool_)
    _above(column, fast, slow, out)
    return out
