"""First-in-first-out accounting of one position, for tax lots and statements; trading.portfolio has the average cost.

Both tell the same quantity, the same cash and the same equity after the same fills; they differ only in which part of the
profit counts as realised:

    realised = sum over closed parts of (exit price - the oldest open lots' prices) * side * multiplier - all commissions
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from trading.portfolio import QUANTITY_EPSILON, Fill


@dataclass(frozen=True, slots=True)
class Lot:
    """An open part of a position: signed quantity and the price it was opened at."""

    quantity: float
    price: float


@dataclass(frozen=True, slots=True)
class LotPosition:
    """A position as its lots, oldest first, all of one side. realized_pnl: net of every commission, since ever."""

    lots: tuple[Lot, ...] = ()
    realized_pnl: float = 0.0
    commission: float = 0.0

    @property
    def quantity(self) -> float:
        return math.fsum(lot.quantity for lot in self.lots)

    @property
    def flat(self) -> bool:
        return not self.lots

    @property
    def average_price(self) -> float:
        """Mean price of the open lots, 0 when flat."""
        held = self.quantity
        return math.fsum(lot.quantity * lot.price for lot in self.lots) / held if self.lots else 0.0

    def unrealized_pnl(self, price: float, multiplier: float = 1.0) -> float:
        """Profit or loss if closed at `price`, before its commission."""
        return math.fsum(lot.quantity * (price - lot.price) for lot in self.lots) * multiplier


def apply_fill(position: LotPosition, fill: Fill, multiplier: float = 1.0) -> LotPosition:
    """Position after one fill: it closes the oldest lots first; what is left of it opens a new one.

    Raises ValueError on a quantity that is not positive or a number that is not finite.
    """
    if not (fill.quantity > 0 and all(map(math.isfinite, (fill.quantity, fill.price, fill.commission)))):
        raise ValueError(f"not a fill: {fill}")
    sign = fill.side.sign
    left, realized = fill.quantity, -fill.commission
    scale = max(fill.quantity, abs(position.quantity))
    lots = list(position.lots)
    while lots and left > QUANTITY_EPSILON * scale and lots[0].quantity * sign < 0:
        oldest = lots[0]
        closed = min(left, abs(oldest.quantity))
        realized += closed * (fill.price - oldest.price) * -sign * multiplier
        left -= closed
        rest = oldest.quantity + sign * closed
        if abs(rest) <= QUANTITY_EPSILON * scale:
            lots.pop(0)
        else:
            lots[0] = Lot(rest, oldest.price)
    if left > QUANTITY_EPSILON * scale:
        lots.append(Lot(sign * left, fill.price))
    return LotPosition(tuple(lots), position.realized_pnl + realized, position.commission + fill.commission)


def position_of(fills: Iterable[Fill], multiplier: float = 1.0) -> LotPosition:
    """Position that `fills`, in their order, leave from flat."""
    position = LotPosition()
    for fill in fills:
        position = apply_fill(position, fill, multiplier)
    return position


def split(position: LotPosition, factor: float) -> LotPosition:
    """The same after a split: `factor` new units per old one, prices divided by it. Raises ValueError on a bad factor."""
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f"split factor {factor!r}: expected a positive number")
    lots = tuple(Lot(lot.quantity * factor, lot.price / factor) for lot in position.lots)
    return LotPosition(lots, position.realized_pnl, position.commission)


__all__ = ["Lot", "LotPosition", "apply_fill", "position_of", "split"]
