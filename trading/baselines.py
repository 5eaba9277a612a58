"""What else the money could have done on the same bars: baselines, dearer costs, and where a result comes from.

A strategy is worth its trouble when it beats doing nothing, holding, entering at random with its own exits, and the
oldest rule there is. All of them run through the same backtest, with the strategy's costs, sizes and stops.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trading import regime, trade_metrics
from trading.averages import fast_above_slow
from trading.backtest import BacktestResult
from trading.calendars import calendar
from trading.evaluation import Evaluation
from trading.experiment import Experiment, Floats, Ints, per_year, session_returns
from trading.metrics import Metrics, TradeFigures

COST_FACTORS: Final = (0.0, 1.0, 2.0, 5.0)
FAST, SLOW = 10, 30
"""Bars of the two averages of the crossing baseline."""


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """One baseline. returns: float64 (D,) by session; metrics: by session, too, so that all are measured alike."""

    name: str
    result: BacktestResult
    returns: Floats
    metrics: Metrics


@dataclass(frozen=True, slots=True, eq=False)
class Random:
    """Entries at random with the strategy's own exits. returns float64 (D, S), one column per seed; trades: of each seed.

    beaten: share of them the strategy's total return is above, half of ties counted; NaN without any.
    """

    returns: Floats
    total_return: Floats
    trades: Ints
    turnover: Floats
    beaten: float


def measured(name: str, result: BacktestResult, ends: Ints) -> Baseline:
    """`result` in sessions."""
    return Baseline(name, result, session_returns(result, ends), result.metrics(per_year(result.close_time)))


def flat(of: Experiment) -> Experiment:
    """Never enters."""
    return of.but(name="flat", evaluations=tuple(_silent(e) for e in of.evaluations))


def buy_and_hold(of: Experiment, amount: float | None = None) -> Experiment:
    """Buys at the first bar at which the strategy was ready, holds to the end, no stop.

    amount: account currency per instrument; None: the cash in equal parts. Give the strategy's mean entry value to compare
    like with like.
    """
    amount = of.cash / len(of.evaluations) if amount is None else amount
    evaluations = []
    for e in of.evaluations:
        enter = np.zeros(len(e.ready), np.bool_)
        if e.ready.any():
            enter[int(np.argmax(e.ready))] = True
        nothing = np.full(len(e.ready), np.nan)
        evaluations.append(
            replace(_silent(e), enter_long=enter, stop_long=nothing, stop_short=nothing, target_long=nothing,
                    target_short=nothing, max_bars=0, scale=None)
        )  # fmt: skip
    return of.but(
        name="buy and hold", evaluations=tuple(evaluations), sizing={"kind": "notional", "amount": amount}, limits=None,
        require_stop=False, min_reward_to_risk=0.0,
    )  # fmt: skip


def average_cross(of: Experiment, fast: int = FAST, slow: int = SLOW) -> Experiment:
    """Long while the fast average of closes is above the slow one, else short where the strategy is ever short; the
    strategy's stop and sizes, no target."""
    shorts = any(e.enter_short.any() for e in of.evaluations)
    longs = any(e.enter_long.any() for e in of.evaluations) or not shorts
    evaluations = []
    for e, b in zip(of.evaluations, of.bars, strict=True):
        above = np.zeros(len(b), np.bool_)
        known = np.zeros(len(b), np.bool_)
        if len(b) > slow and np.isfinite(b.close).all():
            known = np.arange(len(b)) >= slow - 1
            above = fast_above_slow(b.close, fast, slow)
        up = known & above & ~np.roll(above, 1) & np.roll(known, 1)
        down = known & ~above & np.roll(above, 1) & np.roll(known, 1)
        up[:1] = down[:1] = False
        nothing = np.full(len(b), np.nan)
        evaluations.append(
            replace(_silent(e), enter_long=up & e.ready & longs, enter_short=down & e.ready & shorts, exit_long=down,
                    exit_short=up, target_long=nothing, target_short=nothing, max_bars=0)
        )  # fmt: skip
    return of.but(name=f"average cross {fast}/{slow}", evaluations=tuple(evaluations), min_reward_to_risk=0.0)


def random_entries(of: Experiment, against: BacktestResult, seeds: int = 50, first_seed: int = 0) -> Random:
    """The strategy with its entries thrown to random bars: as many of each side per instrument, exits, sizes and costs its
    own, so that turnover is equal and only the timing differs. Deterministic by seed."""
    ends = of.session_ends
    columns, trades, turnover = [], [], []
    target = len(against.trades)
    # What one random wish yields differs from the strategy's: wishes that meet an open position are refused.
    wishes = [_sides(e, s, against) for s, e in enumerate(of.evaluations)]
    factor = 1.0
    for seed in range(first_seed, first_seed + seeds):
        result = _thrown(of, wishes, factor, seed).run()
        for _ in range(4):
            made = len(result.trades)
            if target == 0 or abs(made - target) <= max(1, 0.05 * target):
                break
            factor = min(max(factor * target / max(made, 1), 0.2), 50.0)
            result = _thrown(of, wishes, factor, seed).run()
        columns.append(session_returns(result, ends))
        trades.append(len(result.trades))
        turnover.append(result.traded_value)
    returns = np.array(columns).T if columns else np.empty((len(ends), 0))
    totals = np.prod(1.0 + returns, axis=0) - 1.0
    mine = float(np.prod(1.0 + session_returns(against, ends)) - 1.0)
    beaten = float((totals < mine).mean() + 0.5 * (totals == mine).mean()) if seeds and target else math.nan
    return Random(returns, totals, np.array(trades, np.int64), np.array(turnover), beaten)


def _sides(evaluation: Evaluation, slot: int, against: BacktestResult) -> tuple[int, int]:
    mine = against.trades.quantity[against.trades.slot == slot]
    return int((mine > 0).sum()), int((mine < 0).sum())


def _thrown(of: Experiment, wishes: Sequence[tuple[int, int]], factor: float, seed: int) -> Experiment:
    random = np.random.default_rng(seed)
    evaluations = []
    for e, (longs, shorts) in zip(of.evaluations, wishes, strict=True):
        enter_long, enter_short = np.zeros(len(e.ready), np.bool_), np.zeros(len(e.ready), np.bool_)
        for wanted, enter, stop in ((longs, enter_long, e.stop_long), (shorts, enter_short, e.stop_short)):
            rows = np.flatnonzero(e.ready & np.isfinite(stop))
            # More is drawn than used, so that the first ones stay the same when the factor changes.
            order = random.permutation(rows)
            enter[order[: min(len(rows), math.ceil(wanted * factor))]] = True
        both = enter_long & enter_short
        evaluations.append(replace(e, enter_long=enter_long & ~both, enter_short=enter_short & ~both, scale=None))
    return of.but(
        name="random entries", evaluations=tuple(evaluations), min_reward_to_risk=0.0, once=False, managed=of.managed,
        of=of.each_leg,
    )  # fmt: skip


def _silent(e: Evaluation) -> Evaluation:
    never = np.zeros(len(e.ready), np.bool_)
    return replace(
        e, enter_long=never, enter_short=never, exit_long=never, exit_short=never, strength=np.ones(len(e.ready)), targets=()
    )


def mean_entry_value(result: BacktestResult) -> float | None:
    """Mean |quantity * price * multiplier| of the entries, quote currency; None without trades."""
    t = result.trades
    if not len(t):
        return None
    multiplier = np.array([float(i.multiplier) for i in result.instruments])
    return float((np.abs(t.quantity) * t.entry_price * multiplier[t.slot]).mean())


def baselines(of: Experiment, against: BacktestResult) -> list[Baseline]:
    """Flat, buy and hold (at the strategy's mean entry value, and all the cash), average cross; see `random_entries`."""
    ends = of.session_ends
    amount = mean_entry_value(against)
    named = [("flat", flat(of)), ("buy and hold", buy_and_hold(of))]
    if amount is not None:
        named.append(("buy and hold, strategy's size", buy_and_hold(of, amount)))
    cross = average_cross(of)
    named.append((cross.name, cross))
    return [measured(name, one.run(), ends) for name, one in named]


def cost_ladder(of: Experiment, factors: Sequence[float] = COST_FACTORS) -> list[tuple[float, BacktestResult]]:
    """The backtest with its own costs times each factor: what is left when trading is dearer than thought."""
    return [(f, of.but(costs=of.costs.scaled(f)).run()) for f in factors]


def break_even_factor(ladder: Sequence[tuple[float, BacktestResult]]) -> float:
    """Cost factor at which nothing is left, by straight lines between the steps; NaN when it loses without costs, infinity
    when it earns at the dearest step."""
    points = [(f, float(r.equity[-1] - r.cash) if len(r.equity) else 0.0) for f, r in ladder]
    if not points or points[0][1] <= 0:
        return math.nan
    for (low, earned), (high, left) in itertools.pairwise(points):
        if left <= 0:
            return low + (high - low) * earned / (earned - left)
    return math.inf


def by_regime(of: Experiment, result: BacktestResult) -> dict[str, TradeFigures]:
    """Figures of closed trades by the rule regime of their instrument when they were decided."""
    labels = [""] * len(result.trades)
    for s, b in enumerate(of.bars):
        rows = np.flatnonzero(result.trades.slot == s)
        if not len(rows):
            continue
        names = [str(regime.Regime(int(x))) for x in regime.rule_regimes(b)]
        for row, name in zip(rows, trade_metrics.labels_at(result.trades.signal_time[rows], b.close_time, names), strict=True):
            labels[row] = name
    return trade_metrics.grouped(result.trades, labels)


def by_hour(of: Experiment, result: BacktestResult) -> dict[str, TradeFigures]:
    """Figures of closed trades by the hour of entry on their venue's clock."""
    labels: list[str] = [""] * len(result.trades)
    for s, instrument in enumerate(of.instruments):
        rows: NDArray[np.int64] = np.flatnonzero(result.trades.slot == s)
        zone = calendar(instrument.calendar).timezone
        for row, name in zip(rows, trade_metrics.hours(result.trades.entry_time[rows], zone), strict=True):
            labels[row] = name
    return trade_metrics.grouped(result.trades, labels)
