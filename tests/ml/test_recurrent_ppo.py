"""Recurrent PPO: its gradients, its memory, its determinism.

What it finds in markets of known character the canaries of a training job measure: tests/e2e/test_trading_day.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ml.agents import UnknownAgent, agent_class
from ml.agents.lstm import ResettingLSTM
from ml.agents.recurrent_ppo import RecurrentPPO
from ml.canaries import total_return
from ml.environment import EnvironmentConfig
from tests.ml.markets import market
from tests.ml.train_once import train

SMALL = {"lanes": 16, "rollout": 8, "chunk": 4, "hidden": 8}


class TestMemory:
    def test_it_computes_what_torchs_lstm_computes(self) -> None:
        torch.manual_seed(0)
        ours = ResettingLSTM(5, 7).double()
        theirs = torch.nn.LSTM(5, 7).double()
        # torch's order is input, forget, cell, output
        order = torch.cat([torch.arange(0, 14), torch.arange(21, 28), torch.arange(14, 21)])
        weights = {
            "weight_ih_l0": ours.input.weight[order], "weight_hh_l0": ours.recurrent[order],
            "bias_ih_l0": ours.input.bias[order], "bias_hh_l0": torch.zeros(28, dtype=torch.double),
        }  # fmt: skip
        theirs.load_state_dict({name: value.detach() for name, value in weights.items()})
        x = torch.randn(6, 3, 5, dtype=torch.double)
        h, c = torch.randn(2, 3, 7, dtype=torch.double)
        out, (h1, c1) = ours(x, (h, c), torch.zeros(6, 3, dtype=torch.bool))
        expected, (h2, c2) = theirs(x, (h[None], c[None]))
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close((h1, c1), (h2[0], c2[0]))

    def test_its_gradient_is_the_numerical_one_across_beginnings_of_episodes(self) -> None:
        torch.manual_seed(1)
        lstm = ResettingLSTM(3, 4).double()
        begins = torch.tensor([[True, False], [False, False], [False, True], [False, False]])
        x = torch.randn(4, 2, 3, dtype=torch.double, requires_grad=True)
        h, c = (torch.randn(2, 4, dtype=torch.double, requires_grad=True) for _ in range(2))

        def run(x: torch.Tensor, weight: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out, state = torch.func.functional_call(lstm, {"recurrent": weight}, (x, (h, c), begins))
            return (out, *state)

        weight = lstm.recurrent.detach().clone().requires_grad_()
        assert torch.autograd.gradcheck(run, (x, weight, h, c))

    def test_nothing_is_remembered_across_the_beginning_of_an_episode(self) -> None:
        lstm = ResettingLSTM(3, 4)
        x = torch.randn(5, 1, 3)
        begins = torch.tensor([[False], [False], [True], [False], [False]])
        state = (torch.randn(1, 4), torch.randn(1, 4))
        whole, _ = lstm(x, state, begins)
        anew, _ = lstm(x[2:], lstm.empty_state(1), torch.zeros(3, 1, dtype=torch.bool))
        torch.testing.assert_close(whole[2:], anew)


class TestTraining:
    def test_the_same_seed_gives_the_same_weights(self) -> None:
        data, _ = market(edge=0.001, bars=400)

        def weights(seed: int) -> bytes:
            agent = RecurrentPPO(**SMALL)
            agent.train(data, EnvironmentConfig(max_steps=30), steps=1_000, seed=seed)
            assert agent.policy is not None
            return b"".join(v.numpy().tobytes() for v in agent.policy.state_dict().values())

        assert weights(3) == weights(3)
        assert weights(3) != weights(4)

    def test_killed_and_begun_again_it_ends_where_it_would_have(self, tmp_path: Path) -> None:
        """A process dies by SIGKILL in the middle of training; this one takes its checkpoint up."""
        whole, again = tmp_path / "whole", tmp_path / "again"
        killed = subprocess.run([sys.executable, "-m", "tests.ml.train_once", str(again), "9"], check=False)
        assert killed.returncode == -9
        assert not (again / "weights.safetensors").exists()
        train(again)
        train(whole)
        assert (whole / "weights.safetensors").read_bytes() == (again / "weights.safetensors").read_bytes()

    def test_a_checkpoint_of_other_settings_or_a_torn_one_is_refused(self, tmp_path: Path) -> None:
        data, _ = market(edge=0.0, bars=300)
        RecurrentPPO(**SMALL).train(data, EnvironmentConfig(), steps=200, seed=1, checkpoint=tmp_path)
        with pytest.raises(ValueError, match="of other settings"):
            RecurrentPPO(**{**SMALL, "epochs": 1}).train(data, EnvironmentConfig(), steps=400, seed=1, checkpoint=tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(ValueError, match="not a whole checkpoint"):
            RecurrentPPO(**SMALL).train(data, EnvironmentConfig(), steps=400, seed=1, checkpoint=tmp_path)

    def test_a_saved_agent_acts_the_same(self, tmp_path: Path) -> None:
        data, _ = market(edge=0.001, bars=400)
        agent = RecurrentPPO(**SMALL)
        agent.train(data, EnvironmentConfig(max_steps=30), steps=2_000, seed=3)
        agent.save(tmp_path)
        assert total_return(RecurrentPPO.load(tmp_path), data) == total_return(agent, data)
        assert {f.suffix for f in tmp_path.iterdir()} == {".safetensors", ".json"}, "no pickle"

    def test_the_number_of_threads_is_left_as_it_was(self) -> None:
        before = torch.get_num_threads()
        data, _ = market(edge=0.0, bars=300)
        RecurrentPPO(**SMALL).train(data, EnvironmentConfig(), steps=100, seed=1)
        assert torch.get_num_threads() == before


def test_an_unknown_agent_is_named_with_the_nearest() -> None:
    assert agent_class("recurrent_ppo") is RecurrentPPO
    with pytest.raises(UnknownAgent, match="did you mean 'recurrent_ppo'"):
        agent_class("recurent_ppo")
