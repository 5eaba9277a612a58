"""What the broker says becomes the ledger's truth: cursor, event, state, fill and position in one transaction.

Duplicates are recognised by their keys, late and out-of-order events by the state table; nothing is applied twice and
nothing real is dropped. What cannot be true is kept as anomalous and blocks new risk on its instrument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select

from desk import external, journal, mismatches, store
from desk.faults import crash_point
from desk.journal import NewEvent
from desk.store import OrderRecord
from resources.brokers.protocol import Broker, BrokerEvent, Execution
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.base import reading
from trading.calendars import calendar
from trading.orders import OrderEvent, OrderType
from trading.timeframes import from_us, session_date

log = structlog.get_logger("desk.events")

_BATCH = 200
_FILLED = 1.0 - 1e-9


@dataclass(frozen=True, slots=True)
class DrainResult:
    """How many broker events were new to the ledger, and how many fills among them."""

    events: int = 0
    fills: int = 0

    def __add__(self, other: DrainResult) -> DrainResult:
        return DrainResult(self.events + other.events, self.fills + other.fills)


def cursor_key(broker: Broker) -> str:
    """desk_state key of the last event read from `broker`."""
    return f"event_cursor:{broker.name}"


def drain(engine: Engine, broker: Broker, clock: Callable[[], int]) -> DrainResult:
    """Apply every broker event after the ledger's cursor. Idempotent; raises what the broker or the ledger raises,
    with everything committed so far kept and the rest untouched.
    """
    total = DrainResult()
    key = cursor_key(broker)
    with store.routing_lock:
        after: str | None = None
        while True:
            if after is None:
                with reading(engine) as connection:
                    after = str(store.get_state(connection, key).get("key", ""))
            events = broker.poll_events(after)
            if not events:
                return total
            # An order placed by hand is taken over before its first word is applied: the books tell what it is.
            if any(external.is_external(e.client_id) for e in events):
                external.adopt(engine, broker, {e.client_id for e in events}, clock())
            for start in range(0, len(events), _BATCH):
                batch = events[start : start + _BATCH]
                with engine.begin() as connection:
                    store.lock(connection)
                    if store.get_state(connection, key).get("key", "") != after:
                        after = None
                        break  # another process applied them: read again from where it is now
                    total += _apply_batch(connection, broker, batch, clock())
                    after = batch[-1].event_key
                    store.put_state(connection, key, {"key": after})


def _apply_batch(connection: Connection, broker: Broker, batch: Sequence[BrokerEvent], now_time: int) -> DrainResult:
    """Apply events in their order: the fills of known orders first, together; then what every event says, together, too."""
    ids = t.orders.c.id.in_({e.client_id for e in batch})
    ours = set(connection.execute(select(t.orders.c.id).where(ids)).scalars())
    executed = {e.client_id for e in batch if e.execution is not None}
    found = store.find_orders(connection, t.orders.c.id.in_(executed)) if executed else []
    known = {o.id: o for o in found}
    filled = _apply_fills(connection, known, batch)
    total = DrainResult(0, sum(new for _, new in filled.values()))
    plain: list[NewEvent] = []
    for number, event in enumerate(batch):
        if number in filled:
            quantity, _ = filled[number]
            plain.append(_told_fill(known[event.client_id], _plain(broker, event), event, quantity))
        elif event.execution is None and event.client_id in ours:
            plain.append(_plain(broker, event))
        else:  # of an order not known here, or one that cannot be true
            total += DrainResult(journal.record_events(connection, plain).new)
            plain = []
            total += apply_event(connection, broker, event, now_time)
        if event.event is OrderEvent.PARTIAL_FILL:
            crash_point("between_partial_fills")
        crash_point("between_fill_events")
    return total + DrainResult(journal.record_events(connection, plain).new)


def _apply_fills(
    connection: Connection, known: Mapping[str, OrderRecord], batch: Sequence[BrokerEvent]
) -> dict[int, tuple[float, int]]:
    """Write the executions of known orders; by the event's number (filled quantity of its order, 1 when it was new else 0)."""
    told: dict[int, journal.NewFill] = {}
    for number, event in enumerate(batch):
        order, execution = known.get(event.client_id), event.execution
        if order is not None and execution is not None and not execution_problem(order, execution):
            told[number] = journal.NewFill(order, execution, session_of(order, execution.fill_time))
    answers = zip(told.items(), journal.record_fills(connection, list(told.values())), strict=True)
    return {number: _after(connection, new.order, new.execution, filled) for (number, new), filled in answers}


def _after(connection: Connection, order: OrderRecord, execution: Execution, filled: float | None) -> tuple[float, int]:
    """(filled quantity of the order, 1 when the execution was new else 0), said aloud when it was."""
    if filled is None:
        now = store.find_order(connection, order.id)
        return (now.filled_quantity if now else 0.0), 0
    log.info(
        "fill", order=order.id, strategy=order.strategy, symbol=order.symbol, side=execution.side.value,
        quantity=execution.quantity, price=execution.price,
    )  # fmt: skip
    return filled, 1


def _told_fill(order: OrderRecord, told: NewEvent, event: BrokerEvent, filled: float) -> NewEvent:
    """A fill's event: whole or partial by what the fills add up to, whatever the broker calls it."""
    kind = OrderEvent.FILL if filled >= order.quantity * _FILLED else OrderEvent.PARTIAL_FILL
    return replace(told, event=kind, text=event.text)


def _plain(broker: Broker, event: BrokerEvent) -> NewEvent:
    """An event without an execution as the ledger keeps it. A fill told without one is no fill yet: evidence is needed."""
    kind, text = event.event, event.text
    if kind in (OrderEvent.FILL, OrderEvent.PARTIAL_FILL):
        kind, text = OrderEvent.LOST, "fill reported without its execution: evidence needed"
    key = f"{broker.name}/{event.event_key}"
    return NewEvent(event.client_id, kind, key, event.event_time, text, event.broker_order_id)


def apply_event(connection: Connection, broker: Broker, event: BrokerEvent, now_time: int) -> DrainResult:
    """Apply one broker event in the caller's transaction."""
    order = store.find_order(connection, event.client_id)
    key = f"{broker.name}/{event.event_key}"
    if order is None:
        return _stray(connection, broker, event, key, now_time)
    told = _plain(broker, event)
    fills = 0
    if event.execution is not None:
        problem = execution_problem(order, event.execution)
        if problem:
            told = NewEvent(order.id, event.event, key, event.event_time, f"not applied: {problem}")
            new = journal.record_stray_event(connection, told)
            if new:
                _accuse(connection, order.symbol, "BAD_EXECUTION", problem, event, now_time)
            return DrainResult(int(new), 0)
        filled, fills = apply_execution(connection, order, event.execution)
        told = _told_fill(order, told, event, filled)
    return DrainResult(journal.record_events(connection, [told]).new, fills)


def apply_execution(connection: Connection, order: OrderRecord, execution: Execution) -> tuple[float, int]:
    """Write a fill unless it is there. Returns (filled quantity of the order, 1 when it was new else 0)."""
    filled = journal.record_fill(connection, order, execution, session_of(order, execution.fill_time))
    return _after(connection, order, execution, filled)


def execution_problem(order: OrderRecord, execution: Execution) -> str:
    """Why `execution` cannot be one of `order`, or ""."""
    if execution.client_id != order.id or execution.symbol != order.symbol or execution.side is not order.side:
        return f"execution {execution.execution_id} is {execution.side} {execution.symbol}, order is {order.side} {order.symbol}"
    numbers = (execution.quantity, execution.price, execution.commission)
    if not all(math.isfinite(x) for x in numbers) or execution.quantity <= 0:
        return f"execution {execution.execution_id} has quantity {execution.quantity} price {execution.price}"
    currency = order.content["meta"].get("currency")
    if currency is not None and execution.currency != currency:
        return f"execution {execution.execution_id} is in {execution.currency}, order in {currency}"
    return ""


def session_of(order: OrderRecord, fill_time: int) -> str:
    """ISO date of the venue's session a fill belongs to."""
    # A market order fills at an open, and on continuous venues one session opens when the other closes.
    at_open = order.order_type is OrderType.MARKET
    return session_at(str(order.content["meta"]["calendar"]), fill_time + 1 if at_open else fill_time)


def session_at(calendar_name: str, time_us: int) -> str:
    """ISO date of the session running at `time_us` (its close included), or else of the next one."""
    venue = calendar(calendar_name)
    i = int(venue.close_time.searchsorted(time_us, side="left"))
    return session_date(int(venue.number[i])).isoformat() if i < len(venue.number) else from_us(time_us).date().isoformat()


def _stray(connection: Connection, broker: Broker, event: BrokerEvent, key: str, now_time: int) -> DrainResult:
    """An event of an order this ledger does not know: kept, audited, and no new risk where it traded."""
    text = f"order unknown to the ledger: {event.text}".rstrip(": ")
    new = journal.record_stray_event(connection, NewEvent(event.client_id[:40], event.event, key, event.event_time, text))
    if new and event.execution is not None:
        _accuse(connection, event.execution.symbol, "FOREIGN_FILL", f"{broker.name} filled an order not ours", event, now_time)
    elif new:
        log.warning("foreign_order_event", client_id=event.client_id, said=event.event.value)
    return DrainResult(int(new), 0)


def _accuse(connection: Connection, symbol: str, kind: str, text: str, event: BrokerEvent, now_time: int) -> None:
    log.error("bad_broker_event", kind=kind, symbol=symbol, text=text)
    mismatches.put(connection, symbol, kind, text, now_time, sticky=True)
    content: dict[str, Any] = {
        "kind": kind, "symbol": symbol, "text": text, "event_key": event.event_key, "client_id": event.client_id,
    }  # fmt: skip
    if event.execution is not None:
        content["execution"] = {k: str(v) for k, v in asdict(event.execution).items()}
    audit.append(connection, "desk", "broker_event_refused", content)
