"""The submission protocol: committed as SENDING, sent, acknowledged; and how an unclear answer is cleared up.

An order is committed before the broker hears of it. Whatever then goes wrong, its fate is UNKNOWN, never "failed": it is
not sent again, and the broker's open orders, completed orders and executions, read to their end markers, say what
happened. Only an order that none of them lists was never there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine, bindparam, func, select, update

from desk import events, journal, mismatches, modes, store
from desk.faults import crash_point
from desk.journal import NewEvent
from desk.store import OrderRecord
from resources.brokers.protocol import (
    Account,
    Batching,
    Broker,
    Execution,
    OrderReport,
    OrderRequest,
    Replacement,
    Replacing,
)
from resources.ledger import action_tables, audit
from resources.ledger import tables as t
from trading import portfolio
from trading.orders import OrderEvent, OrderState, Side
from trading.timeframes import US_PER_DAY

log = structlog.get_logger("desk.submission")

BASELINE_KEY = "cash_baseline"

_EVENT_OF_STATE: Mapping[OrderState, OrderEvent] = {
    OrderState.SUBMITTED: OrderEvent.ACK,
    OrderState.ACCEPTED: OrderEvent.ACCEPT,
    OrderState.TRIGGERED: OrderEvent.TRIGGER,
    OrderState.PENDING_UPDATE: OrderEvent.ACCEPT,
    OrderState.PENDING_CANCEL: OrderEvent.ACCEPT,
    OrderState.PARTIALLY_FILLED: OrderEvent.ACCEPT,
    OrderState.FILLED: OrderEvent.ACCEPT,
    OrderState.REJECTED: OrderEvent.REJECT,
    OrderState.CANCELED: OrderEvent.CANCELED,
    OrderState.EXPIRED: OrderEvent.EXPIRED,
}
"""What a report's state says as an event. Fills are told by executions only, never by a state."""


@dataclass(frozen=True, slots=True)
class RecoveryResult:
    """resolved: order id -> state that the evidence gave. drained: what the broker said meanwhile."""

    resolved: dict[str, OrderState]
    drained: events.DrainResult


def request_of(order: OrderRecord) -> OrderRequest:
    """The broker's form of a committed order: its id travels in the client-id field."""
    intent = store.intent_of(order.content)
    return OrderRequest(
        order.id, order.symbol, order.side, order.quantity, order.order_type, intent.time_in_force, order.limit_price,
        order.stop_price, intent.parent_intent, intent.oco_group, intent.reduce_only,
        trade=order.trade_id if intent.meta.get("algo") else "",
    )  # fmt: skip


def send(engine: Engine, broker: Broker, clock: Callable[[], int], order_ids: Sequence[str]) -> dict[str, OrderState]:
    """Send committed (SENDING) orders as one group, entry first, and commit the answer. The caller holds the routing lock.

    Orders late for their validity become EXPIRED and are never sent, nor are those of another book than the broker's, which are
    REJECTED here. No answer, or an unclear one: UNKNOWN. Raises only when the ledger cannot be written; the orders then stay
    SENDING, which the next evidence run clears up.
    """
    with engine.connect() as connection:
        found = store.find_orders(connection, t.orders.c.id.in_(order_ids), store.in_states(OrderState.SENDING))
    return send_groups(engine, broker, clock, [sorted(found, key=lambda o: order_ids.index(o.id))])


def send_groups(
    engine: Engine, broker: Broker, clock: Callable[[], int], groups: Sequence[Sequence[OrderRecord]],
    ends: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, OrderState]:  # fmt: skip
    """`send` of several groups, each whole or not at all whatever becomes of the others: the orders as they are committed.

    A broker that takes several groups in one call gets them so. What is not heard of one group says nothing about another.
    ends: the broker is a Replacing one; by id of a group's first order the orders in whose place it goes, with what is known to
    be filled of each. That they end was asked for, and committed, with the group.
    """
    answers: dict[str, tuple[OrderEvent, str, str]] = {}
    sendable: list[Sequence[OrderRecord]] = []
    now = clock()
    for group in groups:
        if not group:
            continue
        valid_until = group[0].content.get("valid_until")
        if barred := next((why for o in group if (why := modes.never_sent(o, broker))), ""):
            log.error("not_sent", orders=[o.id for o in group], why=barred)
            answers |= {o.id: (OrderEvent.REJECT, f"{barred} not sent", "") for o in group}
        elif valid_until is not None and now > valid_until:
            answers |= {o.id: (OrderEvent.EXPIRED, "EXPIRED: late for its validity, not sent", "") for o in group}
        else:
            sendable.append(group)
    heard = False
    for group, reports in _submitted(broker, sendable, ends):
        if isinstance(reports, Exception):
            log.warning("submit_unclear", orders=[o.id for o in group], error=type(reports).__name__)
            answers |= {o.id: (OrderEvent.LOST, f"submit: {type(reports).__name__}", "") for o in group}
        else:
            heard = True
            told = {r.client_id: r for r in reports if isinstance(r, OrderReport)}
            answers |= {o.id: _answer(o, told.get(o.id)) for o in group}
    if not heard:
        return _record_all(engine, clock, answers)
    crash_point("after_send_before_answer")
    states = _record_all(engine, clock, answers, crash="answer_before_commit")
    crash_point("after_ack")
    return states


def _submitted(
    broker: Broker, groups: Sequence[Sequence[OrderRecord]], ends: Mapping[str, Mapping[str, float]] | None
) -> list[tuple[Sequence[OrderRecord], Sequence[OrderReport] | Exception]]:
    """Each group with the broker's answer, or with what was raised instead: which does not say that an order failed."""
    if not groups:
        return []
    requests = [[request_of(o) for o in group] for group in groups]
    if ends is not None or (len(groups) > 1 and isinstance(broker, Batching)):
        crash_point("before_send")
        try:
            if ends is None:
                return list(zip(groups, broker.submit_groups(requests), strict=True))  # type: ignore[attr-defined]
            if not isinstance(broker, Replacing):
                raise TypeError(f"broker {broker.name} cannot put orders in the place of others")
            replacements = [Replacement(ends.get(r[0].client_id, {}), r) for r in requests]
            return list(zip(groups, broker.replace_groups(replacements), strict=True))
        except Exception as error:  # noqa: BLE001 whatever it is, it does not say that the orders failed
            return [(group, error) for group in groups]
    answers: list[tuple[Sequence[OrderRecord], Sequence[OrderReport] | Exception]] = []
    for group, wanted in zip(groups, requests, strict=True):
        crash_point("before_send")
        try:
            answers.append((group, broker.submit(wanted)))
        except Exception as error:  # noqa: BLE001 whatever it is, it does not say that the order failed
            answers.append((group, error))
    return answers


def _answer(order: OrderRecord, report: OrderReport | None) -> tuple[OrderEvent, str, str]:
    """(event, text, broker order id) of the broker's answer on one order; LOST when it is not clearly about it."""
    if report is None:
        return OrderEvent.LOST, "no answer on this order", ""
    if (report.symbol, report.side, report.quantity) != (order.symbol, order.side, order.quantity):
        return OrderEvent.LOST, f"answer is about {report.side} {report.quantity} {report.symbol}", ""
    event = _EVENT_OF_STATE.get(report.state)
    if event is None:
        return OrderEvent.LOST, f"answer has state {report.state}", ""
    return event, report.text, report.broker_order_id


def _record_all(
    engine: Engine, clock: Callable[[], int], answers: Mapping[str, tuple[OrderEvent, str, str]], crash: str = ""
) -> dict[str, OrderState]:
    if not answers:
        return {}
    now, wall = clock(), store.wall_us()
    told = [
        NewEvent(order_id, event, f"desk/{order_id}/{event}/{wall}", now, text, number)
        for order_id, (event, text, number) in answers.items()
    ]
    with engine.begin() as connection:
        store.lock(connection)
        states = dict(journal.record_events(connection, told).states)
        if crash:
            crash_point(crash)
    return states


def lose(engine: Engine, clock: Callable[[], int], order_ids: Sequence[str], text: str) -> dict[str, OrderState]:
    """Mark orders UNKNOWN: from here on only evidence moves them."""
    return _record_all(engine, clock, {order_id: (OrderEvent.LOST, text, "") for order_id in order_ids})


@dataclass(frozen=True, slots=True)
class Evidence:
    """The broker's books, read to their end markers, open orders first: an order that completes meanwhile is in one of them."""

    open_orders: Mapping[str, OrderReport]
    completed: Mapping[str, OrderReport]
    executions: Mapping[str, list[Execution]]

    def report(self, client_id: str) -> OrderReport | None:
        """The later word: completed before open."""
        return self.completed.get(client_id) or self.open_orders.get(client_id)


def read_evidence(broker: Broker, since_us: int) -> Evidence:
    """Read the broker's books back to market time `since_us`. Raises what the broker raises: then nothing is known."""
    open_orders = {r.client_id: r for r in broker.open_orders()}
    completed = {r.client_id: r for r in broker.completed_orders(since_us)}
    executions: dict[str, list[Execution]] = {}
    for execution in broker.executions(since_us):
        executions.setdefault(execution.client_id, []).append(execution)
    return Evidence(open_orders, completed, executions)


def resolve_unknown(engine: Engine, broker: Broker, clock: Callable[[], int]) -> dict[str, OrderState]:
    """Find out what became of UNKNOWN orders. Returns the orders that left UNKNOWN with their state.

    SENDING orders count as UNKNOWN: under the routing lock none is on its way. A broker that cannot be read leaves all
    as they are.
    """
    with store.routing_lock:
        with engine.connect() as connection:
            waiting = store.find_orders(connection, store.in_states(OrderState.SENDING, OrderState.UNKNOWN))
        if not waiting:
            return {}
        lose(engine, clock, [o.id for o in waiting if o.state is OrderState.SENDING], "no answer before the desk stopped")
        since = min(o.created_time for o in waiting) - US_PER_DAY
        try:
            evidence = read_evidence(broker, since)
        except Exception as error:  # noqa: BLE001 no evidence, no change
            log.warning("evidence_unreadable", broker=broker.name, error=type(error).__name__, waiting=len(waiting))
            return {}
        resolved: dict[str, OrderState] = {}
        with engine.begin() as connection:
            store.lock(connection)
            for order in waiting:
                state = _apply_evidence(connection, order, evidence, clock())
                if state is not OrderState.UNKNOWN:
                    resolved[order.id] = state
                    content = {"order": order.id, "state": state.value, "symbol": order.symbol}
                    audit.append(connection, "desk", "unknown_resolved", content)
        return resolved


def _apply_evidence(connection: Connection, order: OrderRecord, evidence: Evidence, now_time: int) -> OrderState:
    """Bring one order to what the books say; UNKNOWN stays when they are not conclusive."""
    key = f"evidence/{order.id}/{store.wall_us()}"
    report, executions = evidence.report(order.id), evidence.executions.get(order.id, [])

    def record(event: OrderEvent, text: str = "") -> OrderState:
        number = report.broker_order_id if report is not None else ""
        state = journal.record_event(connection, NewEvent(order.id, event, f"{key}/{event}", now_time, text, number))
        return state if state is not None else OrderState.UNKNOWN

    if report is None and not executions:
        return record(OrderEvent.NOT_FOUND, "not in the broker's open orders, completed orders or executions")
    if report is not None and (report.symbol, report.side, report.quantity) != (order.symbol, order.side, order.quantity):
        mismatches.put(
            connection, order.symbol, "EVIDENCE", f"{order.id}: broker has {report.side} {report.quantity} {report.symbol}",
            now_time, sticky=True,
        )  # fmt: skip
        return OrderState.UNKNOWN
    filled = order.filled_quantity
    for execution in executions:
        if problem := events.execution_problem(order, execution):
            mismatches.put(connection, order.symbol, "EVIDENCE", problem, now_time, sticky=True)
            return OrderState.UNKNOWN
        filled, _ = events.apply_execution(connection, order, execution)
    if filled >= order.quantity * (1.0 - 1e-9):
        return record(OrderEvent.FILL, "evidence: executions")
    if report is None:
        return OrderState.UNKNOWN  # executions of an order in no book: read again later
    if filled < report.filled_quantity * (1.0 - 1e-9) or report.state is OrderState.FILLED:
        return OrderState.UNKNOWN  # the fills that the report counts have not been seen yet
    state = record(_EVENT_OF_STATE.get(report.state, OrderEvent.ACK), f"evidence: {report.state} {report.text}".rstrip())
    if filled > 0.0 and report.state not in (OrderState.CANCELED, OrderState.EXPIRED):
        state = record(OrderEvent.PARTIAL_FILL, "evidence: executions")
    return state


def recover(engine: Engine, broker: Broker, clock: Callable[[], int]) -> RecoveryResult:
    """What the desk does first at start: hear what the broker said meanwhile, then clear up every order without an answer.

    Also notes, once, the cash that ledger and broker agree on. Nothing is sent. Exits that were under way are finished by
    `desk.exit_orders.continue_exits` (Router.continue_exits). Raises what broker or ledger raise: the desk then takes no
    new risk and tries again.
    """
    with store.routing_lock:
        drained = events.drain(engine, broker, clock)
        resolved = resolve_unknown(engine, broker, clock)
        drained += events.drain(engine, broker, clock)
        note_cash_baseline(engine, broker, clock)
    if resolved:
        log.info("recovered", resolved={k: v.value for k, v in resolved.items()})
    return RecoveryResult(resolved, drained)


def ledger_cash_flow(connection: Connection, broker_name: str) -> float:
    """Cash that all fills of a broker and its payments for fractions brought (positive) or took, commissions included."""
    f, i = t.fills.c, t.intents.c
    rows = connection.execute(
        select(f.side, f.quantity, f.price, f.commission, i.content["meta"]["multiplier"].as_float().label("multiplier"))
        .join(t.intents, i.id == f.order_id)
        .join(t.orders, t.orders.c.id == f.order_id)
        .where(t.orders.c.broker == broker_name)
        .order_by(f.recorded_wall, f.id)
    )
    p = action_tables.position_adjustments.c
    in_lieu = connection.execute(select(func.sum(p.cash_in_lieu)).where(p.broker == broker_name)).scalar() or 0.0
    return in_lieu + sum(portfolio.cash_flow(Side(r.side), r.quantity, r.price, r.commission, r.multiplier) for r in rows)


def note_cash_baseline(engine: Engine, broker: Broker, clock: Callable[[], int]) -> None:
    """Keep, once per broker account, the cash there was before the ledger's first fill: reconciliation starts from it."""
    key = f"{BASELINE_KEY}:{broker.name}"
    with engine.connect() as connection:
        if store.get_state(connection, key):
            return
    account: Account = broker.account()
    with engine.begin() as connection:
        store.lock(connection)
        if not store.get_state(connection, key):
            cash = account.cash - ledger_cash_flow(connection, broker.name)
            value = {"account_id": account.account_id, "currency": account.currency, "cash": cash, "since_time": clock()}
            store.put_state(connection, key, value)
            audit.append(connection, "desk", "cash_baseline", value)


def set_sent_quantity(connection: Connection, order_id: str, quantity: float) -> None:
    """The quantity an INITIALIZED exit is sent with: what is open at that moment."""
    set_sent_quantities(connection, {order_id: quantity})


def set_sent_quantities(connection: Connection, quantities: Mapping[str, float]) -> None:
    """`set_sent_quantity` of several orders, by id."""
    if quantities:
        o = t.orders.c
        here = (o.id == bindparam("of_order")) & (o.state == OrderState.INITIALIZED.value)
        rows = [{"of_order": order_id, "sent": quantity} for order_id, quantity in quantities.items()]
        connection.execute(update(t.orders).where(here).values(quantity=bindparam("sent")), rows)
