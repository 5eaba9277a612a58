"""The trading environment and the recurrent PPO agent. Processor time of one thread throughout, the best of several runs where
it is short: other work on the same core slows it, too.

env_steps_per_s: 256 lanes, 32 market features; reference: the same market as a plain gymnasium environment, one lane.
ppo_cpu_s_per_100k: training of the default agent on 256 lanes; reference: the goal of 3 s. ppo_against_sb3_cpu_s_per_100k: the
same; reference: sb3-contrib's RecurrentPPO on the same lanes with the same sizes, where it is installed (requirements-dev.txt).
agent_act_us: one decision of one lane. forecaster_cpu_s_per_10k_rows: one walk-forward step of LSTM, Transformer, linear and
boosting on 10,000 rows of 7 features.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np

from bench.core import Row, at_least, at_most
from bench.reference_data import stock, walk
from ml.environment import EnvironmentConfig, MarketData, Segment, VectorMarket
from trading.costs import Costs

LANES = 256
GOAL_CPU_SECONDS = 3.0
GOAL_STEPS = 5e6
RUNS = 3


def run(quick: bool) -> Iterator[Row]:
    rows = 5_000 if quick else 100_000
    bars = walk("S0", date(2017, 1, 1), date(2017, 12, 31), 1, rows)
    features = np.random.default_rng(0).normal(size=(len(bars), 32)).astype(np.float32)
    data = MarketData.of([Segment(stock("S0"), bars, features, Costs("per_value", 1e-4))])
    config = EnvironmentConfig(max_steps=512)
    ours = _vector_steps_per_second(data, config, 200 if quick else 4_000)
    plain = _plain_steps_per_second(data, config, 500 if quick else 20_000)
    yield Row("env_steps_per_s", ours, "steps/s", plain, ours / plain, goal=at_least(GOAL_STEPS))
    seconds = _ppo_cpu_seconds(data, 16_384 if quick else 204_800)
    yield Row("ppo_cpu_s_per_100k", seconds, "s", GOAL_CPU_SECONDS, seconds / GOAL_CPU_SECONDS, goal=at_most(GOAL_CPU_SECONDS))
    theirs = _sb3_cpu_seconds(data, 8_192 if quick else 32_768)
    if theirs is not None:
        yield Row("ppo_against_sb3_cpu_s_per_100k", seconds, "s", theirs, seconds / theirs)
    yield Row("agent_act_us", _act_us(data, 500 if quick else 4_000), "us")
    yield Row("forecaster_cpu_s_per_10k_rows", _forecaster_cpu_seconds(800 if quick else 2_500), "s")


def _vector_steps_per_second(data: MarketData, config: EnvironmentConfig, steps: int) -> float:
    """Every lane enters and leaves in turn: the costly path."""
    market = VectorMarket(data, config, LANES, 1)
    best = float("inf")
    for _ in range(10):
        spent = 0
        for t in range(steps // 4):
            held = market.position
            actions = np.where(held > 0, 3, np.where(held < 0, 4, 1 + t % 2))  # the agent's part, not the environment's
            began = time.process_time_ns()
            market.step(actions)
            spent += time.process_time_ns() - began
        best = min(best, spent / 1e9)
    return LANES * (steps // 4) / best


def _plain_steps_per_second(data: MarketData, config: EnvironmentConfig, steps: int) -> float:
    from ml.environment.gym_env import MarketEnv

    env = MarketEnv(data, config)
    _, info = env.reset(seed=1)
    began = time.process_time()
    for t in range(steps):
        allowed = np.flatnonzero(info["action_mask"])
        _, _, ended, cut, info = env.step(allowed[t % len(allowed)])
        if ended or cut:
            _, info = env.reset()
    return steps / (time.process_time() - began)


def _ppo_cpu_seconds(data: MarketData, steps: int) -> float:
    """CPU seconds per 100,000 steps of training."""
    from ml.agents.recurrent_ppo import PPOSettings, RecurrentPPO

    RecurrentPPO().train(data, EnvironmentConfig(max_steps=256), steps=8_192, seed=0)  # warm
    best = float("inf")
    for _ in range(RUNS):
        began = time.process_time()
        RecurrentPPO().train(data, EnvironmentConfig(max_steps=256), steps=steps // RUNS, seed=1)
        updates = -(-(steps // RUNS) // (LANES * PPOSettings().rollout))
        best = min(best, (time.process_time() - began) / (updates * LANES * PPOSettings().rollout))
    return best * 100_000


def _act_us(data: MarketData, steps: int) -> float:
    """Microseconds of processor time of one decision of one lane."""
    from ml.agents.recurrent_ppo import Policy, RecurrentPPO

    agent = RecurrentPPO()
    agent.policy = Policy(data.width, agent.settings.hidden)
    market = VectorMarket(data, EnvironmentConfig(), 1, 1)
    memory, begins = agent.start(1), np.array([False])
    agent.act(market.observation, market.mask, memory, begins)
    began = time.process_time()
    for _ in range(steps):
        agent.act(market.observation, market.mask, memory, begins)
    return (time.process_time() - began) / steps * 1e6


def _sb3_cpu_seconds(data: MarketData, steps: int) -> float | None:
    """CPU seconds per 100,000 steps of sb3-contrib's agent; None where it is not installed. It knows no masks: an action that
    is not allowed is a HOLD."""
    try:
        import torch
        from sb3_contrib import RecurrentPPO as Theirs
    except ImportError:
        return None
    torch.set_num_threads(1)
    lanes = _sb3_lanes(VectorMarket(data, EnvironmentConfig(max_steps=256), LANES, 1))
    policy = {"lstm_hidden_size": 64, "net_arch": [64], "enable_critic_lstm": False, "shared_lstm": True}
    agent = Theirs(
        "MlpLstmPolicy", lanes, n_steps=32, batch_size=LANES * 16, n_epochs=3, policy_kwargs=policy, device="cpu", seed=1
    )
    agent.learn(LANES * 32)  # warm
    began = time.process_time()
    agent.learn(steps)
    return (time.process_time() - began) / steps * 100_000


def _sb3_lanes(market: VectorMarket) -> Any:
    """Our lanes as stable-baselines3 knows them."""
    import gymnasium
    from stable_baselines3.common.vec_env import VecEnv

    class Lanes(VecEnv):
        def __init__(self) -> None:
            box = gymnasium.spaces.Box(-np.inf, np.inf, (market.data.width,), np.float32)
            super().__init__(market.lanes, box, gymnasium.spaces.Discrete(5))

        def reset(self) -> Any:
            return market.reset(1)[0].copy()

        def step_async(self, actions: Any) -> None:
            legal = market.mask[np.arange(market.lanes), actions]
            self._actions = np.where(legal, actions, 0).astype(np.int64)

        def step_wait(self) -> Any:
            step = market.step(self._actions)
            done = step.terminated | step.truncated
            infos: list[dict[str, Any]] = [{} for _ in range(market.lanes)]
            for lane in np.flatnonzero(done):
                cut = bool(step.truncated[lane])
                infos[lane] = {"terminal_observation": step.final[lane].copy(), "TimeLimit.truncated": cut}
            return step.observation.copy(), step.reward * 100.0, done.copy(), infos

        def close(self) -> None:
            pass

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            return [None] * market.lanes

        def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
            pass

        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            return [None] * market.lanes

        def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
            return [False] * market.lanes

    return Lanes()


def _forecaster_cpu_seconds(rows: int) -> float:
    """CPU seconds of one walk-forward step of all four forecasters, per 10,000 rows."""
    from ml import planted
    from ml.forecasters import KINDS, Settings, history_of
    from ml.forecasting import ForecastConfig, fold_of

    data = planted.training_set(planted.make(planted.PlantedMarket(rows=rows, symbols=4)), 1)
    config = ForecastConfig(KINDS, settings=Settings())
    history = history_of(data.matrix.symbol, config.settings.window)
    every = np.arange(len(data), dtype=np.int64)
    fold_of(data, config, every[:400], KINDS, history)  # warm
    began = time.process_time()
    fold_of(data, config, every, KINDS, history)
    return (time.process_time() - began) / len(data) * 10_000
