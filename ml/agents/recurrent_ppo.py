"""Recurrent proximal policy optimisation: an LSTM policy with action masks, trained on many lanes at once.

Schulman, Wolski, Dhariwal, Radford and Klimov 2017 (clipped surrogate), with generalised advantage estimation (Schulman,
Moritz, Levine, Jordan and Abbeel 2016). Rollouts are stateful: the memory goes on from one rollout to the next, gradients
stop at the chunk's beginning (truncated back-propagation through time). An episode cut by its step limit is bootstrapped
with the value of its own last observation; one that really ended is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ml.adam import Adam
from ml.agents import cell
from ml.agents.base import Progress
from ml.agents.checkpoints import read_checkpoint, write_checkpoint
from ml.agents.lstm import ResettingLSTM
from ml.agents.stepping import Stepper
from ml.environment.market import ACTIONS, EnvironmentConfig, MarketData, VectorMarket

State = tuple[Tensor, Tensor]
_NEVER = -1e9


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """lanes x rollout steps are gathered per update; sequences of `chunk` steps are learnt from, `epochs` times in
    `minibatches` parts. discount, trace: gamma and lambda. clip: of the probability ratio and of the value's change."""

    lanes: int = 256
    rollout: int = 32
    chunk: int = 16
    epochs: int = 3
    minibatches: int = 2
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-4
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    entropy: float = 0.005
    value_weight: float = 0.5
    gradient_norm: float = 0.5
    hidden: int = 64
    reward_scale: float = 100.0
    threads: int = 1
    device: str = ""

    def __post_init__(self) -> None:
        if self.rollout % self.chunk or (self.lanes * self.rollout // self.chunk) % self.minibatches:
            raise ValueError("rollout must hold whole chunks, and the sequences must divide into the minibatches")


class Policy(nn.Module):
    """Observation and memory to action logits and a value."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, hidden)
        self.memory = ResettingLSTM(hidden, hidden)
        self.action = nn.Linear(hidden, len(ACTIONS))
        self.value = nn.Linear(hidden, 1)
        nn.init.orthogonal_(self.encoder.weight, 2**0.5)
        nn.init.orthogonal_(self.action.weight, 0.01)
        nn.init.orthogonal_(self.value.weight, 1.0)
        for layer in (self.encoder, self.action, self.value):
            nn.init.zeros_(layer.bias)

    def remember(self, seen: Tensor, state: State, begins: Tensor) -> tuple[Tensor, State]:
        """seen (T, B, W), begins bool (T, B) -> what is made of it and of the memory, (T, B, H), and the memory after it."""
        return self.memory(torch.tanh(self.encoder(seen)), state, begins)  # type: ignore[no-any-return]

    def heads(self, out: Tensor) -> Tensor:
        """(..., H) -> (..., A + 1): logits of the actions, and the value."""
        weight = torch.cat([self.action.weight, self.value.weight])
        return nn.functional.linear(out, weight, torch.cat([self.action.bias, self.value.bias]))

    def forward(self, seen: Tensor, mask: Tensor, state: State, begins: Tensor) -> tuple[Tensor, Tensor, State]:
        """seen (T, B, W), mask bool (T, B, A), begins bool (T, B) -> log-probabilities (T, B, A), values (T, B), state."""
        out, state = self.remember(seen, state, begins)
        head = self.heads(out)
        return torch.log_softmax(head[..., :-1].masked_fill(~mask, _NEVER), -1), head[..., -1], state


class RecurrentPPO:
    """The agent ``recurrent_ppo``. settings: fields of PPOSettings by keyword."""

    name = "recurrent_ppo"

    def __init__(self, **settings: Any) -> None:
        self.settings = PPOSettings(**settings)
        self.policy: Policy | None = None
        wanted = self.settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(wanted)

    # -- acting --------------------------------------------------------------------------------------------------------

    def start(self, lanes: int) -> Any:
        """Memory of lanes that have seen nothing."""
        policy = self._ready()
        return Stepper(policy, lanes) if _on_processor(policy) else policy.memory.empty_state(lanes)

    @torch.no_grad()
    def act(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], memory: Any, begins: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], Any]:
        """The most probable allowed action per lane, int64 (N,), and the memory after it; the memory given is moved on."""
        if isinstance(memory, Stepper):
            head = memory(torch.from_numpy(observation), begins)
            return np.where(mask, head[:, :-1], np.float32(_NEVER)).argmax(-1), memory
        log_p, _, memory = self._ready()(
            self._tensor(observation)[None], self._tensor(mask)[None], memory, self._tensor(begins)[None]
        )
        return log_p[0].argmax(-1).cpu().numpy(), memory

    def _ready(self) -> Policy:
        if self.policy is None:
            raise ValueError("the agent has neither been trained nor loaded")
        return self.policy

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    # -- learning ------------------------------------------------------------------------------------------------------

    def train(
        self,
        data: MarketData,
        config: EnvironmentConfig,
        *,
        steps: int,
        seed: int,
        checkpoint: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Learn for `steps` environment steps, rounded up to whole rollouts (see Agent.train)."""
        own = self.settings
        before = torch.get_num_threads()
        torch.set_num_threads(own.threads)
        try:
            run = _Training(self, data, config, seed)
            updates = -(-steps // (own.lanes * own.rollout))
            first = run.resume(checkpoint) if checkpoint is not None else 0
            every = max(1, updates // 20)
            for update in range(first, updates):
                figures = run.update(update / updates)
                done = update + 1
                if checkpoint is not None and (done % every == 0 or done == updates):
                    run.keep(checkpoint, done)
                if progress is not None:
                    progress(Progress(done * own.lanes * own.rollout, updates * own.lanes * own.rollout, figures))
        finally:
            torch.set_num_threads(before)

    # -- keeping -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``agent.json``."""
        from safetensors.torch import save_file

        policy = self._ready()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in policy.state_dict().items()},
            folder / "weights.safetensors",
        )
        about = {"agent": self.name, "width": policy.encoder.in_features, "settings": asdict(self.settings)}
        (folder / "agent.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RecurrentPPO:
        """The agent `save` wrote. Raises ValueError when the folder holds another agent."""
        from safetensors.torch import load_file

        about = json.loads((folder / "agent.json").read_text())
        if about.get("agent") != cls.name:
            raise ValueError(f"{folder / 'agent.json'}: agent {about.get('agent')!r}, expected {cls.name!r}")
        agent = cls(**{**about["settings"], "device": ""})
        agent.policy = Policy(about["width"], agent.settings.hidden).to(agent.device)
        agent.policy.load_state_dict(load_file(folder / "weights.safetensors"))
        return agent


class _Training:
    """One training under way: policy, optimiser, lanes, memory, random numbers."""

    def __init__(self, agent: RecurrentPPO, data: MarketData, config: EnvironmentConfig, seed: int) -> None:
        self.own, self.device = agent.settings, agent.device
        torch.manual_seed(seed)
        self.policy = agent.policy = Policy(data.width, self.own.hidden).to(self.device)
        own = self.own
        self.optimiser = Adam(self.policy.parameters(), own.learning_rate, eps=1e-5, norm=own.gradient_norm)
        self.market = VectorMarket(data, config, self.own.lanes, seed)
        self.market.reset(seed, stagger=True)
        self.state = self.policy.memory.empty_state(self.own.lanes)
        self.begins = np.ones(self.own.lanes, np.bool_)
        self.random = np.random.default_rng(seed)

    def update(self, part_done: float) -> dict[str, float]:
        """Gather one rollout and learn from it."""
        own = self.own
        self.optimiser.rate = own.learning_rate + part_done * (own.final_learning_rate - own.learning_rate)
        batch, figures = self._gather()
        losses: list[tuple[float, float, float, float]] = []
        for _ in range(own.epochs):
            for index in np.array_split(self.random.permutation(batch["old"].shape[1]), own.minibatches):
                losses.append(self._learn({k: v[:, torch.from_numpy(index).to(self.device)] for k, v in batch.items()}))
        for name, value in zip(("policy_loss", "value_loss", "entropy", "clipped"), np.mean(losses, 0), strict=True):
            figures[name] = float(value)
        return figures

    @torch.no_grad()
    def _gather(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One rollout as sequences (chunk, sequences, ...), with advantages and returns."""
        own, market = self.own, self.market
        steps, lanes = own.rollout, own.lanes
        width, actions = market.data.width, len(ACTIONS)
        seen, mask = torch.empty(steps, lanes, width), torch.empty(steps, lanes, actions, dtype=torch.bool)
        begins, chosen = np.empty((steps, lanes), np.bool_), np.empty((steps, lanes), np.int64)
        logits, values = np.empty((steps, lanes, actions), np.float32), np.empty((steps + 1, lanes), np.float32)
        rewards, ends = np.empty((steps, lanes)), np.empty((steps, lanes), np.bool_)
        # Gumbel's trick: one draw per action, the same on every device and whatever the batch.
        noise = -np.log(-np.log(self.random.random((steps, lanes, actions), dtype=np.float32) + 1e-12) + 1e-12)
        states: list[State] = []
        cut: list[tuple[int, NDArray[np.int64], Tensor, State]] = []
        ask = _Asking(self.policy, self.state, lanes, self.device)
        for t in range(steps):
            seen[t], mask[t], begins[t] = torch.from_numpy(market.observation), torch.from_numpy(market.mask), self.begins
            if t % own.chunk == 0:
                states.append(ask.state)
            head = ask(seen[t], self.begins)
            values[t] = head[:, -1]
            cell.choose(head, market.mask, noise[t], logits[t], chosen[t])
            step = market.step(chosen[t])
            rewards[t] = step.reward
            self.begins = ends[t] = step.terminated | step.truncated
            if step.truncated.any():
                at = np.flatnonzero(step.truncated)
                h, c = ask.state
                cut.append((t, at, torch.from_numpy(step.final[at]), (h[at], c[at])))
        self.state = ask.state
        values[steps] = ask(torch.from_numpy(market.observation), self.begins)[:, -1]
        earned = float(rewards.sum())
        scaled = (rewards * own.reward_scale).astype(np.float32)
        if cut:
            # An episode that was cut is worth what its last observation promises.
            last, memory = torch.cat([c[2] for c in cut]), tuple(torch.cat([c[3][part] for c in cut]) for part in (0, 1))
            promised = _Asking(self.policy, (memory[0], memory[1]), len(last), self.device)(last, np.zeros(len(last), bool))
            where = np.concatenate([np.full(len(at), t) for t, at, *_ in cut]), np.concatenate([at for _, at, *_ in cut])
            scaled[where] += own.discount * promised[:, -1]
        advantage = _advantages(scaled, values, ends, own.discount, own.trace)
        figures = {
            "reward": earned / (steps * lanes), "equity": float(market.equity.mean()),
            "in_market": float((market.position != 0).mean()),
        }  # fmt: skip
        action = torch.from_numpy(chosen)
        old = torch.log_softmax(torch.from_numpy(logits), -1).gather(-1, action[..., None])[..., 0]
        parts = {
            "seen": seen, "mask": mask, "begins": torch.from_numpy(begins), "chosen": action, "old": old,
            "advantage": torch.from_numpy(advantage), "returns": torch.from_numpy(advantage + values[:-1]),
        }  # fmt: skip
        batch = {name: _chunked(part, own.chunk).to(self.device) for name, part in parts.items()}
        for name, which in (("h", 0), ("c", 1)):
            batch[name] = torch.cat([s[which] for s in states])[None]
        return batch, figures

    def _learn(self, b: dict[str, Tensor]) -> tuple[float, float, float, float]:
        own = self.own
        log_p, value, _ = self.policy(b["seen"], b["mask"], (b["h"][0], b["c"][0]), b["begins"])
        advantage = (b["advantage"] - b["advantage"].mean()) / (b["advantage"].std() + 1e-8)
        ratio = torch.exp(log_p.gather(-1, b["chosen"][..., None])[..., 0] - b["old"])
        clipped = ratio.clamp(1 - own.clip, 1 + own.clip)
        policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
        value_loss = 0.5 * (value - b["returns"]).square().mean()
        entropy = -(log_p.exp() * log_p.clamp(min=_NEVER / 2)).masked_fill(~b["mask"], 0.0).sum(-1).mean()
        loss = policy_loss + own.value_weight * value_loss - own.entropy * entropy
        self.optimiser.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        part = float(((ratio - 1).abs() > own.clip).float().mean())
        return float(policy_loss.detach()), float(value_loss.detach()), float(entropy.detach()), part

    # -- going on after a kill -----------------------------------------------------------------------------------------

    def keep(self, folder: Path, done: int) -> None:
        """Write everything that decides what comes next."""
        tensors = {f"policy.{name}": value for name, value in self.policy.state_dict().items()}
        tensors |= {f"adam.{name}": value for name, value in self.optimiser.state().items()}
        tensors |= {"state.h": self.state[0], "state.c": self.state[1], "begins": torch.from_numpy(self.begins)}
        tensors |= {f"market.{name}": torch.from_numpy(_signed(array)) for name, array in self.market.state().items()}
        write_checkpoint(folder, tensors, {"done": done, "random": self.random.bit_generator.state, "settings": asdict(self.own)})

    def resume(self, folder: Path) -> int:
        """Updates already done according to the folder's checkpoint; 0 when there is none."""
        found = read_checkpoint(folder)
        if found is None:
            return 0
        tensors, about = found
        if "adam.mean" not in tensors:
            return 0  # written by code that kept the optimiser otherwise: begun anew
        if about["settings"] != asdict(self.own):
            raise ValueError(f"{folder}: the checkpoint is of other settings; remove it or train with those")
        self.policy.load_state_dict({n.removeprefix("policy."): v for n, v in tensors.items() if n.startswith("policy.")})
        self.optimiser.restore({n.removeprefix("adam."): v for n, v in tensors.items() if n.startswith("adam.")})
        self.state = (tensors["state.h"].to(self.device), tensors["state.c"].to(self.device))
        self.begins = tensors["begins"].numpy()
        known = self.market.state()
        self.market.restore({n: tensors[f"market.{n}"].numpy().view(array.dtype) for n, array in known.items()})
        self.random.bit_generator.state = about["random"]
        return int(about["done"])


class _Asking:
    """The policy one bar at a time, on whatever it lives: logits and value of `lanes` lanes as numpy knows them."""

    def __init__(self, policy: Policy, state: State, lanes: int, device: torch.device) -> None:
        self._policy, self._device, self._state = policy, device, state
        self._fast = Stepper(policy, lanes) if _on_processor(policy) else None
        if self._fast is not None:
            self._fast.restore(state)

    @property
    def state(self) -> State:
        return self._fast.state if self._fast is not None else self._state

    def __call__(self, seen: Tensor, begins: NDArray[np.bool_]) -> NDArray[np.float32]:
        if self._fast is not None:
            return self._fast(seen, begins)
        starts = torch.from_numpy(begins)[None].to(self._device)
        out, self._state = self._policy.remember(seen[None].to(self._device), self._state, starts)
        return self._policy.heads(out)[0].cpu().numpy()  # type: ignore[no-any-return]


def _advantages(
    rewards: NDArray[np.float32], values: NDArray[np.float32], ends: NDArray[np.bool_], discount: float, trace: float
) -> NDArray[np.float32]:
    """Generalised advantage estimates (T, N) of rewards (T, N) and values (T + 1, N); nothing is carried over an end."""
    out = np.empty_like(rewards)
    after = np.zeros(rewards.shape[1], np.float32)
    for t in range(len(rewards) - 1, -1, -1):
        alive = np.float32(discount) * ~ends[t]
        error = rewards[t] + alive * values[t + 1] - values[t]
        after = out[t] = error + np.float32(trace) * alive * after
    return out


def _on_processor(policy: Policy) -> bool:
    weight = policy.encoder.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def _chunked(part: Tensor, chunk: int) -> Tensor:
    """(T, N, ...) -> (chunk, T / chunk * N, ...): sequence s * N + n is lane n from step s * chunk on."""
    steps, lanes = part.shape[:2]
    cut = part.reshape(steps // chunk, chunk, lanes, *part.shape[2:])
    return cut.transpose(0, 1).reshape(chunk, steps // chunk * lanes, *part.shape[2:])


def _signed(array: NDArray[Any]) -> NDArray[Any]:
    """The same bits as a type torch knows."""
    return array.view(np.int64) if array.dtype == np.uint64 else array


AGENTS = {RecurrentPPO.name: RecurrentPPO}
