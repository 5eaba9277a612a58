"""Is the best of many strategies better than a benchmark, once it is known that it was picked from many?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading.statistics.bootstrap import block_length, stationary_indices

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Superiority:
    """p-values of "no strategy beats the benchmark". reality_check: White 2000, not studentised. lower, consistent, upper:
    Hansen 2005's studentised test, the consistent one being the one to use. best: index of the strategy with the largest
    statistic. statistic: its studentised mean excess."""

    reality_check: float
    lower: float
    consistent: float
    upper: float
    best: int
    statistic: float


def superior_ability(excess: Floats, *, replicates: int = 2_000, block: float | None = None, seed: int = 0) -> Superiority:
    """Reality check and test for superior predictive ability of N strategies by excess returns (T, N) over the benchmark.

    Resampled by the stationary bootstrap with common blocks, so that the dependence between strategies is kept. block None:
    the median of the strategies' own lengths. Raises ValueError on fewer than ten periods or on missing values.
    """
    d = np.asarray(excess, np.float64)
    if d.ndim == 1:
        d = d[:, None]
    n, count = d.shape
    if n < 10 or not np.isfinite(d).all():
        raise ValueError(f"excess returns of {n} periods, expected at least 10, all of them numbers")
    if block is None:
        block = float(np.median([block_length(d[:, k]) for k in range(count)]))
    mean = d.mean(axis=0)
    variance = _variances(d, 1.0 / block)
    deviation = np.sqrt(np.maximum(variance, 1e-300))
    rows = stationary_indices(n, replicates, block, seed)
    # Resampled means by counting how often each period was drawn: (B, T) @ (T, N) instead of (B, T, N).
    flat = (rows + np.arange(replicates)[:, None] * n).ravel()
    means = np.bincount(flat, minlength=replicates * n).reshape(replicates, n) @ d / n
    root = math.sqrt(n)
    live = variance > 1e-30
    scaled = np.where(live, root * mean / deviation, 0.0)
    statistic = max(float(scaled.max()), 0.0)
    # Centres of Hansen's three tests: all strategies as good as the benchmark; those clearly bad left out; bad ones kept.
    threshold = -np.sqrt(variance / n) * math.sqrt(2.0 * math.log(math.log(n)))
    centres = {"lower": np.maximum(mean, 0.0), "consistent": np.where(mean >= threshold, mean, 0.0), "upper": mean}
    p = {}
    for name, centre in centres.items():
        simulated = np.where(live, root * (means - centre) / deviation, 0.0).max(axis=1)
        p[name] = float((np.maximum(simulated, 0.0) >= statistic).mean()) if statistic > 0 else 1.0
    raw = root * float(mean.max())
    check = float(((root * (means - mean)).max(axis=1) >= raw).mean())
    return Superiority(check, p["lower"], p["consistent"], p["upper"], int(scaled.argmax()), statistic)


def _variances(d: Floats, q: float) -> Floats:
    """Long-run variance of each column's mean times T under the stationary bootstrap with mean block 1/q (Politis and
    Romano 1994, lemma 1)."""
    n = len(d)
    x = d - d.mean(axis=0)
    out = (x**2).mean(axis=0)
    for i in range(1, n):
        weight = (1 - i / n) * (1 - q) ** i + (i / n) * (1 - q) ** (n - i)
        if weight < 1e-12 and (1 - q) ** (n - i) < 1e-12:
            continue
        out = out + 2.0 * weight * (x[i:] * x[: n - i]).sum(axis=0) / n
    return np.maximum(out, 0.0)
