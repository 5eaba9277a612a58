"""Sharpe ratios with their uncertainty and the number of trials behind them.

All ratios here are per period (not annualised): annual = per period * sqrt(periods a year).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]
EULER_MASCHERONI = 0.57721566490153286


@dataclass(frozen=True, slots=True)
class Moments:
    """Of returns (T,): count, mean, sample deviation, skewness m3 / m2^1.5 and kurtosis m4 / m2^2 (normal: 3), Sharpe ratio."""

    count: int
    mean: float
    deviation: float
    skewness: float
    kurtosis: float
    sharpe: float


def moments(returns: Floats) -> Moments:
    """Moments of returns (T,). Without at least three returns or without variance the ratios are NaN."""
    r = np.asarray(returns, np.float64)
    n = len(r)
    if n < 3 or not np.isfinite(r).all():
        return Moments(n, math.nan, math.nan, math.nan, math.nan, math.nan)
    mean = float(r.mean())
    d = r - mean
    m2 = float((d**2).mean())
    if m2 <= (1e-15 * max(1.0, float(np.abs(r).max()))) ** 2:
        return Moments(n, mean, 0.0, math.nan, math.nan, math.nan)
    deviation = math.sqrt(m2 * n / (n - 1))
    return Moments(n, mean, deviation, float((d**3).mean()) / m2**1.5, float((d**4).mean()) / m2**2, mean / deviation)


def _spread(m: Moments) -> float:
    """sqrt(1 - g3 SR + (g4 - 1) / 4 SR^2): the deviation of an estimated Sharpe ratio times sqrt(T - 1)."""
    return math.sqrt(max(0.0, 1.0 - m.skewness * m.sharpe + (m.kurtosis - 1.0) / 4.0 * m.sharpe**2))


def probabilistic_sharpe(returns: Floats, benchmark: float = 0.0) -> float:
    """P(true Sharpe > benchmark) of returns (T,): Phi((SR - SR*) sqrt(T - 1) / sqrt(1 - g3 SR + (g4 - 1)/4 SR^2)).

    benchmark: per period. NaN where the returns have no Sharpe ratio. Bailey and Lopez de Prado 2012.
    """
    m = moments(returns)
    if math.isnan(m.sharpe):
        return math.nan
    spread = _spread(m)
    if spread == 0.0:
        return math.nan
    return float(ndtr((m.sharpe - benchmark) * math.sqrt(m.count - 1) / spread))


def minimum_track_record(returns: Floats, benchmark: float = 0.0, confidence: float = 0.95) -> float:
    """Periods needed before P(true Sharpe > benchmark) reaches `confidence`, if things go on as in returns (T,).

    1 + (1 - g3 SR + (g4 - 1)/4 SR^2) (z / (SR - SR*))^2; infinity when the Sharpe ratio is not above the benchmark, NaN
    when there is none. Bailey and Lopez de Prado 2012.
    """
    m = moments(returns)
    if math.isnan(m.sharpe):
        return math.nan
    if m.sharpe <= benchmark:
        return math.inf
    return 1.0 + _spread(m) ** 2 * (float(ndtri(confidence)) / (m.sharpe - benchmark)) ** 2


def expected_maximum_sharpe(trials: float, variance: float) -> float:
    """Largest Sharpe ratio to be expected of `trials` independent strategies without skill, whose ratios vary by `variance`.

    sqrt(V) ((1 - e) Phi^-1(1 - 1/N) + e Phi^-1(1 - 1/(N exp(1)))), e the Euler-Mascheroni constant; 0 for one trial.
    Bailey and Lopez de Prado 2014.
    """
    if trials < 1 or variance < 0 or not math.isfinite(variance):
        raise ValueError(f"trials {trials}, variance {variance}: expected at least 1, and a number of at least 0")
    if trials == 1:
        return 0.0
    first, second = ndtri(1.0 - 1.0 / trials), ndtri(1.0 - 1.0 / (trials * math.e))
    return math.sqrt(variance) * float((1.0 - EULER_MASCHERONI) * first + EULER_MASCHERONI * second)


def deflated_sharpe(returns: Floats, trials: float, variance: float | None = None) -> float:
    """P(true Sharpe > what the best of `trials` would show by luck) of the chosen strategy's returns (T,).

    variance: of the trials' per-period Sharpe ratios; None: what luck alone gives, 1 / (T - 1), for when the other trials
    were not kept. NaN where the returns have no Sharpe ratio. Bailey and Lopez de Prado 2014.
    """
    if variance is None:
        variance = 1.0 / max(1, len(returns) - 1)
    return probabilistic_sharpe(returns, expected_maximum_sharpe(trials, variance))


def effective_trials(returns: Floats) -> float:
    """How many independent trials the columns of returns (T, N) amount to: (sum l)^2 / sum l^2 of their correlation's
    eigenvalues l. N when all are independent, 1 when all are the same; columns without variance count as nothing.

    Participation ratio of the spectrum; a count for `deflated_sharpe` where trials are variations of one another.
    """
    r = np.asarray(returns, np.float64)
    d = r - r.mean(axis=0)
    deviation = np.sqrt((d**2).sum(axis=0))
    live = deviation > 0
    if not live.any():
        return 1.0
    x = d[:, live] / deviation[live]
    n = x.shape[1]
    # sum of eigenvalues = n; sum of their squares = squared Frobenius norm, taken from the smaller Gram matrix
    gram = x.T @ x if n <= len(x) else x @ x.T
    return float(n**2 / (gram**2).sum())
