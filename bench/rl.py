"""The trading environment and the recurrent PPO agent.

env_steps_per_s: 256 lanes, 32 market features, one thread, CPU time; reference: the same market as a plain gymnasium
environment, one lane. ppo_cpu_s_per_100k: training of the default agent on 256 lanes, one thread; reference: the goal
of 3 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date

import numpy as np

from bench.core import Row
from bench.reference_data import stock, walk
from ml.environment import EnvironmentConfig, MarketData, Segment, VectorMarket
from trading.costs import Costs

LANES = 256
GOAL_CPU_SECONDS = 3.0


def run(quick: bool) -> Iterator[Row]:
    rows = 5_000 if quick else 100_000
    bars = walk("S0", date(2017, 1, 1), date(2017, 12, 31), 1, rows)
    features = np.random.default_rng(0).normal(size=(len(bars), 32)).astype(np.float32)
    data = MarketData.of([Segment(stock("S0"), bars, features, Costs("per_value", 1e-4))])
    config = EnvironmentConfig(max_steps=512)
    ours = _vector_steps_per_second(data, config, 200 if quick else 4_000)
    plain = _plain_steps_per_second(data, config, 500 if quick else 20_000)
    yield Row("env_steps_per_s", ours, "steps/s", plain, ours / plain)
    seconds = _ppo_cpu_seconds(data, 16_384 if quick else 204_800)
    yield Row("ppo_cpu_s_per_100k", seconds, "s", GOAL_CPU_SECONDS, seconds / GOAL_CPU_SECONDS)


def _vector_steps_per_second(data: MarketData, config: EnvironmentConfig, steps: int) -> float:
    """Every lane enters and leaves in turn: the costly path."""
    market = VectorMarket(data, config, LANES, 1)
    best = float("inf")
    for _ in range(3):
        spent = 0
        for t in range(steps):
            held = market.position
            actions = np.where(held > 0, 3, np.where(held < 0, 4, 1 + t % 2))  # the agent's part, not the environment's
            began = time.process_time_ns()
            market.step(actions)
            spent += time.process_time_ns() - began
        best = min(best, spent / 1e9)
    return LANES * steps / best


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
    from ml.agents.recurrent_ppo import RecurrentPPO

    RecurrentPPO().train(data, EnvironmentConfig(max_steps=256), steps=8_192, seed=0)  # warm
    began = time.process_time()
    RecurrentPPO().train(data, EnvironmentConfig(max_steps=256), steps=steps, seed=1)
    return (time.process_time() - began) / steps * 100_000
