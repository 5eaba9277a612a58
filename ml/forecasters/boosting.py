"""Gradient boosted trees on the newest bar's features: log odds of a rise and quantiles of the return."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ml.forecasters.arithmetic import Member
from ml.forecasters.base import Fitting, about_of, calibrated


def fit_boosting(fitting: Fitting) -> Member:
    """A calibrated member of scikit-learn's histogram trees, kept as plain numbers."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    own, train = fitting.settings, fitting.train
    about = about_of(fitting)
    x = fitting.values[train].astype(np.float64)
    outcome = fitting.returns[train] / about["return_scale"]
    shared: dict[str, Any] = {
        "max_iter": own.trees, "max_leaf_nodes": own.leaves, "learning_rate": own.tree_rate, "min_samples_leaf": own.min_leaf,
        "l2_regularization": own.l2, "early_stopping": False, "random_state": fitting.seed,
    }  # fmt: skip
    heads: list[Any] = []
    with threadpool_limits(1):  # sums in parallel depend on the number of threads
        heads.append(HistGradientBoostingClassifier(**shared).fit(x, fitting.direction[train]))
        for level in own.levels:
            heads.append(HistGradientBoostingRegressor(loss="quantile", quantile=level, **shared).fit(x, outcome))
    columns: dict[str, list[Any]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    roots, head, intercepts, first = [], [], [], 0
    for k, model in enumerate(heads):
        intercepts.append(float(np.ravel(model._baseline_prediction)[0]))
        for stage in model._predictors:
            nodes = stage[0].nodes
            leaf = nodes["is_leaf"].astype(bool)
            columns["feature"].append(np.where(leaf, 0, nodes["feature_idx"]).astype(np.int32))
            columns["threshold"].append(np.where(leaf, 0.0, nodes["num_threshold"]).astype(np.float64))
            columns["left"].append(np.where(leaf, -1, nodes["left"].astype(np.int64) + first).astype(np.int32))
            columns["right"].append(np.where(leaf, -1, nodes["right"].astype(np.int64) + first).astype(np.int32))
            columns["value"].append(nodes["value"].astype(np.float64))
            roots.append(first)
            head.append(k)
            first += len(nodes)
    tensors = {name: np.concatenate(parts) for name, parts in columns.items()}
    tensors |= {"roots": np.array(roots, np.int64), "head": np.array(head, np.int64)}
    made = Member("boosting", "boosting", {**about, "intercepts": intercepts}, tensors)
    odds, _ = fitting.raw(made)
    found = fitting.luck((1.0 / (1.0 + np.exp(-np.clip(odds, -60.0, 60.0))))[None])
    return calibrated(replace(made, about={**made.about, "luck": found}), fitting)
