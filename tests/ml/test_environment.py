"""The trading environment: when an action is filled, what it costs, what the agent sees, how episodes end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.environment import (
    BUY_LONG,
    CLOSE_LONG,
    CLOSE_SHORT,
    HOLD,
    SELL_SHORT,
    EnvironmentConfig,
    MarketData,
    Segment,
    VectorMarket,
)
from ml.environment.market import MarketError, segments_of
from tests.ml.markets import COSTS, bars_of, instrument, market
from trading.backtest import backtest
from trading.costs import Costs
from trading.evaluation import Evaluation

FIXED = EnvironmentConfig(cash=10_000.0, sizing="fixed", size=10.0)


def lane(prices: list[float], config: EnvironmentConfig = FIXED, costs: Costs | None = None) -> VectorMarket:
    bars = bars_of(np.array(prices))
    features = np.arange(len(bars), dtype=np.float32)[:, None]
    made = VectorMarket(MarketData.of([Segment(instrument(), bars, features, costs or Costs())]), config, 1, 0)
    made.place(0, 0)
    return made


def act(lanes: VectorMarket, *actions: int) -> list[float]:
    return [float(lanes.step(np.array([a])).reward[0]) for a in actions]


class TestFilling:
    def test_a_decision_at_a_close_is_filled_at_the_next_open(self) -> None:
        # bars open at the last close: a buy decided at the close of 100 is filled at 100 and marked at 101
        lanes = lane([100, 101, 103, 102, 102])
        assert act(lanes, BUY_LONG) == [pytest.approx(math.log(10_010 / 10_000))]
        assert act(lanes, CLOSE_LONG) == [0.0]
        assert (lanes.equity[0], lanes.position[0]) == (10_010.0, 0.0)

    def test_a_short_gains_when_the_price_falls(self) -> None:
        lanes = lane([100, 98, 97, 97])
        act(lanes, SELL_SHORT, CLOSE_SHORT)
        assert lanes.equity[0] == 10_020.0

    def test_commission_and_slippage_are_those_of_the_kernel(self) -> None:
        lanes = lane([100, 101, 103, 102], costs=COSTS)
        act(lanes, BUY_LONG)
        paid = 10 * 100.01
        assert lanes.equity[0] == pytest.approx(10_000 - paid - paid * 0.0002 + 10 * 101)
        assert lanes.traded[0] == pytest.approx(paid)

    def test_sizes_are_whole_lots_of_a_part_of_equity_rounded_down(self) -> None:
        lanes = lane([30, 30, 30, 30], EnvironmentConfig(cash=1_000.0, sizing="equity", size=0.5))
        act(lanes, BUY_LONG)
        assert lanes.position[0] == 16.0

    def test_an_action_the_mask_forbids_is_refused_and_nothing_is_traded(self) -> None:
        lanes = lane([100, 101, 103, 102])
        assert lanes.mask[0].tolist() == [True, True, True, False, False]
        with pytest.raises(MarketError, match="lane 0: action 3 is not allowed"):
            lanes.step(np.array([CLOSE_LONG]))
        assert lanes.position[0] == 0.0
        act(lanes, BUY_LONG)
        assert lanes.mask[0].tolist() == [True, False, False, True, False]


class TestEpisodes:
    def test_at_the_end_of_the_data_what_is_held_is_sold_with_its_costs(self) -> None:
        lanes = lane([100, 101, 103], costs=Costs("per_value", 0.001))
        act(lanes, BUY_LONG)
        step = lanes.step(np.array([HOLD]))
        assert (step.terminated[0], step.truncated[0]) == (True, False)
        expected = 10_000 - 1_000 * 1.001 + 1_030 * 0.999
        before = 10_000 - 1_000 * 1.001 + 1_010
        assert step.reward[0] == pytest.approx(math.log(expected / before))
        assert step.final[0, 1] == 0.0, "the last observation is of a flat lane"

    def test_a_cut_episode_is_not_sold_and_shows_its_last_observation(self) -> None:
        lanes = lane([100, 101, 103, 104, 105], EnvironmentConfig(cash=10_000.0, sizing="fixed", size=10.0, max_steps=2))
        act(lanes, BUY_LONG)
        step = lanes.step(np.array([HOLD]))
        assert (step.terminated[0], step.truncated[0]) == (False, True)
        assert step.final[0].tolist() == pytest.approx([2.0, 1.0, 30 / 10_030, 1 / 50, 0.0])
        assert step.observation[0, 1] == 0.0, "a new episode begins flat"

    def test_ruin_ends_an_episode(self) -> None:
        lanes = lane([100, 100, 1, 1, 1], EnvironmentConfig(cash=1_000.0, sizing="fixed", size=9.0, ruin=0.2))
        act(lanes, BUY_LONG)
        assert lanes.step(np.array([HOLD])).terminated[0]

    def test_the_agent_sees_its_position_gain_bars_held_and_drawdown(self) -> None:
        lanes = lane([100, 101, 99, 100, 100])
        act(lanes, BUY_LONG, HOLD)
        seen = lanes.observation[0]
        assert seen[1:].tolist() == pytest.approx([1.0, -10 / 9_990, 1 / 50, 1 - 9_990 / 10_010])


class TestHonesty:
    @given(actions=st.lists(st.integers(0, 4), min_size=10, max_size=60), cut=st.integers(5, 50), seed=st.integers(0, 2**20))
    @settings(max_examples=40, deadline=None)
    def test_what_is_seen_does_not_depend_on_the_future(self, actions: list[int], cut: int, seed: int) -> None:
        """Change every bar after the one after `cut`: observations and rewards up to there stay bit for bit."""
        prices = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, 70)))
        other = np.concatenate([prices[: cut + 1], prices[cut + 1 :] * 1.5])
        seen = []
        for path in (prices, other):
            lanes, rows = lane(path.tolist()), []
            for action in actions[:cut]:
                chosen = action if lanes.mask[0, action] else HOLD
                step = lanes.step(np.array([chosen]))
                rows.append((step.observation[0].tolist(), float(step.reward[0])))
            seen.append(rows[: cut - 1])
        assert seen[0] == seen[1]

    @given(seed=st.integers(0, 2**20))
    @settings(max_examples=25, deadline=None)
    def test_the_same_actions_give_the_equity_of_the_backtest(self, seed: int) -> None:
        """Environment and backtest are two hosts of one matching: same bars, same wishes, same equity at every close."""
        random = np.random.default_rng(seed)
        n = 120
        bars = bars_of(100 * np.exp(np.cumsum(random.normal(0, 0.01, n))))
        costs = Costs("per_value", 0.0003, 1.0, "fixed", 2.0)
        data = MarketData.of([Segment(instrument(), bars, np.zeros((n, 1), np.float32), costs)])
        lanes = VectorMarket(data, FIXED, 1, 0)
        lanes.place(0, 0)
        wishes = np.zeros((4, n), bool)
        equity = [FIXED.cash]
        for i in range(n - 2):
            action = int(random.choice(np.flatnonzero(lanes.mask[0]), p=None))
            if action:
                wishes[action - 1, i] = True
            lanes.step(np.array([action]))
            equity.append(float(lanes.equity[0]))
        none = np.full(n, np.nan)
        wish = Evaluation(
            "TEST", bars.timeframe, bars.close_time, np.ones(n, bool), wishes[0], wishes[1], wishes[2], wishes[3],
            none, none, none, none, np.ones(n),
        )  # fmt: skip
        result = backtest(wish, bars, instrument(), cash=FIXED.cash, sizing={"kind": "fixed", "quantity": 10.0}, costs=costs)
        assert result.equity[: n - 1].tolist() == pytest.approx(equity, abs=1e-6)


class TestLanes:
    def test_lanes_are_independent_and_deterministic_by_seed(self) -> None:
        data, _ = market(edge=0.0, bars=600)
        config = EnvironmentConfig(max_steps=50)

        def play(lanes: int, seed: int) -> np.ndarray:
            made = VectorMarket(data, config, lanes, seed)
            rows = []
            for t in range(120):
                chosen = np.where(made.mask[:, 3], 3, np.where(made.mask[:, 4], 4, t % 3)).astype(np.int64)
                rows.append(made.step(chosen).reward.copy())
            return np.array(rows)

        assert np.array_equal(play(8, 3), play(8, 3))
        assert np.array_equal(play(8, 3)[:, :4], play(4, 3)), "a lane does not know how many others there are"
        assert not np.array_equal(play(8, 3), play(8, 4))

    def test_a_restored_state_goes_on_bit_for_bit(self) -> None:
        data, _ = market(edge=0.0, bars=600)
        one = VectorMarket(data, EnvironmentConfig(max_steps=20), 5, 1)
        for _ in range(30):
            one.step(np.zeros(5, np.int64))
        other = VectorMarket(data, EnvironmentConfig(max_steps=20), 5, 99)
        other.restore(one.state())
        for _ in range(50):
            a, b = one.step(np.zeros(5, np.int64)), other.step(np.zeros(5, np.int64))
            assert np.array_equal(a.observation, b.observation)

    def test_rows_without_all_features_are_no_part_of_any_segment(self) -> None:
        features = np.ones((10, 2), np.float32)
        features[[0, 1, 5]] = np.nan
        made = segments_of(instrument(), bars_of(np.linspace(100, 110, 10)), features, Costs())
        assert [len(s.bars) for s in made] == [3, 4]
        with pytest.raises(MarketError, match="NaN"):
            Segment(instrument(), bars_of(np.linspace(100, 110, 10)), features)


def test_gymnasium_finds_nothing_wrong_with_it() -> None:
    from gymnasium.utils.env_checker import check_env

    from ml.environment.gym_env import MarketEnv

    data, _ = market(edge=0.0, bars=300)
    env = MarketEnv(data, EnvironmentConfig(max_steps=40))
    check_env(env, skip_render_check=True)
    seen, info = env.reset(seed=1, options={"segment": 0, "row": 5})
    assert seen.shape == (12,)
    assert not env.step(np.int64(CLOSE_LONG))[4]["action_mask"][3]
    assert env.step(np.int64(CLOSE_LONG))[4]["illegal"]
    assert info["equity"] == 100_000.0
