"""Instrument.round_price over whole arrays: the same float for every value, without Python per bar."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.instruments import Instrument


def on_grid(values: NDArray[np.float64], instrument: Instrument) -> NDArray[np.float64]:
    """`values` on the tick grid of `instrument`, float64 (T,), NaN stays NaN; equal to round_price value by value.

    A value close to the middle between two ticks is left to round_price itself: only there could float division and
    decimal division fall on different sides.
    """
    numerator, denominator = instrument.tick_size.as_integer_ratio()
    given = np.ascontiguousarray(values, np.float64)
    rounded, unsure = np.empty(len(given)), np.zeros(len(given), np.bool_)
    if _rounded(given, float(numerator), float(denominator), rounded, unsure):
        for row in np.flatnonzero(unsure):
            rounded[row] = instrument.round_price(float(given[row]))
    return rounded


@njit(cache=True)
def _rounded(
    values: NDArray[np.float64], numerator: float, denominator: float, rounded: NDArray[np.float64], unsure: NDArray[np.bool_]
) -> bool:  # fmt: skip
    """Round to whole ticks; `unsure` where float division cannot be trusted with it. Returns whether there are such."""
    some = False
    for i in range(len(values)):
        quotient = values[i] * denominator / numerator
        rounded[i] = np.floor(quotient + 0.5) * numerator / denominator
        # whole numbers above 2^53 are no longer exact in a float
        middle = abs(quotient - np.floor(quotient) - 0.5) < 1e-4 or abs(quotient) * numerator > 2.0**52
        if middle and np.isfinite(quotient):
            unsure[i] = some = True
    return some
