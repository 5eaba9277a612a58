"""The only functions that write orders, their events, fills and positions to the ledger.

They take the caller's connection, so that what belongs together is committed together. Everything is idempotent by
content ids: an intent, an event or a fill that is there already is not written again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, tuple_, union
from sqlalchemy.dialects.postgresql import insert

from desk.faults import crash_point
from desk.store import OrderRecord, TradeTotal, add_up, totals_of, trade_totals, wall_us
from resources.brokers.protocol import Execution
from resources.ledger import tables as t
from resources.ledger.base import Gather, Insert, Update, insert_many, update_many, write_together, written_first
from trading import portfolio
from trading.orders import OrderEvent, OrderState, apply
from trading.signals import Intent

_BEFORE = select(
    t.orders.c.id, t.orders.c.state, t.orders.c.broker_order_id,
    func.array(
        select(t.order_events.c.event_key).where(t.order_events.c.event_key.in_(bindparam("event_keys", expanding=True)))
        .scalar_subquery()
    ).label("known"),
).where(t.orders.c.id.in_(bindparam("order_ids", expanding=True)))  # fmt: skip
"""Orders as they are, each with the keys among those asked for that any order's events have."""


@dataclass(slots=True)
class Writes:
    """What is to be written of orders, collected and then written in one round trip. Nobody may read it in between.

    changes: new values of orders, by id.
    """

    inserts: list[Insert] = field(default_factory=list)
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def change(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        for order_id, values in changes.items():
            self.changes.setdefault(order_id, {}).update(values)

    def write(self, connection: Connection, *more: Insert | Update) -> None:
        """Write it, and `more` of other tables."""
        updates = [Update(t.orders, rows, ("id",)) for rows in _alike(self.changes)]
        write_together(connection, [*self.inserts, *updates, *more])
        self.inserts, self.changes = [], {}

    def first(self, connection: Connection, *more: Insert | Update) -> dict[str, Any]:
        """`write` together with the next statement: the execution options that have it written before that one."""
        updates = [Update(t.orders, rows, ("id",)) for rows in _alike(self.changes)]
        options = written_first(connection, [*self.inserts, *updates, *more])
        self.inserts, self.changes = [], {}
        return options


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
    quantity: float | None = None
    """The order's quantity from this event on, where it changes: an exit is sent with what is open then."""


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
    new: bool = False,
    into: Writes | None = None,
) -> bool:
    """Write intents with their orders in `state` (INITIALIZED, DENIED or SENDING) and that first event.

    False, nothing written, when one of them is there already. The caller holds the ledger's write lock.
    new: the caller has looked, under that lock, and none is. into: what writes them, with more; default: written here.
    """
    wall, writes = wall_us(), into or Writes()
    known = select(t.intents.c.id).where(t.intents.c.id.in_([n.intent.id for n in group])).limit(1)
    if not new and connection.execute(known).first() is not None:
        return False
    intents = [
        {
            "id": n.intent.id, "parent": n.intent.parent, "leg": n.intent.leg, "trade_id": n.trade_id,
            "strategy": n.intent.strategy, "symbol": n.intent.symbol, "session": session, "content": n.intent.to_dict(),
            "sizing": dict(sizing or {}), "risk": [dict(v) for v in n.risk], "refusal": refusal, "created_time": now_time,
            "created_wall": wall,
        }
        for n in group
    ]  # fmt: skip
    orders = [
        {
            "id": n.intent.id, "broker": broker, "broker_order_id": "", "mode": mode, "symbol": n.intent.symbol,
            "side": n.intent.side.value, "quantity": n.intent.quantity, "order_type": n.intent.order_type.value,
            "limit_price": n.intent.limit_price, "stop_price": n.intent.stop_price, "state": state.value,
            "state_since": now_time, "filled_quantity": 0.0, "text": refusal, "created_time": now_time,
            "created_wall": wall,
        }
        for n in group
    ]  # fmt: skip
    writes.inserts += [Insert(t.intents, intents), Insert(t.orders, orders)]
    if state is not OrderState.INITIALIZED:
        event = OrderEvent.DENY if state is OrderState.DENIED else OrderEvent.SEND
        told = [NewEvent(n.intent.id, event, f"desk/{n.intent.id}/{event}", now_time, refusal) for n in group]
        writes.inserts.append(Insert(t.order_events, [_event_row(e, OrderState.INITIALIZED, state, False) for e in told]))
    if into is None:
        if len(group) > 1:
            crash_point("during_bracket_legs")
        writes.write(connection)
    return True


def order_of(new: NewOrder, session: str, broker: str, mode: str, state: OrderState, now_time: int) -> OrderRecord:
    """The order that `insert_intents` has written, as it is read back."""
    i = new.intent
    content = json.loads(json.dumps(i.to_dict()))
    return OrderRecord(
        i.id, broker, "", mode, i.parent, i.leg, new.trade_id, i.strategy, i.symbol, session, i.side, float(i.quantity),
        i.order_type, i.limit_price, i.stop_price, state, 0.0, None, "", "", now_time, content,
    )  # fmt: skip


def _alike(changes: Mapping[str, Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows of new values with the order's id, those of the same columns together."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for order_id, values in changes.items():
        if values:
            alike.setdefault(tuple(sorted(values)), []).append({"id": order_id, **values})
    return list(alike.values())


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
    asked = {"order_ids": list({e.order_id for e in told}), "event_keys": list({e.event_key for e in told})}
    rows = connection.execute(_BEFORE, asked).all()
    writes = Writes()
    recorded = plan_events(told, {row.id: row for row in rows}, {key for row in rows for key in row.known}, writes)
    writes.write(connection)
    return recorded


def plan_events(told: Sequence[NewEvent], before: Mapping[str, Any], known: Collection[str], writes: Writes) -> Recorded:
    """`record_events` of orders that were read under the write lock: what is to be written goes into `writes`.

    before: by id, each with its `state` and `broker_order_id`. known: keys of events that are there already.
    """
    first = {e.event_key: e for e in reversed(told)}
    fresh = [e for e in told if e.event_key not in known and first[e.event_key] is e]
    states: dict[str, OrderState] = {}
    changes: dict[str, dict[str, Any]] = {}
    written: list[dict[str, Any]] = []
    for event in fresh:
        if written:
            crash_point("legs_answered")
        if event.order_id not in before:
            raise KeyError(f"no order {event.order_id} in the ledger")
        order = before[event.order_id]
        was = states.get(event.order_id) or OrderState(order.state)
        step = apply(was, event.event)
        written.append(_event_row(event, was, step.state, step.anomalous))
        own = changes.setdefault(event.order_id, {})
        if step.changed:
            own |= {"state": step.state.value, "state_since": event.event_time}
            if event.quantity is not None:
                own["quantity"] = event.quantity
            if event.text:
                own["text"] = event.text
            if was is OrderState.SENDING:
                own["acked_wall"] = wall_us()
        if event.broker_order_id and not order.broker_order_id:
            own["broker_order_id"] = event.broker_order_id
        states[event.order_id] = step.state
    writes.inserts.append(Insert(t.order_events, written))
    writes.change(changes)
    return Recorded(states, len(fresh))


def record_event(connection: Connection, told: NewEvent) -> OrderState | None:
    """record_events of one. None when it was recorded before."""
    return record_events(connection, [told]).states.get(told.order_id)


def record_stray_event(connection: Connection, told: NewEvent) -> bool:
    """Keep an event that is not applied to any order. False when it was recorded before."""
    return _insert_events(connection, [_event_row(told, None, None, True)])


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
        insert_many(connection, t.order_events, [dict(row) for row in rows])
        return True
    statement = insert(t.order_events).values(**rows[0]).on_conflict_do_nothing().returning(t.order_events.c.seq)
    return connection.execute(statement).scalar() is not None


def record_fill(connection: Connection, order: OrderRecord, execution: Execution, session: str) -> float | None:
    """`record_fills` of one. Returns the order's filled quantity, None (and nothing is written) when it is there already."""
    return record_fills(connection, [NewFill(order, execution, session)])[0]


@dataclass(frozen=True, slots=True)
class NewFill:
    """One execution to write. session: ISO date of the venue's session it belongs to."""

    order: OrderRecord
    execution: Execution
    session: str

    @property
    def id(self) -> str:
        return fill_id(self.order.broker, self.execution)


def fill_id(broker: str, execution: Execution) -> str:
    """Id of the fill that an execution becomes."""
    return f"{broker}/{execution.execution_id}"


def cursor_row(key: str, event_key: str) -> Insert:
    """The row that says up to which event a broker was heard."""
    row = {"key": key, "value": {"key": event_key}, "updated_wall": wall_us()}
    return Insert(t.desk_state, [row], ("value", "updated_wall"))


def record_fills(connection: Connection, told: Sequence[NewFill]) -> list[float | None]:
    """Write fills in their order, the orders' filled quantities and the strategies' positions.

    Returns for each the order's filled quantity after it, None when it is there already. The caller holds the ledger's write
    lock. The number of statements does not depend on how many there are.
    """
    if not told:
        return []
    values = {"order_ids": list({n.order.id for n in told}), "fill_ids": list({n.id for n in told})}
    found = _FILLING.read(connection, values)
    plan = plan_fills(connection, told, found)
    plan.writes.write(connection, *plan.first_positions())
    plan.write_rest(connection)
    return plan.answers


def fills_of(order_ids: Any, fill_ids: Any) -> dict[str, Any]:
    """Selects, by name, of what `plan_fills` wants to know: under the lock, in the transaction that writes the fills.

    order_ids, fill_ids: of the executions told of; parameters or selects.
    """
    f, p, i = t.fills.c, t.positions.c, t.intents.c
    moved = select(p.strategy, p.symbol, p.trade_id).join(t.intents, (i.strategy == p.strategy) & (i.symbol == p.symbol))
    moved = moved.where(i.id.in_(order_ids))
    trades = union(select(moved.subquery().c.trade_id), select(i.trade_id).where(i.id.in_(order_ids)))
    positions = select(t.positions).where(
        tuple_(p.strategy, p.symbol).in_(select(i.strategy, i.symbol).where(i.id.in_(order_ids)))
    )
    return {
        "fills": select(f.id, f.order_id, f.quantity, f.price).where(or_(f.order_id.in_(order_ids), f.id.in_(fill_ids))),
        "positions": positions.with_for_update(),
        "totals": totals_of(trades),
    }


_FILLING = Gather(**fills_of(bindparam("order_ids", expanding=True), bindparam("fill_ids", expanding=True)))


@dataclass(slots=True)
class FillPlan:
    """Fills and what they move, to be written. answers: see `record_fills`."""

    answers: list[float | None]
    writes: Writes
    positions: _Positions | None = None

    def first_positions(self) -> list[Insert | Update]:
        """Each position that is new, and the first step of every other one."""
        return self.positions.first() if self.positions is not None else []

    @property
    def whole(self) -> bool:
        """Is everything written with the first steps of positions?"""
        return self.positions is None or not self.positions.left

    def write_rest(self, connection: Connection) -> None:
        """Further steps of positions, in their order."""
        if self.positions is not None:
            self.positions.write_rest(connection)


def plan_fills(connection: Connection, told: Sequence[NewFill], found: Mapping[str, Sequence[Any]]) -> FillPlan:
    """`record_fills` with what `fills_of` found; a late fill beside an open trade may read more."""
    known = {row.id for row in found["fills"]}
    filled: dict[str, tuple[float, float]] = {n.order.id: (0.0, 0.0) for n in told if n.id not in known}
    for row in found["fills"]:
        if row.order_id in filled:
            quantity, value = filled[row.order_id]
            filled[row.order_id] = (quantity + row.quantity, value + row.quantity * row.price)
    plan = FillPlan([None] * len(told), Writes())
    fresh: list[NewFill] = []
    for at, new in enumerate(told):
        if new.id in known:
            continue
        known.add(new.id)
        fresh.append(new)
        quantity, value = filled[new.order.id]
        quantity, value = quantity + new.execution.quantity, value + new.execution.quantity * new.execution.price
        filled[new.order.id] = (quantity, value)
        plan.answers[at] = quantity
    if not fresh:
        return plan
    plan.writes.inserts.append(Insert(t.fills, [_fill_row(n) for n in fresh]))
    plan.writes.change({i: {"filled_quantity": q, "average_price": v / q} for i, (q, v) in filled.items() if q})
    plan.positions = _Positions(connection, fresh, found)
    for new in fresh:
        plan.positions.move(new.order, new.execution)
    return plan


def _fill_row(new: NewFill) -> dict[str, Any]:
    order, execution = new.order, new.execution
    return {
        "id": new.id, "order_id": order.id, "trade_id": order.trade_id, "strategy": order.strategy, "symbol": order.symbol,
        "side": execution.side.value, "quantity": execution.quantity, "price": execution.price,
        "commission": execution.commission, "currency": execution.currency, "session": new.session,
        "fill_time": execution.fill_time, "recorded_wall": wall_us(),
    }  # fmt: skip


class _Positions:
    """The positions that some new fills move: read before these are written, moved one fill after the other, written once."""

    def __init__(self, connection: Connection, fresh: Sequence[NewFill], found: Mapping[str, Sequence[Any]]) -> None:
        self._connection = connection
        self._fresh = fresh
        self._values: dict[tuple[str, str], dict[str, Any]] = {(r.strategy, r.symbol): dict(vars(r)) for r in found["positions"]}
        ids = {str(v["trade_id"]) for v in self._values.values() if v["trade_id"]} | {n.order.trade_id for n in fresh}
        self._open = add_up(dict.fromkeys(ids, TradeTotal()), found["totals"])
        self._new: list[dict[str, Any]] = []
        self._changed: list[dict[str, Any]] = []

    def move(self, order: OrderRecord, execution: Execution) -> None:
        total = self._open[order.trade_id]
        self._open[order.trade_id] = total.plus(execution.side.sign * execution.quantity)
        key = (order.strategy, order.symbol)
        row = self._values.get(key)
        held = portfolio.Position()
        if row is not None:
            held = portfolio.Position(row["quantity"], row["average_price"], row["realized_pnl"], row["commission"])
        after = portfolio.apply_fill(
            held, execution.side, execution.quantity, execution.price, execution.commission, order.multiplier
        )
        values: dict[str, Any] = {
            "quantity": after.quantity, "average_price": after.average_price, "realized_pnl": after.realized_pnl,
            "commission": after.commission, "updated_time": execution.fill_time,
        }  # fmt: skip
        trade_id = "" if after.flat else self._open_trade(order, row["trade_id"] if row else "")
        if row is None or trade_id != row["trade_id"]:
            opened = execution.fill_time if trade_id else None
            values |= {"trade_id": trade_id, "opened_time": opened, "bars_held": 0, "exit_state": {}}
        now = {**(row or {"strategy": order.strategy, "symbol": order.symbol}), **values}
        self._values[key] = now
        (self._new if row is None else self._changed).append(now)

    def _open_trade(self, order: OrderRecord, current: str) -> str:
        """The trade that a position which is not flat belongs to after a fill of `order`; current: before it.

        Beside an open trade there may be a late fill of an ended one: the position stays the first one's while that is open,
        and passes to another open one when it ends.
        """
        for trade_id in (current, order.trade_id):
            if trade_id and self._quantity(trade_id) != 0.0:
                return trade_id
        f, key = t.fills.c, (order.strategy, order.symbol)
        others = select(f.trade_id, func.max(f.recorded_wall)).where(f.strategy == order.strategy, f.symbol == order.symbol)
        others = others.group_by(f.trade_id).order_by(func.max(f.recorded_wall).desc())
        new = [n.order.trade_id for n in reversed(self._fresh) if (n.order.strategy, n.order.symbol) == key]
        for other in [*new, *(str(row.trade_id) for row in self._connection.execute(others).all())]:
            if self._quantity(other) != 0.0:
                return other
        return order.trade_id

    def _quantity(self, trade_id: str) -> float:
        if trade_id not in self._open:
            self._open |= trade_totals(self._connection, [trade_id])
        return self._open[trade_id].quantity

    def first(self) -> list[Insert | Update]:
        """New positions, and the first step of each of the others that is not new."""
        made = {(values["strategy"], values["symbol"]) for values in self._new}
        steps: dict[tuple[str, str], dict[str, Any]] = {}
        for values in reversed(self._changed):
            steps[values["strategy"], values["symbol"]] = values
        chosen = [values for key, values in steps.items() if key not in made]
        taken = {id(values) for values in chosen}
        self._changed = [values for values in self._changed if id(values) not in taken]
        return [Insert(t.positions, self._new), Update(t.positions, chosen, ("strategy", "symbol"))]

    @property
    def left(self) -> bool:
        """Are there steps that `first` has not given?"""
        return bool(self._changed)

    def write_rest(self, connection: Connection) -> None:
        """Every step of every position, in its order: each is told to the audit."""
        left = self._changed
        while left:  # one step of each position at a time
            first = {(values["strategy"], values["symbol"]): values for values in reversed(left)}
            update_many(connection, t.positions, list(first.values()), key=["strategy", "symbol"])
            taken = {id(values) for values in first.values()}
            left = [values for values in left if id(values) not in taken]
