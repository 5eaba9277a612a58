"""When a strategy's backtest is believed: criteria with numbers, each shown with its interval whether it is met or not.

A figure that is missing is a criterion not met: what was not measured is not known, and what is not known is not traded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from trading.statistics import (
    Interval,
    deflated_sharpe,
    expected_maximum_sharpe,
    interval,
    minimum_track_record,
    moments,
    probabilistic_sharpe,
)
from trading.walk_forward import column_sharpes

Floats = NDArray[np.float64]
Wanted = Literal[">", ">=", "<="]

MINIMUM_TRADES: Final = 30
CONFIDENCE: Final = 0.95
LARGEST_PBO: Final = 0.2
LARGEST_P: Final = 0.05
LARGEST_DRAWDOWN: Final = 0.3


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion. low, high: interval of the value, NaN where there is none. passed: False for a missing value."""

    name: str
    value: float
    wanted: Wanted
    threshold: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    @property
    def passed(self) -> bool:
        # Compared this way a value that is missing fails.
        if self.wanted == ">":
            return self.value > self.threshold
        return self.value >= self.threshold if self.wanted == ">=" else self.value <= self.threshold

    @property
    def verdict(self) -> str:
        """met, not met, or unknown, which fails, too."""
        return "met" if self.passed else "unknown: fails" if math.isnan(self.value) else "not met"


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What is known of a strategy. NaN or None: not measured.

    returns: float64 (T,), by session, after costs. periods_per_year: sessions in a year. trades: closed ones. trials: how
    many variants were tried, by the trial book; NaN when it cannot be read, and trials_unknown says why.
    trial_sharpe_variance: of their per-period Sharpe ratios, None: what luck alone gives. overfitting: PBO. spa_flat,
    spa_hold: p-values of the test for superior ability against doing nothing and against buy and hold at the strategy's
    size. random_beaten: share of random entries beaten. net_at_double_costs: fraction of the cash. out_of_sample: float64
    (M,), returns of the walk-forward choice. drawdown_95: drawdown that 95 % of the resampled histories stay above.
    no_look_ahead: the audit's verdict.
    """

    returns: Floats
    periods_per_year: float
    trades: int
    trials: float = math.nan
    trials_unknown: str = ""
    trial_sharpe_variance: float | None = None
    overfitting: float = math.nan
    spa_flat: float = math.nan
    spa_hold: float = math.nan
    random_beaten: float = math.nan
    net_at_double_costs: float = math.nan
    out_of_sample: Floats = field(default_factory=lambda: np.empty(0))
    drawdown_95: float = math.nan
    no_look_ahead: bool | None = None
    replicates: int = 2_000
    seed: int = 0


def annual_sharpe_interval(returns: Floats, periods_per_year: float, replicates: int, seed: int) -> Interval:
    """Annualised Sharpe ratio of returns (T,) with its stationary-bootstrap interval."""
    root = math.sqrt(periods_per_year)
    if len(returns) < 3 or not np.std(returns) > 0:
        return Interval(math.nan, math.nan, math.nan, CONFIDENCE, 0.0)
    return interval(returns, lambda r: column_sharpes(r.T) * root, replicates=replicates, confidence=CONFIDENCE, seed=seed)


def luck_sharpe(e: Evidence) -> float:
    """Sharpe ratio per period that the best of as many trials has by luck alone; NaN when N is not known."""
    if not (math.isfinite(e.trials) and e.trials >= 1):
        return math.nan
    variance = 1.0 / max(1, len(e.returns) - 1) if e.trial_sharpe_variance is None else e.trial_sharpe_variance
    return expected_maximum_sharpe(e.trials, variance)


def judge(e: Evidence) -> list[Criterion]:
    """Every criterion for trading a strategy with money."""
    r = np.asarray(e.returns, np.float64)
    root = math.sqrt(e.periods_per_year)
    sharpe = annual_sharpe_interval(r, e.periods_per_year, e.replicates, e.seed)
    luck = luck_sharpe(e)
    known_trials = math.isfinite(luck)
    needed = minimum_track_record(r, luck) if known_trials else math.nan
    shape = moments(r)
    out = annual_sharpe_interval(e.out_of_sample, e.periods_per_year, e.replicates, e.seed)
    tried = f"N is not known: {e.trials_unknown or 'no trial book'}"
    if known_trials:
        tried = f"N = {e.trials:g} trials, best of them by luck {luck * root:.2f} a year"
    needs = f"{needed:,.0f} needed" if math.isfinite(needed) else "how many are needed hangs on N" if not known_trials else ""
    record = f"{len(r)} sessions" + (f", {needs}" if needs else "")
    return [
        Criterion("closed trades", e.trades, ">=", MINIMUM_TRADES),
        Criterion("Sharpe ratio a year, after costs", sharpe.estimate, ">", 0.0, sharpe.low, sharpe.high,
                  f"skewness {shape.skewness:.2f}, kurtosis {shape.kurtosis:.1f}"),
        Criterion("its lower bound", sharpe.low, ">", 0.0),
        Criterion("probabilistic Sharpe: P(true > 0)", probabilistic_sharpe(r), ">=", CONFIDENCE),
        Criterion("deflated Sharpe: P(true > best of N by luck)",
                  deflated_sharpe(r, e.trials, e.trial_sharpe_variance) if known_trials else math.nan, ">=", CONFIDENCE,
                  note=tried),
        Criterion("track record over the minimum needed", len(r) / needed if needed > 0 else math.nan, ">=", 1.0, note=record),
        Criterion("probability of backtest overfitting", e.overfitting, "<=", LARGEST_PBO),
        Criterion("superior ability against doing nothing, p", e.spa_flat, "<=", LARGEST_P),
        Criterion("superior ability against buy and hold, p", e.spa_hold, "<=", LARGEST_P),
        Criterion("random entries beaten", e.random_beaten, ">=", CONFIDENCE),
        Criterion("net result at twice the costs", e.net_at_double_costs, ">", 0.0),
        Criterion("walk-forward Sharpe ratio a year", out.estimate, ">", 0.0, out.low, out.high),
        Criterion("drawdown of 19 in 20 resampled histories", e.drawdown_95, "<=", LARGEST_DRAWDOWN),
        Criterion("no look-ahead found", math.nan if e.no_look_ahead is None else float(e.no_look_ahead), ">=", 1.0),
    ]  # fmt: skip


def promoted(criteria: Sequence[Criterion]) -> bool:
    """All of them, and at least one."""
    return bool(criteria) and all(c.passed for c in criteria)


HEADER: Final = ("KPI", "value", "95 % interval", "threshold", "verdict", "note")


def rows(criteria: Sequence[Criterion]) -> list[list[str]]:
    """A table under HEADER."""

    def number(value: float) -> str:
        return "not known" if math.isnan(value) else f"{value:.4g}"

    wanted = {">": ">", ">=": "≥", "<=": "≤"}
    return [
        [
            c.name, number(c.value), f"{number(c.low)} to {number(c.high)}" if math.isfinite(c.low) else "–",
            f"{wanted[c.wanted]} {c.threshold:g}", c.verdict, c.note,
        ]
        for c in criteria
    ]  # fmt: skip
