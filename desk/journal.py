"""The only functions that write orders, their events, fills and positions to the ledger.

They take the caller's connection, so that what belongs together is committed together. Everything is idempotent by
content ids: an intent, an event or a fill that is there already is not written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from desk.faults import crash_point
from desk.store import OrderRecord, trade_quantity, wall_us
from resources.brokers.protocol import Execution
from resources.ledger import tables as t
from trading import portfolio
from trading.orders import OrderEvent, OrderState, apply
from trading.signals import Intent


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An intent to write with its order. risk: every rule's verdict as plain values."""

    intent: Intent
    trade_id: str
    risk: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One event to put through the state table. event_key is unique for ever; times UTC us."""

    order_id: str
    event: OrderEvent
    event_key: str
    event_time: int
    text: str = ""
    broker_order_id: str = ""


def insert_intents(
    connection: Connection,
    group: Sequence[NewOrder],
    *,
    session: str,
    broker: str,
    mode: str,
    state: OrderState,
    now_time: int,
    sizing: Mapping[str, Any] | None = None,
    refusal: str = "",
) -> bool:
    """Write intents with their orders in `state` (INITIALIZED, DENIED or SENDING) and that first event.

    False, nothing written, when one of them is there already. The caller holds the ledger's write lock.
    """
    wall = wall_us()
    known = select(t.intents.c.id).where(t.intents.c.id.in_([n.intent.id for n in group])).limit(1)
    if connection.execute(known).first() is not None:
        return False
    connection.execute(
        insert(t.intents),
        [
            {
                "id": n.intent.id, "parent": n.intent.parent, "leg": n.intent.leg, "trade_id": n.trade_id,
                "strategy": n.intent.strategy, "symbol": n.intent.symbol, "session": session, "content": n.intent.to_dict(),
                "sizing": dict(sizing or {}), "risk": [dict(v) for v in n.risk], "refusal": refusal, "created_time": now_time,
                "created_wall": wall,
            }
            for n in group
        ],
    )  # fmt: skip
    if len(group) > 1:
        crash_point("during_bracket_legs")
    connection.execute(
        insert(t.orders),
        [
            {
                "id": n.intent.id, "broker": broker, "broker_order_id": "", "mode": mode, "symbol": n.intent.symbol,
                "side": n.intent.side.value, "quantity": n.intent.quantity, "order_type": n.intent.order_type.value,
                "limit_price": n.intent.limit_price, "stop_price": n.intent.stop_price, "state": state.value,
                "state_since": now_time, "filled_quantity": 0.0, "text": refusal, "created_time": now_time,
                "created_wall": wall,
            }
            for n in group
        ],
    )  # fmt: skip
    if state is not OrderState.INITIALIZED:
        event = OrderEvent.DENY if state is OrderState.DENIED else OrderEvent.SEND
        told = [NewEvent(n.intent.id, event, f"desk/{n.intent.id}/{event}", now_time, refusal) for n in group]
        _insert_events(connection, [_event_row(e, OrderState.INITIALIZED, state, False) for e in told])
    return True


@dataclass(frozen=True, slots=True)
class Recorded:
    """What writing events did. states: of every order that had a new event. new: how many were new."""

    states: Mapping[str, OrderState]
    new: int


def record_events(connection: Connection, told: Sequence[NewEvent]) -> Recorded:
    """Put events through the state table, in their order, and write events and states.

    An event that the table does not allow is recorded as anomalous and changes nothing. Raises KeyError for an order
    the ledger does not have. The caller holds the ledger's write lock.
    """
    if not told:
        return Recorded({}, 0)
    o = t.orders.c
    found = select(o.id, o.state, o.broker_order_id).where(o.id.in_({e.order_id for e in told}))
    rows = {row.id: row for row in connection.execute(found)}
    fresh = told if len(told) == 1 else _not_recorded(connection, told)
    states = {order_id: OrderState(row.state) for order_id, row in rows.items()}
    changes: dict[str, dict[str, Any]] = {}
    written: list[dict[str, Any]] = []
    for event in fresh:
        if written:
            crash_point("legs_answered")
        if event.order_id not in rows:
            raise KeyError(f"no order {event.order_id} in the ledger")
        before = states[event.order_id]
        step = apply(before, event.event)
        written.append(_event_row(event, before, step.state, step.anomalous))
        own = changes.setdefault(event.order_id, {})
        if step.changed:
            own |= {"state": step.state.value, "state_since": event.event_time}
            if event.text:
                own["text"] = event.text
            if before is OrderState.SENDING:
                own["acked_wall"] = wall_us()
        if event.broker_order_id and not rows[event.order_id].broker_order_id:
            own["broker_order_id"] = event.broker_order_id
        states[event.order_id] = step.state
    if not _insert_events(connection, written):
        return Recorded({}, 0)
    for order_id, values in changes.items():
        if values:
            connection.execute(update(t.orders).where(o.id == order_id).values(**values))
    return Recorded({event.order_id: states[event.order_id] for event in fresh}, len(fresh))


def record_event(connection: Connection, told: NewEvent) -> OrderState | None:
    """record_events of one. None when it was recorded before."""
    return record_events(connection, [told]).states.get(told.order_id)


def record_stray_event(connection: Connection, told: NewEvent) -> bool:
    """Keep an event that is not applied to any order. False when it was recorded before."""
    return _insert_events(connection, [_event_row(told, None, None, True)])


def _not_recorded(connection: Connection, told: Sequence[NewEvent]) -> list[NewEvent]:
    """Those whose key the ledger does not have, each key once."""
    keys = {e.event_key: e for e in reversed(told)}
    known = set(
        connection.execute(select(t.order_events.c.event_key).where(t.order_events.c.event_key.in_(list(keys)))).scalars()
    )
    return [e for e in told if e.event_key not in known and keys[e.event_key] is e]


def _event_row(told: NewEvent, before: OrderState | None, after: OrderState | None, anomalous: bool) -> dict[str, Any]:
    return {
        "order_id": told.order_id, "event": told.event.value, "event_key": told.event_key,
        "state_before": before.value if before else "", "state_after": after.value if after else "",
        "anomalous": anomalous, "text": told.text, "event_time": told.event_time, "recorded_wall": wall_us(),
    }  # fmt: skip


def _insert_events(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Write events; False when there was none to write. A single known one is no error, it is left out."""
    if not rows:
        return False
    if len(rows) > 1:
        connection.execute(insert(t.order_events), list(rows))
        return True
    statement = insert(t.order_events).values(**rows[0]).on_conflict_do_nothing().returning(t.order_events.c.seq)
    return connection.execute(statement).scalar() is not None


def record_fill(connection: Connection, order: OrderRecord, execution: Execution, session: str) -> float | None:
    """Write a fill, the order's filled quantity and the strategy's position. Returns the order's filled quantity,
    None (and nothing is written) when the fill is there already."""
    values = {
        "id": f"{order.broker}/{execution.execution_id}", "order_id": order.id, "trade_id": order.trade_id,
        "strategy": order.strategy, "symbol": order.symbol, "side": execution.side.value, "quantity": execution.quantity,
        "price": execution.price, "commission": execution.commission, "currency": execution.currency, "session": session,
        "fill_time": execution.fill_time, "recorded_wall": wall_us(),
    }  # fmt: skip
    statement = insert(t.fills).values(**values).on_conflict_do_nothing().returning(t.fills.c.id)
    if connection.execute(statement).scalar() is None:
        return None
    f = t.fills.c
    filled, value = connection.execute(
        select(func.sum(f.quantity), func.sum(f.quantity * f.price)).where(f.order_id == order.id)
    ).one()
    connection.execute(
        update(t.orders).where(t.orders.c.id == order.id).values(filled_quantity=filled, average_price=value / filled)
    )
    _move_position(connection, order, execution)
    return float(filled)


def _move_position(connection: Connection, order: OrderRecord, execution: Execution) -> None:
    p = t.positions.c
    here = (p.strategy == order.strategy) & (p.symbol == order.symbol)
    row = connection.execute(select(t.positions).where(here).with_for_update()).one_or_none()
    held = portfolio.Position(row.quantity, row.average_price, row.realized_pnl, row.commission) if row else portfolio.Position()
    after = portfolio.apply_fill(
        held, execution.side, execution.quantity, execution.price, execution.commission, order.multiplier
    )
    values: dict[str, Any] = {
        "quantity": after.quantity, "average_price": after.average_price, "realized_pnl": after.realized_pnl,
        "commission": after.commission, "updated_time": execution.fill_time,
    }  # fmt: skip
    trade_id = "" if after.flat else _open_trade(connection, order, row.trade_id if row else "")
    if row is None or trade_id != row.trade_id:
        opened = execution.fill_time if trade_id else None
        values |= {"trade_id": trade_id, "opened_time": opened, "bars_held": 0, "exit_state": {}}
    if row is None:
        connection.execute(t.positions.insert().values(strategy=order.strategy, symbol=order.symbol, **values))
    else:
        connection.execute(update(t.positions).where(here).values(**values))


def _open_trade(connection: Connection, order: OrderRecord, current: str) -> str:
    """The trade that a position which is not flat belongs to after a fill of `order`; current: before it.

    Beside an open trade there may be a late fill of an ended one: the position stays the first one's while that is open,
    and passes to another open one when it ends.
    """
    for trade_id in (current, order.trade_id):
        if trade_id and trade_quantity(connection, trade_id) != 0.0:
            return trade_id
    f = t.fills.c
    others = select(f.trade_id, func.max(f.recorded_wall)).where(f.strategy == order.strategy, f.symbol == order.symbol)
    others = others.group_by(f.trade_id).order_by(func.max(f.recorded_wall).desc())
    for row in connection.execute(others):
        if trade_quantity(connection, row.trade_id) != 0.0:
            return str(row.trade_id)
    return order.trade_id
