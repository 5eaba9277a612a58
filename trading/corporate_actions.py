"""Corporate actions: what changes the meaning of a price from one session to the next.

Raw prices are stored; an adjusted view is computed when somebody asks, from what was known at the time they ask for.

`factor` always says: new units per old unit, so that an earlier price is *divided* by it and an earlier volume multiplied.
A 7:1 split has 7, a 1:20 reverse split 0.05. A dividend and a spin-off change no share count; theirs is the price ratio
previous close / (previous close - amount), taken from the bars when only the amount is told, as CRSP and the vendors'
proportional adjustment have it, and volume stays. The roll of a continuous future has old close / new close of the last
session before it.
NaN says that the factor is not known: nothing may be guessed from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trading import ids
from trading.bars import Bars
from trading.timeframes import US_PER_DAY, session_date


class ActionKind(str, Enum):
    SPLIT = "split"
    DIVIDEND = "dividend"
    SYMBOL_CHANGE = "symbol_change"
    SPIN_OFF = "spin_off"
    ROLL = "roll"
    DELISTING = "delisting"

    def __str__(self) -> str:
        return self.value


MOVES_PRICE = frozenset({ActionKind.SPLIT, ActionKind.DIVIDEND, ActionKind.SPIN_OFF, ActionKind.ROLL})
"""Kinds whose ex session opens at another price level."""

_TOLD_BY_VALUE = frozenset({ActionKind.DIVIDEND, ActionKind.SPIN_OFF})

_SPLIT_RATIOS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)
_MAX_DENOMINATOR = 10_000


class UnknownFactor(ValueError):
    """An action moves the price by a factor nobody has told: no adjusted price can be computed across it."""


@dataclass(frozen=True, slots=True)
class CorporateAction:
    """One action on `symbol`, effective from the open of its ex session.

    ex_session: session number of the first session at the new level. known_time: UTC us from which it could be known.
    factor: new units per old unit (see above), 1 where nothing scales, NaN: not known. amount: cash per old unit in the
    instrument's currency (dividend), price difference new less old contract (roll), else 0. other_symbol: the former ticker
    (symbol_change), the company spun off (spin_off), the contract rolled into (roll), else "". source: where it was read.
    """

    symbol: str
    kind: ActionKind
    ex_session: int
    known_time: int
    factor: float = 1.0
    amount: float = 0.0
    other_symbol: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", ActionKind(self.kind))
        where = f"{self.kind} of {self.symbol} on {session_date(self.ex_session)}"
        if not (math.isnan(self.factor) or (math.isfinite(self.factor) and self.factor > 0)):
            raise ValueError(f"{where}: factor {self.factor}, expected a positive number")
        if not math.isfinite(self.amount):
            raise ValueError(f"{where}: amount {self.amount}, expected a finite number")

    @property
    def id(self) -> str:
        """What it is, whoever told it and when: the same action from two sources has one id."""
        return ids.make_id("act", self.symbol, str(self.kind), self.ex_session, self.other_symbol)

    @property
    def factor_known(self) -> bool:
        return not math.isnan(self.factor)

    @property
    def rescales_units(self) -> bool:
        """Does it change how many units one holds?"""
        return self.kind is ActionKind.SPLIT and self.factor != 1.0

    @property
    def units(self) -> Fraction:
        """New units per old unit held: the factor of a split, 1 of a spin-off, which moves the price alone."""
        return exact_factor(self.factor) if self.rescales_units else Fraction(1)


def exact_factor(factor: float) -> Fraction:
    """`factor` as the fraction of small whole numbers it means: 0.05 is 1/20. Other values stay what the float holds."""
    near = Fraction(factor).limit_denominator(_MAX_DENOMINATOR)
    return near if near and abs(float(near) / factor - 1.0) < 1e-12 else Fraction(factor)


def factor_from_value(close_before: float, value: float) -> float:
    """The factor of a dividend or spin-off of `value` per old unit after a close: close / (close - value); NaN where that
    means nothing."""
    return close_before / (close_before - value) if 0 < value < close_before else math.nan


def with_factors(actions: Iterable[CorporateAction], bars: Bars) -> list[CorporateAction]:
    """`actions` where those told by their value alone (dividends, spin-offs) have the factor that the last close of `bars`
    before their ex session gives; NaN stays where there is none."""
    found = []
    for action in actions:
        row = int(np.searchsorted(bars.session, action.ex_session, side="left"))
        if math.isnan(action.factor) and action.kind in _TOLD_BY_VALUE and row > 0:
            action = replace(action, factor=factor_from_value(float(bars.close[row - 1]), action.amount))
        found.append(action)
    return found


def effective(action: CorporateAction, bars: Bars, as_of: int) -> bool:
    """Is `action` known at `as_of` and its ex session begun? An announced split moves no price before its day."""
    if action.known_time > as_of:
        return False
    first = int(np.searchsorted(bars.session, action.ex_session, side="left"))
    seen = first < len(bars) and int(bars.close_time[first]) <= as_of
    # Venues far east open before midnight UTC of their session: a bar of the ex session says so as well.
    return seen or action.ex_session * US_PER_DAY <= as_of


def adjust(bars: Bars, actions: Iterable[CorporateAction], *, as_of: int, dividends: bool = False) -> Bars:
    """`bars` known at `as_of` on the price level of the last session begun by then.

    Splits, spin-offs and rolls known at `as_of` (UTC us) divide earlier prices by their factor; splits multiply earlier
    volumes by it; dividends divide earlier prices only when `dividends`. Turnover and trade counts are what they were. For
    rolls by difference see trading/rolls.py. Bars later than `as_of` are left out; adjusted prices are not rounded to the
    tick grid. Raises UnknownFactor when an effective one has no factor, and ValueError for another symbol's action.
    """
    bars = bars.known_at(as_of)
    used: list[CorporateAction] = []
    for action in actions:
        if action.symbol != bars.symbol:
            raise ValueError(f"an action of {action.symbol} does not adjust bars of {bars.symbol}")
        if action.kind not in MOVES_PRICE or (action.kind is ActionKind.DIVIDEND and not dividends):
            continue
        if effective(action, bars, as_of):
            used.append(action)
    return _scaled(bars, used)


def _scaled(bars: Bars, actions: Sequence[CorporateAction]) -> Bars:
    before = [(int(np.searchsorted(bars.session, a.ex_session, side="left")), a) for a in actions]
    before = sorted(((row, a) for row, a in before if row > 0), key=lambda x: (x[0], x[1].ex_session, x[1].id))
    if not before:
        return bars
    price, volume = np.ones(len(bars)), np.ones(len(bars))
    total_price, total_units = Fraction(1), Fraction(1)
    for i in range(len(before) - 1, -1, -1):
        row, action = before[i]
        (told,) = (a.factor for a in with_factors([action], bars))
        if math.isnan(told):
            raise UnknownFactor(
                f"{action.symbol}: the factor of the {action.kind} on {session_date(action.ex_session)} is not known "
                f"({action.source or 'no source'}); confirm it with `tapeline actions confirm`"
            )
        factor = exact_factor(told)
        total_price *= factor
        if action.kind is ActionKind.SPLIT:
            total_units *= factor
        start = before[i - 1][0] if i else 0
        price[start:row] = float(total_price)
        volume[start:row] = float(total_units)
    columns = {name: getattr(bars, name) / price for name in ("open", "high", "low", "close")}
    extras = {name: getattr(bars, name) for name in bars.extras}
    return Bars(
        bars.symbol, bars.timeframe, bars.close_time, bars.session,
        columns["open"], columns["high"], columns["low"], columns["close"], bars.volume * volume, **extras,
    )  # fmt: skip


# -- jumps -------------------------------------------------------------------------------------------------------------


def explained_jumps(
    sessions: NDArray[np.int32],
    previous_close: NDArray[np.float64],
    open_: NDArray[np.float64],
    actions: Iterable[CorporateAction],
) -> NDArray[np.bool_]:
    """bool (T,): the step from previous_close to open_ is what an action of that session does.

    sessions: int32 (T,), session numbers ascending, of rows in sequence: an action explains the first row at or after its
    ex session and after the row before (a missing ex session moves the jump to the next one there is). The step agrees when,
    with the combined factor taken out, it is smaller than half of what it was. An action without a factor explains nothing.
    """
    explained = np.zeros(len(sessions), bool)
    by_row: dict[int, float] = {}
    for action in actions:
        if action.kind not in MOVES_PRICE or action.factor == 1.0:
            continue
        row = int(np.searchsorted(sessions, action.ex_session, side="left"))
        if row == len(sessions) or (row == 0 and int(sessions[0]) != action.ex_session):
            continue
        factor = action.factor
        if not action.factor_known and action.kind in _TOLD_BY_VALUE:
            factor = factor_from_value(float(previous_close[row]), action.amount)
        if not math.isnan(factor):
            by_row[row] = by_row.get(row, 0.0) + math.log(factor)
    for row, size in by_row.items():
        was, now = float(previous_close[row]), float(open_[row])
        if was > 0 and now > 0 and math.isfinite(was) and math.isfinite(now):
            step = math.log(now / was)
            explained[row] = abs(step + size) < abs(step) / 2
    return explained


def split_like(
    previous_close: NDArray[np.float64], open_: NDArray[np.float64], *, threshold: float = 0.3, tolerance: float = 0.06
) -> NDArray[np.float64]:
    """float64 (T,): the split factor each overnight step looks like, NaN where it looks like none.

    A step counts when its log size is at least `threshold` and the price ratio lies within `tolerance` (relative) of a
    customary split (3:2 to 100:1) or reverse split.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(previous_close, np.float64) / np.asarray(open_, np.float64)
    usual = np.array([*(1.0 / r for r in reversed(_SPLIT_RATIOS)), *_SPLIT_RATIOS])
    out = np.full(len(ratio), np.nan)
    valid = np.isfinite(ratio) & (ratio > 0)
    size = np.abs(np.log(np.where(valid, ratio, 1.0)))
    for row in np.flatnonzero(valid & (size >= threshold)):
        off = np.abs(ratio[row] / usual - 1.0)
        best = int(np.argmin(off))
        if off[best] <= tolerance:
            out[row] = usual[best]
    return out


def unexplained_splits(
    sessions: NDArray[np.int32],
    previous_close: NDArray[np.float64],
    open_: NDArray[np.float64],
    actions: Iterable[CorporateAction],
    *,
    threshold: float = 0.3,
) -> list[tuple[int, float]]:
    """(session number, factor it looks like) of every split-like step no action explains."""
    looks = split_like(previous_close, open_, threshold=threshold)
    known = explained_jumps(sessions, previous_close, open_, actions)
    return [(int(sessions[row]), float(looks[row])) for row in np.flatnonzero(np.isfinite(looks) & ~known)]


def steps(bars: Bars) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
    """(sessions, previous close, open) of the session changes in `bars`: the first bar of each session but the first one."""
    first = np.flatnonzero(np.diff(bars.session) != 0) + 1
    return bars.session[first], bars.close[first - 1], bars.open[first]


# -- identity ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TickerSpan:
    """The sessions in which an instrument was traded under `ticker`: first <= session <= last (session numbers)."""

    ticker: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Which tickers one company's share has had, oldest first; spans do not overlap.

    A ticker says nothing about identity: after a delisting it is given to somebody else. Data outside the spans belongs to
    another company, whatever its file is called, and is never joined.
    """

    symbol: str
    spans: tuple[TickerSpan, ...]

    def __post_init__(self) -> None:
        for one, two in pairwise(self.spans):
            if two.first <= one.last:
                raise ValueError(f"{self.symbol}: {one.ticker} until {session_date(one.last)} overlaps {two.ticker}")

    @property
    def first(self) -> int:
        return self.spans[0].first

    @property
    def last(self) -> int:
        return self.spans[-1].last

    def ticker(self, session: int) -> str | None:
        """Ticker in `session`, None when the share was not listed."""
        return next((s.ticker for s in self.spans if s.first <= session <= s.last), None)

    def within(self, sessions: NDArray[np.int32], ticker: str | None = None) -> NDArray[np.bool_]:
        """bool (T,): the session belongs to this share (under `ticker` when given)."""
        inside = np.zeros(len(sessions), bool)
        for span in self.spans:
            if ticker is None or span.ticker == ticker:
                inside |= (sessions >= span.first) & (sessions <= span.last)
        return inside
