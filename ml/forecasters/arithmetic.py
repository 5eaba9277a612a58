"""A trained forecaster as plain numbers, and the arithmetic that turns bars' features into a forecast.

Kept as safetensors (the numbers) with JSON in its header (what they are): the same training gives the same bytes, loading
runs no code from the file, and forecasting needs numpy and safetensors only: no torch, no scikit-learn, nothing of ours
(this file travels with the model). A model is one or more members, each a network or trees with its own calibration, and
their weights. Results are computed in float64 and rounded to nine digits, so that they do not depend on how many
instruments are asked about at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "tapeline-forecaster-1"
DIGITS = 9
BLOCK = 1024
"""Rows computed together: what they need stays in the processor's cache."""
Floats = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]


class ForecastFormatError(ValueError):
    """Bytes that are not a forecaster of ours, or features that are not its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Of N rows. probability: float64 (N,), that the forward return is positive. quantiles: float64 (N, Q), of the forward
    return, as a fraction, ascending. Rows whose features are not complete are NaN: nothing is guessed."""

    probability: Floats
    quantiles: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One trained forecaster. kind: linear, boosting, lstm or transformer. about: plain values (settings, scaler, calibration).
    tensors: its numbers by name."""

    name: str
    kind: str
    about: Mapping[str, Any]
    tensors: Tensors

    def raw(self, windows: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """(log odds (N,), quantiles of the standardised return (N, Q)) of windows (N, W, F), before calibration."""
        parts = [self._raw(windows[at : at + BLOCK]) for at in range(0, max(1, len(windows)), BLOCK)]
        return np.concatenate([odds for odds, _ in parts]), np.concatenate([standard for _, standard in parts])

    def _raw(self, windows: NDArray[np.floating]) -> tuple[Floats, Floats]:
        if self.kind == "boosting":
            return _trees(self.tensors, self.about, np.asarray(windows[:, -1], np.float64))
        bars = 1 if self.kind == "linear" else int(self.about["window"])
        x = np.asarray(windows[:, -bars:], np.float64)
        z = np.clip((x - self.tensors["scaler.mean"]) / self.tensors["scaler.scale"], -self.about["clip"], self.about["clip"])
        z = np.where(np.isfinite(z), z, 0.0)  # bars before the history begins: the mean
        state = _NETWORKS[self.kind](self.tensors, self.about, z)
        out = state @ self.tensors["head.weight"].astype(np.float64).T + self.tensors["head.bias"]
        return out[:, 0], out[:, 1:]

    def forecast(self, windows: NDArray[np.floating]) -> Forecast:
        """The calibrated forecast of windows (N, W, F), the last row of each being the bar that has just closed."""
        return self.calibrated(windows, *self.raw(windows))

    def calibrated(self, windows: NDArray[np.floating], odds: Floats, standard: Floats) -> Forecast:
        """The forecast that the raw output of windows (N, W, F) stands for."""
        slope, intercept = self.about["calibration"]
        quantiles = np.sort(standard + np.asarray(self.about["quantile_shift"], np.float64), axis=1) * self.about["return_scale"]
        probability = _sigmoid(slope * odds + intercept)
        known = np.isfinite(np.asarray(windows[:, -1], np.float64)).all(axis=1)
        probability[~known], quantiles[~known] = np.nan, np.nan
        return Forecast(np.round(probability, DIGITS), np.round(quantiles, DIGITS))


@dataclass(frozen=True, slots=True, eq=False)
class ForecastModel:
    """Members and their weights, which sum to 1. features: names of the columns (F). window: bars it looks at (W).
    levels: of the quantiles (Q). meta: what names the training (horizon, schema hash, data hash, ...)."""

    features: tuple[str, ...]
    window: int
    levels: tuple[float, ...]
    members: tuple[Member, ...]
    weights: tuple[float, ...]
    prior: float
    meta: Mapping[str, Any]

    def forecast(self, windows: NDArray[np.floating]) -> Forecast:
        """Forecast of windows (N, W, F); log odds and quantiles are averaged by weight.

        Rows before an instrument's history begins are NaN. Raises ForecastFormatError on another shape.
        """
        if windows.ndim != 3 or windows.shape[1:] != (self.window, len(self.features)):
            raise ForecastFormatError(f"windows have shape {windows.shape}, expected (N, {self.window}, {len(self.features)})")
        odds = np.zeros(len(windows))
        quantiles = np.zeros((len(windows), len(self.levels)))
        for member, weight in zip(self.members, self.weights, strict=True):
            if weight == 0.0:
                continue
            one = member.forecast(windows)
            odds += weight * logit(one.probability)
            quantiles += weight * one.quantiles
        return Forecast(np.round(_sigmoid(odds), DIGITS), np.round(quantiles, DIGITS))

    def to_bytes(self) -> bytes:
        """Safetensors with canonical JSON in the header: the same model is the same bytes."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray[Any]] = {}
        for i, member in enumerate(self.members):
            tensors |= {f"{i}.{name}": np.ascontiguousarray(value) for name, value in member.tensors.items()}
        about = {
            "format": FORMAT, "features": list(self.features), "window": self.window, "levels": list(self.levels),
            "weights": list(self.weights), "prior": self.prior, "meta": dict(self.meta),
            "members": [{"name": m.name, "kind": m.kind, "about": dict(m.about)} for m in self.members],
        }  # fmt: skip
        text = json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return bytes(save(dict(sorted(tensors.items())), metadata={"about": text}))

    def content_hash(self) -> str:
        """SHA-256 of the bytes: the model's version anywhere a decision names it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> ForecastModel:
        """Inverse of to_bytes. Raises ForecastFormatError on anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
            size = int.from_bytes(data[:8], "little")
            about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["about"])
            if about["format"] != FORMAT:
                raise ForecastFormatError(f"format is {about['format']!r}, expected {FORMAT!r}")
            members = tuple(
                Member(
                    m["name"], m["kind"], m["about"],
                    {name.removeprefix(f"{i}."): value for name, value in tensors.items() if name.startswith(f"{i}.")},
                )
                for i, m in enumerate(about["members"])
            )  # fmt: skip
            unknown = [m.kind for m in members if m.kind not in KINDS]
            if unknown or len(members) != len(about["weights"]):
                raise ForecastFormatError(f"members {[m.kind for m in members]} and {len(about['weights'])} weights do not fit")
            return ForecastModel(
                tuple(about["features"]), int(about["window"]), tuple(about["levels"]), members, tuple(about["weights"]),
                float(about["prior"]), about["meta"],
            )  # fmt: skip
        except ForecastFormatError:
            raise
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ForecastFormatError(f"not a {FORMAT} model: {type(error).__name__}: {error}") from error


def logit(probability: Floats) -> Floats:
    """Log odds, of probabilities kept a millionth away from certainty."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0))), np.float64)


def _last(tensors: Tensors, about: Mapping[str, Any], z: Floats) -> Floats:
    return z[:, -1]


def _lstm(tensors: Tensors, about: Mapping[str, Any], z: Floats) -> Floats:
    """The last output of torch's nn.LSTM (gates in its order: input, forget, cell, output)."""
    w_in, w_h = (tensors[f"lstm.{n}_l0"].astype(np.float64).T for n in ("weight_ih", "weight_hh"))
    bias = tensors["lstm.bias_ih_l0"].astype(np.float64) + tensors["lstm.bias_hh_l0"]
    size = w_h.shape[0]
    h = np.zeros((len(z), size))
    c = np.zeros_like(h)
    for t in range(z.shape[1]):
        gates = z[:, t] @ w_in + h @ w_h + bias
        i, f, o = _sigmoid(gates[:, :size]), _sigmoid(gates[:, size : 2 * size]), _sigmoid(gates[:, 3 * size :])
        c = f * c + i * np.tanh(gates[:, 2 * size : 3 * size])
        h = o * np.tanh(c)
    return h


def _normed(x: Floats, weight: NDArray[Any], bias: NDArray[Any]) -> Floats:
    centred = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * weight + bias, np.float64)


def _transformer(tensors: Tensors, about: Mapping[str, Any], z: Floats) -> Floats:
    """One pre-norm encoder layer (Vaswani et al. 2017; Xiong et al. 2020); the last bar's output, normed."""
    p = {name: value.astype(np.float64) for name, value in tensors.items() if name.startswith(("embed", "place", "layer"))}
    x = z @ p["embed.weight"].T + p["embed.bias"] + p["place"]
    heads = int(about["heads"])
    n, w, d = x.shape
    y = _normed(x, p["layer.norm1.weight"], p["layer.norm1.bias"])
    q, k, v = np.split(y @ p["layer.mixed.weight"].T + p["layer.mixed.bias"], 3, axis=-1)
    q, k, v = (part.reshape(n, w, heads, d // heads).transpose(0, 2, 1, 3) for part in (q, k, v))
    score = q[:, :, -1:] @ k.transpose(0, 1, 3, 2) / math.sqrt(d // heads)  # only the last bar asks
    score = np.exp(score - score.max(axis=-1, keepdims=True))
    seen = (score / score.sum(axis=-1, keepdims=True)) @ v
    out = x[:, -1] + seen.transpose(0, 2, 1, 3).reshape(n, d) @ p["layer.out.weight"].T + p["layer.out.bias"]
    y = _normed(out, p["layer.norm2.weight"], p["layer.norm2.bias"])
    y = np.maximum(y @ p["layer.up.weight"].T + p["layer.up.bias"], 0.0) @ p["layer.down.weight"].T + p["layer.down.bias"]
    return _normed(out + y, p["layer.norm3.weight"], p["layer.norm3.bias"])


_NETWORKS = {"linear": _last, "lstm": _lstm, "transformer": _transformer}
KINDS = ("linear", "boosting", "lstm", "transformer")


def _trees(tensors: Tensors, about: Mapping[str, Any], x: Floats) -> tuple[Floats, Floats]:
    """Sums of regression trees, all of them walked at once. roots (T,): first node of each; head (T,): which output it
    adds to. Rows go left when value <= threshold; leaves have left == -1."""
    roots, head = tensors["roots"], tensors["head"]
    feature, threshold, left, right, value = (tensors[n] for n in ("feature", "threshold", "left", "right", "value"))
    node = np.broadcast_to(roots, (len(x), len(roots))).copy()
    rows = np.arange(len(x))[:, None]
    while True:
        inner = left[node] >= 0
        if not inner.any():
            break
        go_left = x[rows, feature[node]] <= threshold[node]
        node = np.where(inner, np.where(go_left, left[node], right[node]), node)
    out = np.tile(np.asarray(about["intercepts"], np.float64), (len(x), 1))
    leaves = value[node]
    for k in range(out.shape[1]):
        out[:, k] += leaves[:, head == k].sum(axis=1)
    return out[:, 0], out[:, 1:]
