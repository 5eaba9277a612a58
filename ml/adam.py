"""Adam over all of a network's numbers at once (Kingma and Ba 2015), with its gradient's norm bounded.

The parameters are made views of one vector, their gradients of another: a step is eight operations, whatever the network. torch's
own optimisers load its compiler on their first step, which takes seconds, and walk the parameters one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Adam:
    """Of `parameters`, which it takes over: they stay where they are and become views. weight_decay: as part of the gradient."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        *,
        decay: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        norm: float = math.inf,
    ) -> None:
        own = list(parameters)
        self.rate, self.decay, self.eps, self.weight_decay, self.norm = rate, decay, eps, weight_decay, norm
        self.steps = 0
        with torch.no_grad():
            self.values = torch.cat([p.detach().reshape(-1) for p in own])
            self.gradient, self.mean, self.square = (torch.zeros_like(self.values) for _ in range(3))
            at = 0
            for p in own:
                here = slice(at, at + p.numel())
                p.data = self.values[here].view_as(p)
                p.grad = self.gradient[here].view_as(p)
                at += p.numel()

    def clear(self) -> None:
        """Forget the gradient: what is differentiated next is added to nothing."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move against the gradient that has been gathered since `clear`."""
        self.steps += 1
        g = self.gradient
        if math.isfinite(self.norm):
            # As torch.nn.utils.clip_grad_norm_.
            g.mul_(torch.clamp(self.norm / (torch.linalg.vector_norm(g) + 1e-6), max=1.0))
        if self.weight_decay:
            g.add_(self.values, alpha=self.weight_decay)
        first, second = self.decay
        self.mean.lerp_(g, 1.0 - first)
        self.square.mul_(second).addcmul_(g, g, value=1.0 - second)
        size = (self.square.sqrt().div_(math.sqrt(1.0 - second**self.steps))).add_(self.eps)
        self.values.addcdiv_(self.mean, size, value=-self.rate / (1.0 - first**self.steps))

    def state(self) -> dict[str, Tensor]:
        """What decides the next step, beside the parameters."""
        return {"mean": self.mean, "square": self.square, "steps": torch.tensor(self.steps)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self.mean.copy_(state["mean"])
        self.square.copy_(state["square"])
        self.steps = int(state["steps"])
