"""What guards an open trade: working stops, parts being closed, and exits. Nothing open is left without one.

The one statement of the rule: reconciliation tells by it what is unprotected, exits are asked for by it, and a person who
takes a guard away is asked by it whether that is meant.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from desk import store
from desk.legs import REDUCE, SCALE, STOP, kind_of
from desk.store import OrderRecord, PositionRecord
from resources.ledger import tables as t
from trading.orders import OrderState

_TINY = 1e-9
TAKEN = "taken"
"""Part of the event key of a cancel by which a person took a guard away knowingly."""


def is_guard(order: OrderRecord) -> bool:
    """Is it a stop (the first, one that was moved, one of a part), a part being closed, or an exit?"""
    return order.is_exit or kind_of(order.leg) in (STOP, SCALE, REDUCE)


def may_fill(order: OrderRecord) -> bool:
    """Does the broker work it for all that is known, or is it wanted and about to be sent?"""
    return order.working or order.state is OrderState.INITIALIZED


def uncovered(orders: Sequence[OrderRecord], held: float) -> float:
    """Units of an open trade that nothing would close, >= 0. orders: the trade's; held: its signed quantity.

    An exit closes whatever is held; stops cover what is left of their own quantity.
    """
    closing = [o for o in orders if o.side.sign * held < 0 and may_fill(o) and is_guard(o)]
    if any(o.is_exit for o in closing):
        return 0.0
    left = abs(held) - sum(o.quantity - o.filled_quantity for o in closing)
    return left if left > _TINY * abs(held) else 0.0


def open_trades(connection: Connection, position: PositionRecord) -> dict[str, float]:
    """Signed quantity by trade of everything a position is made of: its trade, and others whose entry filled late beside it."""
    own = store.trade_quantity(connection, position.trade_id) if position.trade_id else 0.0
    found = {position.trade_id: own} if own else {}
    if abs(position.quantity - own) > _TINY * abs(position.quantity):
        f = t.fills.c
        query = select(f.trade_id).distinct().where(f.strategy == position.strategy, f.symbol == position.symbol)
        for trade_id in connection.execute(query.order_by(f.trade_id)).scalars():
            if trade_id != position.trade_id and (held := store.trade_quantity(connection, trade_id)):
                found[trade_id] = held
    return found


def taken_away(connection: Connection, orders: Sequence[OrderRecord]) -> bool:
    """Did a person take the trade's guard away, knowing it? What was asked to close it since then counts again."""
    exits = [o for o in orders if o.is_exit]
    last = exits[-1:] or [o for o in orders if is_guard(o)]
    e = t.order_events.c
    marked = e.event_key.contains(f"/{TAKEN}/", autoescape=True)
    query = select(e.order_id).where(e.order_id.in_([o.id for o in last]), marked).limit(1)
    return connection.execute(query).first() is not None


def would_bare(orders: Sequence[OrderRecord], order: OrderRecord, held: float) -> bool:
    """Would the trade be left without a full guard by cancelling `order`? An entry that may still fill counts as held."""
    if not is_guard(order):
        return False
    entries = [o for o in orders if kind_of(o.leg) == "entry" and may_fill(o)]
    most = held + sum(o.side.sign * (o.quantity - o.filled_quantity) for o in entries)
    return most != 0.0 and uncovered([o for o in orders if o.id != order.id], most) > 0.0
