"""What operators said of doubtful corporate actions, and in which price units strategies and plans are evaluated."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine, select

from resources.ledger import action_tables as a
from resources.ledger import audit
from trading.corporate_actions import ActionKind, CorporateAction
from trading.price_units import SplitAt, across_splits
from trading.strategy import Evaluable
from trading.timeframes import session_number


@dataclass(frozen=True, slots=True)
class Decided:
    """An operator's newest word on one symbol and session. factor: NaN when dismissed."""

    confirmed: bool
    factor: float
    who: str
    reason: str
    made_time: int


def decide(
    connection: Connection, symbol: str, session: date, *, factor: float | None, who: str, reason: str, now_time: int
) -> None:
    """Write an operator's word, audited. factor None: there was no action. Raises ValueError for a factor that is none."""
    if factor is not None and not (0 < factor < 1e6 and factor != 1.0):
        raise ValueError(f"factor {factor}: expected new units per old unit, such as 7 for 7:1 or 0.05 for 1:20")
    connection.execute(
        a.action_decisions.insert().values(
            symbol=symbol, session=session.isoformat(), confirmed=factor is not None, factor=factor, who=who, reason=reason,
            made_time=now_time, made_wall=time.time_ns() // 1000,
        )
    )  # fmt: skip
    act = "corporate_action_confirmed" if factor is not None else "corporate_action_dismissed"
    audit.append(connection, who, act, {"symbol": symbol, "session": session.isoformat(), "factor": factor, "reason": reason})


def decisions_of(connection: Connection) -> dict[tuple[str, str], Decided]:
    """The newest word by (symbol, ISO session)."""
    found = {}
    for row in connection.execute(select(a.action_decisions).order_by(a.action_decisions.c.seq)):
        factor = float(row.factor) if row.confirmed else float("nan")
        found[row.symbol, row.session] = Decided(row.confirmed, factor, row.who, row.reason, row.made_time)
    return found


def confirmed_actions(connection: Connection) -> list[CorporateAction]:
    """Splits that operators confirmed, known from the moment they did."""
    return [
        CorporateAction(
            symbol, ActionKind.SPLIT, session_number(date.fromisoformat(session)), said.made_time, said.factor,
            source=f"operator:{said.who}",
        )
        for (symbol, session), said in sorted(decisions_of(connection).items())
        if said.confirmed
    ]  # fmt: skip


def applied_splits(connection: Connection) -> dict[str, list[SplitAt]]:
    """Splits the desk has applied, by symbol, ascending."""
    found: dict[str, list[SplitAt]] = {}
    c = a.action_applications.c
    rows = connection.execute(
        select(c.symbol, c.session, c.factor).where(c.factor.is_not(None), c.state.in_(["adjusted", "done"])).order_by(c.session)
    )
    for row in rows:
        found.setdefault(row.symbol, []).append(SplitAt(session_number(date.fromisoformat(row.session)), float(row.factor)))
    return found


def in_todays_units(evaluables: Mapping[str, Evaluable], connection: Connection) -> dict[str, Evaluable]:
    """`evaluables` by name, those of split symbols wrapped (trading/price_units.py)."""
    splits = applied_splits(connection)
    if not splits:
        return dict(evaluables)
    c, p = a.action_applications.c, a.plan_levels.c
    rows = connection.execute(
        select(p.plan, p.revision, p.symbol, c.session, p.factor).join(
            a.action_applications, (c.action_id == p.action_id) & (c.symbol == p.symbol)
        )
    ).all()
    written: dict[tuple[str, str], dict[str, list[SplitAt]]] = {}
    for row in rows:
        at = SplitAt(session_number(date.fromisoformat(row.session)), float(row.factor))
        written.setdefault((row.plan, row.revision), {}).setdefault(row.symbol, []).append(at)
    return {
        name: across_splits(evaluable, splits, written.get((name, evaluable.revision))) for name, evaluable in evaluables.items()
    }


def dismissed_sessions(connection: Connection, symbols: Iterable[str]) -> dict[str, set[str]]:
    """Sessions whose step an operator said was the market's, by symbol."""
    wanted = set(symbols)
    found: dict[str, set[str]] = {}
    for (symbol, session), said in decisions_of(connection).items():
        if symbol in wanted and not said.confirmed:
            found.setdefault(symbol, set()).add(session)
    return found


def position_adjustments(engine: Engine) -> list[dict[str, Any]]:
    """What splits did to positions, in the order it happened."""
    c = a.position_adjustments.c
    with engine.connect() as connection:
        rows = connection.execute(select(a.position_adjustments).order_by(c.adjusted_time, c.symbol, c.strategy)).mappings()
        return [dict(row) for row in rows]
