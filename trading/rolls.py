"""Continuous futures: which contract is the front one in each session, and the series on one price level.

Point-in-time: the front of a session is decided by what was known before it opened. Volume of a session is known when it
ends. Open interest is counted after the session and published on the next day: the figure of day D decides from D + 1 on.
A roll goes to a later expiry and never back.
"""

from __future__ import annotations

import math
from calendar import monthcalendar
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar
from trading.corporate_actions import ActionKind, CorporateAction, UnknownFactor
from trading.instruments import ExpiryRule, RollRule
from trading.timeframes import session_date, session_number

EXPIRY_RULES: Mapping[str, ExpiryRule] = {
    **dict.fromkeys(
        ("ES", "NQ", "YM", "RTY", "EMD", "MES", "MNQ", "MYM", "M2K", "FESX", "FDAX", "FDXM", "FSMI"), ExpiryRule.THIRD_FRIDAY
    ),
    **dict.fromkeys(("GC", "SI", "HG", "PL", "PA", "MGC", "SIL"), ExpiryRule.THIRD_LAST_BUSINESS_DAY),
    **dict.fromkeys(("NIFTY", "BANKNIFTY"), ExpiryRule.LAST_THURSDAY),
}
"""Roots whose last trading day follows from the contract month."""


_CLOSES_WITHIN = 5
"""Older closes do not say what the step between two contracts was on the day of the roll."""


class NoExpiryRule(ValueError):
    """Nobody said on which day contracts of this root end."""


@dataclass(frozen=True, slots=True)
class Contract:
    """One listed contract. code: YYYYMM; expiry: number of its last session."""

    code: str
    expiry: int


@dataclass(frozen=True, slots=True)
class ContractDay:
    """One contract on one day: session number, closing price, volume, open interest; NaN: not known."""

    contract: str
    session: int
    close: float = math.nan
    volume: float = math.nan
    open_interest: float = math.nan


@dataclass(frozen=True, slots=True)
class Roll:
    """From `old` to `new` as of `session` (number of the first one on the new contract).

    decided: number of the session whose figures said so; old_close, new_close: both contracts' closes of the newest of the
    five sessions before the roll that has them, NaN when none has. reason: what the rule saw.
    """

    session: int
    old: str
    new: str
    decided: int
    old_close: float
    new_close: float
    reason: str

    @property
    def difference(self) -> float:
        """What is added to earlier prices to stand on the new contract's level."""
        return self.new_close - self.old_close

    @property
    def factor(self) -> float:
        """What earlier prices are divided by to stand on the new contract's level; NaN when not known or not positive."""
        good = self.old_close > 0 and self.new_close > 0
        return self.old_close / self.new_close if good else math.nan


@dataclass(frozen=True, slots=True)
class RollTable:
    """The front contract over time. first: number of the first session with a front; front: its contract then."""

    root: str
    first: int
    front: str
    rolls: tuple[Roll, ...] = ()

    def contract(self, session: int) -> str:
        """The front contract of `session`, "" before the first one."""
        if session < self.first or not self.front:
            return ""
        return next((r.new for r in reversed(self.rolls) if r.session <= session), self.front)

    def segments(self, start: int, end: int) -> list[tuple[str, int, int]]:
        """(contract, first, last session number) that cover [start, end]."""
        found: list[tuple[str, int, int]] = []
        starts = [(self.first, self.front), *((r.session, r.new) for r in self.rolls)] if self.front else []
        for i, (begin, code) in enumerate(starts):
            last = starts[i + 1][0] - 1 if i + 1 < len(starts) else end
            lo, hi = max(begin, start), min(last, end)
            if lo <= hi:
                found.append((code, lo, hi))
        return found


class RollAdjust(str, Enum):
    RAW = "raw"
    DIFFERENCE = "difference"
    RATIO = "ratio"

    def __str__(self) -> str:
        return self.value


def expiry_session(root: str, month: str, venue: Calendar, rule: ExpiryRule | None = None) -> int:
    """Number of the last session of the contract `month` (YYYYMM) of `root`. Raises NoExpiryRule, ValueError."""
    rule = rule or EXPIRY_RULES.get(root.upper())
    if rule is None:
        raise NoExpiryRule(
            f"future {root}: on which day do its contracts end? say it: future: {{root: {root}, expiry_rule: ...}}"
        )
    year, number = int(month[:4]), int(month[4:6])
    weeks = monthcalendar(year, number)
    if rule in (ExpiryRule.THIRD_FRIDAY, ExpiryRule.LAST_THURSDAY):
        weekday = 4 if rule is ExpiryRule.THIRD_FRIDAY else 3
        days = [week[weekday] for week in weeks if week[weekday]]
        wanted = session_number(date(year, number, days[2] if rule is ExpiryRule.THIRD_FRIDAY else days[-1]))
        row = int(np.searchsorted(venue.number, wanted, side="right")) - 1
    else:
        last = session_number(date(year, number, max(max(week) for week in weeks)))
        back = 3 if rule is ExpiryRule.THIRD_LAST_BUSINESS_DAY else 1
        row = int(np.searchsorted(venue.number, last, side="right")) - back
    if row < 0:
        raise ValueError(f"{venue.name} has no session in {month}")
    return int(venue.number[row])


def roll_table(
    root: str,
    contracts: Iterable[Contract],
    days: Iterable[ContractDay],
    venue: Calendar,
    rule: RollRule,
    *,
    roll_days: int = 1,
) -> RollTable:
    """The front contract of every session from the first day with figures to the last.

    rule: CALENDAR passes to the next expiry `roll_days` sessions before the front one ends (0: the session after its last);
    VOLUME and OPEN_INTEREST pass to the later contract with the largest figure as soon as it exceeds the front's, at the
    latest when CALENDAR would. They have no front before the first session behind the first figures.
    """
    listed = sorted(contracts, key=lambda c: (c.expiry, c.code))
    by_session: dict[int, dict[str, ContractDay]] = {}
    for day in days:
        by_session.setdefault(day.session, {})[day.contract] = day
    if not listed or not by_session:
        return RollTable(root, 0, "")
    lo = int(np.searchsorted(venue.number, min(by_session)))
    hi = int(np.searchsorted(venue.number, max(by_session), side="right"))
    # One session behind the last figures is decided by them already.
    sessions = venue.number[lo : hi + 1].tolist()
    latest = {c.code: _latest(venue, c.expiry, roll_days) for c in listed}
    return _walk(root, listed, by_session, sessions, latest, rule)


def _latest(venue: Calendar, expiry: int, roll_days: int) -> int:
    """Number of the first session on which a contract ending at `expiry` is no longer the front."""
    row = int(np.searchsorted(venue.number, expiry, side="right")) - roll_days
    return int(venue.number[row]) if 0 <= row < len(venue.number) else expiry + 1


def _walk(
    root: str,
    listed: Sequence[Contract],
    by_session: Mapping[int, Mapping[str, ContractDay]],
    sessions: Sequence[int],
    latest: Mapping[str, int],
    rule: RollRule,
) -> RollTable:
    order = {c.code: i for i, c in enumerate(listed)}
    known: dict[str, float] = {}
    seen: dict[str, tuple[int, float]] = {}  # newest close by contract
    closes: dict[int, dict[str, float]] = {}
    front, first, rolls, decided = "", 0, [], 0
    for at, session in enumerate(sessions):
        wanted, reason = front, ""
        if front and session >= latest[front]:
            after = [c.code for c in listed if order[c.code] > order[front] and session < latest[c.code]]
            alive = [c for c in after if c in seen] or after
            wanted = _largest(alive, known, order) if rule is not RollRule.CALENDAR and known else next(iter(alive), front)
            reason = "expiry is near"
        elif front and rule is not RollRule.CALENDAR:
            later = [c for c in known if order.get(c, -1) > order[front] and session < latest[c]]
            best = _largest(later, known, order) if later else front
            if known.get(best, 0.0) > known.get(front, 0.0):
                wanted, reason = best, f"{rule} {known.get(front, 0.0):g} < {known[best]:g}"
        elif not front:
            candidates = [c.code for c in listed if session < latest[c.code] and (c.code in by_session.get(session, {}) or known)]
            if rule is RollRule.CALENDAR:
                wanted = next((c for c in candidates if c in by_session.get(session, {})), "")
            elif known:
                wanted = _largest([c for c in candidates if c in known] or candidates, known, order)
            first = session if wanted else 0
        if front and wanted != front:
            old_close, new_close = _closes(closes, front, wanted, sessions[max(0, at - _CLOSES_WITHIN)])
            rolls.append(Roll(session, front, wanted, decided, old_close, new_close, reason))
        front = wanted or front
        today = by_session.get(session, {})
        for code, day in today.items():
            figure = day.open_interest if rule is RollRule.OPEN_INTEREST else day.volume
            if math.isfinite(figure):
                known[code] = figure
            if math.isfinite(day.close):
                seen[code] = (session, day.close)
                closes.setdefault(session, {})[code] = day.close
        if rule is RollRule.VOLUME and today:  # who did not trade today has no volume
            known = {code: day.volume for code, day in today.items() if math.isfinite(day.volume)}
        decided = session if today else decided
    begin = rolls[0].old if rolls else front
    return RollTable(root, first, begin, tuple(rolls))


def _largest(codes: Sequence[str], known: Mapping[str, float], order: Mapping[str, int]) -> str:
    return max(codes, key=lambda c: (known.get(c, 0.0), -order[c])) if codes else ""


def _closes(closes: Mapping[int, Mapping[str, float]], old: str, new: str, since: int) -> tuple[float, float]:
    """Both contracts' closes of the newest session from `since` on that has both."""
    for session in sorted((s for s in closes if s >= since), reverse=True):
        if old in closes[session] and new in closes[session]:
            return closes[session][old], closes[session][new]
    return math.nan, math.nan


def roll_actions(symbol: str, table: RollTable, venue: Calendar, source: str) -> list[CorporateAction]:
    """The rolls of `table` as corporate actions of the continuous instrument `symbol`, known at the ex session's open."""
    found = []
    for roll in table.rolls:
        amount = roll.difference if math.isfinite(roll.difference) else 0.0
        found.append(
            CorporateAction(
                symbol, ActionKind.ROLL, roll.session, venue.bounds(roll.session)[0], roll.factor, amount,
                f"{table.root} {roll.new}", source,
            )
        )  # fmt: skip
    return found


def back_adjusted(bars: Bars, rolls: Iterable[Roll], *, as_of: int, method: RollAdjust, venue: Calendar) -> Bars:
    """The continuous series `bars` (raw) known at `as_of`, on the level of the contract that was the front one then.

    Rolls count from the open of their session on. DIFFERENCE adds new less old close to earlier prices (they may fall below
    zero; returns change, differences stay), RATIO multiplies by new / old (returns stay). Volume is untouched. Raises
    UnknownFactor when a roll's closes are not known.
    """
    bars = bars.known_at(as_of)
    if method is RollAdjust.RAW:
        return bars
    add, factor = np.zeros(len(bars)), np.ones(len(bars))
    for roll in rolls:
        if venue.bounds(roll.session)[0] > as_of:
            continue
        if not math.isfinite(roll.difference) or (method is RollAdjust.RATIO and not math.isfinite(roll.factor)):
            raise UnknownFactor(
                f"{bars.symbol}: no session has closes of both {roll.old} and {roll.new} before the roll on "
                f"{session_date(roll.session)}"
            )
        before = int(np.searchsorted(bars.session, roll.session, side="left"))
        add[:before] += roll.difference
        factor[:before] /= roll.factor

    def moved(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values + add if method is RollAdjust.DIFFERENCE else values * factor

    return Bars(
        bars.symbol, bars.timeframe, bars.close_time, bars.session,
        moved(bars.open), moved(bars.high), moved(bars.low), moved(bars.close), bars.volume,
        **{name: getattr(bars, name) for name in bars.extras},
    )  # fmt: skip
