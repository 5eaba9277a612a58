"""What the broker says becomes the ledger's truth: cursor, event, state, fill and position in one transaction.

Duplicates are recognised by their keys, late and out-of-order events by the state table; nothing is applied twice and
nothing real is dropped. What cannot be true is kept as anomalous and blocks new risk on its instrument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import structlog
from sqlalchemy import Connection, Engine, bindparam, select
from sqlalchemy.event import contains, listen

from desk import external, journal, mismatches, store
from desk.faults import crash_point
from desk.journal import NewEvent
from desk.store import OrderRecord
from resources.brokers.protocol import Broker, BrokerEvent, Execution
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.base import Gather, reading
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


_CURSORS: WeakKeyDictionary[Engine, dict[str, str]] = WeakKeyDictionary()
"""The cursor that was committed last, by ledger and key. Another process may have moved it since: what it has applied is then
asked for again, and found to be there by the cursor in the ledger, which is compared before anything is applied."""


Then = Callable[[Connection, Mapping[str, Any]], None]
"""What is done in the transaction that has applied what a broker said. The first statement it executes takes these options, and
it executes one."""


def drain(engine: Engine, broker: Broker, clock: Callable[[], int], then: Then | None = None) -> DrainResult:
    """Apply every broker event after the ledger's cursor. Idempotent; raises what the broker or the ledger raises,
    with everything committed so far kept and the rest untouched.

    then: done in the transaction that applies the last of them, after them; not at all when there is none to apply.
    """
    total = DrainResult()
    key = cursor_key(broker)
    known = _cursors(engine)
    with store.routing_lock:
        after = known.get(key)
        while True:
            if after is None:
                with reading(engine) as connection:
                    after = str(store.get_state(connection, key).get("key", ""))
            told, failed = _told(broker, after)
            # An order placed by hand is taken over before its first word is applied: the books tell what it is.
            if any(external.is_external(e.client_id) for e in told):
                external.adopt(engine, broker, {e.client_id for e in told}, clock())
            for start in range(0, len(told), _BATCH):
                batch = told[start : start + _BATCH]
                with engine.begin() as connection:
                    last = then is not None and failed is None and start + _BATCH >= len(told)
                    locked = store.LOCKED if last else store.LOCKED_NOT_FLUSHED
                    applied = _apply_batch(connection, broker, batch, clock(), after, locked, then if last else None)
                    if applied is None:
                        after = None
                        break  # another process applied them: read again from where it is now
                    total += applied
                after = known[key] = batch[-1].event_key
            if failed is not None:
                raise failed
            if after is not None:
                known[key] = after
                return total


def has_news(engine: Engine, broker: Broker) -> bool:
    """Is there anything that `drain` would apply? True also when that is not known."""
    with store.routing_lock:
        after = _cursors(engine).get(cursor_key(broker))
        if after is None:
            return True
        try:
            return bool(broker.poll_events(after))
        except Exception as error:  # noqa: BLE001 whatever it is, nothing is known
            log.warning("broker_not_asked", broker=broker.name, error=type(error).__name__)
            return True


def _cursors(engine: Engine) -> dict[str, str]:
    if engine not in _CURSORS:
        _CURSORS[engine] = {}
        if not contains(engine, "engine_disposed", _forget):
            listen(engine, "engine_disposed", _forget)
    return _CURSORS[engine]


def _forget(engine: Engine) -> None:
    """The engine's next connections begin anew, and so does what is known of what lies behind them."""
    _CURSORS.pop(engine, None)


def _told(broker: Broker, after: str) -> tuple[list[BrokerEvent], Exception | None]:
    """The events after a key, until the broker has no more, with what it raised instead of going on."""
    told: list[BrokerEvent] = []
    page_size = getattr(broker, "events_page", 0)
    while True:
        try:
            page = broker.poll_events(after)
        except Exception as error:  # noqa: BLE001 what was told before it is applied first
            return told, error
        told += page
        if len(page) < max(page_size, 1):
            return told, None
        after = page[-1].event_key


_BY_ID = store.orders_where(t.orders.c.id.in_(bindparam("told_ids", expanding=True)))
_KEYS = select(t.order_events.c.event_key).where(t.order_events.c.event_key.in_(bindparam("event_keys", expanding=True)))
_CURSOR = select(t.desk_state.c.value).where(t.desk_state.c.key == bindparam("cursor_key"))
_SAID = Gather(orders=_BY_ID, keys=_KEYS, cursor=_CURSOR)
_FILLED_TOO = Gather(
    orders=_BY_ID,
    keys=_KEYS,
    cursor=_CURSOR,
    **journal.fills_of(bindparam("order_ids", expanding=True), bindparam("fill_ids", expanding=True)),
)


def _apply_batch(
    connection: Connection, broker: Broker, batch: Sequence[BrokerEvent], now_time: int, after: str,
    locked: Mapping[str, Any], then: Then | None,
) -> DrainResult | None:  # fmt: skip
    """Apply events in their order, and move the cursor behind them: what they do to orders and positions is read together and
    written together, where all of them are of known orders and may be true. None, and nothing is done, when the cursor is not
    at `after`. locked: options of the first statement, which takes the ledger's write lock."""
    cursor = journal.cursor_row(cursor_key(broker), batch[-1].event_key)
    asked: dict[str, Any] = {
        "told_ids": list({e.client_id for e in batch}),
        "event_keys": [_key(broker, e) for e in batch],
        "cursor_key": cursor_key(broker),
    }
    executed = [e.execution for e in batch if e.execution is not None]
    if executed:
        asked["order_ids"] = list({x.client_id for x in executed})
        asked["fill_ids"] = [journal.fill_id(broker.name, x) for x in executed]
    found = (_FILLED_TOO if executed else _SAID).read(connection, asked, **locked)
    at: Mapping[str, Any] = next((row.value for row in found["cursor"]), {})
    if str(at.get("key", "")) != after:
        return None
    known = {row.id: store.order_of(row) for row in found["orders"]}
    if not all(_plausible(known.get(e.client_id), e) for e in batch):
        done = _apply_apart(connection, broker, batch, known, now_time)
        if then is not None:
            then(connection, journal.Writes().first(connection, cursor))
        else:
            journal.Writes().write(connection, cursor)
        return done
    told = {n: _new_fill(known[e.client_id], e.execution) for n, e in enumerate(batch) if e.execution is not None}
    plan = journal.plan_fills(connection, list(told.values()), found) if told else journal.FillPlan([], journal.Writes())
    filled = dict(zip(told, plan.answers, strict=True))
    events: list[NewEvent] = []
    for number, event in enumerate(batch):
        plain = _plain(broker, event)
        if number in told:
            quantity, _ = _after(connection, told[number].order, told[number].execution, filled[number])
            plain = _told_fill(known[event.client_id], plain, event, quantity)
        events.append(plain)
        if event.event is OrderEvent.PARTIAL_FILL:
            crash_point("between_partial_fills")
        crash_point("between_fill_events")
    recorded = journal.plan_events(events, known, {row.event_key for row in found["keys"]}, plan.writes)
    first = plan.first_positions()
    if then is not None and plan.whole:
        then(connection, plan.writes.first(connection, *first, cursor))
    else:
        plan.writes.write(connection, *first, cursor)
        plan.write_rest(connection)
        if then is not None:
            then(connection, {})
    return DrainResult(recorded.new, sum(quantity is not None for quantity in filled.values()))


def _plausible(order: OrderRecord | None, event: BrokerEvent) -> bool:
    """Is the order known, and can its execution be one of it?"""
    return order is not None and (event.execution is None or not execution_problem(order, event.execution))


def _new_fill(order: OrderRecord, execution: Execution) -> journal.NewFill:
    return journal.NewFill(order, execution, session_of(order, execution.fill_time))


def _apply_apart(
    connection: Connection, broker: Broker, batch: Sequence[BrokerEvent], orders: Mapping[str, OrderRecord], now_time: int
) -> DrainResult:
    """Apply events in their order, some of which are of no known order or cannot be true: the fills of known orders first,
    together; then what every event says, together where it may be."""
    known = {e.client_id: orders[e.client_id] for e in batch if e.execution is not None and e.client_id in orders}
    filled = _apply_fills(connection, known, batch)
    total = DrainResult(0, sum(new for _, new in filled.values()))
    plain: list[NewEvent] = []
    for number, event in enumerate(batch):
        if number in filled:
            quantity, _ = filled[number]
            plain.append(_told_fill(known[event.client_id], _plain(broker, event), event, quantity))
        elif event.execution is None and event.client_id in orders:
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
            told[number] = _new_fill(order, execution)
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


def _key(broker: Broker, event: BrokerEvent) -> str:
    return f"{broker.name}/{event.event_key}"


def _plain(broker: Broker, event: BrokerEvent) -> NewEvent:
    """An event without an execution as the ledger keeps it. A fill told without one is no fill yet: evidence is needed."""
    kind, text = event.event, event.text
    if kind in (OrderEvent.FILL, OrderEvent.PARTIAL_FILL):
        kind, text = OrderEvent.LOST, "fill reported without its execution: evidence needed"
    key = _key(broker, event)
    return NewEvent(event.client_id, kind, key, event.event_time, text, event.broker_order_id)


def apply_event(connection: Connection, broker: Broker, event: BrokerEvent, now_time: int) -> DrainResult:
    """Apply one broker event in the caller's transaction."""
    order = store.find_order(connection, event.client_id)
    key = _key(broker, event)
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
