"""Agents walk-forward: nothing is trained twice, a kill loses nothing, env and backtest agree, a plug-in is one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ml import agent_training, planted
from ml.agent_training import AgentConfig
from ml.agents import REGISTRY, UnknownAgent, agent_class
from ml.dataset import TrainingSet
from ml.decisions import Terms, experiment
from ml.scaling import fit_scaler
from resources.plugin_files import load_plugins
from resources.settings import ROOT
from trading.universe import parse_universe

PLUGIN = '''
"""An agent that follows the last feature: long above, short below."""
import json
import numpy as np
from ml.agents import REGISTRY


class Follower:
    name = "follower"

    def __init__(self, threshold=0.0):
        self.threshold = threshold

    def train(self, data, config, *, steps, seed, checkpoint=None, progress=None):
        pass

    def start(self, lanes):
        return None

    def act(self, observation, mask, memory, begins):
        wish = np.where(observation[:, 0] > self.threshold, 1, 2)
        flat = mask[:, 1]
        leave = np.where(mask[:, 3] & (wish == 2), 3, np.where(mask[:, 4] & (wish == 1), 4, 0))
        return np.where(flat, wish, leave).astype(np.int64), None

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "follower.json").write_text(json.dumps({"threshold": self.threshold}))

    @classmethod
    def load(cls, folder):
        return cls(**json.loads((folder / "follower.json").read_text()))


REGISTRY["follower"] = Follower
'''
Market = tuple[planted.Made, TrainingSet]


@pytest.fixture(scope="module")
def market() -> Market:
    made = planted.make(planted.PlantedMarket(rows=460, symbols=2, edge=0.8, noise=0.5))
    return made, planted.training_set(made, 1)


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "follower.py").write_text(PLUGIN)
    universe, _ = parse_universe((ROOT / "data" / "config" / "universe" / "sample.yaml").read_text(), "sample.yaml")
    assert universe is not None
    (plugin,) = [p for p in load_plugins(folder, universe) if p.path == "plugins/follower.py"]
    assert not plugin.problems
    assert plugin.registered == ("agent: follower",)
    yield "follower"
    load_plugins(tmp_path / "none", universe)  # what is gone is taken back
    assert "follower" not in REGISTRY
    with pytest.raises(UnknownAgent):
        agent_class("follower")


SMALL = {"lanes": 16, "rollout": 8, "chunk": 4, "hidden": 8}


def test_what_is_finished_is_not_trained_again_and_a_cut_training_ends_where_it_would_have(
    market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, data = market
    config = AgentConfig(settings=SMALL, steps=512, seeds=2, folds=1, min_train=50)

    def run(folder: Path, told: list[str]) -> agent_training.AgentRun:
        return agent_training.train(data, made.bars, made.instruments, config, folder, told.append)

    whole = run(tmp_path / "whole", [])
    real, calls = agent_training.play, []

    def dies(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(agent_training, "play", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", [])
    monkeypatch.setattr(agent_training, "play", real)
    told: list[str] = []
    again = run(tmp_path / "cut", told)
    assert sum("was finished before" in line for line in told) == 2
    assert any("[##########] 512 of 512 steps" in line for line in told)
    assert np.array_equal(again.scores, whole.scores)
    weights = "weights.safetensors"
    assert (again.folder / weights).read_bytes() == (whole.folder / weights).read_bytes()
    assert again.audit.passed
    other = AgentConfig(settings=SMALL, steps=512, seeds=1, folds=1, min_train=50, seed=5)
    agent_training.train(data, made.bars, made.instruments, other, tmp_path / "cut", told.append)
    assert not (tmp_path / "cut" / "fold_1" / "seed_1").exists(), "another training's work is not taken up"


def test_an_agent_of_a_plugin_is_one_file_and_the_backtest_earns_what_the_environment_did(
    market: Market, follower: str, tmp_path: Path
) -> None:
    made, data = market
    config = AgentConfig(agent=follower, steps=1, seeds=1, folds=1, min_train=50)
    run = agent_training.train(data, made.bars, made.instruments, config, tmp_path / "work")
    assert run.scores[0, 0] > 0.1  # it follows what was planted
    (fold,) = run.folds
    scaler = fit_scaler(data.matrix.values[fold.train], data.event_start[fold.train])
    tests = agent_training.segments(data, made.bars, made.instruments, fold.test, scaler, config)
    one = [tests[0]]
    actions, equity = agent_training.play(agent_class(follower)(), one, config)
    decided = {one[0].bars.symbol: agent_training.of_actions(one[0].bars, actions[0])}
    of = experiment("env", decided, made.instruments, Terms(100_000.0, config.costs))
    result = of.but(sizing={"kind": "percent_equity", "percent": 100 * config.size}).run()
    assert result.equity[-1] == pytest.approx(equity[0, -1], rel=0.01)
    assert len(result.trades) > 10
