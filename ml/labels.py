"""Labels: what happened after a bar close, and until when it was happening.

A label's event runs from the close it is decided at to the bar that ends the holding period. Two rows whose events
overlap share information, which is why splits purge by event end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """T labels, one per bar.

    forward_return: float64 (T,), as a fraction. direction: int8 (T,), 1 when forward_return > 0, else 0.
    event_start, event_end: int64 (T,), UTC us; the label is known at event_end. valid: bool (T,), False where the
    holding period runs past the last bar.
    """

    direction: NDArray[np.int8]
    forward_return: NDArray[np.float64]
    event_start: NDArray[np.int64]
    event_end: NDArray[np.int64]
    valid: NDArray[np.bool_]


def forward_direction(bars: Bars, horizon: int) -> Labels:
    """Direction of the return a trade decided at each close would have earned over `horizon` bars.

    Entry at the open of the next bar, exit at the open `horizon` bars later: the prices a decision made at the close can
    get. event_end is the close of the bar of the exit. Raises ValueError when horizon < 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon} bars, expected at least 1")
    n = len(bars)
    forward = np.full(n, np.nan)
    end = np.full(n, np.iinfo(np.int64).max, np.int64)
    m = n - horizon - 1
    if m > 0:
        forward[:m] = bars.open[1 + horizon :] / bars.open[1 : 1 + m] - 1.0
        end[:m] = bars.close_time[1 + horizon :]
    valid = np.isfinite(forward)
    return Labels((forward > 0).astype(np.int8), forward, bars.close_time.astype(np.int64), end, valid)
