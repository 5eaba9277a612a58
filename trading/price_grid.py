"""Instrument.round_price over whole arrays: the same float for every value, without Python per bar."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trading.instruments import Instrument


def on_grid(values: NDArray[np.float64], instrument: Instrument) -> NDArray[np.float64]:
    """`values` on the tick grid of `instrument`, float64 (T,), NaN stays NaN; equal to round_price value by value.

    A value close to the middle between two ticks is left to round_price itself: only there could float division and
    decimal division fall on different sides.
    """
    numerator, denominator = instrument.tick_size.as_integer_ratio()
    with np.errstate(invalid="ignore", over="ignore"):
        quotient = values * denominator / numerator
        ticks = np.floor(quotient + 0.5)
        rounded = ticks * numerator / denominator
        middle = np.isfinite(quotient) & (np.abs(quotient - np.floor(quotient) - 0.5) < 1e-4)
        # whole numbers above 2^53 are no longer exact in a float
        middle |= np.isfinite(quotient) & (np.abs(quotient) * numerator > 2.0**52)
    for row in np.flatnonzero(middle):
        rounded[row] = instrument.round_price(float(values[row]))
    return rounded
