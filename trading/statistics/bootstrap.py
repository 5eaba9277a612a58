"""Resampling of dependent returns: the stationary bootstrap, its block length, intervals, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile interval; share: part of the resamples in which the statistic was a number."""

    estimate: float
    low: float
    high: float
    confidence: float
    share: float = 1.0


def block_length(returns: Floats) -> float:
    """Mean block length for the stationary bootstrap of returns (T,), at least 1.

    Politis and White 2004 with the correction of Patton, Politis and White 2009: b = (2 G^2 / D)^(1/3) T^(1/3), where
    G = sum lambda(k/M) |k| R(k), D = 2 (sum lambda(k/M) R(k))^2, lambda the trapezoidal window.
    """
    r = np.asarray(returns, np.float64)
    n = len(r)
    if n < 10:
        return 1.0
    d = r - r.mean()
    longest = min(n - 1, math.ceil(math.sqrt(n)) + max(5, math.ceil(math.log10(n))))
    quiet_run = max(5, math.ceil(math.sqrt(math.log10(n))))
    covariance = np.array([float(d[k:] @ d[: n - k]) / n for k in range(longest + 1)])
    if covariance[0] <= 0:
        return 1.0
    small = np.abs(covariance[1:] / covariance[0]) < 2.0 * math.sqrt(math.log10(n) / n)
    # m: the first lag of `quiet_run` negligible autocorrelations in a row, as in the authors' corrected program
    m = longest
    for k in range(len(small) - quiet_run + 1):
        if small[k : k + quiet_run].all():
            m = k + 1
            break
    else:
        loud = np.flatnonzero(~small)
        m = int(loud[-1]) + 1 if len(loud) else 1
    window = min(2 * max(m, 1), longest)
    lags = np.arange(1, window + 1)
    weight = np.minimum(1.0, 2.0 * (1.0 - lags / window))
    g = 2.0 * float((weight * lags * covariance[1 : window + 1]).sum())
    spectral = covariance[0] + 2.0 * float((weight * covariance[1 : window + 1]).sum())
    if spectral == 0.0:
        return 1.0
    length = (2.0 * g**2 / (2.0 * spectral**2)) ** (1 / 3) * n ** (1 / 3)
    ceiling = math.ceil(min(3.0 * math.sqrt(n), n / 3.0))
    return float(min(max(length, 1.0), ceiling))


_AT_ONCE = 16
"""Resamples whose ends of blocks are drawn together."""


@numba.njit(cache=True)
def _indices(starts, stops, n, out):  # type: ignore[no-untyped-def]
    for b in range(out.shape[0]):
        at = starts[b, 0]
        for t in range(out.shape[1]):
            if t and stops[b, t]:
                at = starts[b, t]
            out[b, t] = at
            at += 1
            if at == n:
                at = 0


def stationary_indices(count: int, replicates: int, block: float, seed: int) -> NDArray[np.int64]:
    """Row numbers of `replicates` resamples of `count` rows, int64 (B, T): blocks of geometric length, mean `block`, around
    the end to the beginning. Politis and Romano 1994. Deterministic by seed."""
    if count < 1 or replicates < 1 or not block >= 1.0:
        raise ValueError(f"count {count}, replicates {replicates}, block {block}: expected at least 1 each")
    random = np.random.default_rng(seed)
    rows = random.integers(0, count, (replicates, count))
    for first in range(0, replicates, _AT_ONCE):  # in pieces: two more arrays as large as the rows are not needed
        some = rows[first : first + _AT_ONCE]
        _indices(some, random.random(some.shape) < 1.0 / block, count, some)  # each start is read before its row replaces it
    return rows


def interval(
    returns: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    replicates: int = 2_000,
    confidence: float = 0.95,
    block: float | None = None,
    seed: int = 0,
) -> Interval:
    """Stationary-bootstrap interval of a statistic of returns (T,).

    statistic: (B, T) -> (B,), evaluated on all resamples at once. block None: `block_length`. NaN resamples (no variance,
    no loss) are left out and counted; without any the bounds are NaN.
    """
    r = np.asarray(returns, np.float64)
    estimate = float(statistic(r[None, :])[0]) if len(r) else math.nan
    if len(r) < 2:
        return Interval(estimate, math.nan, math.nan, confidence, 0.0)
    rows = stationary_indices(len(r), replicates, block_length(r) if block is None else block, seed)
    values = np.asarray(statistic(r[rows]), np.float64)
    good = values[np.isfinite(values)]
    if not len(good):
        return Interval(estimate, math.nan, math.nan, confidence, 0.0)
    low, high = np.quantile(good, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), confidence, len(good) / replicates)


def paired(
    ours: Floats,
    theirs: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    replicates: int = 2_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, float]:
    """Interval of statistic(ours) - statistic(theirs) over the same resampled periods, and the share of resamples in which
    the difference is not positive (one-sided p-value of "ours is better").

    ours, theirs (T,): returns of the same periods. Common swings cancel, which two separate intervals would hide.
    """
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"returns of {len(a)} and {len(b)} periods: expected the same periods")
    estimate = float(statistic(a[None, :])[0] - statistic(b[None, :])[0])
    rows = stationary_indices(len(a), replicates, max(block_length(a - b), 1.0), seed)
    difference = np.asarray(statistic(a[rows]) - statistic(b[rows]), np.float64)
    good = difference[np.isfinite(difference)]
    if not len(good):
        return Interval(estimate, math.nan, math.nan, confidence, 0.0), math.nan
    low, high = np.quantile(good, [(1 - confidence) / 2, (1 + confidence) / 2])
    worse = (float((good <= 0).sum()) + 1.0) / (len(good) + 1.0)
    return Interval(estimate, float(low), float(high), confidence, len(good) / replicates), worse
