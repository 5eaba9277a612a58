"""A long short-term memory layer whose memory can be cleared inside a sequence, and whose gradient is written out.

torch.nn.LSTM cannot forget at the start of an episode in the middle of a sequence, and letting autograd follow a loop of
single cells costs most of the time in bookkeeping. Forward and backward are therefore written by hand, one matrix
product per time step each way; tests hold them against torch.nn.LSTM. Equations as in Gers, Schmidhuber and Cummins 2000.
In single precision on a processor the cell between the products is ml.agents.cell's, in one pass; torch's own operations do
the same everywhere else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ml.agents import cell


class _Sequence(torch.autograd.Function):
    """(T, B, 4H) gate inputs -> (T, B, H) outputs. keep (T, B, 1): 0 where an episode begins, so that nothing is remembered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, h: Tensor, c: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gates = torch.empty_like(x)
        before_h = x.new_empty(x.shape[0], *h.shape)
        before_c, tanh_c, out = (torch.empty_like(before_h) for _ in range(3))
        c, turned, fused = c.clone(), weight.t(), _fused(x)
        for t in range(x.shape[0]):
            torch.mul(h, keep[t], out=before_h[t])
            torch.mul(c, keep[t], out=before_c[t])
            torch.addmm(x[t], before_h[t], turned, out=gates[t])
            step = gates[t], before_c[t], c, tanh_c[t], out[t]
            if fused:
                cell.forward(*(part.numpy() for part in step))
            else:
                _forward(*step)
            h = out[t]
        ctx.save_for_backward(weight, keep, gates, before_h, before_c, tanh_c)
        return out, h.clone(), c

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        weight, keep, gates, before_h, before_c, tanh_c = ctx.saved_tensors
        size, fused = weight.shape[1], _fused(gates)
        d_gates = torch.empty_like(gates)
        d_c = d_c.clone()
        for t in range(gates.shape[0] - 1, -1, -1):
            d_h = d_h + d_out[t]
            step = gates[t], before_c[t], tanh_c[t], keep[t], d_h, d_c, d_gates[t]
            if fused:
                cell.backward(*(part.numpy() for part in step))
            else:
                _backward(*step)
            d_h = (d_gates[t] @ weight).mul_(keep[t])
        d_weight = d_gates.reshape(-1, 4 * size).t() @ before_h.reshape(-1, size)
        return d_gates, d_weight, d_h, d_c, None


def _fused(of: Tensor) -> bool:
    return of.device.type == "cpu" and of.dtype == torch.float32


def _forward(gates: Tensor, before_c: Tensor, c: Tensor, tanh_c: Tensor, h: Tensor) -> None:
    """As ml.agents.cell.forward."""
    size = c.shape[1]
    gates[:, : 3 * size].sigmoid_()
    gates[:, 3 * size :].tanh_()
    i, f, o, g = gates.split(size, 1)
    torch.addcmul(i * g, f, before_c, out=c)
    torch.tanh(c, out=tanh_c)
    torch.mul(o, tanh_c, out=h)


def _backward(
    gates: Tensor, before_c: Tensor, tanh_c: Tensor, keep: Tensor, d_h: Tensor, d_c: Tensor, d_gates: Tensor
) -> None:  # fmt: skip
    """As ml.agents.cell.backward."""
    size = d_c.shape[1]
    i, f, o, g = gates.split(size, 1)
    d_c.add_(d_h * o * (1 - tanh_c * tanh_c))
    d_gates[:, :size] = d_c * g * i * (1 - i)
    d_gates[:, size : 2 * size] = d_c * before_c * f * (1 - f)
    d_gates[:, 2 * size : 3 * size] = d_h * tanh_c * o * (1 - o)
    d_gates[:, 3 * size :] = d_c * i * (1 - g * g)
    d_c.mul_(f * keep)


class ResettingLSTM(nn.Module):
    """One LSTM layer, `inputs` -> `size`; gate order input, forget, output, cell."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.input = nn.Linear(inputs, 4 * size)
        self.recurrent = nn.Parameter(torch.empty(4 * size, size))
        nn.init.orthogonal_(self.input.weight)
        for block in self.recurrent.data.split(size):
            nn.init.orthogonal_(block)
        with torch.no_grad():
            self.input.bias.zero_()
            self.input.bias[size : 2 * size] = 1.0  # remember at first (Jozefowicz, Zaremba and Sutskever 2015)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor], begins: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (T, B, inputs), state two (B, size), begins bool (T, B): True where x[t] is the first of an episode.

        Returns outputs (T, B, size) and the state after the last step.
        """
        keep = (~begins).to(x.dtype).unsqueeze(-1)
        out, h, c = _Sequence.apply(self.input(x), self.recurrent, *state, keep)
        return out, (h, c)

    def empty_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """The memory of a lane that has seen nothing: two (batch, size)."""
        weight = self.recurrent
        return weight.new_zeros(batch, self.size), weight.new_zeros(batch, self.size)
