"""Our recurrent PPO against stable-baselines3 and sb3-contrib, piece by piece, the fast path against the policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ml.agents import cell, lstm, recurrent_ppo
from ml.agents.lstm import ResettingLSTM
from ml.agents.recurrent_ppo import Policy, RecurrentPPO, _advantages, _Training
from ml.agents.stepping import Stepper
from ml.canaries import total_return
from ml.environment import EnvironmentConfig
from tests.ml.markets import market

STEPS, LANES, WIDTH, HIDDEN = 12, 6, 5, 8


@pytest.fixture(scope="module")
def training() -> _Training:
    data, _ = market(edge=0.001, bars=400)
    agent = RecurrentPPO(lanes=16, rollout=16, chunk=8, hidden=HIDDEN, minibatches=1)
    made = _Training(agent, data, EnvironmentConfig(max_steps=11), 3)
    for update in range(3):  # so that memories, positions and masks are not those of the beginning
        made.update(update / 10)
    return made


def test_advantages_and_returns_are_theirs() -> None:
    import gymnasium
    from stable_baselines3.common.buffers import RolloutBuffer

    random = np.random.default_rng(0)
    rewards, values = random.normal(size=(STEPS, LANES)), random.normal(size=(STEPS + 1, LANES))
    ends = random.random((STEPS, LANES)) < 0.2
    box = gymnasium.spaces.Box(-1, 1, (1,))
    theirs = RolloutBuffer(STEPS, box, gymnasium.spaces.Discrete(5), "cpu", gae_lambda=0.9, gamma=0.97, n_envs=LANES)
    theirs.rewards, theirs.values = rewards.astype(np.float32), values[:-1].astype(np.float32)
    theirs.episode_starts = np.concatenate([np.zeros((1, LANES)), ends[:-1]]).astype(np.float32)
    theirs.compute_returns_and_advantage(torch.tensor(values[-1], dtype=torch.float32), ends[-1])
    ours = _advantages(rewards.astype(np.float32), values.astype(np.float32), ends, 0.97, 0.9)
    np.testing.assert_allclose(ours, theirs.advantages, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours + values[:-1], theirs.returns, rtol=1e-5, atol=1e-6)


def test_the_memory_and_its_gradient_are_theirs_where_episodes_begin_inside_a_sequence() -> None:
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

    torch.manual_seed(0)
    ours, theirs = ResettingLSTM(WIDTH, HIDDEN), torch.nn.LSTM(WIDTH, HIDDEN)
    own = dict(zip("ifog", ours.input.weight.detach().split(HIDDEN), strict=True))
    own_h = dict(zip("ifog", ours.recurrent.detach().split(HIDDEN), strict=True))
    own_b = dict(zip("ifog", ours.input.bias.detach().split(HIDDEN), strict=True))
    theirs.load_state_dict({
        "weight_ih_l0": torch.cat([own[k] for k in "ifgo"]), "weight_hh_l0": torch.cat([own_h[k] for k in "ifgo"]),
        "bias_ih_l0": torch.cat([own_b[k] for k in "ifgo"]), "bias_hh_l0": torch.zeros(4 * HIDDEN),
    })  # fmt: skip
    x, state = torch.randn(STEPS, LANES, WIDTH), (torch.randn(LANES, HIDDEN), torch.randn(LANES, HIDDEN))
    begins = torch.rand(STEPS, LANES) < 0.2
    weight = torch.randn(STEPS, LANES, HIDDEN)
    out, _ = ours(x, state, begins)
    flat = x.transpose(0, 1).reshape(-1, WIDTH)  # theirs comes sequence by sequence
    starts = begins.float().t().reshape(-1)
    expected, _ = RecurrentActorCriticPolicy._process_sequence(flat, (state[0][None], state[1][None]), starts, theirs)
    expected = expected.reshape(LANES, STEPS, HIDDEN).transpose(0, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    i, f, g, o = theirs.weight_hh_l0.grad.split(HIDDEN)  # type: ignore[union-attr]
    torch.testing.assert_close(ours.recurrent.grad, torch.cat([i, f, o, g]), rtol=1e-4, atol=1e-4)


def test_the_losses_are_those_of_their_masked_distribution(training: _Training) -> None:
    from sb3_contrib.common.maskable.distributions import MaskableCategorical

    batch, _ = training._gather()
    own = training.own
    with torch.no_grad():
        out, _ = training.policy.remember(batch["seen"], (batch["h"][0], batch["c"][0]), batch["begins"])
        head = training.policy.heads(out)
    theirs = MaskableCategorical(logits=head[..., :-1].reshape(-1, 5), masks=batch["mask"].reshape(-1, 5).numpy())
    log_p = theirs.log_prob(batch["chosen"].reshape(-1))
    torch.testing.assert_close(log_p, batch["old"].reshape(-1), rtol=1e-4, atol=1e-5)  # the weights have not moved since
    advantage = batch["advantage"].reshape(-1)
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = torch.exp(log_p - batch["old"].reshape(-1))
    policy_loss = -torch.min(advantage * ratio, advantage * ratio.clamp(1 - own.clip, 1 + own.clip)).mean()
    value_loss = 0.5 * torch.nn.functional.mse_loss(head[..., -1], batch["returns"])
    found = training._learn(batch)
    assert found[:3] == pytest.approx((float(policy_loss), float(value_loss), float(theirs.entropy().mean())), rel=1e-3, abs=1e-5)


class TestTheFastPath:
    def test_says_what_the_policy_says_bar_by_bar(self) -> None:
        torch.manual_seed(2)
        policy = Policy(WIDTH, HIDDEN)
        torch.nn.init.normal_(policy.action.weight)
        seen, begins = torch.randn(STEPS, LANES, WIDTH), torch.rand(STEPS, LANES) < 0.2
        with torch.no_grad():
            out, state = policy.remember(seen, policy.memory.empty_state(LANES), begins)
            expected = policy.heads(out)
        fast = Stepper(policy, LANES)
        found = np.stack([fast(seen[t], begins[t].numpy()).copy() for t in range(STEPS)])
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(fast.state, state, rtol=1e-5, atol=1e-5)
        again = Stepper(policy, LANES)
        again.restore(fast.state)
        np.testing.assert_array_equal(again(seen[0], begins[0].numpy()), fast(seen[0], begins[0].numpy()))

    def test_what_is_learnt_without_it_as_on_another_device_is_the_same_but_for_rounding(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data, _ = market(edge=0.001, bars=400)

        def learnt() -> tuple[torch.Tensor, float]:
            agent = RecurrentPPO(lanes=16, rollout=8, chunk=4, hidden=HIDDEN)
            agent.train(data, EnvironmentConfig(max_steps=5), steps=256, seed=3)
            assert agent.policy is not None
            return torch.cat([p.detach().reshape(-1) for p in agent.policy.parameters()]), total_return(agent, data)[0]

        fast = learnt()
        monkeypatch.setattr(recurrent_ppo, "_on_processor", lambda _: False)
        monkeypatch.setattr(lstm, "_fused", lambda _: False)
        slow = learnt()
        torch.testing.assert_close(fast[0], slow[0], rtol=1e-3, atol=1e-4)
        assert fast[1] == pytest.approx(slow[1], abs=1e-9)

    def test_its_cell_is_the_one_in_torchs_operations(self) -> None:
        from ml.agents.lstm import _backward, _forward

        random = torch.Generator().manual_seed(3)
        gates, before = 4 * torch.randn(LANES, 4 * HIDDEN, generator=random), torch.randn(LANES, HIDDEN, generator=random)
        made = {}
        for name in ("ours", "torch"):
            z, c, t, h = gates.clone(), before.clone(), torch.empty_like(before), torch.empty_like(before)
            d_h, d_c, d_z = torch.ones_like(h), torch.ones_like(h), torch.empty_like(z)
            keep = torch.tensor([[0.0]] + [[1.0]] * (LANES - 1))
            forth, back = (z, before, c, t, h), (z, before, t, keep, d_h, d_c, d_z)
            if name == "ours":
                cell.forward(*(part.numpy() for part in forth))
                cell.backward(*(part.numpy() for part in back))
            else:
                _forward(*forth)
                _backward(*back)
            made[name] = (z, c, t, h, d_c, d_z)
        for ours, theirs in zip(made["ours"], made["torch"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    def test_where_the_gates_are_far_out_nothing_overflows(self) -> None:
        z = np.array([[-1e4, 1e4, -200.0, 1e4, 0.0, -1e4, 1e4, -1e4]], np.float32)
        c, t, h = np.array([[3.0, -3.0]], np.float32), np.empty((1, 2), np.float32), np.empty((1, 2), np.float32)
        cell.forward(z, c, c, t, h)
        assert np.isfinite(z).all()
        assert c[0] == pytest.approx([0.0, -4.0], abs=1e-6)  # forgotten, nothing in; all kept, and one more against it
        assert np.isfinite(h).all()

    def test_of_the_allowed_actions_the_largest_is_chosen_and_the_first_of_equals(self) -> None:
        head = np.array([[5.0, 1.0, 1.0, 9.0, 0.0, 7.0]] * 2, np.float32)
        mask = np.array([[False, True, True, False, False], [True, True, True, False, False]])
        logits, actions = np.empty((2, 5), np.float32), np.empty(2, np.int64)
        cell.choose(head, mask, np.zeros((2, 5), np.float32), logits, actions)
        assert actions.tolist() == [1, 0]
        assert (logits[~mask] == -1e9).all()
