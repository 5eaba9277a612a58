"""The evaluation protocol: what a model's decisions earned out of sample, how sure that is, and against what it was held.

Everything is measured on session returns of a backtest with costs. Intervals are of the stationary bootstrap; the deflated
Sharpe ratio knows how many variants were tried, the probability of backtest overfitting compares them on halves of the
time, and the test for superior ability holds the model against doing nothing, buying and holding, entering at random as
often, crossing averages, and the simple forecasters. Statistics: trading.statistics; baselines: trading.baselines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from trading import baselines as others
from trading.backtest import BacktestResult
from trading.experiment import Experiment, longest_holding, per_year, session_returns
from trading.metrics import Metrics, TradeFigures
from trading.statistics import (
    Interval,
    Superiority,
    deflated_sharpe,
    effective_trials,
    interval,
    minimum_track_record,
    probabilistic_sharpe,
    probability_of_overfitting,
    superior_ability,
)
from trading.walk_forward import column_sharpes

Floats = NDArray[np.float64]
CONFIDENCE: Final = 0.95
LOOKED_AT_DAYS: Final = 30
RANDOM_SEEDS: Final = 20


@dataclass(frozen=True, slots=True)
class Kpi:
    """One figure with its target and 95 % interval. wanted: ``>`` or ``<``; NaN target: none is set."""

    name: str
    metric: str
    interval: Interval
    target: float = math.nan
    wanted: str = ">"
    percent: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the measured value reaches the target; None where there is no target. What is not known is not met."""
        if math.isnan(self.target):
            return None
        value = self.interval.estimate
        return value > self.target if self.wanted == ">" else value < self.target

    @property
    def verdict(self) -> str:
        """``met``, ``met, interval too`` or ``not met``: whether the whole interval reaches the target is said, too."""
        if self.met is None:
            return ""
        if not self.met:
            return "not met"
        bound = self.interval.low if self.wanted == ">" else self.interval.high
        sure = bound > self.target if self.wanted == ">" else bound < self.target
        return "met, with its whole interval" if sure else "met"


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What is known of a model's decisions. ends: int64 (D,), close of each session; returns: float64 (D,), after costs.

    against: session returns of each baseline. spa: p-value against each. ladder: (cost factor, total return, mean session
    return). regimes: figures of trades by regime. trials: variants ever tried; overfitting: NaN where it cannot be computed.
    random_beaten: share of random entries with equal turnover that earned less.
    """

    name: str
    result: BacktestResult
    metrics: Metrics
    ends: NDArray[np.int64]
    returns: Floats
    periods_per_year: float
    kpis: tuple[Kpi, ...]
    against: Mapping[str, Floats]
    spa: Mapping[str, float]
    ladder: tuple[tuple[float, float, float], ...]
    regimes: Mapping[str, TradeFigures]
    random_beaten: float
    random_returns: Floats
    variants: Mapping[str, Floats]
    trials: float
    effective: float
    probabilistic: float
    deflated: float
    track_record_needed: float
    overfitting: float
    longest_holding: int

    def kpi(self, metric: str) -> Kpi:
        return next(k for k in self.kpis if k.metric == metric)

    def figures(self) -> dict[str, float]:
        """Flat figures by name, as they are logged and judged; what is not known is left out."""
        out: dict[str, float] = {
            "trades": float(self.metrics.trades), "total_return": self.metrics.total_return, "turnover": self.metrics.turnover,
            "exposure": self.metrics.exposure, "psr": self.probabilistic, "dsr": self.deflated, "pbo": self.overfitting,
            "trials": self.trials, "effective_trials": self.effective, "random_beaten": self.random_beaten,
            "spa_worst": max(self.spa.values(), default=math.nan), "sessions": float(len(self.returns)),
            "track_record_needed": self.track_record_needed,
        }  # fmt: skip
        for kpi in self.kpis:
            out[kpi.metric] = kpi.interval.estimate
            out[f"{kpi.metric}_low"], out[f"{kpi.metric}_high"] = kpi.interval.low, kpi.interval.high
        for name, p in self.spa.items():
            out[f"spa_{_slug(name)}"] = p
        for factor, total, mean in self.ladder:
            out[f"return_at_{factor:g}x"], out[f"mean_at_{factor:g}x"] = total, mean
        return {k: float(v) for k, v in out.items() if math.isfinite(v)}


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


@numba.njit(cache=True)
def _worst_fall(equity, window, out):  # type: ignore[no-untyped-def]
    """Deepest fall from a high within `window` values, per row of equity (B, T)."""
    for b in range(equity.shape[0]):
        worst = 0.0
        for t in range(1, equity.shape[1]):
            now = equity[b, t]
            for k in range(max(0, t - window), t):
                if equity[b, k] > 0.0:
                    fall = 1.0 - now / equity[b, k]
                    if fall > worst:
                        worst = fall
        out[b] = worst


def worst_fall(returns: Floats, window: int) -> Floats:
    """Deepest fall (0.1: a tenth) from any high within `window` periods of returns (B, T), float64 (B,)."""
    r = np.atleast_2d(np.asarray(returns, np.float64))
    equity = np.concatenate([np.ones((len(r), 1)), np.cumprod(1.0 + r, axis=1)], axis=1)
    out = np.empty(len(r))
    _worst_fall(equity, max(1, window), out)
    return out


def _sortino(returns: Floats) -> Floats:
    downside = np.sqrt((np.minimum(returns, 0.0) ** 2).mean(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(downside > 0, returns.mean(axis=1) / downside, np.nan)


def _profit_factor(pnl: Floats) -> Floats:
    lost = -np.minimum(pnl, 0.0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lost > 0, np.maximum(pnl, 0.0).sum(axis=1) / lost, np.nan)


def kpis_of(returns: Floats, pnl: Floats, periods_per_year: float, *, replicates: int, seed: int) -> tuple[Kpi, ...]:
    """KPIs of session returns (D,) and of the closed trades' net P&L (N,), each with its interval."""
    root = math.sqrt(periods_per_year)
    window = max(1, round(LOOKED_AT_DAYS / 365.25 * periods_per_year))

    def of(values: Floats, statistic, reps: int = replicates) -> Interval:  # type: ignore[no-untyped-def]
        if len(values) < 3 or not np.std(values) > 0:
            return Interval(math.nan, math.nan, math.nan, CONFIDENCE, 0.0)
        return interval(values, statistic, replicates=reps, confidence=CONFIDENCE, seed=seed)

    return (
        Kpi("Sharpe ratio a year", "sharpe", of(returns, lambda r: column_sharpes(r.T) * root), 2.0),
        Kpi("Sortino ratio a year", "sortino", of(returns, lambda r: _sortino(r) * root), 3.0),
        Kpi(f"deepest drawdown in any {LOOKED_AT_DAYS} days", "drawdown_30d",
            of(returns, lambda r: worst_fall(r, window), min(replicates, 500)), 0.10, "<", percent=True),
        Kpi("win rate", "win_rate", of(pnl, lambda p: (p > 0).mean(axis=1)), 0.55, percent=True),
        Kpi("profit factor", "profit_factor", of(pnl, _profit_factor), 1.5),
        Kpi("return a year", "annual_return",
            of(returns, lambda r: np.exp(np.log1p(np.maximum(r, -0.999999)).mean(axis=1) * periods_per_year) - 1.0),
            percent=True),
        Kpi("deepest drawdown", "max_drawdown", of(returns, lambda r: worst_fall(r, r.shape[1]), min(replicates, 100)),
            percent=True),
    )  # fmt: skip


def judge(
    experiment: Experiment,
    *,
    simple: Mapping[str, Experiment],
    variants: Mapping[str, Experiment],
    trials: float,
    replicates: int = 1_000,
    random_seeds: int = RANDOM_SEEDS,
    seed: int = 0,
) -> Judgement:
    """Judge the decisions of `experiment`.

    simple: the simple forecasters' decisions on the same bars, further baselines. variants: everything tried beside it,
    for the probability of overfitting. trials: how many variants were ever tried, by the trial book; NaN when unknown.
    """
    ends = experiment.session_ends
    result = experiment.run()
    returns = session_returns(result, ends)
    year = per_year(ends)
    random = np.column_stack([session_returns(shifted(experiment, seed + s).run(), ends) for s in range(random_seeds)])
    against = {b.name: b.returns for b in others.baselines(experiment, result)}
    against |= {name: session_returns(one.run(), ends) for name, one in simple.items()}
    against["random, equal turnover"] = random.mean(axis=1)
    spa = {name: _superiority(returns - theirs, replicates, seed) for name, theirs in against.items()}
    tried = {experiment.name: returns, **{n: session_returns(one.run(), ends) for n, one in variants.items()}}
    known = math.isfinite(trials) and trials >= 1
    table = np.column_stack(list(tried.values()))
    rungs = others.cost_ladder(experiment)
    ladder = tuple((f, float(r.equity[-1] / r.cash - 1.0), float(session_returns(r, ends).mean())) for f, r in rungs)
    return Judgement(
        name=experiment.name, result=result, metrics=result.metrics(per_year(result.close_time)), ends=ends, returns=returns,
        periods_per_year=year, kpis=kpis_of(returns, result.trades.round_trips()[1], year, replicates=replicates, seed=seed),
        against=against, spa=spa, ladder=ladder, regimes=others.by_regime(experiment, result),
        random_beaten=_beaten(returns, random, len(result.trades)), random_returns=random, variants=tried, trials=trials,
        effective=effective_trials(table), probabilistic=probabilistic_sharpe(returns),
        deflated=deflated_sharpe(returns, trials, _trial_variance(table)) if known else math.nan,
        track_record_needed=minimum_track_record(returns), overfitting=_overfitting(table),
        longest_holding=longest_holding(result, ends),
    )  # fmt: skip


def shifted(of: Experiment, seed: int) -> Experiment:
    """The same decisions at another time: each instrument's are moved around its bars by a random distance.

    Trades, holding times and turnover stay, only the timing is chance. Entries thrown at random bars with the model's own
    exits (trading.baselines.random_entries) would not do: a model's exits are half of what it knows.
    """
    random = np.random.default_rng([seed, 1])
    evaluations = []
    for e in of.evaluations:
        by = int(random.integers(1, max(2, len(e.ready))))
        moved = {name: np.roll(getattr(e, name), by) for name in ("enter_long", "enter_short", "exit_long", "exit_short")}
        moved["enter_long"][-2:] = moved["enter_short"][-2:] = False
        evaluations.append(replace(e, **moved))
    return of.but(name="random, equal turnover", evaluations=tuple(evaluations))


def _beaten(returns: Floats, random: Floats, trades: int) -> float:
    """Share of the random runs (D, S) that earned less; half of ties. NaN where nothing was traded."""
    if not trades:
        return math.nan
    mine, totals = float(np.prod(1.0 + returns)), np.prod(1.0 + random, axis=0)
    return float((totals < mine).mean() + 0.5 * (totals == mine).mean())


def _superiority(excess: Floats, replicates: int, seed: int) -> float:
    """p-value of "the model is not better"; 1 where it does the same as the baseline."""
    if not np.std(excess) > 0:
        return 1.0
    tested: Superiority = superior_ability(excess, replicates=replicates, seed=seed)
    return tested.consistent


def _trial_variance(table: Floats) -> float | None:
    """Variance of the variants' Sharpe ratios per session; None with fewer than two that traded."""
    sharpes = column_sharpes(table)
    live = sharpes[np.isfinite(sharpes) & (table.std(axis=0) > 0)]
    return float(np.var(live, ddof=1)) if len(live) > 1 else None


def _overfitting(table: Floats, blocks: int = 16) -> float:
    try:
        return probability_of_overfitting(table, blocks).probability
    except ValueError:
        return math.nan


def interquartile_mean(scores: Sequence[float] | Floats) -> float:
    """Mean of the middle half: what a typical seed does, without the best and the worst (Agarwal et al. 2021). Where the
    half is not a whole number of scores, those at its edges count in part."""
    x = np.sort(np.asarray(scores, np.float64))
    x = x[np.isfinite(x)]
    n = len(x)
    if not n:
        return math.nan
    weight = np.clip(np.minimum(np.arange(1, n + 1) - n / 4, 3 * n / 4 - np.arange(n)), 0.0, 1.0)
    return float((x * weight).sum() / weight.sum())


def seed_interval(scores: Floats, *, replicates: int = 2_000, seed: int = 0) -> Interval:
    """Interquartile mean of scores (folds, seeds) with its 95 % interval: seeds are drawn anew within each fold."""
    table = np.atleast_2d(np.asarray(scores, np.float64))
    random = np.random.default_rng(seed)
    folds, seeds = table.shape
    drawn = random.integers(0, seeds, (replicates, folds, seeds))
    values = np.array([interquartile_mean(table[np.arange(folds)[:, None], d].ravel()) for d in drawn])
    low, high = (
        np.nanquantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) if np.isfinite(values).any() else (math.nan,) * 2
    )
    return Interval(interquartile_mean(table.ravel()), float(low), float(high), CONFIDENCE)
