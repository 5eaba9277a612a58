"""Where every trade plan stands, brought up to date at each bar close from files, orders and positions.

armed, entered (its entry may be at the broker), managing (it holds a position), and then closed, expired or cancelled. A
changed file is noted with both revisions. Of a plan that has entered, a file that names another instrument or direction is
not taken: the revision before stays in force, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select

from desk import exits, store
from desk.hot_bars import BarCache
from resources.ledger import plans as ledger_plans
from resources.ledger import tables as t
from resources.ledger.algo_tables import is_entry
from resources.ledger.base import reading
from resources.ledger.plans import ARMED, CANCELLED, CLOSED, ENDED, ENTERED, EXPIRED, MANAGING, PlanState
from trading.bars import Bars
from trading.monitors import Monitor, Monitors
from trading.orders import MAY_BE_AT_BROKER
from trading.plans import Plan, parse_plan
from trading.strategy import Evaluable
from trading.timeframes import Timeframe, iso, session_date
from trading.universe import Universe

log = structlog.get_logger("desk.plans")


class PlanBook:
    """Keeps plan states in the ledger of `engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._refused: dict[str, Plan] = {}
        self._watched: tuple[tuple[tuple[str, str], ...], Monitors] = ((), Monitors([]))

    OF_OPEN = ledger_plans.states_where(ENTERED, MANAGING)
    """Select of the plans that `in_force` looks at."""

    def in_force(
        self, evaluables: Mapping[str, Evaluable], universe: Universe, states: Mapping[str, PlanState] | None = None
    ) -> dict[str, Evaluable]:
        """`evaluables`, with the revision in force of plans whose newest file is not taken. states: of the plans that have
        entered, by name; default: read from the ledger."""
        found = dict(evaluables)
        if states is None:
            with reading(self._engine) as connection:
                states = ledger_plans.of_rows(connection.execute(self.OF_OPEN))
        for name, state in states.items():
            plan = found.get(name)
            if not isinstance(plan, Plan) or not _other_trade(plan, state):
                continue
            kept = self._refused.get(name)
            if kept is None or kept.revision != state.revision:
                with reading(self._engine) as connection:
                    kept = self._of_revision(connection, state, universe)
            if kept is not None:
                self._refused[name] = kept
                found[name] = kept
        return found

    @staticmethod
    def _of_revision(connection: Connection, state: PlanState, universe: Universe) -> Plan | None:
        content = ledger_plans.revision_content(connection, state.plan, state.revision)
        if content is None:
            return None
        known = replace(universe, disaster_stop=None)  # the text holds the one it was opened with, or was opened without
        plan, problems = parse_plan(content, f"plan {state.plan}@{state.revision}", known)
        if plan is None:
            log.error("revision_unreadable", plan=state.plan, revision=state.revision, why=[str(p) for p in problems])
            return None
        return replace(plan, revision=state.revision)

    def at_close(
        self,
        config: Any,
        evaluables: Mapping[str, Evaluable],
        cache: BarCache,
        closed: Mapping[str, Mapping[Timeframe, Bars]],
        close_time: int,
    ) -> None:
        """Write every step that files, orders, positions and bars of this close say. config: resources.config.Config.

        Never raises for one plan's sake what would keep the close from being recorded: what fails is logged and done again
        at the next close.
        """
        plans: dict[str, Plan] = {n: plan for n, plan in config.plans.items() if isinstance(plan, Plan)}
        with reading(self._engine) as connection:
            known = ledger_plans.states(connection)
        if not plans and not known:
            return
        broken = self._invalidated(plans, evaluables, known, cache, closed, config.universe, close_time)
        session = {s: session_date(int(b.session[-1])) for s, by in closed.items() for b in by.values() if len(b)}
        with self._engine.begin() as connection:
            store.lock(connection)
            known = ledger_plans.states(connection)
            facts = _facts(connection, set(plans) | set(known))
            for name in sorted(set(plans) | set(known)):
                before = known.get(name)
                trade_id, stage = facts.get(name, ("", ""))
                self._one(connection, before, plans.get(name), trade_id, stage, broken.get(name, ""), session, close_time)

    def _one(
        self, connection: Connection, before: PlanState | None, plan: Plan | None, trade_id: str, stage: str, invalid: str,
        session: Mapping[str, date], now: int,
    ) -> None:  # fmt: skip
        if before is None:
            if plan is None or (plan.status != "active" and not stage):
                return
            ledger_plans.keep_revision(connection, plan.name, plan.revision, plan.resolved, now)
            fresh = PlanState(plan.name, plan.revision, plan.symbols[0], plan.direction, ARMED)
            before = ledger_plans.move(connection, None, fresh, "armed", now_time=now)
        before = self._edited(connection, before, plan, session, now)
        after = _next(before, plan, trade_id, stage, invalid, session)
        if after.state != before.state or after.trade_id != before.trade_id:
            event = after.state if after.state != before.state else "traded"
            ledger_plans.move(connection, before, after, event, now_time=now)
            log.info("plan", plan=after.plan, before=before.state, state=after.state, reason=after.reason)

    @staticmethod
    def _edited(connection: Connection, before: PlanState, plan: Plan | None, session: Mapping[str, date], now: int) -> PlanState:
        """Take a changed file, or refuse it; a file that is gone or invalid leaves the revision before in force."""
        if plan is None:
            problem = "its file is missing or invalid"
            if before.problem == problem or before.state in ENDED:
                return before
            return ledger_plans.move(connection, before, replace(before, problem=problem), "file_lost", now_time=now)
        if plan.revision == before.revision:
            if not before.problem:
                return before
            return ledger_plans.move(connection, before, replace(before, problem=""), "file_good", now_time=now)
        told = {"old_revision": before.revision, "new_revision": plan.revision}
        if before.state in (ENTERED, MANAGING) and _other_trade(plan, before):
            problem = (
                f"revision {plan.revision} names {plan.direction} {plan.symbols[0]}, its trade is {before.direction} "
                f"{before.symbol}: not taken"
            )
            if before.problem == problem:
                return before
            log.error("plan_edit_refused", plan=plan.name, why=problem)
            refused = replace(before, problem=problem)
            return ledger_plans.move(connection, before, refused, "edit_refused", now_time=now, content=told)
        ledger_plans.keep_revision(connection, plan.name, plan.revision, plan.resolved, now)
        today = session.get(plan.symbols[0])
        longer = before.state == EXPIRED and today is not None and plan.valid_sessions[1] >= today
        after = replace(
            before, revision=plan.revision, symbol=plan.symbols[0], direction=plan.direction, problem="",
            state=ARMED if longer else before.state, reason="" if longer else before.reason,
        )  # fmt: skip
        return ledger_plans.move(connection, before, after, "edited", now_time=now, content=told)

    def _invalidated(
        self, plans: Mapping[str, Plan], evaluables: Mapping[str, Evaluable], known: Mapping[str, PlanState],
        cache: BarCache, closed: Mapping[str, Mapping[Timeframe, Bars]], universe: Universe, close_time: int,
    ) -> dict[str, str]:  # fmt: skip
        """Armed plans whose invalidation holds at this close, and why."""
        armed = {
            n: plan for n, plan in plans.items()
            if plan.rules.invalidation is not None and (n not in known or known[n].state == ARMED)
        }  # fmt: skip
        # Across a split a plan's levels are of another unit than the bars: those are evaluated one by one, in theirs.
        apart = {n for n in armed if hasattr(evaluables.get(n), "in_one_unit")}
        names = tuple(sorted((n, plan.revision) for n, plan in armed.items() if n not in apart))
        if names != self._watched[0]:
            watched = [
                Monitor(n, armed[n].symbols[0], armed[n].timeframe, trigger)
                for n, _ in names
                if (trigger := armed[n].rules.invalidation) is not None
            ]
            self._watched = (names, Monitors(watched))
        fresh = {(symbol, timeframe) for symbol, by in closed.items() for timeframe, bars in by.items() if len(bars)}
        windows: dict[tuple[str, Any], Any] = {}

        def window(monitor: Monitor) -> Mapping[Any, Bars]:
            plan = armed[monitor.key]
            key = (monitor.symbol, (plan.timeframes, tuple(sorted(plan.warm_up.items())), tuple(sorted(plan.context.items()))))
            if key not in windows:
                windows[key] = exits.windows(plan, universe.instruments[monitor.symbol], cache, close_time)
            return windows[key]  # type: ignore[no-any-return]

        def newest(symbol: str, timeframe: Timeframe) -> Bars:
            plan = next(p for p in armed.values() if p.symbols[0] == symbol and timeframe in p.timeframes)
            return exits.windows(plan, universe.instruments[symbol], cache, close_time)[timeframe]

        held: list[str] = []
        try:
            held = self._watched[1].at_close(fresh, newest, window)
            for name in apart:
                plan = armed[name]
                if (plan.symbols[0], plan.timeframe) in fresh and self._holds_apart(
                    evaluables[name], plan, cache, universe, close_time
                ):
                    held.append(name)
        except Exception as error:  # noqa: BLE001 - a plan that stays armed for a close is judged again by its own evaluation
            log.error("invalidation_not_judged", close=iso(close_time), error=f"{type(error).__name__}: {error}")
        found = {}
        for name in held:
            plan = armed[name]
            bars = closed[plan.symbols[0]][plan.timeframe]
            first, last = plan.valid_sessions
            if first <= session_date(int(bars.session[-1])) <= last and plan.rules.invalidation is not None:
                found[name] = f"invalidated: {plan.rules.invalidation.label}"
        return found

    @staticmethod
    def _holds_apart(evaluable: Any, plan: Plan, cache: BarCache, universe: Universe, close_time: int) -> bool:
        from trading.frame import Frame

        instrument = universe.instruments[plan.symbols[0]]
        bars, _ = evaluable.in_one_unit(exits.windows(plan, instrument, cache, close_time), instrument)
        assert plan.rules.invalidation is not None
        answer = plan.rules.invalidation.holds(Frame(bars, plan.timeframe))
        return bool(len(answer) and answer[-1])


def _other_trade(plan: Plan, state: PlanState) -> bool:
    return plan.symbols[0] != state.symbol or plan.direction != state.direction


def _next(
    before: PlanState, plan: Plan | None, trade_id: str, stage: str, invalid: str, session: Mapping[str, date]
) -> PlanState:
    """The state that follows. stage: of its newest entry: held, working, done, or "" when none was ever filled."""
    if stage == "held":
        return replace(before, state=MANAGING, trade_id=trade_id, reason="")
    if before.state in ENDED:
        return before
    if stage == "working":
        return replace(before, state=ENTERED, trade_id=trade_id, reason="")
    if stage == "done":
        return replace(before, state=CLOSED, trade_id=trade_id, reason="its trade is over")
    after = replace(before, state=ARMED) if before.state in (ENTERED, MANAGING) else before  # the entry came to nothing
    today = session.get(before.symbol)
    if plan is not None and today is not None and today > plan.valid_sessions[1]:
        return replace(after, state=EXPIRED, reason=f"its last session {plan.valid_sessions[1]} is over")
    if invalid:
        return replace(after, state=CANCELLED, reason=invalid)
    return after


def _facts(connection: Connection, names: set[str]) -> dict[str, tuple[str, str]]:
    """(trade id, stage) by plan, from its orders and positions: held before working before done."""
    i, o, h = t.intents.c, t.orders.c, t.positions.c
    found: dict[str, tuple[str, str]] = {}
    rank = {"held": 3, "working": 2, "done": 1}

    def note(name: str, trade_id: str, stage: str) -> None:
        if rank[stage] > rank.get(found.get(name, ("", ""))[1], 0):
            found[name] = (trade_id, stage)

    maybe = {s.value for s in MAY_BE_AT_BROKER}
    entries = select(i.strategy, i.trade_id, o.state, o.filled_quantity).join(t.orders, o.id == i.id)
    entries = entries.where(i.strategy.in_(names), is_entry(i.leg), i.refusal == "")
    for row in connection.execute(entries):
        if row.state in maybe:
            note(row.strategy, row.trade_id, "working")
        elif row.filled_quantity > 0:
            note(row.strategy, row.trade_id, "done")
    for row in connection.execute(select(h.strategy, h.trade_id).where(h.strategy.in_(names), h.quantity != 0.0)):
        note(row.strategy, row.trade_id, "held")
    return found
