"""The prices a circuit breaker looks back on: the largest move to a price within a time, over a split as over any other day.

Prices are of the unit of their moment. A split, a spin-off or a roll divides those before it by its factor, before the first
price after it is judged; what is left is the ratio of what a holder made. A dividend divides nothing: the price has fallen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from fractions import Fraction

from trading.corporate_actions import exact_factor

Told = tuple[int, float]
"""(market time UTC us, price)."""


class PriceWindow:
    """Lowest and highest of the newest prices in O(1) amortised: monotonic deques of (time, price)."""

    __slots__ = ("high", "low")

    def __init__(self, told: Iterable[Told] = ()) -> None:
        """told: prices to begin with, ascending in time."""
        self.low: deque[Told] = deque()
        self.high: deque[Told] = deque()
        for time_us, price in told:
            self._keep(time_us, price)

    def move(self, time_us: int, price: float, window: int) -> float:
        """Largest move to `price` from any price of the last `window` us, percent; the price is kept."""
        self._keep(time_us, price)
        for kept in (self.low, self.high):
            while kept[0][0] < time_us - window:
                kept.popleft()
        return max(price / self.low[0][1] - 1.0, 1.0 - price / self.high[0][1]) * 100.0

    def scale(self, factor: float, before: int | None = None) -> None:
        """Divide the prices at or before `before` (UTC us; None: all) by `factor`: those after stand on the new level already."""
        exact = exact_factor(factor)
        if before is None:
            self.low, self.high = (deque((at, divided(p, exact)) for at, p in kept) for kept in (self.low, self.high))
            return
        told = sorted({*self.low, *self.high})
        fresh = PriceWindow((at, divided(p, exact) if at <= before else p) for at, p in told)
        self.low, self.high = fresh.low, fresh.high

    @property
    def newest(self) -> Told | None:
        """The newest price that was kept."""
        return self.low[-1] if self.low else None

    def _keep(self, time_us: int, price: float) -> None:
        for kept, beyond in ((self.low, -1.0), (self.high, 1.0)):
            while kept and (kept[-1][1] - price) * beyond <= 0.0:
                kept.pop()
            kept.append((time_us, price))


def divided(price: float, factor: Fraction) -> float:
    """`price` on the level after a step by `factor`, rounded once, as the ledger's own."""
    return float(Fraction(price) / factor)
