"""Compile the kernels of learning, and those of the backtest, ahead of their first use: ``python -m ml.warm_kernels``."""

from __future__ import annotations

import sys

import numpy as np

from ml import canaries, labels, planted, protocol
from ml.environment import EnvironmentConfig
from trading.warm_kernels import warm_kernels as warm_backtest


def warm_kernels() -> None:
    """Train an agent for a moment and judge a few returns, which compiles what that takes unless the cache has it."""
    from ml.agents.recurrent_ppo import RecurrentPPO

    data, _ = canaries.market(edge=0.0, bars=64)
    agent = RecurrentPPO(lanes=4, rollout=4, chunk=2, minibatches=1, hidden=8)
    agent.train(data, EnvironmentConfig(max_steps=8), steps=32, seed=0)
    canaries.total_return(agent, data)
    protocol.worst_fall(0.01 * np.sin(np.arange(64.0)), 10)
    rule = labels.BarrierRule(upper=1.5, lower=1.5, window=5, max_bars=4)
    planted.training_set(planted.make(planted.PlantedMarket(rows=64, symbols=1)), 1, (1,), rule)


if __name__ == "__main__":
    warm_backtest()
    warm_kernels()
    sys.stdout.write("kernels of the backtest and of learning compiled\n")
