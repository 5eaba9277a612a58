"""What splits and spin-offs do to open positions, resting orders and plans, before the first bar of their session is looked at.

A known factor is applied (desk/action_steps.py); a spin-off may be told by the value of what is spun off, measured by the
last price before. Where it is not known (an action without one, a delisting of something held, a step of the raw prices
that looks like a split and is none anybody told of) the instrument is held: entries are refused, paper orders are not
matched, exits by rule wait, until an operator confirms a factor or dismisses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import structlog
from sqlalchemy import Connection, Engine, exists, or_, select
from sqlalchemy.dialects.postgresql import insert

from desk import action_steps, mismatches, store
from desk.action_steps import HELD, ActionIncomplete, Books
from resources.brokers.protocol import Broker
from resources.corporate_actions import read_actions
from resources.feeds.protocol import BarClose
from resources.lake import Lake, LakeError
from resources.ledger import action_tables as a
from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.actions import CONFIRMED_KINDS, Decided, decisions_of, in_todays_units
from resources.ledger.base import reading
from resources.price_view import native_bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction, explained_jumps, factor_from_value, split_like
from trading.instruments import AssetClass, Instrument
from trading.price_units import SplitAt
from trading.strategy import Evaluable
from trading.timeframes import iso, session_date, session_number
from trading.universe import Universe

log = structlog.get_logger("desk.actions")

SEEN_KEY = "action_sessions"
KIND = "CORPORATE_ACTION"


_AT_A_GLANCE = select(
    select(t.desk_state.c.value).where(t.desk_state.c.key == SEEN_KEY).scalar_subquery().label("seen"),
    or_(
        exists().where(a.action_applications.c.state != action_steps.DONE),
        exists().where(
            a.action_decisions.c.confirmed,
            ~exists().where(
                a.action_applications.c.symbol == a.action_decisions.c.symbol,
                a.action_applications.c.session == a.action_decisions.c.session,
            ),
        ),
    ).label("unsettled"),
)
"""The sessions whose first bar was looked at, and whether anything may be left to do for an action or an operator's word."""


class ConfigView(Protocol):
    """What is read of the configuration."""

    @property
    def universe(self) -> Universe: ...
    @property
    def plans(self) -> Mapping[str, Any]: ...


class CorporateActions:
    """Looks at every symbol's first bar of a session. Used by the desk's one worker thread."""

    def __init__(
        self,
        *,
        engine: Engine,
        broker: Broker,
        clock: Callable[[], int],
        lake: Lake | Path,
        config: Callable[[], ConfigView],
    ) -> None:
        self._books = Books(engine, broker, clock)
        self._engine = engine
        self._lake = lake
        self._config = config
        self.held: dict[str, str] = {}
        """Symbols that are held, and why."""
        self.acted = False
        """Did the last `begin` find something to do?"""

    AT_A_GLANCE = _AT_A_GLANCE
    """Select of the one row that `begin` looks at first."""

    # -- for the engine ------------------------------------------------------------------------------------------------

    def begin(self, bars: Sequence[BarClose], glance: Any = None) -> dict[str, str]:
        """Do what actions ask for before these bars are matched; returns the symbols that are held, with the reason.

        glance: the row of `AT_A_GLANCE`, read just now; default: read here. Raises what the ledger raises. Everything may be
        repeated.
        """
        with store.routing_lock:
            with reading(self._engine) as connection:
                found = glance if glance is not None else connection.execute(_AT_A_GLANCE).one()
                seen = {s: int(n) for s, n in (found.seen or {}).items()}
                self.acted = found.unsettled or not all(seen.get(bar.symbol, -1) >= bar.session for bar in bars)
                if not self.acted:
                    self.held = {}
                    return {}
                decided = decisions_of(connection)
                rows = connection.execute(select(a.action_applications)).all()
            fresh = {bar.symbol: bar for bar in reversed(bars) if seen.get(bar.symbol, -1) < bar.session}
            known = {(row.symbol, row.session) for row in rows}
            late = {key: said for key, said in decided.items() if said.confirmed and key not in known}
            waiting = [row for row in rows if row.state != action_steps.DONE]
            if fresh or waiting or late:
                self._work(fresh, seen, decided, waiting, late)
                self.held = self._read_held()
            else:
                self.held = {}
            return dict(self.held)

    def resume(self) -> None:
        """Finish actions that were under way when the desk was stopped: first thing after its orders are cleared up."""
        with store.routing_lock:
            with self._engine.connect() as connection:
                rows = connection.execute(
                    select(a.action_applications).where(
                        a.action_applications.c.state.in_([action_steps.STARTED, action_steps.ADJUSTED])
                    )
                ).all()
            for row in rows:
                self._apply(self._of_row(row), ())
            self.held = self._read_held()

    def evaluables(
        self, known: Mapping[str, Evaluable], splits: Mapping[str, list[SplitAt]] | None = None
    ) -> dict[str, Evaluable]:
        """Strategies and plans in today's price units. splits: those applied; default: read from the ledger."""
        if splits is not None and not splits:
            return dict(known)
        with reading(self._engine) as connection:
            finer = native_bars(self._lake, self._config().universe) if isinstance(self._lake, Lake) else None
            return in_todays_units(known, connection, finer, splits)

    # -- one look ------------------------------------------------------------------------------------------------------

    def _work(
        self,
        fresh: Mapping[str, BarClose],
        seen: Mapping[str, int],
        decided: Mapping[tuple[str, str], Decided],
        waiting: Sequence[Any],
        late: Mapping[tuple[str, str], Decided],
    ) -> None:
        for row in waiting:
            if row.state == HELD:
                self._reconsider(row, decided.get((row.symbol, row.session)))
            else:
                self._apply(self._of_row(row), ())
        for symbol in sorted(fresh):
            self._look(symbol, fresh[symbol], seen.get(symbol), decided)
        for (symbol, session), said in late.items():
            # confirmed for the session that is running, after its first bar was looked at
            number = session_number(date.fromisoformat(session))
            if symbol not in fresh and seen.get(symbol) == number:
                action = _confirmed(symbol, number, said)
                self._apply(action, self._old_plans(action))
        if fresh:
            with self._engine.begin() as connection:
                store.lock(connection)
                now = store.get_state(connection, SEEN_KEY) | {s: b.session for s, b in fresh.items()}
                store.put_state(connection, SEEN_KEY, now)

    def _look(self, symbol: str, bar: BarClose, before: int | None, decided: Mapping[tuple[str, str], Decided]) -> None:
        """The first bar of `symbol` in its session."""
        instrument = self._config().universe.instruments.get(symbol)
        if instrument is None:
            return
        try:
            stored = read_actions(self._lake, symbol)
        except (LakeError, OSError) as error:
            self._hold(_doubtful(symbol, bar), f"its corporate actions cannot be read ({error})")
            return
        since = bar.session - 1 if before is None else before
        steps, split_known = price_steps(symbol, since, bar.session, stored, decided)
        for action in steps:
            known = replace(action, factor=self._factor(action, instrument))
            if known.factor_known:
                self._apply(known, self._old_plans(known))
            else:
                self._hold(action, f"the factor of the {action.kind} on {session_date(action.ex_session)} is not known")
        due = [x for x in stored if since < x.ex_session <= bar.session]
        for action in due:
            if action.kind is ActionKind.DELISTING and self._exposed(symbol):
                said = decided.get((symbol, session_date(action.ex_session).isoformat()))
                if said is None or said.confirmed:
                    self._hold(action, f"{action.kind} on {session_date(action.ex_session)} of something held or ordered")
        if not split_known and instrument.asset_class is AssetClass.EQUITY:
            self._suspect(symbol, bar, due, decided)

    def _factor(self, action: CorporateAction, instrument: Instrument) -> float:
        """The factor of an action; of one told by its value, from the last price of the ledger."""
        if action.factor_known:
            return action.factor
        with self._engine.connect() as connection:
            last = store.get_state(connection, "prices").get(action.symbol)
        return factor_of(action, last, instrument)

    def _suspect(
        self, symbol: str, bar: BarClose, due: Sequence[CorporateAction], decided: Mapping[tuple[str, str], Decided]
    ) -> None:
        """Does the step from the last price look like a split nobody told of?"""
        with self._engine.connect() as connection:
            last = store.get_state(connection, "prices").get(symbol)
        if last is None or (symbol, session_date(bar.session).isoformat()) in decided:
            return
        previous, opened = np.array([float(last[0])]), np.array([bar.open])
        looks = float(split_like(previous, opened)[0])
        explained = bool(explained_jumps(np.array([bar.session], np.int32), previous, opened, due)[0])
        if not math.isnan(looks) and not explained:
            self._hold(
                _doubtful(symbol, bar),
                f"opened at {bar.open:g} after {float(last[0]):g}, which looks like a split by {looks:g} nobody told of",
            )

    def _reconsider(self, row: Any, said: Decided | None) -> None:
        """A held instrument: has an operator spoken?"""
        action = self._of_row(row)
        if said is None:
            return
        if not said.confirmed:
            self._release(action, f"dismissed by {said.who}: {said.reason}", done=True)
        elif said.kind is action.kind:
            self._apply(replace(action, factor=said.factor), self._old_plans(action))
        else:  # held as one kind, and it was another: that one is done, then this one is no more
            right = _confirmed(action.symbol, action.ex_session, said)
            if self._apply(right, self._old_plans(right)):
                self._release(action, f"confirmed as {said.kind} by {said.who}: {said.reason}", done=True)

    # -- acts ----------------------------------------------------------------------------------------------------------

    def _apply(self, action: CorporateAction, plans: Sequence[tuple[str, str]]) -> bool:
        """Is it done?"""
        instrument = self._config().universe.instruments.get(action.symbol)
        if instrument is None or not action.factor_known:
            return False
        plans = plans or self._old_plans(action)
        try:
            action_steps.apply(self._books, action, instrument, plans)
        except ActionIncomplete as error:
            self._note(action.symbol, f"a {action.kind} by {action.factor:g} is not finished: {error}")
            log.error("action_waits", symbol=action.symbol, kind=str(action.kind), why=str(error))
            return False
        self._release(action, f"{action.kind} by {action.factor:g} applied", done=False)
        return True

    def _hold(self, action: CorporateAction, why: str) -> None:
        """No new risk on the instrument until an operator says what it was."""
        session = session_date(action.ex_session).isoformat()
        with self._engine.begin() as connection:
            store.lock(connection)
            held = [f"{p.strategy} {p.quantity:g}" for p in store.find_positions(connection, symbol=action.symbol)]
            text = (
                f"{why}; positions: {', '.join(held) or 'none'}; say `tapeline actions confirm {action.symbol} "
                f"--session {session} --factor F` (a spin-off: `--value V`, per share) or `tapeline actions dismiss "
                f"{action.symbol} --session {session}`"
            )
            values = {
                "action_id": action.id, "symbol": action.symbol, "session": session, "factor": None, "state": HELD,
                "content": {
                    "why": why, "text": text, "positions": held, "kind": str(action.kind), "other_symbol": action.other_symbol,
                    "source": action.source,
                },
                "started_time": self._books.clock(), "started_wall": store.wall_us(),
            }  # fmt: skip
            done = insert(a.action_applications).values(values).on_conflict_do_nothing().returning(a.action_applications.c.symbol)
            if connection.execute(done).scalar() is None:
                return
            mismatches.put(connection, action.symbol, KIND, text, self._books.clock(), sticky=True)
            audit.append(
                connection, "desk", "corporate_action_held",
                {
                    "symbol": action.symbol, "session": session, "why": why, "positions": held,
                    "action": action_steps.report(action),
                },
            )  # fmt: skip
        log.error("instrument_held", symbol=action.symbol, why=why, positions=held)

    def _note(self, symbol: str, text: str) -> None:
        with self._engine.begin() as connection:
            store.lock(connection)
            mismatches.put(connection, symbol, KIND, text, self._books.clock(), sticky=True)

    def _release(self, action: CorporateAction, reason: str, *, done: bool) -> None:
        with self._engine.begin() as connection:
            store.lock(connection)
            if done:
                action_steps.set_state(connection, action, action_steps.DONE, done_wall=store.wall_us())
                audit.append(
                    connection, "desk", "corporate_action_dismissed",
                    {"action": action.id, "symbol": action.symbol, "reason": reason},
                )  # fmt: skip
            if mismatches.known(connection).get(action.symbol, {}).get("kind") == KIND:
                mismatches.clear(connection, action.symbol, "desk", reason)

    # -- what is known -------------------------------------------------------------------------------------------------

    def _exposed(self, symbol: str) -> bool:
        with self._engine.connect() as connection:
            return bool(store.find_positions(connection, symbol=symbol)) or any(
                o.working for o in store.find_orders(connection, t.orders.c.symbol == symbol)
            )

    def _old_plans(self, action: CorporateAction) -> list[tuple[str, str]]:
        """(name, revision) of plans on the symbol that were valid before the ex session: their levels are of before."""
        ex = session_date(action.ex_session)
        found = []
        for name, plan in sorted(self._config().plans.items()):
            span = getattr(plan, "valid_sessions", None)
            if action.symbol in plan.symbols and span is not None and span[0] < ex <= span[1]:
                found.append((name, plan.revision))
        return found

    def _read_held(self) -> dict[str, str]:
        with self._engine.connect() as connection:
            rows = connection.execute(
                select(a.action_applications).where(a.action_applications.c.state != action_steps.DONE)
            ).all()
        return {row.symbol: str(row.content.get("text") or f"{row.state} since {iso(row.started_time)}") for row in rows}

    @staticmethod
    def _of_row(row: Any) -> CorporateAction:
        number = session_number(date.fromisoformat(row.session))
        factor = math.nan if row.factor is None else float(row.factor)
        return CorporateAction(
            row.symbol, ActionKind(row.content["kind"]), number, row.started_time, factor,
            other_symbol=row.content["other_symbol"], source=row.content["source"],
        )  # fmt: skip


def price_steps(
    symbol: str, since: int, session: int, stored: Iterable[CorporateAction], decided: Mapping[tuple[str, str], Decided],
    kinds: Container[ActionKind] = CONFIRMED_KINDS,
) -> tuple[list[CorporateAction], bool]:  # fmt: skip
    """(the steps of the price of `symbol` from session `since` to `session`, both numbers, as an operator corrected them; has
    anybody spoken of such a step, be it that there was none). stored: its actions; decided: resources.ledger.actions. A factor
    that nobody knows is NaN."""
    found: list[CorporateAction] = []
    spoken = False
    for action in stored:
        if not since < action.ex_session <= session:
            continue
        said = decided.get((symbol, session_date(action.ex_session).isoformat()))
        if said is not None and not said.confirmed:
            spoken = True
        elif action.kind in kinds and action.factor != 1.0:
            spoken = True
            found.append(replace(action, factor=said.factor) if said is not None and said.kind is action.kind else action)
    if not spoken:  # confirmed ahead, and no source tells of it
        said = decided.get((symbol, session_date(session).isoformat()))
        if said is not None and said.confirmed:
            return [_confirmed(symbol, session, said)], True
        spoken = said is not None
    return found, spoken


def factor_of(action: CorporateAction, last: tuple[float, int] | None, instrument: Instrument) -> float:
    """The factor of an action; of a spin-off told by its value, from the last price (price, UTC us) if that is of the session
    before; else NaN."""
    if action.factor_known or action.kind is not ActionKind.SPIN_OFF or last is None:
        return action.factor
    venue = calendar(instrument.calendar)
    before = venue.position(action.ex_session) - 1
    if before < 0 or not int(venue.open_time[before]) < int(last[1]) <= int(venue.close_time[before]):
        return math.nan
    return factor_from_value(float(last[0]), action.amount)


def _doubtful(symbol: str, bar: BarClose) -> CorporateAction:
    """A step nobody explains, as an action without a factor."""
    return CorporateAction(symbol, ActionKind.SPLIT, bar.session, bar.close_time, math.nan, source="a step of the raw prices")


def _confirmed(symbol: str, session: int, said: Decided) -> CorporateAction:
    return CorporateAction(symbol, said.kind, session, said.made_time, said.factor, source=f"operator:{said.who}")


def held_instruments(connection: Connection) -> dict[str, str]:
    """Symbols that are held for a corporate action, with the reason (for commands and reports)."""
    rows = connection.execute(select(a.action_applications).where(a.action_applications.c.state == HELD)).all()
    return {row.symbol: str(row.content.get("why", "")) for row in rows}


__all__ = ["CorporateActions", "Instrument", "held_instruments"]
