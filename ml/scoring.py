"""A trained model as plain numbers, and the arithmetic that turns features into a probability.

Models are stored as canonical JSON, never as pickles: the same training gives the same bytes, loading runs no code from
the file, and scoring needs neither scikit-learn nor anything else of ours (this file travels with the model).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT = "tapeline-model-1"


class ModelFormatError(ValueError):
    """Bytes that are not a model of ours, or features that are not the model's."""


@dataclass(frozen=True, slots=True)
class Tree:
    """One regression tree over N nodes, node 0 the root. Rows go left when value <= threshold; leaves have left == -1."""

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]

    def raw(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Leaf value (T,) of each row of values (T, F)."""
        node = np.zeros(len(values), np.int32)
        rows = np.arange(len(values))
        while True:
            inner = self.left[node] >= 0
            if not inner.any():
                return self.value[node]
            go_left = values[rows, self.feature[node]] <= self.threshold[node]
            node = np.where(inner, np.where(go_left, self.left[node], self.right[node]), node)


@dataclass(frozen=True, slots=True, eq=False)
class ScoringModel:
    """P(forward return > 0) from F features.

    kind: "logistic" (standardised, clipped features times coef plus intercept) or "boosting" (intercept plus trees).
    mean, scale, coef: float64 (F,), empty for boosting. prior: share of positive labels in training. meta: plain values
    that name the training (horizon, schema hash, ...).
    """

    kind: str
    features: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    coef: NDArray[np.float64]
    clip: float
    intercept: float
    trees: tuple[Tree, ...]
    prior: float
    meta: dict[str, Any]

    def predict(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probability (T,) for values (T, F). A row with a missing value gets NaN: nothing is guessed."""
        x = np.asarray(values, np.float64)
        if x.ndim != 2 or x.shape[1] != len(self.features):
            raise ModelFormatError(f"features have shape {x.shape}, the model needs (rows, {len(self.features)})")
        usable = np.isfinite(x).all(axis=1)
        out = np.full(len(x), np.nan)
        rows = x[usable]
        if self.kind == "logistic":
            raw = np.clip((rows - self.mean) / self.scale, -self.clip, self.clip) @ self.coef + self.intercept
        else:
            raw = np.full(len(rows), self.intercept)
            for tree in self.trees:
                raw = raw + tree.raw(rows)
        out[usable] = 1.0 / (1.0 + np.exp(-raw))
        return out

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, shortest float form. The same model is the same bytes."""
        body = {
            "format": FORMAT,
            "kind": self.kind,
            "features": list(self.features),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "coef": self.coef.tolist(),
            "clip": float(self.clip),
            "intercept": float(self.intercept),
            "trees": [
                {
                    "feature": t.feature.tolist(),
                    "threshold": t.threshold.tolist(),
                    "left": t.left.tolist(),
                    "right": t.right.tolist(),
                    "value": t.value.tolist(),
                }
                for t in self.trees
            ],
            "prior": float(self.prior),
            "meta": self.meta,
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def content_hash(self) -> str:
        """SHA-256 of the bytes: the model's version anywhere a decision names it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @staticmethod
    def from_bytes(data: bytes) -> ScoringModel:
        """Inverse of to_bytes. Raises ModelFormatError on anything else."""
        try:
            body = json.loads(data)
            if body["format"] != FORMAT:
                raise ModelFormatError(f"model format is {body['format']!r}, expected {FORMAT!r}")
            if body["kind"] not in ("logistic", "boosting"):
                raise ModelFormatError(f"model kind is {body['kind']!r}, expected logistic or boosting")
            width = len(body["features"])
            trees = tuple(_tree(t, i, width) for i, t in enumerate(body["trees"]))
            mean, scale, coef = (np.array(body[k], np.float64) for k in ("mean", "scale", "coef"))
            if body["kind"] == "logistic" and not len(mean) == len(scale) == len(coef) == width:
                raise ModelFormatError(f"logistic weights do not match the {width} features")
            return ScoringModel(
                body["kind"], tuple(body["features"]), mean, scale, coef,
                body["clip"], body["intercept"], trees, body["prior"], body["meta"],
            )  # fmt: skip
        except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelFormatError(f"not a {FORMAT} model: {type(error).__name__}: {error}") from error


def _tree(body: dict[str, Any], number: int, width: int) -> Tree:
    tree = Tree(
        np.array(body["feature"], np.int32), np.array(body["threshold"], np.float64), np.array(body["left"], np.int32),
        np.array(body["right"], np.int32), np.array(body["value"], np.float64),
    )  # fmt: skip
    n = len(tree.value)
    inner = tree.left >= 0
    own = np.arange(n)
    sound = (
        n > 0
        and all(len(a) == n for a in (tree.feature, tree.threshold, tree.left, tree.right))
        # Children come after their parent, so that every walk ends.
        and bool(np.all((tree.left[inner] > own[inner]) & (tree.right[inner] > own[inner])))
        and bool(np.all((tree.left[inner] < n) & (tree.right[inner] < n)))
        and bool(np.all((tree.feature >= 0) & (tree.feature < max(1, width))))
    )
    if not sound:
        raise ModelFormatError(f"tree {number} is not a tree over {width} features")
    return tree
