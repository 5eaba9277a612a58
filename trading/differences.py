"""What differs between two tellings of the same bars: which were changed, added, taken away, and by how many ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trading.bars import PRICE_COLUMNS, Bars


@dataclass(frozen=True, slots=True)
class Difference:
    """changed: bars with other values; added, removed: bars only one telling has. close_times: of all of them, UTC us.

    ticks: the largest price difference of a bar both have, in ticks (0 when only volumes differ, inf for not a number).
    """

    changed: int
    added: int
    removed: int
    ticks: float
    close_times: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.close_times)

    def words(self) -> str:
        """``3 changed (at most 2 ticks), 1 added``; ``none``."""
        said = [f"{self.changed} changed (at most {self.ticks:.10g} ticks)"] if self.changed else []
        said += [f"{count} {name}" for count, name in ((self.added, "added"), (self.removed, "removed")) if count]
        return ", ".join(said) or "none"


def difference(before: Bars, now: Bars, tick_size: float) -> Difference:
    """Compare two tellings of one symbol and timeframe, values bit by bit."""
    both, a, b = np.intersect1d(before.close_time, now.close_time, assume_unique=True, return_indices=True)
    differs = before.session[a] != now.session[b]
    largest = 0.0
    names = (*PRICE_COLUMNS, "volume", *(n for n in before.extras if n in now.extras))
    for name in names:
        x, y = np.ascontiguousarray(getattr(before, name)[a]), np.ascontiguousarray(getattr(now, name)[b])
        other = x.view(np.int64) != y.view(np.int64)
        differs |= other
        if name in PRICE_COLUMNS and bool(other.any()):
            distance = np.abs(x[other] - y[other])
            largest = max(largest, math.inf if not bool(np.isfinite(distance).all()) else float(distance.max()))
    added = np.setdiff1d(now.close_time, both, assume_unique=True)
    removed = np.setdiff1d(before.close_time, both, assume_unique=True)
    times = sorted({*both[differs].tolist(), *added.tolist(), *removed.tolist()})
    # Prices lie on the tick grid: the quotient is a whole number but for the last bits.
    ticks = round(largest / tick_size, 6) if math.isfinite(largest) else math.inf
    return Difference(int(differs.sum()), len(added), len(removed), ticks, tuple(times))
