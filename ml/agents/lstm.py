"""A long short-term memory layer whose memory can be cleared inside a sequence, and whose gradient is written out.

torch.nn.LSTM cannot forget at the start of an episode in the middle of a sequence, and letting autograd follow a loop of
single cells costs most of the time in bookkeeping. Forward and backward are therefore written by hand, one matrix
product per time step each way; tests hold them against torch.nn.LSTM. Equations as in Gers, Schmidhuber and Cummins 2000.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Sequence(torch.autograd.Function):
    """(T, B, 4H) gate inputs -> (T, B, H) outputs. keep (T, B, 1): 0 where an episode begins, so that nothing is remembered."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, h: Tensor, c: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, size = x.shape[0], weight.shape[1]
        gates = torch.empty_like(x)
        before_h = x.new_empty(steps, *h.shape)
        before_c, after_c, tanh_c, out = (torch.empty_like(before_h) for _ in range(4))
        turned = weight.t()
        for t in range(steps):
            torch.mul(h, keep[t], out=before_h[t])
            torch.mul(c, keep[t], out=before_c[t])
            z = torch.addmm(x[t], before_h[t], turned, out=gates[t])
            z[:, : 3 * size].sigmoid_()
            z[:, 3 * size :].tanh_()
            i, f, o, g = z.split(size, 1)
            c = torch.addcmul(i * g, f, before_c[t], out=after_c[t])
            torch.tanh(c, out=tanh_c[t])
            h = torch.mul(o, tanh_c[t], out=out[t])
        ctx.save_for_backward(weight, keep, gates, before_h, before_c, tanh_c)
        return out, h.clone(), c.clone()

    @staticmethod
    def backward(ctx: Any, d_out: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:  # type: ignore[override]
        weight, keep, gates, before_h, before_c, tanh_c = ctx.saved_tensors
        size = weight.shape[1]
        d_gates = torch.empty_like(gates)
        # What does not depend on the time order is done for all steps at once: sigmoid' = s (1 - s), tanh' = 1 - tanh^2.
        i, f, o, g = gates.split(size, 2)
        through_c = torch.ops.aten.tanh_backward(o, tanh_c)
        to_i = torch.ops.aten.sigmoid_backward(g, i)
        to_f = torch.ops.aten.sigmoid_backward(before_c, f)
        to_o = torch.ops.aten.sigmoid_backward(tanh_c, o)
        to_g = torch.ops.aten.tanh_backward(i, g)
        kept_f = f * keep
        for t in range(gates.shape[0] - 1, -1, -1):
            d_h = d_h + d_out[t]
            d_c = torch.addcmul(d_c, d_h, through_c[t])
            z = d_gates[t]
            torch.mul(d_c, to_i[t], out=z[:, :size])
            torch.mul(d_c, to_f[t], out=z[:, size : 2 * size])
            torch.mul(d_h, to_o[t], out=z[:, 2 * size : 3 * size])
            torch.mul(d_c, to_g[t], out=z[:, 3 * size :])
            d_h = (z @ weight) * keep[t]
            d_c = d_c * kept_f[t]
        d_weight = d_gates.reshape(-1, 4 * size).t() @ before_h.reshape(-1, size)
        return d_gates, d_weight, d_h, d_c, None


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
