"""What is not known at this moment: since when, what it blocks, and which evidence ends it.

Read from the ledger alone, so that it is answered when the desk is down, too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from desk import mismatches, store
from desk.legs import REDUCE, kind_of
from desk.store import OrderRecord
from resources.ledger import tables as t
from trading.orders import OrderState

BOOKS = "the broker's open orders, completed orders and executions, read to their end"
_AWAITED = {
    OrderState.SENDING: f"its answer; after a crash {BOOKS}",
    OrderState.UNKNOWN: BOOKS,
    OrderState.PENDING_CANCEL: "canceled, filled or refused, as the broker's events or books say; asked again meanwhile",
    OrderState.PENDING_UPDATE: "the price or quantity the broker's open orders list",
}


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing that is not known. kind: UNKNOWN, SENDING, PENDING_CANCEL, PENDING_UPDATE, EXIT_WAITS, or a mismatch's kind.
    symbol ``*``: the account. since_time: market time, since_wall: real time (None: not kept), UTC us. says: what was heard."""

    kind: str
    symbol: str
    since_time: int
    since_wall: int | None
    blocks: str
    awaits: str
    says: str
    order: str = ""
    strategy: str = ""
    leg: str = ""
    side: str = ""
    quantity: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def standing(connection: Connection) -> list[Doubt]:
    """Everything that is not known, oldest first."""
    orders = store.find_orders(connection, store.in_states(*_AWAITED))
    waiting = [o for o in store.find_orders(connection, store.in_states(OrderState.INITIALIZED))]
    waiting = [o for o in waiting if o.is_exit or kind_of(o.leg) == REDUCE]
    since = _since(connection, [o.id for o in (*orders, *waiting)])
    found = [_of_order(o, since, {w.trade_id for w in waiting}) for o in orders]
    found += [
        _doubt("EXIT_WAITS", o, since, f"the exit of {o.strategy} in {o.symbol}", "its trade's resting orders: known to be gone")
        for o in waiting
    ]
    for symbol, mismatch in mismatches.known(connection).items():
        blocked = "all new risk" if symbol == mismatches.ACCOUNT else f"new risk on {symbol}"
        awaited = "a person: `tapeline clear-mismatch`" if mismatch["sticky"] else "ledger and broker agreeing again"
        found.append(Doubt(mismatch["kind"], symbol, mismatch["since_time"], None, blocked, awaited, mismatch["text"]))
    return sorted(found, key=lambda d: d.since_time)


def _since(connection: Connection, order_ids: list[str]) -> dict[str, tuple[int, int]]:
    """(market time, real time) at which each order came into the state it is in."""
    e = t.order_events.c
    query = select(e.order_id, func.max(e.event_time).label("at"), func.max(e.recorded_wall).label("wall"))
    query = query.where(e.order_id.in_(order_ids), e.state_before != e.state_after).group_by(e.order_id)
    return {row.order_id: (row.at, row.wall) for row in connection.execute(query)}


def _of_order(order: OrderRecord, since: dict[str, tuple[int, int]], exits_waiting: set[str]) -> Doubt:
    unknown = order.state in (OrderState.UNKNOWN, OrderState.SENDING)
    blocks = f"new risk on {order.symbol}" if unknown else "changes of this order"
    if order.trade_id in exits_waiting:
        blocks += f"; the exit of {order.strategy} in {order.symbol}"
    return _doubt(order.state.name, order, since, blocks, _AWAITED[order.state])


def _doubt(kind: str, order: OrderRecord, since: dict[str, tuple[int, int]], blocks: str, awaits: str) -> Doubt:
    at, wall = since.get(order.id, (order.created_time, None))
    return Doubt(
        kind, order.symbol, at, wall, blocks, awaits, order.text, order.id, order.strategy, order.leg, order.side.value,
        order.quantity,
    )  # fmt: skip
