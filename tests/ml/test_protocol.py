"""The evaluation protocol: figures with their intervals, and what a typical seed is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ml import planted
from ml.agent_training import median_seed
from ml.decisions import Terms, experiment, of_forecasts
from ml.protocol import Judgement, interquartile_mean, judge, kpis_of, seed_interval, shifted, worst_fall
from trading.experiment import Experiment


def oracle(strength: float, name: str, seed: int = 1) -> Experiment:
    """Decisions of one who sees the hidden state in `strength` of all bars and throws a coin in the others."""
    made = planted.make(planted.PlantedMarket(rows=700, symbols=2, edge=0.3))
    rng = np.random.default_rng(seed)
    codes, times, p = [], [], []
    for code, symbol in enumerate(made.bars):
        state = made.state[symbol]
        guess = np.where(rng.random(len(state)) < strength, state, rng.choice([-1.0, 1.0], len(state)))
        codes.append(np.full(len(state), code, np.int32))
        times.append(made.bars[symbol].close_time)
        p.append(0.5 + 0.1 * guess)
    at = np.concatenate(times)
    span = (int(at.min()), int(at.max()))
    found = of_forecasts(
        made.bars, tuple(made.bars), np.concatenate(codes), at, np.concatenate(p), np.full(len(at), 0.5), 0.02, span
    )  # fmt: skip
    return experiment(name, found, made.instruments, Terms())


@pytest.fixture(scope="module")
def good() -> Judgement:
    worse = {f"coin {i}": oracle(0.0, f"coin {i}", i) for i in range(2, 8)}
    return judge(
        oracle(1.0, "knows"), simple={"linear": worse["coin 2"]}, variants=worse, trials=7, replicates=200, random_seeds=8
    )


class TestAKnowingModel:
    def test_beats_every_baseline_and_is_neither_luck_nor_overfitting(self, good: Judgement) -> None:
        assert {"flat", "buy and hold", "linear", "random, equal turnover"} <= set(good.against)
        assert max(good.spa.values()) <= 0.05
        assert good.deflated >= 0.95
        assert good.overfitting <= 0.2
        assert good.random_beaten == 1.0

    def test_earns_less_the_dearer_trading_is(self, good: Judgement) -> None:
        assert [f for f, _, _ in good.ladder] == [0.0, 1.0, 2.0, 5.0]
        totals = [total for _, total, _ in good.ladder]
        assert totals == sorted(totals, reverse=True)

    def test_every_figure_of_the_gate_is_among_its_figures(self, good: Judgement) -> None:
        assert {"trades", "dsr", "pbo", "spa_worst", "sharpe_low", "mean_at_2x", "drawdown_30d"} <= set(good.figures())


def test_a_coin_is_not_taken_for_skill() -> None:
    coins = {f"coin {i}": oracle(0.0, f"coin {i}", i) for i in range(2, 6)}
    judged = judge(oracle(0.0, "coin"), simple={}, variants=coins, trials=5, replicates=200, random_seeds=8)
    figures = judged.figures()
    assert figures["spa_worst"] > 0.05
    assert figures["dsr"] < 0.95
    assert figures["sharpe_low"] < 0


def test_a_model_that_never_trades_has_no_figures_rather_than_good_ones() -> None:
    of = oracle(1.0, "silent")
    never = np.zeros(700, bool)
    quiet = of.but(evaluations=tuple(replace(e, enter_long=never, enter_short=never) for e in of.evaluations))
    figures = judge(quiet, simple={}, variants={"other": oracle(0.0, "other")}, trials=2, replicates=50, random_seeds=2).figures()
    assert figures["trades"] == 0
    assert not {"sharpe_low", "dsr", "win_rate", "drawdown_30d"} & set(figures)


def test_unknown_trials_leave_the_deflated_ratio_unknown() -> None:
    judged = judge(oracle(1.0, "a"), simple={}, variants={"b": oracle(0.0, "b")}, trials=math.nan, replicates=50, random_seeds=2)
    assert math.isnan(judged.deflated)
    assert "dsr" not in judged.figures()


def test_random_decisions_trade_as_much_as_the_model() -> None:
    of = oracle(0.5, "half")
    mine, theirs = of.run(), shifted(of, 3).run()
    assert theirs.traded_value == pytest.approx(mine.traded_value, rel=0.1)
    assert len(theirs.trades) == pytest.approx(len(mine.trades), rel=0.05)


def test_a_fall_is_measured_within_its_window_only() -> None:
    slow = np.full(100, -0.001)
    quick = np.zeros(100)
    quick[50:53] = -0.04
    both = worst_fall(np.stack([slow, quick]), 10)
    assert both[0] == pytest.approx(1 - 0.999**10)
    assert both[1] == pytest.approx(1 - 0.96**3)
    assert worst_fall(slow, 100)[0] == pytest.approx(1 - 0.999**100)


def test_a_verdict_says_whether_the_whole_interval_reaches_the_target() -> None:
    rng = np.random.default_rng(1)
    kpis = {k.metric: k for k in kpis_of(rng.normal(0.002, 0.01, 1000), rng.normal(10, 5, 300), 252.0, replicates=200, seed=0)}
    assert kpis["win_rate"].verdict == "met, with its whole interval"
    assert kpis["sharpe"].verdict in ("met", "met, with its whole interval")
    assert kpis["annual_return"].verdict == ""
    nothing = kpis_of(np.zeros(100), np.empty(0), 252.0, replicates=50, seed=0)
    assert all(k.verdict in ("not met", "") for k in nothing)


class TestSeeds:
    def test_the_interquartile_mean_leaves_the_best_and_the_worst_out(self) -> None:
        assert interquartile_mean([-100.0, 1.0, 2.0, 100.0]) == 1.5
        assert interquartile_mean([-100.0, 1.0, 2.0, 3.0, 100.0]) == 2.0
        assert math.isnan(interquartile_mean([]))

    def test_its_interval_holds_it_and_shrinks_with_more_seeds(self) -> None:
        rng = np.random.default_rng(1)
        few, many = seed_interval(rng.normal(1, 1, (2, 5))), seed_interval(rng.normal(1, 1, (2, 60)))
        assert few.low <= few.estimate <= few.high
        assert many.high - many.low < few.high - few.low

    def test_the_typical_seed_is_not_the_lucky_one(self) -> None:
        assert median_seed(np.array([[0.0, 5.0, 1.0, -3.0, 1.1]])) in (2, 4)
