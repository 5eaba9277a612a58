"""Pairs: two instruments whose spread reverts, entered and left together.

The spread is log A - constant - ratio x log B. Constant and ratio come from the `fit_bars` common bars before the first
bar of each month (or session, week, quarter), and hold until the next: nothing of the bars traded is in them. A fit counts
when Engle-Granger rejects "no cointegration", the half-life is short enough and the hedge ratio lies in its bounds.

Two legs are two signals of one strategy at one bar close. What keeps them together:

* both come from the same spread at the same close, and one side enters only where the other can, too (bars of that close,
  warm-up, stop);
* the gate ``legs`` refuses either when the other is missing or refused (trading.gates.legs);
* should the desk refuse the second leg after it took the first, the first order is cancelled at once, and at the next close
  a leg that stands alone is closed (desk/exits.py), whatever ended the other.

The value of leg B is that of leg A times the hedge ratio (`Evaluation.scale`), so sizes are stated by value or quantity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import talib
from pydantic import Field, field_validator, model_validator

from trading import cointegration
from trading.bars import Bars
from trading.conditions import Bools, Floats, Frame
from trading.config_text import ConfigModel, Count, Positive, Whole, custom_error
from trading.evaluable import assemble, check_bars, in_windows, readiness
from trading.evaluation import Evaluation
from trading.frame import BarWindow
from trading.instruments import Instrument
from trading.signals import Action
from trading.strategy_base import Strategy, common, needs_of
from trading.strategy_schema import Filed
from trading.timeframes import Timeframe, session_date

_PERIOD_DAYS = {"session": 1, "week": 5, "month": 23, "quarter": 66}


class PairRule(ConfigModel):
    """How the spread is made and traded; z: the spread in deviations of the fit."""

    fit_bars: Whole = Field(250, ge=30, le=5000, description="common bars each fit is made of")
    refit: Literal["session", "week", "month", "quarter"] = Field("month", description="a new fit at the first bar of each")
    lags: Count = Field(1, le=10, description="lagged differences of the unit root test")
    significance: Literal[1, 5, 10] = Field(5, description="level of the test, percent")
    max_half_life: Positive = Field(60.0, description="bars; a slower spread is not traded")
    hedge_ratio: Annotated[list[Positive], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.2, 5.0], description="least and greatest hedge ratio that is traded"
    )
    entry_z: Positive = Field(2.0, description="enter when the spread comes to lie this many deviations away")
    exit_z: Annotated[float, Field(ge=0)] = Field(0.5, description="leave when it is this close again")
    stop_z: Positive = Field(4.0, description="leave when it goes this far")

    @model_validator(mode="after")
    def _ordered(self) -> PairRule:
        if not self.exit_z < self.entry_z < self.stop_z:
            raise custom_error(
                f"exit_z {self.exit_z:g}, entry_z {self.entry_z:g}, stop_z {self.stop_z:g} are not ascending",
                "exit_z below entry_z below stop_z",
            )
        if self.hedge_ratio[0] >= self.hedge_ratio[1]:
            raise custom_error("hedge_ratio is not ascending", "the least one first")
        return self


class PairFile(Filed):
    """A pair: symbols [A, B]; the spread is A against B."""

    kind: Literal["pair"]
    pair: PairRule = Field(default_factory=PairRule)  # type: ignore[arg-type]

    @field_validator("symbols")
    @classmethod
    def _two(cls, value: list[str]) -> list[str]:
        if len(value) != 2:
            raise custom_error(f"a pair names {len(value)} symbols", "two symbols")
        return value

    @field_validator("sizing")
    @classmethod
    def _by_hedge(cls, value: Any) -> Any:
        if value.kind not in ("fixed", "notional", "percent_equity"):
            expected = "sizing kind notional, percent_equity or fixed"
            raise custom_error(f"sizing {value.kind} would size each leg by its own stop, not by the hedge ratio", expected)
        return value

    @field_validator("exits")
    @classmethod
    def _by_spread(cls, value: Any) -> Any:
        if value.rules is not None:
            raise custom_error("a pair leaves by its spread", "no exits.rules: exit_z and stop_z say when")
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """The spread of two series at their common closes, float64 (J,): z, hedge ratio, test statistic, half-life, and whether
    the fit in force counts. close_time int64 (J,)."""

    close_time: np.ndarray[Any, np.dtype[np.int64]]
    z: Floats
    ratio: Floats
    statistic: Floats
    half_life: Floats
    good: Bools
    fitted: Bools


def spread(a: Bars, b: Bars, rule: PairRule) -> Spread:
    """Spread of `a` against `b` over their common closes; unknown (NaN) before the first fit."""
    times, at_a, at_b = np.intersect1d(a.close_time, b.close_time, assume_unique=True, return_indices=True)
    n = len(times)
    session = a.session[at_a]
    with np.errstate(invalid="ignore", divide="ignore"):
        # TA-Lib's logarithm: numpy's vector lanes may round differently from its scalar tail
        y, x = (talib.LN(np.ascontiguousarray(c)) if n else np.empty(0) for c in (a.close[at_a], b.close[at_b]))
    days, day_of = np.unique(session, return_inverse=True)
    period = np.array([_period_of(int(s), rule.refit) for s in days], np.int64)[day_of]
    starts = np.flatnonzero(np.diff(period, prepend=period[:1] - 1)) if n else np.empty(0, np.int64)
    columns = np.full((5, n), np.nan)
    good = np.zeros(n, bool)
    limit = cointegration.critical_value(rule.significance, rule.fit_bars)
    for start, end in zip(starts, [*starts[1:], n][: len(starts)], strict=True):
        if start < rule.fit_bars:
            continue
        window = slice(int(start) - rule.fit_bars, int(start))
        if not (np.isfinite(y[window]).all() and np.isfinite(x[window]).all()):
            continue
        constant, ratio, statistic, half_life, deviation = cointegration.fit(y[window], x[window], rule.lags)
        rows = slice(int(start), int(end))
        columns[1:, rows] = np.array([ratio, statistic, half_life, deviation])[:, None]
        if deviation > 0:
            columns[0, rows] = (y[rows] - constant - ratio * x[rows]) / deviation
            within = rule.hedge_ratio[0] <= ratio <= rule.hedge_ratio[1]
            good[rows] = statistic < limit and half_life <= rule.max_half_life and within
    return Spread(times, columns[0], columns[1], columns[2], columns[3], good, np.isfinite(columns[0]))


def _period_of(session: int, refit: str) -> int:
    if refit == "session":
        return session
    if refit == "week":
        return (session + 3) // 7
    day = session_date(session)
    months = day.year * 12 + day.month - 1
    return months if refit == "month" else months // 3


def _bars_per_period(timeframe: Timeframe, refit: str) -> int:
    days = _PERIOD_DAYS[refit]
    if timeframe is Timeframe.W1:
        return days // 5 + 1
    return days if timeframe is Timeframe.D1 else days * (1440 // timeframe.minutes)


@dataclass(frozen=True, slots=True)
class Pair(Strategy):
    """A compiled pair; `legs` are its two symbols."""

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What it says of one leg; bars of the other stand under (symbol, timeframe)."""
        check_bars(self, bars, instrument)
        rules: PairFile = self.rules
        rule = rules.pair
        frame = Frame(bars, self.timeframe)
        primary = bars[self.timeframe]
        first = instrument.symbol == self.symbols[0]
        other = bars[self.symbols[1] if first else self.symbols[0], self.timeframe]
        leg_a, leg_b = (primary, other) if first else (other, primary)
        found: Spread = frame.cache.get(("spread", self.revision, id(leg_b)), leg_a, lambda: spread(leg_a, leg_b, rule), leg_b)
        z, before = found.z, np.full(len(found.z), np.nan)
        before[1:] = z[:-1]
        partner = BarWindow({t: bars[other.symbol, t] for t in self.timeframes}, frame.cache)
        known = self._stop_known(frame, primary, found)
        known &= self._stop_known(Frame(partner, self.timeframe), other, found)
        with np.errstate(invalid="ignore"):
            tradable = found.good & known & (np.abs(z) < rule.stop_z)
            buy = tradable & (z <= -rule.entry_z) & (before > -rule.entry_z)
            sell = tradable & (z >= rule.entry_z) & (before < rule.entry_z)
            over = found.fitted & (~found.good | (np.abs(z) >= rule.stop_z))
            sold_out, bought_out = over | (z >= -rule.exit_z), over | (z <= rule.exit_z)
        # leg B is held the other way round
        long, short, exit_long, exit_short = (buy, sell, sold_out, bought_out) if first else (sell, buy, bought_out, sold_out)
        ready = readiness(frame, self.warm_up)
        allowed = ready & in_windows(primary, rules.windows, instrument)
        rows = _Rows(primary.close_time, found.close_time)
        scale = np.ones(len(frame))
        if not first:
            scale = rows.values(found.ratio)
            if rules.sizing.kind == "fixed":  # a quantity of A becomes the quantity of B of that value
                price_a = rows.values(leg_a.close[np.searchsorted(leg_a.close_time, found.close_time)])
                scale = scale * price_a / primary.close
        side = {"z": rows.values(z), "hedge_ratio": rows.values(found.ratio), "half_life": rows.values(found.half_life)}
        return assemble(
            frame, instrument, ready, self.max_bars,
            enter_long=allowed & rows.holds(long), enter_short=allowed & rows.holds(short),
            exit_long=ready & rows.holds(exit_long), exit_short=ready & rows.holds(exit_short),
            stop=rules.exits.stop, target=rules.exits.target, session_end=rules.exits.session_end, scale=scale,
            parts={f"{name}/{key}": values for name in ("long", "short") for key, values in side.items()},
        )  # fmt: skip

    def _stop_known(self, frame: Frame, leg: Bars, found: Spread) -> Bools:
        """bool (J,): that leg would have a stop on either side, and its warm-up is over."""
        nothing = np.full(len(frame), np.nan)
        stop = self.rules.exits.stop
        known = readiness(frame, self.warm_up)
        for side in (1, -1):
            price = stop.at(frame, side, leg.close, nothing)
            known = known & np.isfinite(price) & (price > 0)
        return known[np.searchsorted(leg.close_time, found.close_time)]

    def reason(self, action: Action) -> str:
        rule = self.rules.pair
        return f"spread of {self.symbols[0]} against {self.symbols[1]} beyond {rule.entry_z:g} deviations"


class _Rows:
    """Carries values at common closes to the rows of one leg."""

    def __init__(self, own: Any, common_times: Any) -> None:
        at = np.searchsorted(common_times, own)
        self._inside = np.zeros(len(own), bool)
        self._at = np.minimum(at, max(len(common_times) - 1, 0))
        if len(common_times):
            self._inside = common_times[self._at] == own

    def holds(self, values: Bools) -> Bools:
        return self._inside & values[self._at] if len(values) else self._inside

    def values(self, values: Floats) -> Floats:
        return np.where(self._inside, values[self._at], np.nan) if len(values) else np.full(len(self._inside), np.nan)


def build(parsed: PairFile, text: str) -> Pair:
    """The pair of its file."""
    rule = parsed.pair
    bars = rule.fit_bars + _bars_per_period(parsed.timeframe, rule.refit) + 2
    warm_up, context = needs_of(parsed, (), {parsed.timeframe: bars})
    fields = common(parsed, text, warm_up, context)
    legs = {(symbol, t): 1 for symbol in parsed.symbols for t in fields["timeframes"]}
    return Pair(**{**fields, "context": {**legs, **context}}, legs=tuple(parsed.symbols))
