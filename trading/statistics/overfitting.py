"""Probability of backtest overfitting by combinatorially symmetric cross-validation."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Overfitting:
    """probability: share of splits in which the best in-sample strategy is in the lower half out of sample.
    logits float64 (C,): log odds of its out-of-sample rank, one per split. degradation: slope of out-of-sample on
    in-sample Sharpe of the chosen. loss_probability: share of splits in which the chosen loses money out of sample."""

    probability: float
    logits: Floats
    degradation: float
    loss_probability: float
    chosen_in_sample: Floats
    chosen_out_of_sample: Floats


def probability_of_overfitting(returns: Floats, blocks: int = 16) -> Overfitting:
    """PBO of the choice by Sharpe ratio among N strategies with returns (T, N) of the same periods.

    The periods are cut into `blocks` (even) equal parts; for every half of them the strategy best on that half is ranked
    on the other half. All C(S, S/2) splits are done at once from block sums of r and r^2, so that each split costs one row
    of a matrix product. Bailey, Borwein, Lopez de Prado and Zhu 2017. Raises ValueError on fewer than two strategies, an
    odd number of blocks, or fewer than two periods per block; the first T mod S periods are left out.
    """
    r = np.asarray(returns, np.float64)
    if r.ndim != 2 or r.shape[1] < 2:
        raise ValueError(f"returns have shape {r.shape}, expected (periods, at least 2 strategies)")
    if blocks < 2 or blocks % 2:
        raise ValueError(f"{blocks} blocks, expected an even number of at least 2")
    size = len(r) // blocks
    if size < 2:
        raise ValueError(f"{len(r)} periods in {blocks} blocks, expected at least 2 periods in each")
    if not np.isfinite(r).all():
        raise ValueError("returns hold NaN or infinity")
    cut = r[len(r) - size * blocks :].reshape(blocks, size, -1)
    # Centring by the overall mean keeps the block variances from cancelling in floating point.
    centre = r.mean(axis=0)
    first, second = (cut - centre).sum(axis=1), ((cut - centre) ** 2).sum(axis=1)
    halves = np.zeros((math.comb(blocks, blocks // 2), blocks))
    for row, chosen in enumerate(itertools.combinations(range(blocks), blocks // 2)):
        halves[row, chosen] = 1.0
    inside = _sharpe(halves @ first, halves @ second, centre, size * blocks // 2)
    outside = _sharpe((1 - halves) @ first, (1 - halves) @ second, centre, size * blocks // 2)
    best = inside.argmax(axis=1)
    rows = np.arange(len(best))
    there = outside[rows, best]
    count = r.shape[1]
    # Mid-rank, so that equal strategies are neither luck nor skill.
    rank = (outside < there[:, None]).sum(axis=1) + 0.5 * ((outside == there[:, None]).sum(axis=1) - 1) + 1.0
    omega = rank / (count + 1)
    logits = np.log(omega / (1 - omega))
    chosen = inside[rows, best]
    spread = float(((chosen - chosen.mean()) ** 2).sum())
    slope = float(((chosen - chosen.mean()) * (there - there.mean())).sum()) / spread if spread > 0 else math.nan
    return Overfitting(float((logits <= 0).mean()), logits, slope, float((there < 0).mean()), chosen, there)


def _sharpe(total: Floats, squares: Floats, centre: Floats, count: int) -> Floats:
    """Sharpe ratio from sums of centred returns; a strategy without variance has 0: it did nothing."""
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0.0) * count / (count - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-30, (mean + centre) / np.sqrt(variance), 0.0)
