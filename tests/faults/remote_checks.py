"""Ledger against the simulated broker's own book, order by order: independent of the code under test."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Engine, text

from resources.ledger import audit
from tests.desk.kit import CASH

TERMINAL = frozenset({"denied", "rejected", "filled", "canceled", "expired"})
NAMES = (
    "duplicates", "lost", "phantom", "wrong_position", "wrong_cash", "overclosed", "unprotected", "in_doubt", "mismatches",
    "audit",
)  # fmt: skip
_TINY = 1e-6


def compare(engine: Engine, books: dict[str, Any], notes: list[str] | None = None) -> dict[str, int]:
    """How often each thing is wrong; all 0 when ledger and broker tell the same story. notes: what was found, in words."""
    said = notes if notes is not None else []
    found = dict.fromkeys(NAMES, 0)

    def wrong(name: str, what: str) -> None:
        found[name] += 1
        said.append(f"{name}: {what}")

    with engine.connect() as c:
        ours = {
            r.id: r
            for r in c.execute(
                text("SELECT o.*, i.parent, i.leg, i.trade_id, i.strategy FROM orders o JOIN intents i USING (id)")
            )
        }
        fills = {r.id.split("/", 1)[1]: r for r in c.execute(text("SELECT * FROM fills"))}
        held = list(c.execute(text("SELECT * FROM positions")))
        multipliers = dict(c.execute(text("SELECT id, (content->'meta'->>'multiplier')::float FROM intents")).tuples().all())
        parents = dict(c.execute(text("SELECT trade_id, quantity FROM algo_parents")).tuples().all())
        stand = c.execute(text("SELECT value FROM desk_state WHERE key = 'mismatches'")).scalar() or {}
    theirs = {o.client_id: o for o in books["orders"]}
    executions = {e.execution_id: e for e in books["executions"]}

    entries = Counter(ours[o].parent for o in theirs if o in ours and ours[o].leg == "entry")
    for parent, count in entries.items():
        if count > 1:
            wrong("duplicates", f"decision {parent} has {count} entries at the broker")
    if len(theirs) != len(books["orders"]) or len(executions) != len(books["executions"]):
        wrong("duplicates", "the broker lists an order or an execution twice")
    for trade, count in Counter(
        o.trade_id for o in ours.values() if o.leg.startswith("exit:") and o.state not in TERMINAL
    ).items():
        if count > 1:
            wrong("duplicates", f"trade {trade} has {count} exits under way")

    bought = Counter[str]()
    for fill in fills.values():
        if ours[fill.order_id].leg.partition(".")[0] == "entry":
            bought[fill.trade_id] += fill.quantity
    exits = {o.trade_id for o in ours.values() if o.leg.startswith("exit:")}
    for trade, quantity in parents.items():  # a slice that was proven never to be there may fill all the same: it is closed then
        if bought[trade] > quantity * (1 + _TINY) and trade not in exits:
            wrong("duplicates", f"slices of trade {trade} bought {bought[trade]} of {quantity}, and nothing closes it")

    for client_id in theirs.keys() - ours.keys():
        wrong("lost", f"order {client_id} is at the broker only")
    for execution_id in executions.keys() - fills.keys():
        wrong("lost", f"execution {execution_id} is at the broker only")

    for execution_id, fill in fills.items():
        there = executions.get(execution_id)
        if there is None or (there.quantity, there.price, there.client_id) != (fill.quantity, fill.price, fill.order_id):
            wrong("phantom", f"fill {execution_id} is not what the broker has")
    for order in ours.values():
        report = theirs.get(order.id)
        if report is None:
            if order.state not in TERMINAL:
                wrong("phantom", f"{order.leg} {order.id} is {order.state} here and unknown to the broker")
            continue
        mine = (order.state, order.filled_quantity, order.quantity, order.stop_price, order.limit_price)
        yours = (report.state.value, report.filled_quantity, report.quantity, report.stop_price, report.limit_price)
        if report.state.value in TERMINAL:  # what a dead order's price was is nobody's business
            mine, yours = mine[:2], yours[:2]  # type: ignore[assignment]
            if order.state == "rejected" and report.filled_quantity == 0.0:
                yours = (order.state, 0.0)  # type: ignore[assignment]  # given up here; it came late there and ended unfilled
        if mine != yours:
            wrong("phantom", f"{order.leg} {order.id} is {mine} here and {yours} at the broker")

    net: dict[str, float] = {}
    for position in held:
        net[position.symbol] = net.get(position.symbol, 0.0) + position.quantity
    for symbol in net.keys() | books["positions"].keys():
        if abs(net.get(symbol, 0.0) - books["positions"].get(symbol, 0.0)) > _TINY:
            wrong("wrong_position", f"{symbol}: {net.get(symbol, 0.0)} here, {books['positions'].get(symbol, 0.0)} at the broker")
    by_strategy: dict[tuple[str, str], float] = {}
    by_trade: dict[str, float] = {}
    cash = CASH
    for fill in fills.values():
        signed = fill.quantity if fill.side == "buy" else -fill.quantity
        by_strategy[fill.strategy, fill.symbol] = by_strategy.get((fill.strategy, fill.symbol), 0.0) + signed
        by_trade[fill.trade_id] = by_trade.get(fill.trade_id, 0.0) + signed
        cash -= signed * fill.price * multipliers[fill.order_id] + fill.commission
    for position in held:
        if abs(position.quantity - by_strategy.get((position.strategy, position.symbol), 0.0)) > _TINY:
            wrong("wrong_position", f"{position.strategy} {position.symbol}: not what its fills sum up to")
    if abs(cash - books["cash"]) > 0.005:
        wrong("wrong_cash", f"{cash:.4f} here, {books['cash']:.4f} at the broker")

    for trade, quantity in by_trade.items():
        order = ours[trade]
        if order.leg == "entry" and quantity * (1 if order.side == "buy" else -1) < -_TINY:
            wrong("overclosed", f"trade {trade} went through zero: {quantity}")
    flat = {(p.strategy, p.symbol) for p in held if abs(p.quantity) <= _TINY}  # its trades cancel out, as a late fill may do
    for trade, quantity in by_trade.items():
        working = [o for o in ours.values() if o.trade_id == trade and o.state not in TERMINAL]
        if (
            ours[trade].mode == "external"
            or (ours[trade].strategy, ours[trade].symbol) in flat
            or any(o.leg.startswith("exit:") for o in working)
        ):
            continue
        guarded = sum(o.quantity - o.filled_quantity for o in working if o.leg.startswith(("stop", "scale", "reduce")))
        if abs(quantity) > guarded + _TINY:
            wrong("unprotected", f"trade {trade} holds {quantity}, guarded are {guarded}")
    for order in ours.values():
        if order.state in ("unknown", "sending", "initialized", "pending_cancel", "pending_update"):
            wrong("in_doubt", f"{order.leg} {order.id} is {order.state}")
    for symbol, mismatch in stand.items():
        wrong("mismatches", f"{symbol}: {mismatch['kind']} {mismatch['text']}")
    for problem in audit.verify(engine):
        wrong("audit", str(problem))
    return found


def activity(engine: Engine) -> dict[str, int]:
    """How much happened: a campaign in which nothing did proves nothing."""
    queries = {
        "orders": "SELECT count(*) FROM orders WHERE state <> 'denied'",
        "fills": "SELECT count(*) FROM fills",
        "exits": "SELECT count(*) FROM intents WHERE leg LIKE 'exit:%'",
        "given_up": "SELECT count(*) FROM order_events WHERE event = 'not_found'",
        "found_again": "SELECT count(*) FROM order_events WHERE event = 'found'",
        "modified": "SELECT count(*) FROM order_events WHERE event = 'updated'",
        "late_fills": "SELECT count(*) FROM order_events WHERE state_before IN ('canceled', 'expired', 'rejected')"
        " AND event IN ('fill', 'partial_fill')",
        "adopted": "SELECT count(*) FROM intents WHERE strategy = 'external'",
        "anomalous": "SELECT count(*) FROM order_events WHERE anomalous",
    }
    with engine.connect() as connection:
        return {name: int(connection.execute(text(query)).scalar_one()) for name, query in queries.items()}
