"""Average-cost accounting of one position and of the cash beside it. Pure, in the instrument's currency.

Realised profit and loss is net of every commission, the opening ones included, so that at any moment

    realized_pnl + quantity * (last_price - average_price) * multiplier  ==  cash flow of all fills + value of the position

which the property tests hold. Adding to a position moves the average price; reducing it does not; a fill larger than
the position closes it and opens the rest at the fill's price.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from trading.orders import Side

QUANTITY_EPSILON = 1e-9
"""Relative size below which the rest of a position is float noise and counts as flat."""


@dataclass(frozen=True, slots=True)
class Position:
    """One position. quantity: signed units; average_price: of the open quantity, 0 when flat;
    realized_pnl: net of commissions, since ever; commission: paid since ever."""

    quantity: float = 0.0
    average_price: float = 0.0
    realized_pnl: float = 0.0
    commission: float = 0.0

    @property
    def flat(self) -> bool:
        return self.quantity == 0.0

    def unrealized_pnl(self, price: float, multiplier: float = 1.0) -> float:
        """Profit or loss if closed at `price`, before its commission."""
        return self.quantity * (price - self.average_price) * multiplier

    def value(self, price: float, multiplier: float = 1.0) -> float:
        """Signed market value at `price`."""
        return self.quantity * price * multiplier


@dataclass(frozen=True, slots=True)
class Fill:
    """One fill for accounting: unsigned quantity, price, commission in the instrument's currency."""

    side: Side
    quantity: float
    price: float
    commission: float = 0.0


def apply_fill(
    position: Position, side: Side, quantity: float, price: float, commission: float, multiplier: float = 1.0
) -> Position:
    """Position after one fill. Raises ValueError on a quantity that is not positive or a number that is not finite."""
    if not (quantity > 0 and math.isfinite(quantity) and math.isfinite(price) and math.isfinite(commission)):
        raise ValueError(f"not a fill: {quantity=} {price=} {commission=}")
    signed = side.sign * quantity
    before = position.quantity
    after = before + signed
    if abs(after) <= QUANTITY_EPSILON * max(abs(before), quantity):
        after = 0.0
    realized = position.realized_pnl - commission
    if before == 0.0 or before * signed > 0:
        average = (abs(before) * position.average_price + quantity * price) / (abs(before) + quantity)
    else:
        closed = min(quantity, abs(before))
        realized += closed * (price - position.average_price) * (1 if before > 0 else -1) * multiplier
        average = position.average_price if before * after > 0 else price
    return Position(after, average if after != 0.0 else 0.0, realized, position.commission + commission)


def cash_flow(side: Side, quantity: float, price: float, commission: float, multiplier: float = 1.0) -> float:
    """Cash that a fill brings (positive) or takes, commission included."""
    return -side.sign * quantity * price * multiplier - commission


def position_of(fills: Iterable[Fill], multiplier: float = 1.0) -> Position:
    """Position that `fills`, in their order, leave from flat."""
    position = Position()
    for fill in fills:
        position = apply_fill(position, fill.side, fill.quantity, fill.price, fill.commission, multiplier)
    return position
