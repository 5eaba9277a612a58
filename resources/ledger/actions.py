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
from trading.price_units import Finer, SplitAt, across_splits
from trading.strategy import Evaluable
from trading.timeframes import session_number

CONFIRMED_KINDS = frozenset({ActionKind.SPLIT, ActionKind.SPIN_OFF})


@dataclass(frozen=True, slots=True)
class Decided:
    """An operator's newest word on one symbol and session. factor: NaN when dismissed. kind: a split or a spin-off."""

    confirmed: bool
    factor: float
    who: str
    reason: str
    made_time: int
    kind: ActionKind = ActionKind.SPLIT


def decide(
    connection: Connection, symbol: str, session: date, *, factor: float | None, who: str, reason: str, now_time: int,
    kind: ActionKind = ActionKind.SPLIT,
) -> None:  # fmt: skip
    """Write an operator's word, audited. factor None: there was no action. kind: a split or a spin-off. Raises ValueError for
    a factor that is none."""
    if kind not in CONFIRMED_KINDS:
        raise ValueError(f"a {kind} is not confirmed by a factor: expected split or spin_off")
    if factor is not None and not (0 < factor < 1e6 and factor != 1.0):
        raise ValueError(f"factor {factor}: expected new units per old unit, such as 7 for 7:1 or 0.05 for 1:20")
    if factor is not None and kind is ActionKind.SPIN_OFF and factor < 1.0:
        raise ValueError(f"factor {factor}: a spin-off takes value away, its factor is price before / price after, above 1")
    connection.execute(
        a.action_decisions.insert().values(
            symbol=symbol, session=session.isoformat(), confirmed=factor is not None, factor=factor, who=who, reason=reason,
            made_time=now_time, made_wall=time.time_ns() // 1000, kind=str(kind),
        )
    )  # fmt: skip
    act = "corporate_action_confirmed" if factor is not None else "corporate_action_dismissed"
    content = {"symbol": symbol, "session": session.isoformat(), "kind": str(kind), "factor": factor, "reason": reason}
    audit.append(connection, who, act, content)


def decisions_of(connection: Connection) -> dict[tuple[str, str], Decided]:
    """The newest word by (symbol, ISO session)."""
    found = {}
    for row in connection.execute(select(a.action_decisions).order_by(a.action_decisions.c.seq)):
        factor = float(row.factor) if row.confirmed else float("nan")
        kind = ActionKind(row.kind)
        found[row.symbol, row.session] = Decided(row.confirmed, factor, row.who, row.reason, row.made_time, kind)
    return found


def confirmed_actions(connection: Connection) -> list[CorporateAction]:
    """Splits and spin-offs that operators confirmed, known from the moment they did."""
    return [
        CorporateAction(
            symbol, said.kind, session_number(date.fromisoformat(session)), said.made_time, said.factor,
            source=f"operator:{said.who}",
        )
        for (symbol, session), said in sorted(decisions_of(connection).items())
        if said.confirmed
    ]  # fmt: skip


_APPLIED = a.action_applications.c
APPLIED = (
    select(_APPLIED.symbol, _APPLIED.session, _APPLIED.factor, _APPLIED.content["kind"].as_string().label("kind"))
    .where(_APPLIED.factor.is_not(None), _APPLIED.state.in_(["adjusted", "done"]))
    .order_by(_APPLIED.session)
)
"""Select of the splits and spin-offs the desk has applied; its rows are for `splits_of`."""


def applied_splits(connection: Connection) -> dict[str, list[SplitAt]]:
    """Splits and spin-offs the desk has applied, by symbol, ascending."""
    return splits_of(connection.execute(APPLIED))


def splits_of(rows: Iterable[Any]) -> dict[str, list[SplitAt]]:
    found: dict[str, list[SplitAt]] = {}
    for row in rows:
        found.setdefault(row.symbol, []).append(_step(row))
    return found


def _step(row: Any) -> SplitAt:
    return SplitAt(session_number(date.fromisoformat(row.session)), float(row.factor), row.kind != str(ActionKind.SPIN_OFF))


def in_todays_units(
    evaluables: Mapping[str, Evaluable], connection: Connection, finer: Finer | None = None,
    splits: Mapping[str, list[SplitAt]] | None = None,
) -> dict[str, Evaluable]:  # fmt: skip
    """`evaluables` by name, those of split symbols wrapped (trading/price_units.py). finer: what weekly bars across a split
    are made of. splits: those applied; default: read from the ledger."""
    splits = applied_splits(connection) if splits is None else splits
    if not splits:
        return dict(evaluables)
    c, p = a.action_applications.c, a.plan_levels.c
    rows = connection.execute(
        select(p.plan, p.revision, p.symbol, c.session, p.factor, c.content["kind"].as_string().label("kind")).join(
            a.action_applications, (c.action_id == p.action_id) & (c.symbol == p.symbol)
        )
    ).all()
    written: dict[tuple[str, str], dict[str, list[SplitAt]]] = {}
    for row in rows:
        written.setdefault((row.plan, row.revision), {}).setdefault(row.symbol, []).append(_step(row))
    return {
        name: across_splits(evaluable, splits, written.get((name, evaluable.revision)), finer)
        for name, evaluable in evaluables.items()
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
