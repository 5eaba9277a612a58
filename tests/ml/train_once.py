"""Trains a small agent into a folder; dies by SIGKILL after a number of updates when told to: ``FOLDER UPDATES``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from ml.agents.base import Progress
from ml.agents.recurrent_ppo import RecurrentPPO
from ml.environment import EnvironmentConfig
from tests.ml.markets import market


def train(folder: Path, updates: int = 0) -> None:
    """updates: after so many this process dies; 0: never."""
    seen = 0

    def progress(_: Progress) -> None:
        nonlocal seen
        seen += 1
        if seen == updates:
            os.kill(os.getpid(), signal.SIGKILL)

    data, _ = market(edge=0.001, bars=400)
    agent = RecurrentPPO(lanes=16, rollout=8, chunk=4, hidden=8)
    agent.train(
        data, EnvironmentConfig(max_steps=30), steps=128 * 60, seed=5, checkpoint=folder / "checkpoint", progress=progress
    )
    agent.save(folder)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
