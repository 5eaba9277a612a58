"""Entries worked in slices as the ledger keeps them: parents, their slices, and how far each has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from desk import store
from desk.legs import kind_of
from desk.store import OrderRecord
from resources.ledger import algo_tables as g
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.algo_tables import ENDED, ENDING, RUNNING, WORKING
from trading.execution.schedule import Schedule, lots_in
from trading.orders import OrderEvent, OrderState, Side
from trading.signals import Intent, Signal

ENTRY = "entry"
REST_SLOT = -1
"""Slot of the order for what was left when the window was over."""
_TINY = 1e-9
NEVER = "0.0.0.0.0"
"""`newest_change` where nothing was ever worked in slices."""


@dataclass(frozen=True, slots=True)
class Parent:
    """One entry that is worked in slices. trade_id: of all its slices. entry: the whole order as it was approved."""

    id: str
    decision_id: str
    trade_id: str
    strategy: str
    symbol: str
    session: str
    broker: str
    mode: str
    algo: str
    side: Side
    quantity: float
    schedule: Schedule
    content: Mapping[str, Any]
    state: str
    reason: str
    created_time: int

    @property
    def entry(self) -> Intent:
        return store.intent_of(self.content["entry"])

    @property
    def signal(self) -> Signal:
        return Signal.from_dict(dict(self.content["signal"]))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a parent has come, in units and lots. working: may still fill. last_slot: newest slot that was used.

    sent, refused: numbers of slices. newest: the order of the newest slice, None when that was refused or there is none.
    """

    filled: float
    working: float
    working_lots: int
    rest_lots: int
    last_slot: int
    sent: int
    refused: int
    swept: bool
    newest_refused: bool
    orders: tuple[OrderRecord, ...]

    @property
    def newest(self) -> OrderRecord | None:
        return self.orders[-1] if self.orders and not self.newest_refused else None

    @property
    def value(self) -> float:
        """Sum of filled quantity times price."""
        return sum(o.filled_quantity * (o.average_price or 0.0) for o in self.orders)


def is_slice(order: OrderRecord) -> bool:
    """Is it an entry, whole or a slice of one?"""
    return kind_of(order.leg) == ENTRY


def as_one(entry: OrderRecord, orders: Sequence[OrderRecord]) -> OrderRecord:
    """`entry` with the average price of all slices of its trade."""
    parts = [o for o in orders if is_slice(o) and o.filled_quantity > 0.0]
    if len(parts) < 2:
        return entry
    value = sum(o.filled_quantity * (o.average_price or 0.0) for o in parts)
    return replace(entry, average_price=value / sum(o.filled_quantity for o in parts))


def insert_parent(connection: Connection, parent: Parent, who: str = "desk") -> bool:
    """Write a new parent, audited. False when its decision has one already. The caller holds the ledger's write lock."""
    values = {
        "id": parent.id, "decision_id": parent.decision_id, "trade_id": parent.trade_id, "strategy": parent.strategy,
        "symbol": parent.symbol, "session": parent.session, "broker": parent.broker, "mode": parent.mode, "algo": parent.algo,
        "side": parent.side.value, "quantity": parent.quantity, "schedule": parent.schedule.to_dict(),
        "content": dict(parent.content), "state": parent.state, "reason": parent.reason, "created_time": parent.created_time,
        "created_wall": store.wall_us(),
    }  # fmt: skip
    statement = insert(g.algo_parents).values(**values).on_conflict_do_nothing().returning(g.algo_parents.c.id)
    if connection.execute(statement).scalar() is None:
        return False
    s = parent.schedule
    told = {
        "parent": parent.id, "decision": parent.decision_id, "strategy": parent.strategy, "symbol": parent.symbol,
        "algo": parent.algo, "side": parent.side.value, "quantity": parent.quantity, "start_time": s.start_time,
        "end_time": s.end_time, "slices": s.slices, "rest": s.rest, "mode": parent.mode,
    }  # fmt: skip
    audit.append(connection, who, "algo_started", told)
    return True


def find(connection: Connection, *conditions: Any) -> list[Parent]:
    """Parents of `conditions`, oldest first."""
    p = g.algo_parents.c
    rows = connection.execute(select(g.algo_parents).where(*conditions).order_by(p.created_wall, p.id))
    return [
        Parent(
            r.id, r.decision_id, r.trade_id, r.strategy, r.symbol, r.session, r.broker, r.mode, r.algo, Side(r.side), r.quantity,
            Schedule.from_dict(r.schedule), r.content, r.state, r.reason, r.created_time,
        )
        for r in rows
    ]  # fmt: skip


def running(connection: Connection, strategy: str | None = None, symbol: str | None = None) -> list[Parent]:
    """Parents that may still send or hold slices."""
    p = g.algo_parents.c
    more = [column == value for column, value in ((p.strategy, strategy), (p.symbol, symbol)) if value is not None]
    return find(connection, p.state.in_(RUNNING), *more)


def looked_after(connection: Connection) -> list[Parent]:
    """Parents that are running, and those whose trade is open: an order of it may turn up that was given up."""
    p, held = g.algo_parents.c, t.positions.c
    still_open = select(held.trade_id).where(held.quantity != 0.0)
    return find(connection, p.state.in_(RUNNING) | p.trade_id.in_(still_open))


def get(connection: Connection, parent_id: str) -> Parent | None:
    found = find(connection, g.algo_parents.c.id == parent_id)
    return found[0] if found else None


def of_decision(connection: Connection, decision_id: str) -> Parent | None:
    found = find(connection, g.algo_parents.c.decision_id == decision_id)
    return found[0] if found else None


def ever_worked(connection: Connection, strategy: str) -> bool:
    """Has any entry of the strategy been taken to be worked in slices?"""
    return (
        connection.execute(select(g.algo_parents.c.id).where(g.algo_parents.c.strategy == strategy).limit(1)).first() is not None
    )


def progress(connection: Connection, parent: Parent) -> Progress:
    """What became of the slices so far."""
    c = g.algo_slices.c
    rows = connection.execute(select(g.algo_slices).where(c.parent_id == parent.id).order_by(c.number)).all()
    ids = [row.intent_id for row in rows if row.intent_id is not None]
    found = {o.id: o for o in store.find_orders(connection, t.orders.c.id.in_(ids))} if ids else {}
    orders = tuple(found[i] for i in ids)
    filled = sum(o.filled_quantity for o in orders)
    working = sum(o.quantity - o.filled_quantity for o in orders if o.working)
    lot = parent.schedule.lot
    rest = parent.schedule.lots - lots_in(filled + working, lot)
    return Progress(
        filled, working, lots_in(working, lot), max(0, rest), max((row.slot for row in rows), default=-1), len(ids),
        sum(row.refusal != "" for row in rows), any(row.slot == REST_SLOT for row in rows),
        bool(rows) and rows[-1].refusal != "", orders,
    )  # fmt: skip


def add_slice(
    connection: Connection, parent: Parent, slot: int, quantity: float, intent_id: str | None, refusal: str,
    risk: Sequence[Mapping[str, Any]], now_time: int,
) -> None:  # fmt: skip
    """Note one slice: an order, or what refused it."""
    c = g.algo_slices.c
    number = (connection.execute(select(func.max(c.number)).where(c.parent_id == parent.id)).scalar() or 0) + 1
    connection.execute(
        g.algo_slices.insert().values(
            parent_id=parent.id, number=number, slot=slot, intent_id=intent_id, quantity=quantity, refusal=refusal,
            risk=[dict(v) for v in risk], wanted_time=now_time,
        )
    )  # fmt: skip


def end(connection: Connection, parent: Parent, reason: str, *, who: str = "desk") -> None:
    """No slice is sent any more, and those at work are taken back; audited once. The caller holds the write lock."""
    p = g.algo_parents.c
    statement = update(g.algo_parents).where(p.id == parent.id, p.state == WORKING).values(state=ENDING, reason=reason)
    if connection.execute(statement).rowcount:
        told = {"parent": parent.id, "strategy": parent.strategy, "symbol": parent.symbol, "reason": reason}
        audit.append(connection, who, "algo_ending", told)
    elif parent.state == ENDING and parent.reason != reason:
        connection.execute(update(g.algo_parents).where(p.id == parent.id, p.state == ENDING).values(reason=reason))


def end_of_trade(connection: Connection, trade_id: str, reason: str) -> None:
    """The trade is being closed: its remaining slices are not sent. The caller holds the write lock."""
    p = g.algo_parents.c
    for parent in find(connection, p.trade_id == trade_id, p.state == WORKING):
        end(connection, parent, reason)


def ended(connection: Connection, parent: Parent, reason: str, made: Progress, now_time: int) -> None:
    """Close a parent, audited with what it bought."""
    p = g.algo_parents.c
    statement = update(g.algo_parents).where(p.id == parent.id, p.state != ENDED)
    if connection.execute(statement.values(state=ENDED, reason=reason, ended_time=now_time)).rowcount:
        average = made.value / made.filled if made.filled else None
        told = {
            "parent": parent.id, "strategy": parent.strategy, "symbol": parent.symbol, "algo": parent.algo, "reason": reason,
            "quantity": parent.quantity, "filled": made.filled, "slices": made.sent, "refused": made.refused,
            "average_price": average, "reference_price": parent.signal.reference_price, "mode": parent.mode,
        }  # fmt: skip
        audit.append(connection, "desk", "algo_ended", told)


def never_there(connection: Connection, order_id: str) -> bool:
    """Does the evidence say that the broker never had this order (a crash before it was sent)?"""
    e = t.order_events.c
    query = select(e.seq).where(e.order_id == order_id, e.event == OrderEvent.NOT_FOUND.value).limit(1)
    return connection.execute(query).first() is not None


def unsent(connection: Connection, skip: str = "") -> list[OrderRecord]:
    """What running parents may still send, as the entry orders it would be: it counts against every limit.

    skip: a parent whose rest is left out, because one of its slices is what is judged.
    """
    found: list[OrderRecord] = []
    for parent in running(connection):
        rest = progress(connection, parent).rest_lots * parent.schedule.lot
        if parent.id == skip or rest <= 0.0:
            continue
        entry = parent.content["entry"]
        found.append(
            OrderRecord(
                parent.id, parent.broker, "", parent.mode, parent.decision_id, ENTRY, parent.trade_id, parent.strategy,
                parent.symbol, parent.session, parent.side, rest, parent.entry.order_type, None, None, OrderState.INITIALIZED,
                0.0, None, "", "", parent.created_time, entry,
            )
        )  # fmt: skip
    return found


def newest_change(connection: Connection) -> str:
    """Names the newest step of any parent: another one means that one began, sent, was refused, filled or ended."""
    p, c = g.algo_parents.c, g.algo_slices.c
    states = dict(connection.execute(select(p.state, func.count()).group_by(p.state)).tuples().all())
    slices = connection.execute(select(func.count()).select_from(g.algo_slices)).scalar() or 0
    at_work = select(c.intent_id).join(g.algo_parents, p.id == c.parent_id).where(p.state.in_(RUNNING))
    events = select(func.max(t.order_events.c.seq)).where(t.order_events.c.order_id.in_(at_work))
    return ".".join(
        str(n) for n in (*(states.get(s, 0) for s in (*RUNNING, ENDED)), slices, connection.execute(events).scalar() or 0)
    )


def told(connection: Connection, parent: Parent) -> dict[str, Any]:
    """One parent as people see it: what was asked, how far it has come, its slices."""
    c = g.algo_slices.c
    # Slices first: each is committed with its order, and a slice that comes now is told the next time.
    rows = connection.execute(select(g.algo_slices).where(c.parent_id == parent.id).order_by(c.number)).all()
    made, s = progress(connection, parent), parent.schedule
    states = {o.id: o for o in made.orders}
    slices = [
        {
            "number": row.number, "slot": row.slot, "order": row.intent_id, "quantity": row.quantity, "refusal": row.refusal,
            "wanted_time": row.wanted_time,
            "state": states[row.intent_id].state.value if row.intent_id else "refused",
            "filled_quantity": states[row.intent_id].filled_quantity if row.intent_id else 0.0,
            "average_price": states[row.intent_id].average_price if row.intent_id else None,
        }
        for row in rows
    ]  # fmt: skip
    return {
        "id": parent.id, "decision_id": parent.decision_id, "trade_id": parent.trade_id, "strategy": parent.strategy,
        "symbol": parent.symbol, "session": parent.session, "mode": parent.mode, "paper": parent.mode == "paper",
        "algo": parent.algo, "side": parent.side.value, "quantity": parent.quantity, "filled": made.filled,
        "working": made.working, "rest": made.rest_lots * s.lot,
        "average_price": made.value / made.filled if made.filled else None,
        "reference_price": parent.signal.reference_price, "limit_price": s.limit_price, "start_time": s.start_time,
        "end_time": s.end_time, "slots": s.slices, "sent": made.sent, "refused": made.refused, "at_the_end": s.rest,
        "state": parent.state, "reason": parent.reason, "slices": slices,
    }  # fmt: skip
