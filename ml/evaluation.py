"""How good a probability forecast is, always against the trivial forecast, with the uncertainty said.

All functions take y: direction (N,) of 0/1 and p: probability (N,) of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_EPSILON = 1e-12


def log_loss(y: NDArray[np.int8], p: Floats) -> float:
    """Mean negative log likelihood, nats per row. Lower is better; log(2) is a coin."""
    q = np.clip(p, _EPSILON, 1 - _EPSILON)
    return float(-np.mean(np.where(y == 1, np.log(q), np.log(1 - q))))


def brier(y: NDArray[np.int8], p: Floats) -> float:
    """Mean squared error of the probability. Lower is better; 0.25 is a coin."""
    return float(np.mean((p - y) ** 2))


def accuracy(y: NDArray[np.int8], p: Floats) -> float:
    """Share of rows whose direction p > 0.5 names."""
    return float(np.mean((p > 0.5) == (y == 1)))


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """Rows of one group sorted by score, with the positions where a run of equal scores ends."""

    order: NDArray[np.int64]
    positive: Floats
    run_end: NDArray[np.int64]


def _rank(y: NDArray[np.int8], p: Floats) -> _Ranked:
    order = np.argsort(p, kind="stable")
    s = p[order]
    run_end = np.append(np.flatnonzero(np.diff(s) != 0), len(s) - 1)
    return _Ranked(order, (y[order] == 1).astype(np.float64), run_end)


def _concordance(ranked: _Ranked, weight: Floats) -> tuple[float, float]:
    """(concordant pairs, all pairs) of positives and negatives under row weights; ties count half."""
    w = weight[ranked.order]
    positive = np.diff(np.cumsum(w * ranked.positive)[ranked.run_end], prepend=0.0)
    negative_upto = np.cumsum(w * (1 - ranked.positive))[ranked.run_end]
    negative = np.diff(negative_upto, prepend=0.0)
    concordant = float(np.sum(positive * (negative_upto - negative / 2)))
    return concordant, float(positive.sum() * negative_upto[-1])


def auc(y: NDArray[np.int8], p: Floats, groups: NDArray[np.int64] | None = None) -> float:
    """Area under the ROC curve: chance that a positive row ranks above a negative one. 0.5 is no skill.

    With `groups` (N,) only pairs within a group count, so that differences of level between folds earn nothing.
    NaN when no group has both classes.
    """
    g = np.zeros(len(y), np.int64) if groups is None else groups
    pairs = [
        _concordance(_rank(y[rows], p[rows]), np.ones(len(rows)))
        for rows in (np.flatnonzero(g == k) for k in np.unique(g))
        if len(rows)
    ]
    total = sum(n for _, n in pairs)
    return sum(c for c, _ in pairs) / total if total else float("nan")


def auc_lower_bound(
    y: NDArray[np.int8],
    p: Floats,
    time: NDArray[np.int64],
    *,
    groups: NDArray[np.int64] | None = None,
    block: int,
    confidence: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> float:
    """One-sided lower confidence bound of `auc` by circular block bootstrap over time.

    Whole blocks of `block` consecutive distinct times are drawn with all their rows, so neither overlapping labels nor
    instruments that move together count as independent evidence. NaN when there are fewer than two blocks.
    """
    moments, at = np.unique(time, return_inverse=True)
    n = len(moments)
    if n < 2 * block:
        return float("nan")
    g = np.zeros(len(y), np.int64) if groups is None else groups
    ranked = [(rows, _rank(y[rows], p[rows])) for rows in (np.flatnonzero(g == k) for k in np.unique(g))]
    rng = np.random.default_rng(seed)
    draws = -(-n // block)
    values = np.empty(replicates)
    for i in range(replicates):
        starts = rng.integers(0, n, draws)
        drawn = ((starts[:, None] + np.arange(block)) % n).ravel()[:n]
        weight = np.bincount(drawn, minlength=n).astype(np.float64)[at]
        pairs = [_concordance(r, weight[rows]) for rows, r in ranked]
        total = sum(k for _, k in pairs)
        values[i] = sum(c for c, _ in pairs) / total if total else 0.5
    return float(np.quantile(values, 1 - confidence))


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Forecasts between low and high: mean forecast, observed share of positives, rows."""

    low: float
    high: float
    forecast: float
    observed: float
    rows: int


def calibration(y: NDArray[np.int8], p: Floats, bins: int = 10) -> list[CalibrationBin]:
    """Reliability by quantile bins of the forecast, each with about the same number of rows."""
    edges = np.unique(np.quantile(p, np.linspace(0, 1, bins + 1)))
    if len(edges) < 2:
        return [CalibrationBin(float(p[0]), float(p[0]), float(p.mean()), float(y.mean()), len(p))]
    which = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, len(edges) - 2)
    out = []
    for i in range(len(edges) - 1):
        rows = which == i
        if rows.any():
            out.append(
                CalibrationBin(
                    float(edges[i]), float(edges[i + 1]), float(p[rows].mean()), float(y[rows].mean()), int(rows.sum())
                )
            )
    return out


def roc_curve(y: NDArray[np.int8], p: Floats) -> tuple[Floats, Floats]:
    """(false positive rate, true positive rate), each from 0 to 1, one point per distinct score."""
    order = np.argsort(-p, kind="stable")
    hit = (y[order] == 1).astype(np.float64)
    keep = np.append(np.flatnonzero(np.diff(p[order]) != 0), len(p) - 1)
    tpr = np.cumsum(hit)[keep] / max(1.0, hit.sum())
    fpr = np.cumsum(1 - hit)[keep] / max(1.0, (1 - hit).sum())
    return np.append(0.0, fpr), np.append(0.0, tpr)
