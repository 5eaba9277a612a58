"""Where trade plans stand: armed, entered, managing, and then closed, expired or cancelled; every step kept and audited."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, func, select, text, union
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import audit
from resources.ledger import plan_tables as p
from resources.ledger import tables as t
from resources.ledger.algo_tables import is_entry
from resources.ledger.base import BOOK_KEY
from trading.orders import MAY_BE_AT_BROKER

ARMED, ENTERED, MANAGING = "armed", "entered", "managing"
CLOSED, EXPIRED, CANCELLED = "closed", "expired", "cancelled"
ENDED: Final = (CLOSED, EXPIRED, CANCELLED)
_LOCK = 0x7461_7065_6F72  # the desk's own: orders and plan states are written one after the other


class PlanNotCancelled(Exception):
    """A plan cannot be cancelled as it stands. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class PlanState:
    """Where one plan stands. revision: of the file in force; problem: what of the newest file is not; times UTC us."""

    plan: str
    revision: str
    symbol: str
    direction: str
    state: str
    trade_id: str = ""
    reason: str = ""
    problem: str = ""
    since_time: int = 0


def entered(connection: Connection, names: Collection[str]) -> frozenset[str]:
    """Plans of `names` that may enter no more: an entry was sent (any revision; a plan is one idea), or they were cancelled or
    ended."""
    if not names:
        return frozenset()
    i, s = t.intents.c, p.plan_states.c
    sent = select(i.strategy).where(i.strategy.in_(names), i.leg == "entry", i.refusal == "")
    ended = select(s.plan).where(s.plan.in_(names), s.state.in_(ENDED))
    return frozenset(connection.execute(union(sent, ended)).scalars())


def has_ended(connection: Connection, name: str) -> bool:
    """Was plan `name` closed, expired or cancelled?"""
    ended = select(p.plan_states.c.plan).where(p.plan_states.c.plan == name, p.plan_states.c.state.in_(ENDED))
    return connection.execute(ended).first() is not None


def states(connection: Connection) -> dict[str, PlanState]:
    """Every plan that was ever armed, by name."""
    return of_rows(connection.execute(states_where()))


def states_where(*only: str) -> Select[Any]:
    """Select of plans that were ever armed (those in these states), by name; its rows are for `of_rows`."""
    chosen = select(p.plan_states).order_by(p.plan_states.c.plan)
    return chosen.where(p.plan_states.c.state.in_(only)) if only else chosen


def of_rows(rows: Iterable[Any]) -> dict[str, PlanState]:
    """Plan states by name."""
    return {
        r.plan: PlanState(r.plan, r.revision, r.symbol, r.direction, r.state, r.trade_id, r.reason, r.problem, r.since_time)
        for r in rows
    }


def events_of(connection: Connection, name: str) -> list[dict[str, Any]]:
    """What happened to plan `name`, oldest first."""
    query = select(p.plan_events).where(p.plan_events.c.plan == name).order_by(p.plan_events.c.seq)
    return [dict(row._mapping) for row in connection.execute(query)]


def last_events(connection: Connection) -> dict[str, dict[str, Any]]:
    """The newest event of every plan, by its name."""
    newest = select(func.max(p.plan_events.c.seq)).group_by(p.plan_events.c.plan)
    rows = connection.execute(select(p.plan_events).where(p.plan_events.c.seq.in_(newest)))
    return {row.plan: dict(row._mapping) for row in rows}


def newest_events(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """The newest events of all plans, newest first."""
    query = select(p.plan_events).order_by(p.plan_events.c.seq.desc()).limit(limit)
    return [dict(row._mapping) for row in connection.execute(query)]


def newest_change(connection: Connection) -> str:
    """Names the newest step of any plan: another one means that something happened to a plan, or to an order of one."""
    event = connection.execute(select(func.max(p.plan_events.c.seq))).scalar() or 0
    trades = select(p.plan_states.c.trade_id).where(p.plan_states.c.state.in_((ENTERED, MANAGING)))
    legs = select(func.max(t.order_events.c.seq)).join(t.intents, t.intents.c.id == t.order_events.c.order_id)
    moved = connection.execute(legs.where(t.intents.c.trade_id.in_(trades))).scalar() or 0
    return f"{event}.{moved}"


def resting_legs(connection: Connection, trade_ids: Collection[str]) -> dict[str, list[tuple[str, float, float]]]:
    """(leg, price, quantity) of the protective orders that may rest at the broker, by trade."""
    i, o = t.intents.c, t.orders.c
    query = select(i.trade_id, i.leg, o.stop_price, o.limit_price, o.quantity, o.filled_quantity).join(t.orders, o.id == i.id)
    query = query.where(i.trade_id.in_(trade_ids), ~is_entry(i.leg), o.state.in_([s.value for s in MAY_BE_AT_BROKER]))
    found: dict[str, list[tuple[str, float, float]]] = {}
    for row in connection.execute(query.order_by(i.leg)):
        price = row.stop_price if row.stop_price is not None else row.limit_price
        if price is not None:
            found.setdefault(row.trade_id, []).append((row.leg, float(price), float(row.quantity - row.filled_quantity)))
    return found


def revision_content(connection: Connection, name: str, revision: str) -> str | None:
    """The file of that revision as JSON, None when it is not known."""
    c = p.plan_revisions.c
    found = connection.execute(select(c.content).where(c.plan == name, c.revision == revision)).scalar()
    return str(found) if found is not None else None


def keep_revision(connection: Connection, name: str, revision: str, content: str, now_time: int) -> None:
    """Keep a revision of a plan's file, once."""
    row = {
        "plan": name, "revision": revision, "content": content, "recorded_time": now_time, "recorded_wall": _wall(),
    }  # fmt: skip
    connection.execute(insert(p.plan_revisions).values(**row).on_conflict_do_nothing())


def move(
    connection: Connection, before: PlanState | None, after: PlanState, event: str, *, now_time: int, who: str = "desk",
    content: Mapping[str, Any] | None = None,
) -> PlanState:  # fmt: skip
    """Write a plan's step and its audit entry in the caller's transaction; gives the state as written."""
    changed = before is None or before.state != after.state
    after = replace(after, since_time=now_time if changed or before is None else before.since_time)
    values = {
        "revision": after.revision, "symbol": after.symbol, "direction": after.direction, "state": after.state,
        "trade_id": after.trade_id, "reason": after.reason, "problem": after.problem, "since_time": after.since_time,
        "updated_wall": _wall(),
    }  # fmt: skip
    statement = insert(p.plan_states).values(plan=after.plan, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["plan"], set_=values))
    told = {
        "plan": after.plan, "revision": after.revision, "event": event, "state_before": before.state if before else "",
        "state_after": after.state, "reason": after.reason,
    }  # fmt: skip
    connection.execute(
        p.plan_events.insert().values(**told, who=who, content=dict(content or {}), event_time=now_time, recorded_wall=_wall())
    )
    audit.append(connection, who, f"plan_{event}", {**told, "trade": after.trade_id, **(content or {})})
    return after


def lock(connection: Connection) -> None:
    """Write plan states alone until the end of this transaction."""
    connection.execute(text(f"SELECT pg_advisory_xact_lock({BOOK_KEY})"), {"key": _LOCK})


def cancel(engine: Engine, name: str, *, who: str, reason: str, now_time: int) -> PlanState:
    """An armed plan enters no more. Raises PlanNotCancelled when it is not known, has ended, or holds orders or a position."""
    with engine.begin() as connection:
        lock(connection)
        known = states(connection)
        state = known.get(name)
        if state is None:
            raise PlanNotCancelled(f"no plan {name!r} was ever armed: known are {', '.join(sorted(known)) or 'none'}")
        if state.state in ENDED:
            raise PlanNotCancelled(f"plan {name} is {state.state} already ({state.reason})")
        i, o, h = t.intents.c, t.orders.c, t.positions.c
        maybe = o.state.in_([s.value for s in MAY_BE_AT_BROKER]) & (i.strategy == name) & is_entry(i.leg)
        working = connection.execute(select(o.id).join(t.intents, i.id == o.id).where(maybe)).first() is not None
        held = connection.execute(select(h.symbol).where(h.strategy == name, h.quantity != 0.0)).first() is not None
        if state.state != ARMED or working or held:
            stands = state.state if state.state != ARMED else MANAGING if held else ENTERED
            raise PlanNotCancelled(f"plan {name} is {stands}: close its trade with `tapeline flatten --strategy {name}`")
        return move(connection, state, replace(state, state=CANCELLED, reason=reason), "cancelled", now_time=now_time, who=who)


def _wall() -> int:
    return time.time_ns() // 1000
