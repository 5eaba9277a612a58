"""Canaries: does research find what is there, refuse what is not, and catch who looks ahead?

    python -m tests.canaries            1,000 noise strategies, 20 planted edges
    python -m tests.canaries --noise 200 --edges 5

Every strategy is a real backtest with costs on synthetic bars. The statistics are those of trading.promotion: a strategy
passes when deflated Sharpe (N = number of strategies tried) >= 0.95, PBO <= 0.2 and SPA p <= 0.05 all hold, and the other
criteria that a returns series can be judged by.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np

from tests.trading.backtest_kit import make
from trading import audit, promotion
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.experiment import Experiment, per_year, session_returns
from trading.statistics import bootstrap_paths, probability_of_overfitting, superior_ability
from trading.timeframes import US_PER_DAY, Timeframe
from trading.walk_forward import column_sharpes, walk_forward_selection

SESSIONS = 1_500
COSTS = Costs("per_value", rate=0.0002)


def market(seed: int, edge: float = 0.0, rows: int = SESSIONS) -> Bars:
    """Daily bars of a geometric random walk, 1 % a day. edge: share of a day's move that yesterday's direction explains."""
    random = np.random.default_rng(seed)
    moves = random.normal(0, 0.01, rows)
    for t in range(1, rows):
        moves[t] += edge * 0.01 * np.sign(moves[t - 1])
    close = np.round(1_000.0 * np.exp(np.cumsum(moves)), 2)
    opened = np.concatenate(([1_000.0], close[:-1]))
    day = 10_000 + np.arange(rows, dtype=np.int64)
    high, low = np.maximum(opened, close), np.minimum(opened, close)
    return Bars("X", Timeframe.D1, day * US_PER_DAY, day.astype(np.int32), opened, high, low, close, np.full(rows, 1e6))


def wanting(bars: Bars, long: np.ndarray, hold: int) -> Experiment:
    """A strategy that buys where `long`, sells short where not, holds `hold` bars."""
    n = len(bars)
    nothing = np.full(n, math.nan)
    ready = np.arange(n) >= 2
    e = Evaluation(
        "X", Timeframe.D1, bars.close_time, ready, ready & long, ready & ~long, np.zeros(n, bool), np.zeros(n, bool),
        bars.close * 0.8, bars.close * 1.2, nothing, nothing, np.ones(n), max_bars=hold,
    )  # fmt: skip
    return Experiment("canary", (e,), (bars,), (make(),), 1e6, {"kind": "notional", "amount": 5e5}, COSTS)


def noise_returns(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(returns (T, N) by session, session ends, trades (N,)) of `count` strategies that toss coins on one random walk."""
    bars = market(seed)
    random = np.random.default_rng(seed + 1)
    columns, trades = [], []
    for _ in range(count):
        one = wanting(bars, random.random(len(bars)) < 0.5, int(random.integers(1, 10)))
        result = one.run()
        columns.append(session_returns(result, one.session_ends))
        trades.append(len(result.trades))
    return np.array(columns).T, one.session_ends, np.array(trades)


@dataclass(frozen=True)
class Verdicts:
    """How many of `count` pass each statistic, and all of them."""

    count: int
    by: dict[str, int]
    passed: int


def judge_noise(count: int, seed: int = 0, replicates: int = 300) -> Verdicts:
    """Every noise strategy judged as a candidate that was picked among all of them."""
    returns, ends, trades = noise_returns(count, seed)
    variance = float(column_sharpes(returns).var(ddof=1))
    overfit = probability_of_overfitting(returns, 12).probability
    spa = superior_ability(returns, replicates=500, seed=seed).consistent
    best = walk_forward_selection(returns, reach=10, embargo=5)
    by: dict[str, int] = {}
    passed = 0
    for n in range(count):
        criteria = promotion.judge(
            promotion.Evidence(
                returns[:, n], per_year(ends), int(trades[n]), trials=count, trial_sharpe_variance=variance, overfitting=overfit,
                spa_flat=spa, spa_hold=0.0, random_beaten=1.0, net_at_double_costs=1.0, out_of_sample=best.returns,
                drawdown_95=0.1, no_look_ahead=True, replicates=replicates, seed=n,
            )
        )  # fmt: skip
        for c in criteria:
            by[c.name] = by.get(c.name, 0) + c.passed
        passed += promotion.promoted(criteria)
    return Verdicts(count, by, passed)


def judge_edge(seed: int, edge: float = 0.3, variants: int = 6) -> list[promotion.Criterion]:
    """The criteria of a strategy that follows a planted edge, tried beside neighbours that follow it less well."""
    bars = market(seed, edge)
    up = np.diff(bars.close, prepend=bars.close[:1]) > 0
    random = np.random.default_rng(seed)
    made = []
    for k in range(variants):
        # Neighbours of the rule see the signal through more and more noise.
        blurred = np.where(random.random(len(bars)) < 0.1 * k, ~up, up)
        one = wanting(bars, blurred, 1)
        made.append((one, one.run()))
    ends = made[0][0].session_ends
    returns = np.array([session_returns(r, ends) for _, r in made]).T
    mine, result = made[0]
    doubled = mine.but(costs=mine.costs.scaled(2)).run()
    walk = walk_forward_selection(returns, reach=2, embargo=5)
    return promotion.judge(
        promotion.Evidence(
            returns[:, 0], per_year(ends), len(result.trades), trials=variants,
            trial_sharpe_variance=float(column_sharpes(returns).var(ddof=1)),
            overfitting=probability_of_overfitting(returns, 12).probability,
            spa_flat=superior_ability(returns, replicates=500).consistent,
            spa_hold=superior_ability(returns - (np.diff(bars.close, prepend=bars.close[:1]) / bars.close * 0.5)[:, None],
                                      replicates=500).consistent,
            random_beaten=1.0, net_at_double_costs=float(doubled.equity[-1] / doubled.cash - 1), out_of_sample=walk.returns,
            drawdown_95=float(np.quantile(bootstrap_paths(returns[:, 0], paths=500).max_drawdown, 0.95)), no_look_ahead=True,
            replicates=500,
        )
    )  # fmt: skip


def leaking(bars: dict[Timeframe, Bars]) -> dict[str, np.ndarray]:
    """A feature that knows the next close."""
    close = next(iter(bars.values())).close
    return {"tomorrow": np.append(close[1:], np.nan) > close}


def caught() -> audit.Audited:
    """The audit's verdict on the leaking feature."""
    return audit.audit("feature", "tomorrow", leaking, {Timeframe.D1: market(3)})


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--noise", type=int, default=1_000)
    asked.add_argument("--edges", type=int, default=20)
    given = asked.parse_args()
    noise = judge_noise(given.noise)
    print(f"{noise.count} noise strategies")
    for name, count in noise.by.items():
        print(f"  {name:55s} {count:5d} pass")
    print(f"  {'all criteria':55s} {noise.passed:5d} pass")
    edges = [judge_edge(seed) for seed in range(given.edges)]
    print(f"{len(edges)} planted edges")
    for row in zip(*edges, strict=True):
        print(f"  {row[0].name:55s} {sum(c.passed for c in row):5d} pass")
    print(f"  {'all criteria':55s} {sum(promotion.promoted(e) for e in edges):5d} pass")
    print("planted leak:", caught().leak or "NOT CAUGHT")


if __name__ == "__main__":
    main()
