"""Integrated gradients: how much each input moved a network's output away from what it says of the average bar.

Sundararajan, Taly and Yan 2017: the attribution of input i is (x_i - b_i) times the mean of the derivative by it on the straight
line from the baseline b to x; the attributions sum to f(x) - f(b) (completeness). The mean is taken by Gauss-Legendre nodes.
torch is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml.forecasters.arithmetic import Member

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
NODES = 256


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """values: float64, of the input's shape. output, base: f(x) and f(baseline). gap: output - base - sum of the values, what
    the nodes did not catch."""

    values: Floats
    output: float
    base: float

    @property
    def gap(self) -> float:
        return self.output - self.base - float(self.values.sum())


def integrated_gradients(function: Callable[[Tensor], Tensor], x: Floats, baseline: Floats, nodes: int = NODES) -> Attribution:
    """Attribution of one input `x` of any shape. function: float64 tensor (N, *x.shape) -> (N,), differentiable."""
    import torch

    at, weight = np.polynomial.legendre.leggauss(nodes)
    share, weight = (at + 1) / 2, weight / 2
    line = baseline + share.reshape(-1, *[1] * x.ndim) * (x - baseline)
    points = torch.tensor(line, dtype=torch.float64, requires_grad=True)
    function(points).sum().backward()
    assert points.grad is not None
    slope = np.tensordot(weight, points.grad.numpy(), axes=1)
    with torch.no_grad():
        ends = function(torch.tensor(np.stack([x, baseline]), dtype=torch.float64)).numpy()
    return Attribution(np.asarray((x - baseline) * slope, np.float64), float(ends[0]), float(ends[1]))


def of_member(member: Member, window: Floats) -> Attribution:
    """What each bar and feature of `window` (W, F) adds to a network's log odds before calibration, against the average bar of
    its training. values (W, F); bars before the history count as average. Raises ValueError on a kind that is no network."""
    import torch

    from ml.forecasters.networks import _MODULES
    from ml.threads import torch_threads

    if member.kind not in _MODULES:
        raise ValueError(f"{member.kind} is no network")
    t, about = member.tensors, member.about
    width, outputs = t["scaler.mean"].shape[0], t["head.weight"].shape[0]
    hidden = {"lstm": lambda: t["lstm.weight_hh_l0"].shape[1], "transformer": lambda: t["embed.weight"].shape[0]}
    size = int(hidden.get(member.kind, lambda: about.get("heads", 1))())
    module = _MODULES[member.kind](width, size, int(about["heads"]), int(about["window"]), outputs).double()
    module.load_state_dict({k: torch.tensor(v, dtype=torch.float64) for k, v in t.items() if not k.startswith("scaler.")})
    own = np.asarray(window[-int(about["window"]) :], np.float64)
    z = np.clip((own - t["scaler.mean"]) / t["scaler.scale"], -about["clip"], about["clip"])
    z = np.where(np.isfinite(z), z, 0.0)
    with torch_threads():
        return integrated_gradients(lambda x: module(x)[:, 0], z, np.zeros_like(z))


def is_ours(agent: Any) -> bool:
    """Has the agent a policy whose gradient can be taken?"""
    from ml.agents.recurrent_ppo import Policy

    return isinstance(getattr(agent, "policy", None), Policy)


def of_policy(agent: Any, seen: NDArray[np.float32], mask: NDArray[np.bool_], action: int) -> Attribution:
    """What each observation of `seen` (T, W), from an empty memory on, adds to the log probability of `action` at the last of
    them. mask: bool (T, A). Baseline: observations of zero, the average bar and a flat account. Raises ValueError where the
    agent's policy is not ours."""
    import copy

    import torch

    from ml.agents.recurrent_ppo import Policy
    from ml.threads import torch_threads

    if not is_ours(agent):
        raise ValueError(f"agent {getattr(agent, 'name', agent)!r} has no policy whose gradient could be taken")
    policy: Policy = copy.deepcopy(agent.policy).cpu().double()
    for parameter in policy.parameters():
        parameter.requires_grad_(False)

    def log_probability(x: Tensor) -> Tensor:
        count, steps = x.shape[:2]
        allowed = torch.from_numpy(np.ascontiguousarray(mask))[:, None].expand(steps, count, mask.shape[1])
        begins = torch.zeros(steps, count, dtype=torch.bool)
        log_p, _, _ = policy(x.transpose(0, 1), allowed, policy.memory.empty_state(count), begins)
        picked: Tensor = log_p[-1, :, action]
        return picked

    with torch_threads():
        x = np.asarray(seen, np.float64)
        return integrated_gradients(log_probability, x, np.zeros_like(x))
