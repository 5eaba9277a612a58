"""In which price unit the breakers stand: a split between two prices is no fall, neither of the instrument nor of the account.

Quotes of a new session come before its first bar, and with the first bar the ledger follows the split (desk/action_steps.py).
So what is known of splits, spin-offs and rolls is asked for when an instrument's first price of a session comes, and the
breakers' own prices and positions are brought to the new level before that price is judged. Where nobody knows the factor, or
the step looks like a split nobody told of, the instrument's prices are not judged until the ledger, a file or an operator says
what it was; its first bar holds the instrument (desk/corporate_actions.py). A dividend is a real fall of the price and stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

import numpy as np
import structlog
from sqlalchemy import Engine

from desk.breakers import Breakers, Known, Told
from desk.corporate_actions import factor_of, price_steps
from resources.lake import LakeError
from resources.ledger.actions import Decided, decisions_of
from trading.calendars import Calendar, calendar
from trading.corporate_actions import MOVES_PRICE, ActionKind, CorporateAction, explained_jumps, split_like
from trading.instruments import AssetClass, Instrument
from trading.timeframes import iso, session_date, session_number

log = structlog.get_logger("desk.breakers")

STEPS: Final = MOVES_PRICE - {ActionKind.DIVIDEND}
"""Kinds at which the price level changes and nobody gains or loses."""
LOOK_US: Final = 60_000_000
"""Market time between two looks at what is known of a step that is in doubt."""

Actions = Callable[[str], Sequence[CorporateAction]]
Key = tuple[str, str]
"""(symbol, ISO date of the ex session)."""


@dataclass(slots=True)
class _Looked:
    """What was known of the steps from one session to another at a market time. doubted: a price of the new session was not
    judged by it."""

    span: tuple[int, int]
    time: int
    steps: list[CorporateAction]
    stored: Sequence[CorporateAction]
    spoken: bool
    unreadable: str = ""
    doubted: bool = False


class Levels:
    """Keeps `breakers` in the unit of the prices they are told. Used by the desk's one worker thread."""

    def __init__(
        self, breakers: Breakers, engine: Engine, instruments: Callable[[], Mapping[str, Instrument]], actions: Actions | None
    ) -> None:
        """actions: what is stored of a symbol (raises LakeError); None: there is no lake, and every price is judged as it is."""
        self._breakers = breakers
        self._engine = engine
        self._instruments = instruments
        self._actions = actions
        self._session: dict[str, int] = {}
        self._until: dict[str, int] = {}
        self._looked: dict[str, _Looked] = {}
        self._said: dict[str, str] = {}
        self._marks: Mapping[str, Told] = {}
        self._applied: Mapping[Key, float] = {}
        self._crossed: dict[Key, CorporateAction] = {}
        self._scaled: set[Key] | None = None
        self._spoken: tuple[int, Mapping[Key, Decided]] | None = None

    def judged(self, symbol: str, price: float, time_us: int) -> bool:
        """May this price (market time, UTC us) be judged? What it needs is brought to its level first.

        Raises what the ledger raises."""
        until = self._until.get(symbol)
        if self._actions is None or (until is not None and time_us <= until):
            return True
        instrument = self._instruments().get(symbol)
        if instrument is None:
            return True
        venue = calendar(instrument.calendar)
        row = int(np.searchsorted(venue.close_time, time_us, side="left"))
        if row >= len(venue.number):
            return True
        session, inside = int(venue.number[row]), int(venue.open_time[row]) < time_us
        before = self._session.get(symbol, self._session_of_mark(symbol, venue))
        new = before is not None and session > before and self._breakers.newest(symbol) is not None
        if before is not None and new and not self._cross(symbol, instrument, (before, session), price, time_us, inside=inside):
            return False
        if inside:
            self._session[symbol], self._until[symbol] = max(session, before or session), int(venue.close_time[row])
            self._said.pop(symbol, None)
        elif before is None:
            self._session[symbol] = session - 1
        return True

    def rebased(self, known: Known) -> None:
        """The breakers were rebuilt from the ledger: steps that it has not followed yet are taken again."""
        self._marks, self._applied = known.marked, known.applied
        if self._scaled is None:
            self._scaled = set(known.applied)
        for key, action in list(self._crossed.items()):
            if self._is_behind(key, action.ex_session):
                self._breakers.scale(action.symbol, action.factor, units=action.rescales_units, window=False)
            else:
                del self._crossed[key]
        for key, factor in known.applied.items():  # confirmed after its session had begun
            symbol, number = key[0], session_number(date.fromisoformat(key[1]))
            instrument = self._instruments().get(symbol)
            if key not in self._scaled and instrument is not None and self._session.get(symbol, -1) >= number:
                opened = calendar(instrument.calendar).bounds(number)[0]
                self._breakers.scale(symbol, factor, held=False, before=opened)
                self._scaled.add(key)

    def begin(self, symbol: str, told: Sequence[Told]) -> None:
        """Keep prices of before the desk was started, ascending in time, as traded; nothing is judged."""
        instrument = self._instruments().get(symbol)
        for time_us, price in told:
            if instrument is not None and symbol not in self._session:
                venue = calendar(instrument.calendar)
                row = int(np.searchsorted(venue.close_time, time_us, side="left"))
                self._session[symbol] = int(venue.number[min(row, len(venue.number) - 1)])
            if self.judged(symbol, price, time_us):
                self._breakers.hear(symbol, price, time_us)

    # -- a new session -------------------------------------------------------------------------------------------------

    def _cross(
        self, symbol: str, instrument: Instrument, span: tuple[int, int], price: float, time_us: int, *, inside: bool
    ) -> bool:
        """Take the steps between two sessions; False when the price is not to be judged: between the sessions of a step, and
        where one is in doubt."""
        looked = self._look(symbol, span, time_us, inside=inside)
        steps = [replace(s, factor=factor_of(s, self._mark_of(symbol), instrument)) for s in looked.steps]
        doubt = looked.unreadable
        if unknown := [s for s in steps if not s.factor_known]:
            doubt = f"the factor of the {unknown[0].kind} on {session_date(unknown[0].ex_session)} is not known"
        elif not doubt and not looked.spoken and instrument.asset_class is AssetClass.EQUITY:
            doubt = self._suspicion(symbol, span[1], price, looked.stored)
        if doubt or (steps and not inside):
            looked.doubted = inside
            if doubt and self._said.get(symbol) != doubt:
                self._said[symbol] = doubt
                log.error("price_not_judged", symbol=symbol, price=price, time=iso(time_us), why=doubt)
            return False
        if inside:
            for step in steps:
                key = (symbol, session_date(step.ex_session).isoformat())
                behind = self._is_behind(key, step.ex_session)
                self._breakers.scale(symbol, step.factor, units=step.rescales_units, held=behind)
                if self._scaled is not None:
                    self._scaled.add(key)
                if behind:
                    self._crossed[key] = step
                log.info("breakers_scaled", symbol=symbol, kind=str(step.kind), factor=step.factor, session=key[1])
        return True

    def _look(self, symbol: str, span: tuple[int, int], time_us: int, *, inside: bool) -> _Looked:
        """What is known now. Read again for the price that a session begins with; while it is in doubt, and between sessions,
        every minute."""
        known = self._looked.get(symbol)
        recent = known is not None and known.span == span and 0 <= time_us - known.time < LOOK_US
        if known is not None and recent and (known.doubted or not inside):
            return known
        assert self._actions is not None
        try:
            stored = list(self._actions(symbol))
        except (LakeError, OSError) as error:
            found = _Looked(span, time_us, [], (), False, f"its corporate actions cannot be read ({error})")
        else:
            steps, spoken = price_steps(symbol, *span, stored, self._decided(time_us), STEPS)
            found = _Looked(span, time_us, steps, stored, spoken)
        self._looked[symbol] = found
        return found

    def _decided(self, time_us: int) -> Mapping[Key, Decided]:
        """What operators said, read once for all prices of one moment: those of a bar close."""
        if self._spoken is None or self._spoken[0] != time_us:
            with self._engine.connect() as connection:
                self._spoken = (time_us, decisions_of(connection))
        return self._spoken[1]

    def _suspicion(self, symbol: str, session: int, price: float, stored: Sequence[CorporateAction]) -> str:
        """Why the step to this price looks like a split nobody told of; "" when it does not, or when the desk has taken a bar
        of the session as it is."""
        last = self._breakers.newest(symbol)
        mark, instrument = self._mark_of(symbol), self._instruments()[symbol]
        marked = self._session_of_mark(symbol, calendar(instrument.calendar)) if mark is not None else None
        if last is None or (marked is not None and marked >= session):
            return ""
        was, now = np.array([last]), np.array([price])
        looks = float(split_like(was, now)[0])
        if math.isnan(looks) or bool(explained_jumps(np.array([session], np.int32), was, now, stored)[0]):
            return ""
        return f"at {price:g} after {last:g}, which looks like a split by {looks:g} nobody told of"

    # -- what the ledger stands at -------------------------------------------------------------------------------------

    def _is_behind(self, key: Key, ex_session: int) -> bool:
        """Are the ledger's position and mark of before the step?"""
        instrument = self._instruments().get(key[0])
        if key in self._applied or instrument is None:
            return False
        marked = self._session_of_mark(key[0], calendar(instrument.calendar))
        return marked is not None and marked < ex_session

    def _mark_of(self, symbol: str) -> tuple[float, int] | None:
        told = self._marks.get(symbol)
        return (told[1], told[0]) if told is not None else None

    def _session_of_mark(self, symbol: str, venue: Calendar) -> int | None:
        """The session of the ledger's newest price; of one between two sessions the one before."""
        told = self._marks.get(symbol)
        if told is None:
            return None
        row = int(np.searchsorted(venue.open_time, told[0], side="left")) - 1
        return int(venue.number[row]) if row >= 0 else None
