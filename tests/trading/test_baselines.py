"""Baselines run on the strategy's bars, costs and sizes; random entries turn over as much as it does."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from tests.trading.backtest_kit import bars_of, make, wishes
from tests.trading.samples import eurusd, eurusd_4h, universe
from tests.trading.strategies import parsed, sample_text
from trading import baselines
from trading.calendars import calendar
from trading.costs import Costs
from trading.experiment import Experiment, longest_holding, session_returns
from trading.perturbation import perturbed_bars, perturbed_runs
from trading.strategy import evaluate_anchored
from trading.timeframes import Timeframe

RISING = bars_of("\n".join(f"{p} {p + 1} {p - 1} {p}" for p in range(100, 140)))


def small(costs: Costs | None = None, **columns: dict[int, object]) -> Experiment:
    e = wishes(RISING, stop_long=dict.fromkeys(range(40), 50.0), stop_short=dict.fromkeys(range(40), 500.0), **columns)
    return Experiment("small", (e,), (RISING,), (make(),), 10_000.0, {"kind": "fixed", "quantity": 10}, costs or Costs())


@lru_cache(maxsize=1)
def real() -> Experiment:
    strategy, instrument = parsed(sample_text("ema_trend")), universe().instruments["EURUSD"]
    e = evaluate_anchored(strategy, {Timeframe.H1: eurusd(), Timeframe.H4: eurusd_4h()}, instrument, calendar("FX"))
    costs = Costs.from_dict(strategy.costs or {})
    return Experiment("ema_trend", (e,), (eurusd(),), (instrument,), 1e5, strategy.sizing, costs)


class TestBaselines:
    def test_flat_does_nothing(self) -> None:
        result = baselines.flat(small(enter_long={3: True})).run()
        assert len(result.trades) == 0
        assert float(result.equity[-1]) == 10_000.0

    def test_buy_and_hold_buys_once_and_holds(self) -> None:
        result = baselines.buy_and_hold(small(), amount=1_000.0).run()
        assert len(result.trades) == 1
        assert not result.trades.closed[0]
        assert float(result.trades.quantity[0]) == 10.0  # 1,000 at the close of 100
        assert float(result.equity[-1] - 10_000) == pytest.approx(10 * (139 - 101))

    def test_the_average_cross_only_takes_sides_the_strategy_takes(self) -> None:
        result = baselines.average_cross(real().but()).run()
        assert {1.0, -1.0} == set(np.sign(result.trades.quantity).tolist())
        only_long = small(enter_long={3: True})
        assert not (baselines.average_cross(only_long).run().trades.quantity < 0).any()

    def test_all_pay_the_strategys_costs(self) -> None:
        costs = Costs("per_value", rate=0.01)
        held = baselines.buy_and_hold(small(costs), amount=1_000.0).run()
        assert float(held.trades.commission.sum()) == pytest.approx(0.01 * 10 * 101)


class TestRandomEntries:
    def test_turnover_is_that_of_the_strategy(self) -> None:
        result = real().run()
        random = baselines.random_entries(real(), result, seeds=6)
        assert np.median(random.trades) == pytest.approx(len(result.trades), rel=0.06)
        assert np.median(random.turnover) == pytest.approx(result.traded_value, rel=0.3)

    def test_the_same_seed_gives_the_same_entries(self) -> None:
        result = real().run()
        one, two = (baselines.random_entries(real(), result, seeds=2, first_seed=9) for _ in range(2))
        assert np.array_equal(one.returns, two.returns)
        other = baselines.random_entries(real(), result, seeds=2, first_seed=90)
        assert not np.array_equal(one.returns, other.returns)

    def test_without_trades_nothing_is_beaten(self) -> None:
        one = small()
        assert np.isnan(baselines.random_entries(one, one.run(), seeds=2).beaten)


class TestCostsAndSplits:
    def test_the_ladder_falls_and_its_first_step_is_free(self) -> None:
        ladder = baselines.cost_ladder(real())
        ends = [float(r.equity[-1]) for _, r in ladder]
        assert ends == sorted(ends, reverse=True)
        assert float(ladder[0][1].trades.commission.sum()) == 0.0

    def test_break_even_lies_where_the_line_crosses(self) -> None:
        one = small(Costs("per_value", rate=0.02), enter_long={3: True}, exit_long={30: True})
        factor = baselines.break_even_factor(baselines.cost_ladder(one, (0.0, 1.0, 2.0, 5.0, 20.0)))
        at = one.but(costs=one.costs.scaled(factor)).run()
        assert float(at.equity[-1]) == pytest.approx(10_000.0, abs=1.0)

    def test_splits_hold_every_closed_trade_once(self) -> None:
        result = real().run()
        closed = int(result.trades.closed.sum())
        for split in (baselines.by_regime(real(), result), baselines.by_hour(real(), result)):
            assert sum(g.trades for g in split.values()) == closed
            assert sum(g.net_profit for g in split.values()) == pytest.approx(
                float(result.trades.pnl[result.trades.closed].sum())
            )

    def test_session_returns_make_the_equity(self) -> None:
        result = real().run()
        returns = session_returns(result, real().session_ends)
        assert float(np.prod(1 + returns)) == pytest.approx(float(result.equity[-1] / result.cash))
        assert longest_holding(result, real().session_ends) >= 2


class TestPerturbation:
    def test_bars_stay_bars_and_on_the_grid(self) -> None:
        instrument = universe().instruments["EURUSD"]
        moved = perturbed_bars(eurusd(), 0.5, instrument, np.random.default_rng(1))
        assert (moved.low <= np.minimum(moved.open, moved.close)).all()
        assert (moved.high >= np.maximum(moved.open, moved.close)).all()
        tick = float(instrument.tick_size)
        assert np.allclose(moved.close / tick, np.rint(moved.close / tick), atol=1e-6)
        assert float((moved.close != eurusd().close).mean()) > 0.9

    def test_no_noise_and_one_cost_is_the_strategy_itself(self) -> None:
        strategy = parsed(sample_text("rsi_reversion_fx"))
        instrument = universe().instruments["EURUSD"]
        windows = {Timeframe.H1: eurusd()}
        e = strategy.evaluate(windows, instrument)
        one = Experiment("rsi", (e,), (eurusd(),), (instrument,), 1e5, strategy.sizing, Costs.from_dict(strategy.costs or {}))
        moved = perturbed_runs(one, strategy, {"EURUSD": windows}, runs=1, level=0.0, costs=(1.0, 1.0))
        result = one.run()
        assert float(moved.total_return[0]) == pytest.approx(float(result.equity[-1] / 1e5 - 1))
        noisy = perturbed_runs(one, strategy, {"EURUSD": windows}, runs=3, level=0.2)
        assert len(set(noisy.total_return.tolist())) == 3
