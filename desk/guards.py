"""What guards an open trade: working stops, parts being closed, and exits. Nothing open is left without one.

The one statement of the rule: reconciliation tells by it what is unprotected, exits are asked for by it, and a person who
takes a guard away is asked by it whether that is meant.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, select

from desk import trades
from desk.legs import REDUCE, SCALE, STOP, kind_of
from desk.store import OrderRecord, PositionRecord
from resources.ledger import tables as t
from trading.orders import OrderEvent, OrderState

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

    An exit closes whatever is held; stops cover what is left of their own quantity. The stop of an entry that has not filled
    closes nothing: at the broker it waits for its entry.
    """
    return _uncovered(orders, held, {o.id for o in orders if kind_of(o.leg) == "entry" and o.filled_quantity == 0.0})


def _uncovered(orders: Sequence[OrderRecord], held: float, waiting_for: Collection[str]) -> float:
    closing = [o for o in orders if o.side.sign * held < 0 and may_fill(o) and is_guard(o)]
    if any(o.is_exit for o in closing):
        return 0.0
    working = [o for o in closing if o.content.get("parent_intent", "") not in waiting_for]
    left = abs(held) - sum(o.quantity - o.filled_quantity for o in working)
    return left if left > _TINY * abs(held) else 0.0


def open_trades(connection: Connection, position: PositionRecord) -> dict[str, float]:
    """Signed quantity by trade of everything a position is made of: its trade, and others whose entry filled late beside it."""
    return trades.quantities(connection, [position])[position.strategy, position.symbol]


def taken_away(connection: Connection, orders: Sequence[OrderRecord]) -> bool:
    """Did a person take the trade's guard away, knowing it? What was asked to close it since then counts again."""
    return bool(all_taken_away(connection, {"": orders}))


def all_taken_away(connection: Connection, orders: Mapping[str, Sequence[OrderRecord]]) -> set[str]:
    """Of these trades, those whose guard a person took away (`taken_away`); one read.

    A cancel that the broker refused took nothing away: the guard still works, and what becomes of it later is nobody's wish.
    """
    last: dict[str, set[str]] = {}
    for trade_id, own in orders.items():
        exits = [o for o in own if o.is_exit]
        last[trade_id] = {o.id for o in (exits[-1:] or [o for o in own if is_guard(o)])}
    wanted = {order_id for ids in last.values() for order_id in ids}
    if not wanted:
        return set()
    e = t.order_events.c
    marked = e.event_key.contains(f"/{TAKEN}/", autoescape=True)
    refused = (e.event == OrderEvent.CANCEL_REJECTED.value) & (e.state_before == OrderState.PENDING_CANCEL.value)
    query = select(e.order_id, marked.label("marked")).where(e.order_id.in_(wanted), marked | refused).order_by(e.seq)
    stands = {row.order_id: bool(row.marked) for row in connection.execute(query)}  # the newest word counts
    return {trade_id for trade_id, ids in last.items() if any(stands.get(order_id) for order_id in ids)}


def would_bare(orders: Sequence[OrderRecord], order: OrderRecord, held: float) -> bool:
    """Would the trade be left without a full guard by cancelling `order`? An entry that may still fill counts as held."""
    if not is_guard(order):
        return False
    entries = [o for o in orders if kind_of(o.leg) == "entry" and may_fill(o)]
    most = held + sum(o.side.sign * (o.quantity - o.filled_quantity) for o in entries)
    return most != 0.0 and _uncovered([o for o in orders if o.id != order.id], most, ()) > 0.0
