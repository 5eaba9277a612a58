"""Networks that forecast direction and return quantiles from a window of bars: linear, LSTM, Transformer.

One head for all: the log odds of a rise and the quantiles of the standardised return. Trained by Adam on cross-entropy
plus pinball loss; after each epoch the validation rows say what the forecast would have earned net of costs, and the
weights of the best epoch are kept.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ml.adam import Adam
from ml.forecasters.arithmetic import Member
from ml.forecasters.base import Fitting, about_of, calibrated, net_of_costs
from ml.scaling import fit_scaler
from ml.threads import torch_threads


class _Linear(nn.Module):
    def __init__(self, inputs: int, hidden: int, heads: int, window: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x[:, -1])
        return out


class _LSTM(nn.Module):
    def __init__(self, inputs: int, hidden: int, heads: int, window: int, outputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)
        self.head = nn.Linear(hidden, outputs)
        with torch.no_grad():
            dict(self.lstm.named_parameters())["bias_ih_l0"][hidden : 2 * hidden] = 1.0  # remember at first

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


class _Layer(nn.Module):
    """Pre-norm attention of the last bar over all bars of the window, and a feed-forward part."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(size), nn.LayerNorm(size), nn.LayerNorm(size)
        self.mixed, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        n, w, d = x.shape
        q, k, v = self.mixed(self.norm1(x)).chunk(3, -1)
        q, k, v = (part.reshape(n, w, self.heads, d // self.heads).transpose(1, 2) for part in (q, k, v))
        score = (q[:, :, -1:] @ k.transpose(-1, -2)) / math.sqrt(d // self.heads)
        seen = (score.softmax(-1) @ v).transpose(1, 2).reshape(n, d)
        out = x[:, -1] + self.out(seen)
        final: Tensor = self.norm3(out + self.down(torch.relu(self.up(self.norm2(out)))))
        return final


class _Transformer(nn.Module):
    def __init__(self, inputs: int, hidden: int, heads: int, window: int, outputs: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.place = nn.Parameter(torch.randn(window, hidden) * 0.1)
        self.layer = _Layer(hidden, heads)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(self.embed(x) + self.place))
        return out


_MODULES: dict[str, type[nn.Module]] = {"linear": _Linear, "lstm": _LSTM, "transformer": _Transformer}


def fit_network(kind: str, fitting: Fitting) -> Member:
    """A calibrated member of `kind`. Equal arguments give equal weights, on one thread of the same kind of processor."""
    with torch_threads(fitting.settings.threads):
        return calibrated(_train(kind, fitting), fitting)


def _train(kind: str, fitting: Fitting) -> Member:
    own, train = fitting.settings, fitting.train
    scaler = fit_scaler(fitting.values[train], fitting.times[train], own.clip)
    about = about_of(fitting, heads=own.heads, scaler_span=[scaler.first_time, scaler.last_time])
    torch.manual_seed(fitting.seed)
    device = torch.device(own.device)
    module = _MODULES[kind](fitting.values.shape[1], own.hidden, own.heads, own.window, 1 + len(own.levels)).to(device)
    optimiser = Adam(module.parameters(), own.learning_rate, weight_decay=own.weight_decay, norm=1.0)
    # One row of zeros (the mean) after the others stands for bars before an instrument's history begins.
    scaled = np.vstack([scaler(fitting.values), np.zeros((1, fitting.values.shape[1]), np.float32)])
    values = torch.from_numpy(scaled).to(device)
    # A linear member looks at the newest bar only.
    bars = fitting.history[:, -1:] if kind == "linear" else fitting.history
    history = torch.from_numpy(np.where(bars < 0, len(fitting.values), bars)).to(device)
    rise = torch.from_numpy(fitting.direction.astype(np.float32)).to(device)
    outcome = torch.from_numpy((fitting.returns / about["return_scale"]).astype(np.float32)).to(device)
    levels = torch.tensor(own.levels, device=device)
    prior = float(fitting.direction[train].mean())
    order = np.random.default_rng(fitting.seed)
    best, waited = -math.inf, 0
    kept = copy.deepcopy(module.state_dict())
    curve: list[float] = []
    said: list[Any] = []
    for _ in range(own.epochs):
        module.train()
        for rows in np.array_split(order.permutation(train), max(1, len(train) // own.batch)):
            at = torch.from_numpy(rows).to(device)
            out = module(values[history[at]])
            loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], rise[at])
            miss = outcome[at][:, None] - out[:, 1:]
            loss = loss + torch.maximum(levels * miss, (levels - 1) * miss).mean()
            optimiser.clear()
            loss.backward()
            optimiser.step()
        probability = _probabilities(module, values, history, fitting.validation)
        earned = net_of_costs(probability, fitting.returns[fitting.validation], own.costs, prior)
        curve.append(earned)
        said.append(probability)
        if earned > best:
            best, waited = earned, 0
            kept = copy.deepcopy(module.state_dict())
        else:
            waited += 1
            if waited >= own.patience:
                break
    tensors: dict[str, Any] = {name: value.detach().cpu().numpy().copy() for name, value in kept.items()}
    tensors |= {"scaler.mean": scaler.mean, "scaler.scale": scaler.scale}
    return Member(kind, kind, {**about, "validation_net": curve, "luck": fitting.luck(np.array(said))}, tensors)


@torch.no_grad()
def _probabilities(module: nn.Module, values: Tensor, history: Tensor, rows: Any) -> Any:
    module.eval()
    parts = [
        torch.sigmoid(module(values[history[torch.from_numpy(part).to(values.device)]])[:, 0]).cpu().numpy()
        for part in np.array_split(rows, max(1, len(rows) // 4096))
    ]
    return np.concatenate(parts).astype(np.float64)
