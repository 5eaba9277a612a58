"""Ledger against broker: orders, positions, cash. A difference blocks new risk on its instrument until evidence resolves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select

from desk import events, exit_orders, external, guards, journal, mismatches, modify, store, submission
from desk.journal import NewEvent
from desk.legs import kind_of
from desk.store import OrderRecord
from resources.brokers.protocol import Account, Broker, BrokerPosition, OrderReport
from resources.ledger import tables as t
from trading.orders import MAY_BE_AT_BROKER, OrderEvent, OrderState

log = structlog.get_logger("desk.reconcile")

_ATTEMPTS = 3
CASH_TOLERANCE = 0.005
"""Account currency: half a cent. Sums of many fills differ by float noise only."""


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """resolved_unknown: order id -> state its evidence gave. mismatches: symbol (``*``: account) -> {kind, text, ...},
    everything that stands now."""

    resolved_unknown: dict[str, OrderState]
    mismatches: Mapping[str, Mapping[str, Any]]


def reconcile(engine: Engine, broker: Broker, clock: Callable[[], int]) -> ReconcileResult:
    """Compare the books and note what differs; resolve UNKNOWN orders by evidence.

    Sends no order. It takes over orders placed by hand, brings orders that were held for ended and work at the broker back to
    life (entries among them are cancelled: nobody waits for them any more), asks again for cancels the broker never heard of,
    and takes prices from the broker. Raises what broker or ledger raise: nothing is concluded then.
    """
    with store.routing_lock:
        waiting = _unknown(engine)
        events.drain(engine, broker, clock)
        submission.resolve_unknown(engine, broker, clock)
        submission.note_cash_baseline(engine, broker, clock)
        for _ in range(_ATTEMPTS):
            open_reports, positions, account = broker.open_orders(), broker.positions(), broker.account()
            if events.drain(engine, broker, clock).events == 0:
                break  # the books were read after the last event the ledger has: they can be compared
        lost = _missing_at_broker(engine, clock, open_reports)
        if lost:
            submission.resolve_unknown(engine, broker, clock)
            events.drain(engine, broker, clock)
        resolved = _resolved(engine, [*waiting, *lost])
        with engine.begin() as connection:
            store.lock(connection)
            external.adopt_reports(connection, broker.name, open_reports, clock())
            modify.align(connection, open_reports, clock())
            found = _compare(connection, broker, open_reports, positions, account)
            stand = mismatches.replace(connection, found, clock())
            _revive(connection, open_reports, clock())
        _cancel_what_nobody_wants(engine, broker, clock, open_reports)
    if stand:
        log.error("mismatch", mismatches={s: f"{m['kind']}: {m['text']}" for s, m in stand.items()})
    return ReconcileResult(resolved, stand)


def _unknown(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [o.id for o in store.find_orders(connection, store.in_states(OrderState.UNKNOWN, OrderState.SENDING))]


def _resolved(engine: Engine, order_ids: list[str]) -> dict[str, OrderState]:
    """Those of the orders that are in doubt no longer, with their state: by an event or by the books."""
    with engine.connect() as connection:
        found = store.find_orders(connection, t.orders.c.id.in_(order_ids))
    return {o.id: o.state for o in found if o.state not in (OrderState.UNKNOWN, OrderState.SENDING)}


def _missing_at_broker(engine: Engine, clock: Callable[[], int], open_reports: list[OrderReport]) -> list[str]:
    """Orders the ledger holds for working and the broker does not list as open: UNKNOWN until the evidence is read."""
    listed = {r.client_id for r in open_reports}
    with engine.connect() as connection:
        working = store.find_orders(connection, store.in_states(*MAY_BE_AT_BROKER - {OrderState.UNKNOWN}))
    lost = [o.id for o in working if o.id not in listed]
    if lost:
        submission.lose(engine, clock, lost, "not among the broker's open orders")
    return lost


def _compare(
    connection: Connection,
    broker: Broker,
    open_reports: list[OrderReport],
    positions: list[BrokerPosition],
    account: Account,
) -> dict[str, tuple[str, str]]:
    """Symbol -> (kind, text) of the first difference found in each."""
    found: dict[str, tuple[str, str]] = {}

    def note(symbol: str, kind: str, text: str) -> None:
        found.setdefault(symbol, (kind, text))

    known = {o.id: o for o in store.find_orders(connection, t.orders.c.id.in_([r.client_id for r in open_reports]))}
    for report in open_reports:
        order = known.get(report.client_id)
        if order is None:
            note(report.symbol, "FOREIGN_ORDER", f"the broker works {report.client_id}, which the ledger does not know")
        elif order.state not in MAY_BE_AT_BROKER:
            note(report.symbol, "DEAD_ORDER_WORKS", f"{order.id} is {order.state} here and {report.state} at the broker")
        elif (report.side, report.quantity) != (order.side, order.quantity):
            there = f"{report.side} {report.quantity:g} there"
            note(report.symbol, "ORDER", f"{order.id}: {order.side} {order.quantity:g} here, {there}")
    held = store.find_positions(connection)
    ours: dict[str, float] = {}
    for position in held:
        ours[position.symbol] = ours.get(position.symbol, 0.0) + position.quantity
    theirs = {p.symbol: p.quantity for p in positions}
    for symbol in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(symbol, 0.0), theirs.get(symbol, 0.0)
        if abs(a - b) > 1e-9 * max(1.0, abs(a), abs(b)):
            note(symbol, "POSITION", f"ledger {a:g}, broker {b:g}")
    for position in held:
        trades = guards.open_trades(connection, position) or {position.trade_id: position.quantity}
        for trade_id, quantity in trades.items():
            trade = store.find_orders(connection, t.intents.c.trade_id == trade_id)
            for kind, text in _position_problems(position.strategy, trade_id, quantity, trade):
                note(position.symbol, kind, text)
    base = store.get_state(connection, f"{submission.BASELINE_KEY}:{broker.name}")
    cash = float(base["cash"]) + submission.ledger_cash_flow(connection, broker.name)
    if base["account_id"] != account.account_id or base["currency"] != account.currency:
        note(mismatches.ACCOUNT, "ACCOUNT", f"ledger {base['account_id']} {base['currency']}, broker {account.account_id}")
    elif not abs(cash - account.cash) <= CASH_TOLERANCE + 1e-12 * abs(cash):
        note(mismatches.ACCOUNT, "CASH", f"ledger {cash:.4f}, broker {account.cash:.4f} {account.currency}")
    return found


def _position_problems(strategy: str, trade_id: str, held: float, trade: list[OrderRecord]) -> list[tuple[str, str]]:
    """A trade that turned around, or that nothing protects and nothing closes."""
    if strategy == external.STRATEGY:
        return []  # placed by hand: a person guards it
    entry = next((o for o in trade if o.leg == "entry"), None)
    if entry is None or (held > 0) is not (entry.side.sign > 0):
        return [("OVERFILLED", f"{strategy} holds {held:g} of trade {trade_id}, not what it entered")]
    bare = guards.uncovered(trade, held)
    if not bare:
        return []
    part = "" if bare == abs(held) else f" for {bare:g} of it"
    return [("UNPROTECTED", f"{strategy} holds {held:g} without a working stop or exit{part}")]


def _revive(connection: Connection, open_reports: list[OrderReport], now_time: int) -> None:
    """Orders that are ended here (found nowhere, say) and work at the broker: they work here, too."""
    for order in store.find_orders(connection, t.orders.c.id.in_([r.client_id for r in open_reports])):
        if order.state in (OrderState.CANCELED, OrderState.EXPIRED, OrderState.REJECTED):
            log.error("dead_order_works", order=order.id, symbol=order.symbol, leg=order.leg)
            key = f"evidence/{order.id}/{store.wall_us()}/found"
            told = "evidence: the broker works it"
            journal.record_event(connection, NewEvent(order.id, OrderEvent.FOUND, key, now_time, told))


def _cancel_what_nobody_wants(engine: Engine, broker: Broker, clock: Callable[[], int], open_reports: list[OrderReport]) -> None:
    """Entries that came back to life, and orders whose cancel was wanted but may never have reached the broker."""
    with engine.connect() as connection:
        working = store.find_orders(connection, t.orders.c.id.in_([r.client_id for r in open_reports]))
        revived = set(
            connection.execute(
                select(t.order_events.c.order_id).where(
                    t.order_events.c.order_id.in_([o.id for o in working if kind_of(o.leg) == "entry"]),
                    t.order_events.c.event == OrderEvent.FOUND.value,
                )
            ).scalars()
        )
    wanted = [o for o in working if o.working and (o.state is OrderState.PENDING_CANCEL or o.id in revived)]
    exit_orders.cancel_orders(engine, broker, clock, wanted, "evidence: it works, and nobody waits for it")
