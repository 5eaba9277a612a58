"""A recurrent policy one bar at a time, without gradients: weights packed once, memory and buffers reused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.agents import cell

if TYPE_CHECKING:
    from ml.agents.recurrent_ppo import Policy


class Stepper:
    """`lanes` lanes of a policy in single precision on a processor, from an empty memory. What it says is what the policy's
    own forward pass says, but for the rounding of sums."""

    def __init__(self, policy: Policy, lanes: int) -> None:
        size = policy.memory.size
        own = policy.memory
        with torch.no_grad():
            self._encoder = policy.encoder.weight.t().contiguous(), policy.encoder.bias.clone()
            self._gates = torch.cat([own.input.weight, own.recurrent], 1).t().contiguous(), own.input.bias.clone()
            heads = torch.cat([policy.action.weight, policy.value.weight]).t().contiguous()
            self._heads = heads, torch.cat([policy.action.bias, policy.value.bias])
            self._encoded, self._joined = torch.empty(lanes, size), torch.zeros(lanes, 2 * size)
            self._inputs, self._head = torch.empty(lanes, 4 * size), torch.empty(lanes, len(heads[0]))
            self._h, self._c, self._tanh = self._joined[:, size:], torch.zeros(lanes, size), np.empty((lanes, size), np.float32)
        # The same memory as numpy knows it.
        self._views = self._encoded.numpy(), self._joined.numpy(), self._inputs.numpy(), self._c.numpy()

    @property
    def state(self) -> tuple[Tensor, Tensor]:
        """The memory now, two (lanes, size), copied."""
        return self._h.clone(), self._c.clone()

    def restore(self, state: tuple[Tensor, Tensor]) -> None:
        """Go on from a memory."""
        self._h.copy_(state[0])
        self._c.copy_(state[1])

    @torch.no_grad()
    def __call__(self, seen: Tensor, begins: NDArray[np.bool_]) -> NDArray[np.float32]:
        """seen (N, W), begins bool (N,) -> float32 (N, A + 1): logits of all actions, and the value; overwritten by the next
        call. The memory moves on."""
        encoded, joined, inputs, c = self._views
        weight, bias = self._encoder
        torch.addmm(bias, seen, weight, out=self._encoded)
        cell.enter(encoded, begins, joined, c)
        weight, bias = self._gates
        torch.addmm(bias, self._joined, weight, out=self._inputs)
        cell.forward(inputs, c, c, self._tanh, joined[:, c.shape[1] :])
        weight, bias = self._heads
        torch.addmm(bias, self._h, weight, out=self._head)
        return self._head.numpy()  # type: ignore[no-any-return]
