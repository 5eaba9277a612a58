"""What the control API reads of the ledger: signals, decisions, orders, fills, performance. Newest first, bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, select

from desk import algo_ledger, store
from resources.ledger import algo_tables
from resources.ledger import tables as t

Row = dict[str, Any]


def signals(engine: Engine, *, session: str | None, strategy: str | None, symbol: str | None, limit: int) -> list[Row]:
    """Signals with what became of each: undecided, refused (by a gate), denied (by risk), ordered, or not at the desk."""
    s, d, i = t.signals.c, t.decisions.c, t.intents.c
    entry = select(i.parent, i.refusal).where(i.leg == "entry").subquery()
    joined = (
        select(t.signals, d.id.label("decision_id"), d.approved, d.refusal.label("gate_refusal"), entry.c.refusal.label("denied"))
        .outerjoin(t.decisions, d.signal_id == s.id)
        .outerjoin(entry, entry.c.parent == d.id)
    )
    chosen = _where(joined, {s.session: session, s.strategy: strategy, s.symbol: symbol})
    rows = _rows(engine, chosen.order_by(s.close_time.desc(), s.id).limit(limit))
    return [_signal(row) for row in rows]


def _signal(row: Row) -> Row:
    approved, gate, denied = row.pop("approved"), row.pop("gate_refusal"), row.pop("denied")
    if approved is None:
        outcome, refusal = "undecided", ""
    elif not approved:
        outcome, refusal = "refused", gate
    elif denied is None:
        outcome, refusal = "not at the desk", ""
    else:
        outcome, refusal = ("denied", denied) if denied else ("ordered", "")
    return {**row, "outcome": outcome, "refusal": refusal}


def decisions(
    engine: Engine, *, session: str | None, strategy: str | None, symbol: str | None, approved: bool | None, limit: int
) -> list[Row]:
    """Decisions with the gates' verdicts, and the signal's strategy and symbol."""
    d, s = t.decisions.c, t.signals.c
    columns = [column for column in t.decisions.columns if column.name not in ("snapshot", "outcome")]
    joined = select(*columns, s.strategy, s.symbol, s.action).join(t.signals, s.id == d.signal_id)
    chosen = _where(joined, {d.session: session, s.strategy: strategy, s.symbol: symbol, d.approved: approved})
    return _rows(engine, chosen.order_by(d.close_time.desc(), d.id).limit(limit))


def decision(engine: Engine, decision_id: str) -> Row | None:
    """One decision with its signal, and the intents it became with every risk rule's verdict."""
    columns = [column for column in t.decisions.columns if column.name not in ("snapshot", "outcome")]
    found = _rows(engine, select(*columns).where(t.decisions.c.id == decision_id))
    if not found:
        return None
    signal = _rows(engine, select(t.signals).where(t.signals.c.id == found[0]["signal_id"]))
    intents = _rows(engine, select(t.intents).where(t.intents.c.parent == decision_id).order_by(t.intents.c.leg))
    return {**found[0], "signal": signal[0] if signal else None, "intents": intents}


def has_orders(connection: Connection, decision_id: str) -> bool:
    """Has the desk routed this decision before?"""
    sent = connection.execute(select(t.intents.c.id).where(t.intents.c.parent == decision_id).limit(1)).first() is not None
    return sent or algo_ledger.of_decision(connection, decision_id) is not None


def orders(
    engine: Engine, *, session: str | None, state: str | None, strategy: str | None, symbol: str | None, limit: int
) -> list[Row]:
    """Orders with the strategy, leg, trade_id, parent, session and execution (algo) of their intents."""
    o, i = t.orders.c, t.intents.c
    algo = i.content["meta"]["algo"].as_string().label("algo")  # the execution it is a slice or leg of
    joined = select(t.orders, i.strategy, i.leg, i.trade_id, i.parent, i.session, algo).join(t.intents, i.id == o.id)
    chosen = _where(joined, {i.session: session, o.state: state, i.strategy: strategy, o.symbol: symbol})
    newest = (o.created_time.desc(), o.created_wall.desc(), o.id.desc())
    return [{**row, "paper": row["mode"] == "paper"} for row in _rows(engine, chosen.order_by(*newest).limit(limit))]


def algos(
    engine: Engine, *, state: str | None, session: str | None, strategy: str | None, symbol: str | None, limit: int
) -> list[Row]:
    """Entries worked in slices, newest first, each with how far it has come and every slice. state: also ``running``."""
    p = algo_tables.algo_parents.c
    chosen = _where(select(p.id), {p.session: session, p.strategy: strategy, p.symbol: symbol})
    if state == "running":
        chosen = chosen.where(p.state.in_(algo_tables.RUNNING))
    elif state is not None:
        chosen = chosen.where(p.state == state)
    with engine.connect() as c:
        ids = list(c.execute(chosen.order_by(p.created_time.desc(), p.created_wall.desc(), p.id).limit(limit)).scalars())
        found = {parent.id: parent for parent in algo_ledger.find(c, p.id.in_(ids))}
        return [algo_ledger.told(c, found[i]) for i in ids]


def algo(engine: Engine, parent_id: str) -> Row | None:
    """One entry worked in slices."""
    with engine.connect() as c:
        parent = algo_ledger.get(c, parent_id)
        return None if parent is None else algo_ledger.told(c, parent)


def order(engine: Engine, order_id: str) -> Row | None:
    """One order, by our id or the broker's: intent, events, fills."""
    o, i = t.orders.c, t.intents.c
    found = _rows(engine, select(t.orders).where((o.id == order_id) | (o.broker_order_id == order_id)).order_by(o.id).limit(1))
    if not found:
        return None
    name = found[0]["id"]
    events = _rows(engine, select(t.order_events).where(t.order_events.c.order_id == name).order_by(t.order_events.c.seq))
    filled = _rows(engine, select(t.fills).where(t.fills.c.order_id == name).order_by(t.fills.c.fill_time))
    intent = _rows(engine, select(t.intents).where(i.id == name))
    return {
        "order": {**found[0], "paper": found[0]["mode"] == "paper"}, "intent": intent[0] if intent else None,
        "events": events, "fills": filled,
    }  # fmt: skip


def fills(engine: Engine, *, session: str | None, strategy: str | None, symbol: str | None, limit: int) -> list[Row]:
    f = t.fills.c
    chosen = _where(select(t.fills), {f.session: session, f.strategy: strategy, f.symbol: symbol})
    return _rows(engine, chosen.order_by(f.fill_time.desc(), f.recorded_wall.desc(), f.id).limit(limit))


def performance(engine: Engine, session: str | None) -> Row:
    """Profit and loss in account currency: of open positions at the last marked prices, of every strategy since ever and
    (session) of one session's fills, and the account's equity at each bar close of that session."""
    with engine.connect() as c:
        prices = {s: float(p) for s, (p, _) in store.get_state(c, "prices").items()}
        multipliers = store.position_multipliers(c)
        totals = store.strategy_totals(c, prices)
        held = [_open(p, prices, multipliers) for p in store.find_positions(c)]
        p = t.positions.c
        realized = c.execute(select(p.strategy, func.sum(p.realized_pnl), func.sum(p.commission)).group_by(p.strategy)).all()
        a = t.account_snapshots.c
        wanted = session or c.execute(select(a.session).order_by(a.close_time.desc()).limit(1)).scalar()
        curve = c.execute(
            select(a.close_time, a.equity, a.cash, a.gross_exposure).where(a.session == wanted).order_by(a.close_time)
        ).mappings()
        equity = [dict(row) for row in curve]
        f = t.fills.c
        counted = select(f.strategy, f.side, f.quantity, f.price, f.commission, f.trade_id).where(f.session == wanted)
        day = _day(c.execute(counted).all())
    strategies = {
        row.strategy: {
            "realized": float(row[1]), "commission": float(row[2]), "total": totals.get(row.strategy, float(row[1])),
            **day.get(row.strategy, {"fills": 0, "session_commission": 0.0}),
        }
        for row in realized
    }  # fmt: skip
    peak, drawdown = 0.0, 0.0
    for point in equity:
        peak = max(peak, point["equity"])
        drawdown = max(drawdown, peak - point["equity"])
    return {
        "session": wanted, "positions": held, "strategies": strategies, "equity": equity,
        "change": equity[-1]["equity"] - equity[0]["equity"] if equity else 0.0, "drawdown": drawdown,
    }  # fmt: skip


def _open(position: store.PositionRecord, prices: Mapping[str, float], multipliers: Mapping[str, float]) -> Row:
    row = asdict(position)
    row.pop("exit_state")
    price = prices.get(position.symbol)
    factor = multipliers.get(position.trade_id, 1.0)
    unrealized = None if price is None else position.quantity * (price - position.average_price) * factor
    return {**row, "price": price, "unrealized": unrealized}


def _day(rows: Sequence[Any]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        own = found.setdefault(row.strategy, {"fills": 0, "session_commission": 0.0})
        own["fills"] += 1
        own["session_commission"] += float(row.commission)
    return found


def _where(chosen: Select[Any], equal: Mapping[Any, Any]) -> Select[Any]:
    for column, value in equal.items():
        if value is not None:
            chosen = chosen.where(column == value)
    return chosen


def _rows(engine: Engine, chosen: Select[Any]) -> list[Row]:
    with engine.connect() as c:
        return [dict(row) for row in c.execute(chosen).mappings()]
