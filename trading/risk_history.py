"""Prices that portfolio limits of a backtest are measured on: daily closes for returns, the finest closes for abnormal moves.

Everything is point in time: at a close the limits see closes of that moment and before, on the price level of then. Splits,
spin-offs and rolls divide the prices before them from the moment they are known and effective; before that, and where nobody
knows of one, the step is seen as the desk would see it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trading import engine_records as er
from trading.bars import Bars
from trading.corporate_actions import MOVES_PRICE, ActionKind, CorporateAction, with_factors
from trading.engine_portfolio import Past
from trading.limits import BreakerLevel, Limits
from trading.portfolio_math import moves, normal_quantile
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NONE_BROKEN: Final = -er.END_OF_TIME
Actions = Mapping[str, Sequence[CorporateAction]]


@dataclass(frozen=True, slots=True, eq=False)
class RiskHistory:
    """Raw bars by symbol: daily ones for value at risk and correlation, those of the instrument's native timeframe for the
    circuit breaker; a symbol that is in neither has nothing its limits could be measured on, which refuses. actions: by
    symbol."""

    daily: Mapping[str, Bars] = field(default_factory=dict)
    native: Mapping[str, Bars] = field(default_factory=dict)
    actions: Actions = field(default_factory=dict)

    @staticmethod
    def of(bars: Sequence[Bars], actions: Actions | None = None) -> RiskHistory:
        """What a backtest's own bars say: the finest bars of each symbol, and daily ones, or the finest's closes of sessions."""
        finest: dict[str, Bars] = {}
        daily: dict[str, Bars] = {}
        for one in bars:
            if one.symbol not in finest or one.timeframe.minutes < finest[one.symbol].timeframe.minutes:
                finest[one.symbol] = one
            if one.timeframe is Timeframe.D1:
                daily[one.symbol] = one
        for symbol, one in finest.items():
            if symbol not in daily and one.timeframe.minutes < Timeframe.D1.minutes:
                daily[symbol] = one.rows(np.flatnonzero(np.diff(one.session, append=one.session[-1:] + 1)))
        return RiskHistory(daily, finest, actions or {})

    def joined(self, other: RiskHistory) -> RiskHistory:
        """Both; where both know a symbol, the other's."""
        return RiskHistory(
            {**self.daily, **other.daily}, {**self.native, **other.native}, {**self.actions, **other.actions}
        )  # fmt: skip


def is_needed(limits: Limits | None) -> bool:
    """Does a limit look at past prices?"""
    return limits is not None and any(x is not None for x in (limits.value_at_risk, limits.correlation, limits.circuit_breaker))


@dataclass(frozen=True, slots=True)
class _Factor:
    """An action that divides the prices before row `row` by `factor` (NaN: nobody knows) for whoever asks from `from_time` on."""

    row: int
    ex_session: int
    factor: float
    from_time: int

    def natural(self, bars: Bars) -> bool:
        """Is it in force at the first close it concerns, and known?"""
        late = self.row < len(bars) and self.from_time > int(bars.close_time[self.row])
        return not late and not math.isnan(self.factor)


def _factors(bars: Bars, actions: Sequence[CorporateAction]) -> list[_Factor]:
    found = []
    for action in with_factors([a for a in actions if a.kind in MOVES_PRICE and a.kind is not ActionKind.DIVIDEND], bars):
        row = int(np.searchsorted(bars.session, action.ex_session, side="left"))
        if row == 0:
            continue
        begun = action.ex_session * US_PER_DAY
        begun = min(begun, int(bars.close_time[row])) if row < len(bars) else begun
        found.append(_Factor(row, action.ex_session, action.factor, max(begun, action.known_time)))
    return found


def levels(bars: Bars, actions: Sequence[CorporateAction], as_of: int | None = None) -> tuple[Floats, int]:
    """(closes on one level, the newest ex session of an action without a factor, NONE_BROKEN: none) for whoever asks at `as_of`.

    The ratio of two is what a holder made between them. as_of None: only what was known at the first close it concerns.
    """
    held, broken = np.ones(len(bars)), NONE_BROKEN
    for one in _factors(bars, actions):
        if not one.natural(bars) and (as_of is None or one.from_time > as_of):
            continue
        if math.isnan(one.factor):
            broken = max(broken, one.ex_session)
        else:
            held[one.row :] *= one.factor
    return bars.close * held, broken


def past_of(
    limits: Limits | None, symbols: Sequence[str], history: RiskHistory, first_time: int, slots: int, resume: str
) -> Past:  # fmt: skip
    """The columns the engine reads. symbols: in the order of their codes. first_time: UTC us of the first close of the run;
    slots: how many there are, of which each may order at one close."""
    risk = _risk(limits, resume)
    rate = int(risk["rate_orders"][0])
    days: list[tuple[Ints, Ints, Floats]] = []
    versions: list[tuple[int, ...]] = []
    version_at, rows = [0], 0
    returns = limits is not None and (limits.value_at_risk is not None or limits.correlation is not None)
    for m, symbol in enumerate(symbols):
        bars = history.daily.get(symbol) if returns else None
        if bars is not None and len(bars):
            own = history.actions.get(symbol, ())
            late = sorted({f.from_time for f in _factors(bars, own) if not f.natural(bars)})
            for since in (-er.END_OF_TIME, *late):
                level, broken = levels(bars, own, since)
                versions.append((m, since, rows, rows + len(bars), broken))
                rows += len(bars)
                days.append((bars.close_time, bars.session.astype(np.int64), level))
        version_at.append(len(versions))
    abnormal, tripped, priced = _abnormal(limits, symbols, history)
    tripped_at = _ends(tripped)
    flat = np.concatenate([*tripped, np.empty(0, np.int64)])
    cursor = np.array([b + np.searchsorted(flat[b:e], first_time) for b, e in pairwise(tripped_at)], np.int64)
    kinds = (np.int64, np.int64, np.float64)
    columns = [np.concatenate([np.empty(0, kind), *(d[k] for d in days)]) for k, kind in enumerate(kinds)]
    return Past(
        risk, columns[0], columns[1], columns[2], np.array(versions, er.VERSION), np.array(version_at, np.int64),
        np.concatenate([*abnormal, np.empty(0, np.int64)]), _ends(abnormal), flat, tripped_at, cursor, priced,
        np.full(rate + slots + 1, -er.END_OF_TIME, np.int64),
    )  # fmt: skip


def _abnormal(
    limits: Limits | None, symbols: Sequence[str], history: RiskHistory
) -> tuple[list[Ints], list[Ints], Ints]:  # fmt: skip
    """(times of closes after an abnormal move, of those at which the breaker trips, first close), by symbol."""
    nothing = np.empty(0, np.int64)
    abnormal, tripped = [nothing] * len(symbols), [nothing] * len(symbols)
    priced = np.full(len(symbols), er.END_OF_TIME, np.int64)
    breaker = limits.circuit_breaker if limits is not None else None
    if breaker is None:
        return abnormal, tripped, priced
    for m, symbol in enumerate(symbols):
        bars = history.native.get(symbol)
        if bars is None or not len(bars):
            continue
        priced[m] = int(bars.close_time[0])
        times = np.ascontiguousarray(bars.close_time, np.int64)
        prices, _ = levels(bars, history.actions.get(symbol, ()))
        moved = np.empty(len(times))
        rows = moves(times, prices, int(breaker.minutes * US_PER_MINUTE), float(breaker.percent), moved)
        abnormal[m], tripped[m] = times[moved >= breaker.percent], times[rows]
    return abnormal, tripped, priced


def _ends(parts: Sequence[Ints]) -> Ints:
    return np.cumsum([0, *(len(p) for p in parts)]).astype(np.int64)


def _level(given: BreakerLevel) -> int:
    return er.LEVEL_FLATTEN if given == "flatten" else er.LEVEL_REDUCE_ONLY


def _risk(limits: Limits | None, resume: str) -> er.Records:
    """The RISK record of the account's limits. Raises ValueError on another `resume`."""
    if resume not in er.RESUMES:
        raise ValueError(f"resume {resume!r}: expected one of {', '.join(er.RESUMES)}")
    risk = np.zeros(1, er.RISK)
    one: Any = risk[0]
    for name in er.RISK.names or ():
        if er.RISK[name] == np.float64:
            one[name] = math.nan
    one["resume"], one["pause_us"] = er.RESUMES.index(resume), -1
    if limits is None:
        return risk
    if (loss := limits.daily_loss) is not None:
        one["loss_amount"], one["loss_percent"] = loss.codes
        one["loss_level"] = _level(loss.then)
    if limits.drawdown is not None:
        one["drawdown"], one["drawdown_level"] = limits.drawdown.percent, _level(limits.drawdown.then)
    if (breaker := limits.circuit_breaker) is not None:
        one["pause_us"], one["breaker_level"] = int(breaker.pause_minutes * US_PER_MINUTE), _level(breaker.then)
    if (rate := limits.order_rate) is not None:
        one["rate_orders"], one["rate_us"] = rate.orders, int(rate.seconds * 1_000_000)
    if (related := limits.correlation) is not None:
        one["correlated_above"], one["correlated_percent"] = related.above, related.percent
        one["correlated_sessions"] = related.sessions
    if (at_risk := limits.value_at_risk) is not None:
        one["var_percent"], one["confidence"], one["var_sessions"] = at_risk.percent, at_risk.confidence, at_risk.sessions
        one["shortfall_percent"] = math.nan if at_risk.shortfall_percent is None else at_risk.shortfall_percent
        one["z"], one["density"] = normal_quantile(at_risk.confidence)
    one["sessions"] = max(int(one["correlated_sessions"]), int(one["var_sessions"]))
    return risk
