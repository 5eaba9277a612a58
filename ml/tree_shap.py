"""Exact Shapley values of boosted trees against a background of rows (interventional TreeSHAP). Pure numpy.

The game of a row x against a background row b: a coalition S of features has the value f(x on S, b elsewhere); the value of a
feature is its Shapley value (Shapley 1953), averaged over the background (Lundberg et al. 2020, "From local explanations to
global understanding", interventional form). A leaf is reached by those coalitions that hold every feature on its path that only
x satisfies and none that only b satisfies, so each leaf has a closed form and no coalition is enumerated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def leaves(tensors: Mapping[str, NDArray[Any]], head: int) -> Iterator[tuple[float, NDArray[np.int64], Floats, Floats]]:
    """(value, features (m,), low (m,), high (m,)) of every leaf of output `head`: a row reaches it where low < x <= high in
    each of its features. tensors: as ml.forecasters.boosting keeps them."""
    feature, threshold, left, right, value = (tensors[n] for n in ("feature", "threshold", "left", "right", "value"))
    for root in tensors["roots"][tensors["head"] == head]:
        waiting: list[tuple[int, dict[int, tuple[float, float]]]] = [(int(root), {})]
        while waiting:
            node, box = waiting.pop()
            if left[node] < 0:
                its = sorted(box)
                bounds = np.array([box[f] for f in its], np.float64).reshape(-1, 2)
                yield float(value[node]), np.array(its, np.int64), bounds[:, 0], bounds[:, 1]
                continue
            f, cut = int(feature[node]), float(threshold[node])
            low, high = box.get(f, (-math.inf, math.inf))
            waiting.append((int(left[node]), {**box, f: (low, min(high, cut))}))
            waiting.append((int(right[node]), {**box, f: (max(low, cut), high)}))


def tree_shap(
    tensors: Mapping[str, NDArray[Any]], intercept: float, rows: Floats, background: Floats, head: int = 0
) -> tuple[Floats, float]:
    """(values (N, F), base): what each feature of `rows` (N, F) adds to output `head`, and the mean output of `background`
    (K, F). base plus the sum of a row's values is its output. Raises ValueError without a background."""
    if not len(background):
        raise ValueError("no background rows to hold a decision against")
    out = np.zeros(rows.shape)
    base = intercept
    for value, its, low, high in leaves(tensors, head):
        if not len(its):  # a tree that is one leaf says the same of everything
            base += value
            continue
        in_x = (rows[:, its] > low) & (rows[:, its] <= high)
        in_b = (background[:, its] > low) & (background[:, its] <= high)
        base += value * float(in_b.all(axis=1).mean())
        only_x = in_x[:, None] & ~in_b[None]
        only_b = ~in_x[:, None] & in_b[None]
        reached = (in_x[:, None] | in_b[None]).all(axis=2)
        gain, loss = _WEIGHTS[:, only_x.sum(axis=2), only_b.sum(axis=2)] * reached
        out[:, its] += value * (only_x * gain[..., None] - only_b * loss[..., None]).mean(axis=1)
    return out, base


def _weights(most: int = 64) -> Floats:
    """[0, p, q]: (p - 1)! q! / (p + q)!, what each of the p features that lead to a leaf gets of its value; [1, p, q]:
    p! (q - 1)! / (p + q)!, what each of the q that lead away from it loses."""
    table = np.zeros((2, most, most))
    for p in range(most):
        for q in range(most):
            if p:
                table[0, p, q] = math.exp(math.lgamma(p) + math.lgamma(q + 1) - math.lgamma(p + q + 1))
            if q:
                table[1, p, q] = math.exp(math.lgamma(p + 1) + math.lgamma(q) - math.lgamma(p + q + 1))
    return table


_WEIGHTS = _weights()
