"""What adaptive sizing rules are measured on, and the plain rule they become at one bar.

Ranges and volatilities are trailing sums over a fixed number of bars, taken anew at every bar: they do not depend on where
the series begins, so that a live window and a whole history give the same number to the bit.

    atr_risk           percent of equity lost when the price moves `multiple` average true ranges, or to the stop where that is
                       further away: never more than `percent` at the stop
    volatility_target  percent of equity invested = percent / volatility a year * 100, at most `max_percent`
    kelly              percent of equity risked to the stop = fraction * Kelly's, from shrunk estimates, at most `cap_percent`
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.corporate_actions import MOVES_PRICE, ActionKind, CorporateAction, UnknownFactor
from trading.instruments import Instrument
from trading.price_levels import on_level, weeks_on_level
from trading.price_units import Finer
from trading.resample import bars_in_session
from trading.sizing import ATR_RISK, KELLY, VOLATILITY_TARGET, AdaptiveRule, kelly_percent
from trading.timeframes import Timeframe

Floats = NDArray[np.float64]

_DAYS_A_YEAR: Final = 365.25


@njit(cache=True)
def _average_range(high, low, close, period, out):  # type: ignore[no-untyped-def]
    for t in range(period, len(close)):
        total = 0.0
        for k in range(t - period + 1, t + 1):
            top = max(high[k], close[k - 1])
            bottom = min(low[k], close[k - 1])
            total += top - bottom
            if math.isnan(high[k]) or math.isnan(low[k]) or math.isnan(close[k - 1]):  # max and min let one pass
                total = math.nan
        out[t] = total / period


@njit(cache=True)
def _deviation(close, period, out):  # type: ignore[no-untyped-def]
    for t in range(period, len(close)):
        total = 0.0
        square = 0.0
        known = True
        for k in range(t - period + 1, t + 1):
            if not (close[k] > 0.0 and close[k - 1] > 0.0):
                known = False
                break
            r = math.log(close[k] / close[k - 1])
            total += r
            square += r * r
        if known and period > 1:
            spread = (square - total * total / period) / (period - 1)
            out[t] = math.sqrt(spread) if spread > 0.0 else 0.0


def average_range(bars: Bars, period: int) -> Floats:
    """Mean true range of the last `period` bars, float64 (T,), NaN before; max(high, close before) - min(low, close before)
    (Wilder 1978, with a plain mean instead of his running one)."""
    out = np.full(len(bars), np.nan)
    high, low, close = (np.ascontiguousarray(c, np.float64) for c in (bars.high, bars.low, bars.close))
    _average_range(high, low, close, period, out)
    return out


@lru_cache(maxsize=64)
def bars_a_year(venue: Calendar, timeframe: Timeframe) -> float:
    """How many bars of `timeframe` a year of the venue has, by its calendar."""
    days = float(venue.number[-1] - venue.number[0]) or 1.0
    sessions = (len(venue.number) - 1) / days * _DAYS_A_YEAR
    if timeframe is Timeframe.W1:
        return _DAYS_A_YEAR / 7.0
    if timeframe is Timeframe.D1:
        return sessions
    return sessions * float(np.median(bars_in_session(venue, timeframe)))


def volatility(bars: Bars, period: int, per_year: float) -> Floats:
    """Standard deviation of the last `period` log returns a year, percent, float64 (T,), NaN before."""
    out = np.full(len(bars), np.nan)
    _deviation(np.ascontiguousarray(bars.close, np.float64), period, out)
    return out * math.sqrt(per_year) * 100.0


def bars_needed(sizing: Mapping[str, Any]) -> int:
    """Bars of the primary timeframe an adaptive rule looks at, 0 for the others."""
    kind = sizing.get("kind")
    if kind == ATR_RISK:
        return int(sizing["period"]) + 1
    return int(sizing["bars"]) + 1 if kind == VOLATILITY_TARGET else 0


def names(sizing: Mapping[str, Any]) -> tuple[str, ...]:
    """What `columns` measures for the rule."""
    return {ATR_RISK: ("atr",), VOLATILITY_TARGET: ("volatility",)}.get(str(sizing.get("kind")), ())


def columns(sizing: Mapping[str, Any], bars: Bars, instrument: Instrument, venue: Calendar) -> dict[str, Floats]:
    """Measured inputs of the rule over `bars`: ``atr`` in price, or ``volatility`` in percent a year."""
    kind = sizing.get("kind")
    if kind == ATR_RISK:
        return {"atr": average_range(bars, int(sizing["period"]))}
    if kind == VOLATILITY_TARGET:
        return {"volatility": volatility(bars, int(sizing["bars"]), bars_a_year(venue, bars.timeframe))}
    return {}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Closed trades of a strategy, in multiples of what each risked: how many won and lost, and the sums of both (positive).
    A trade that ended where it began is neither."""

    wins: int = 0
    losses: int = 0
    won: float = 0.0
    lost: float = 0.0

    def plain(self) -> dict[str, Any]:
        return {"wins": self.wins, "losses": self.losses, "won": self.won, "lost": self.lost}


class NoSize(ValueError):
    """The rule cannot say a size: an input is missing, or there is no edge to bet on."""


def resolve(
    sizing: Mapping[str, Any], measured: Mapping[str, Any], evidence: Mapping[str, Any] | None, reference: float, stop: float
) -> dict[str, Any]:
    """The plain rule (risk_percent or percent_equity) an adaptive one is at this bar; any other rule as it is.

    measured: ``atr`` or ``volatility``. evidence: Evidence as plain data, for kelly. Raises NoSize.
    """
    kind = sizing.get("kind")
    if kind == ATR_RISK:
        share = atr_share(_known(measured, "atr"), float(sizing["multiple"]), reference, stop)
        return {"kind": "risk_percent", "percent": float(sizing["percent"]) * share}
    if kind == VOLATILITY_TARGET:
        percent = target_percent(_known(measured, "volatility"), float(sizing["percent"]), float(sizing["max_percent"]))
        return {"kind": "percent_equity", "percent": percent}
    if kind == KELLY:
        if evidence is None:
            raise NoSize("no record of the strategy's closed trades")
        rule = AdaptiveRule.of(sizing)
        percent = float(
            kelly_percent(
                float(evidence["wins"]), float(evidence["losses"]), float(evidence["won"]), float(evidence["lost"]),
                rule.fraction, rule.cap_percent, rule.prior_trades, rule.prior_win_rate, rule.prior_payoff,
            )
        )  # fmt: skip
        if not percent > 0.0:
            raise NoSize("no edge in the strategy's trades: kelly is 0")
        return {"kind": "risk_percent", "percent": percent}
    return dict(sizing)


def decided_rule(sizing: Mapping[str, Any], decided: Mapping[str, Any] | None) -> dict[str, Any]:
    """The plain rule a decision took for `sizing`, held against what the file allows: for an adaptive rule the one that was
    decided, for any other the file's own. Raises ValueError when it is missing, of another kind, or above the file's cap."""
    bounds = {ATR_RISK: ("risk_percent", "percent"), VOLATILITY_TARGET: ("percent_equity", "max_percent"),
              KELLY: ("risk_percent", "cap_percent")}  # fmt: skip
    kind = str(sizing.get("kind"))
    if kind not in bounds:
        return dict(sizing)
    wanted, cap = bounds[kind]
    if not isinstance(decided, Mapping) or decided.get("kind") != wanted:
        raise ValueError(f"sizing {kind}: the decision says no {wanted}")
    percent, most = float(decided["percent"]), float(sizing[cap])
    if not 0.0 < percent <= most * (1 + 1e-9):
        raise ValueError(f"sizing {kind}: the decision says {percent:g} percent, the file allows {most:g}")
    return {"kind": wanted, "percent": percent}


def atr_share(atr: float, multiple: float, reference: float, stop: float) -> float:
    """Which share of ``percent`` is risked to the stop so that `multiple` ATRs lose it all; at most 1. Raises NoSize."""
    distance = abs(reference - stop)
    if not (atr > 0.0 and math.isfinite(atr)) or not distance > 0.0:
        raise NoSize(f"atr {atr:g}, distance to the stop {distance:g}")
    return min(distance / (multiple * atr), 1.0)


def target_percent(volatility_percent: float, percent: float, most: float) -> float:
    """Percent of equity to invest for `percent` volatility a year; a market that does not move gives the cap. Raises NoSize."""
    if not (volatility_percent >= 0.0 and math.isfinite(volatility_percent)):
        raise NoSize(f"volatility {volatility_percent:g}")
    return most if volatility_percent * most <= percent * 100.0 else percent / volatility_percent * 100.0


def _known(measured: Mapping[str, Any], name: str) -> float:
    value = measured.get(name)
    if value is None or not math.isfinite(value):
        raise NoSize(f"{name} is not known")
    return float(value)


# -- histories -------------------------------------------------------------------------------------------------------------


def loop_rule(sizing: Mapping[str, Any]) -> Mapping[str, Any]:
    """The plain rule a backtest's loop runs for `sizing`; what changes from bar to bar stands in the wishes' scale, Kelly's
    percent is the loop's own. Raises ValueError on a malformed rule."""
    kind = sizing.get("kind")
    if kind == KELLY:
        AdaptiveRule.of(sizing)
        return {"kind": "risk_percent", "percent": 1.0}
    if kind == ATR_RISK:
        return {"kind": "risk_percent", "percent": sizing.get("percent")}
    return {"kind": "percent_equity", "percent": 1.0} if kind == VOLATILITY_TARGET else sizing


def kelly_fields(sizing: Mapping[str, Any]) -> tuple[float, float, float, float, float]:
    """(fraction, cap, prior trades, prior win rate, prior payoff); zeros for any other rule."""
    if sizing.get("kind") != KELLY:
        return (0.0, 0.0, 0.0, 0.0, 0.0)
    rule = AdaptiveRule.of(sizing)
    return (rule.fraction, rule.cap_percent, rule.prior_trades, rule.prior_win_rate, rule.prior_payoff)


def wish_scale(
    sizing: Mapping[str, Any], rows: NDArray[np.int64], reference: Floats, stop: Floats, bars: Bars, instrument: Instrument,
    actions: Mapping[str, Sequence[CorporateAction]], finer: Finer | None = None, held: Sequence[Bars] = (),
) -> Floats | None:  # fmt: skip
    """What `loop_rule` is multiplied by at each of `rows`, float64 (W,): `atr_share` or `target_percent` there, NaN where it
    is not known. None for a rule that is the same at every bar."""
    if not names(sizing):
        return None
    (measured,) = history(sizing, bars, instrument, actions, finer, held).values()
    value = measured[rows]
    with np.errstate(divide="ignore", invalid="ignore"):
        if sizing["kind"] == ATR_RISK:
            share = np.minimum(np.abs(reference - stop) / (float(sizing["multiple"]) * value), 1.0)
            return np.where((value > 0.0) & (np.abs(reference - stop) > 0.0), share, np.nan)
        percent, most = float(sizing["percent"]), float(sizing["max_percent"])
        return np.where(value * most <= percent * 100.0, most, percent / value * 100.0)


def history(
    sizing: Mapping[str, Any], bars: Bars, instrument: Instrument, actions: Mapping[str, Sequence[CorporateAction]],
    finer: Finer | None = None, held: Sequence[Bars] = (),
) -> dict[str, Floats]:  # fmt: skip
    """`columns` over a whole history of raw bars, each row on its own price level. finer, held: what weekly bars with a split
    inside are made of; what is measured on one that cannot be made is NaN."""
    venue = calendar(instrument.calendar)
    out = {name: np.full(len(bars), np.nan) for name in names(sizing)}
    for first, after, level in levels(bars, actions.get(bars.symbol, ()), finer, held):
        for name, column in columns(sizing, level, instrument, venue).items():
            out[name][first:after] = column[first:after]
    return out


def levels(
    bars: Bars, actions: Sequence[CorporateAction], finer: Finer | None = None, held: Sequence[Bars] = ()
) -> Iterator[tuple[int, int, Bars]]:
    """(first row, row after the last, bars up to there on the price level of these rows). Nothing for rows whose level an
    action without a factor leaves unknown."""
    moving = [a for a in actions if a.kind in MOVES_PRICE and a.kind is not ActionKind.DIVIDEND]
    cuts = {0, len(bars)}
    for action in moving:
        cuts.add(int(np.searchsorted(bars.session, action.ex_session, side="left")))
        cuts.add(int(np.searchsorted(bars.close_time, action.known_time, side="left")))
    for first, after in pairwise(sorted(cuts)):
        seen = bars.rows(slice(0, after)) if after < len(bars) else bars
        try:
            as_of, session = int(bars.close_time[after - 1]), int(bars.session[after - 1])
            if bars.timeframe is Timeframe.W1:
                level = weeks_on_level(seen, moving, as_of, session, held, finer, blank=True)
            else:
                level = on_level(seen, moving, as_of, session)
        except UnknownFactor:
            continue
        yield first, after, level
