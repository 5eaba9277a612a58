"""Where every trade plan stands, for people: the asset `plans` and `tapeline plans list` show the same rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, select

from resources.ledger import modes as ledger_modes
from resources.ledger import plans as ledger
from resources.ledger import tables as t
from resources.ledger.algo_tables import is_entry
from resources.ledger.modes import Standing
from resources.ledger.plans import ENDED, ENTERED, MANAGING, PlanState
from trading.execution_functions import ExecutionFunction
from trading.execution_functions.level import FixedLevel
from trading.instruments import Mode
from trading.plans import Plan, parse_plan
from trading.timeframes import iso
from trading.universe import Universe

NEW: Final = "new"
"""State of a plan that the desk has not seen at a bar close yet."""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One plan. revision: the one in force; levels: of that revision, as text; resting: its orders at the broker now; last:
    the newest event with its time; problem: what of the newest file is not in force, "" when all of it is."""

    plan: str
    state: str
    direction: str
    symbol: str
    status: str
    mode: str
    valid: str
    entry: str
    stop: str
    targets: str
    manage: str
    invalidation: str
    resting: str
    since: str
    revision: str
    last: str
    trade: str
    reason: str
    problem: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED


def plan_rows(
    plans: Mapping[str, Plan], connection: Connection, universe: Universe | None, paper: bool | None = None
) -> list[PlanRow]:
    """Every plan of the files or of the ledger, by name. universe: to read kept revisions with; None: only files are read.
    paper: as in `elsewhere`."""
    known, last = ledger.states(connection), ledger.last_events(connection)
    held = under_way(known)
    legs = ledger.resting_legs(connection, held.values())
    opened = opened_in(connection, held.values())
    modes = ledger_modes.read(connection)
    rows = []
    for name in sorted({*plans, *known}):
        state, file = known.get(name), plans.get(name)
        plan = _in_force(connection, state, file, universe)
        row = _row(name, state, file, plan, legs, _said(last.get(name)))
        if name in modes:
            why = elsewhere(state, modes[name], opened.get(held.get(name, "")), paper)
            row = replace(row, mode=modes[name].mode.value, reason="; ".join(filter(None, (row.reason, why))))
        rows.append(row)
    return rows


def under_way(states: Mapping[str, PlanState]) -> dict[str, str]:
    """Trades of plans that have entered and are not over, by plan."""
    return {name: s.trade_id for name, s in states.items() if s.state in (ENTERED, MANAGING) and s.trade_id}


def opened_in(connection: Connection, trade_ids: Collection[str]) -> dict[str, Mode]:
    """The mode each trade was entered in."""
    i, o = t.intents.c, t.orders.c
    query = select(i.trade_id, o.mode).join(t.orders, o.id == i.id).where(i.trade_id.in_(trade_ids), is_entry(i.leg))
    return {row.trade_id: Mode(row.mode) for row in connection.execute(query)}


def elsewhere(state: PlanState | None, standing: Standing, opened: Mode | None, paper: bool | None) -> str:
    """Why a plan is shown in a book, or in a mode, that it does not trade in any more; "" when it does. A trade is managed to its
    end in the mode it was opened in, wherever its plan trades by now.

    opened: the mode its open trade was entered in; paper: is the book the paper book beside an account (None: there is one
    book)."""
    now = f"in mode {standing.mode} since {iso(standing.since_wall)} ({standing.who}: {standing.reason})"
    if opened is not None:
        there = f"its trade was opened in {opened} and is managed to its end there; the plan is {now}"
        return "" if opened is standing.mode else there
    if paper is None or (standing.mode is Mode.PAPER) is paper or (state is not None and state.state in ENDED):
        return ""
    return f"it does not enter in this book: it is {now}"


def _said(event: Mapping[str, Any] | None) -> str:
    if event is None:
        return ""
    who = f" by {event['who']}" if event["who"] != "desk" else ""
    return f"{event['event']} {iso(event['event_time'])}{who}"


def _in_force(connection: Connection, state: PlanState | None, file: Plan | None, universe: Universe | None) -> Plan | None:
    """The plan of the revision in force: the file's, or the kept one where the desk goes by another."""
    if state is None or (file is not None and file.revision == state.revision) or universe is None:
        return file
    content = ledger.revision_content(connection, state.plan, state.revision)
    known = replace(universe, disaster_stop=None)  # the text holds the one it was opened with
    kept = parse_plan(content, f"plan {state.plan}@{state.revision}", known)[0] if content is not None else None
    return kept or file


def _row(
    name: str, state: PlanState | None, file: Plan | None, plan: Plan | None,
    legs: Mapping[str, Sequence[tuple[str, float, float]]], last: str,
) -> PlanRow:  # fmt: skip
    rules = plan.rules if plan is not None else None
    targets = [f"{part.share:g} at {_text(part.at)}" for part in rules.targets] if rules else []
    if rules and rules.target is not None:
        targets = [_text(rules.target)]
    problem = state.problem if state is not None else ""
    if state is not None and file is not None and file.revision != state.revision and not problem and state.state not in ENDED:
        problem = f"revision {file.revision} of the file is taken at the next bar close"
    reason = state.reason if state is not None else f"status {file.status}" if file is not None else ""
    return PlanRow(
        plan=name,
        state=state.state if state is not None else NEW,
        direction=state.direction if state is not None else plan.direction if plan else "",
        symbol=state.symbol if state is not None else plan.symbols[0] if plan else "",
        status=file.status if file is not None else "no file",
        mode=str(file.mode) if file is not None else "",
        valid=f"{plan.valid_sessions[0]} to {plan.valid_sessions[1]}" if plan else "",
        entry=rules.entry.label if rules else "",
        stop=_stop(rules) if rules else "",
        targets=", ".join(targets),
        manage=", ".join(function.label for function in rules.manage) if rules else "",
        invalidation=rules.invalidation.label if rules and rules.invalidation is not None else "",
        resting=", ".join(f"{leg.split(':')[0]} {price:.10g} x {quantity:g}" for leg, price, quantity in legs.get(
            state.trade_id if state is not None else "", ())),
        since=iso(state.since_time) if state is not None else "",
        revision=state.revision if state is not None else file.revision if file is not None else "",
        last=last,
        trade=state.trade_id if state is not None else "",
        reason=reason,
        problem=problem,
    )  # fmt: skip


def _stop(rules: Any) -> str:
    """The stop; with a disaster stop, which of both rests at the broker."""
    if rules.disaster_stop is None:
        return _text(rules.stop)
    return f"{_text(rules.stop)} on closes, {_text(rules.disaster_stop)} at the broker"


def _text(level: ExecutionFunction) -> str:
    """A price as it is written, everything else by its label."""
    return f"{level.price:.10g}" if isinstance(level, FixedLevel) else level.label
