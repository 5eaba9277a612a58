"""Do two sources tell the same bars? Closes and volumes of the same symbol and timeframe, bar by bar.

Bars are paired by close_time. A pair disagrees when its closes differ by more than the larger of `price_ticks` ticks and
`price_percent` percent of their mean, or its volumes by more than `volume_percent` percent of the larger one (None: volumes
are not compared; many venues count their own part of the market only). Bars only one of them has are counted, not judged:
what is missing is the gap rule's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trading.bars import Bars

_ROUNDING = 1e-9
"""Prices on the grid differ by whole ticks up to the rounding of floats: relative to a tick."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Outcome for one session. rows: of the first source's bars, those that disagree; paired: bars both have.

    only_first, only_second: bars without a partner. widest: largest close difference in ticks (0 without pairs).
    """

    rows: tuple[int, ...]
    paired: int
    only_first: int
    only_second: int
    widest: float

    @property
    def share(self) -> float:
        """Share of the pairs that disagree; NaN without pairs."""
        return len(self.rows) / self.paired if self.paired else math.nan


def compare(
    first: Bars, second: Bars, *, tick_size: float, price_ticks: float, price_percent: float, volume_percent: float | None
) -> Agreement:
    """Agreement of two sources' bars of one session, both ascending and unique by close_time. tick_size: price units."""
    _, a, b = np.intersect1d(first.close_time, second.close_time, assume_unique=True, return_indices=True)
    x, y = first.close[a], second.close[b]
    apart = np.abs(x - y)
    allowed = np.maximum(price_ticks * tick_size, price_percent / 100.0 * (np.abs(x) + np.abs(y)) / 2.0)
    # Not a number agrees with nothing.
    bad = ~(apart <= allowed + _ROUNDING * tick_size)
    if volume_percent is not None:
        v, w = first.volume[a], second.volume[b]
        bad |= ~(np.abs(v - w) <= volume_percent / 100.0 * np.maximum(v, w))
    widest = float(np.nanmax(apart) / tick_size) if len(apart) and np.isfinite(apart).any() else 0.0
    return Agreement(tuple(int(i) for i in np.sort(a[bad])), len(a), len(first) - len(a), len(second) - len(b), widest)
