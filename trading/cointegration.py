"""Engle-Granger cointegration of two price series, in plain sums: hedge ratio, test statistic, half-life.

Engle and Granger, "Co-integration and Error Correction" (Econometrica 55, 1987): regress y on x and a constant, test the
residuals for a unit root (augmented Dickey-Fuller, no constant, fixed lags). Critical values: MacKinnon, "Critical Values
for Cointegration Tests" (Queen's Economics Department working paper 1227, 2010), table 2, two variables with a constant.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CRITICAL = {1: (-3.89644, -10.9519, -33.527), 5: (-3.33613, -6.1101, -6.823), 10: (-3.04445, -4.2412, -2.720)}
"""Response surface b0 + b1 / T + b2 / T^2 by level in percent."""


def critical_value(percent: int, observations: int) -> float:
    """Statistic below which no cointegration is rejected at `percent`, for that many price pairs."""
    b0, b1, b2 = CRITICAL[percent]
    t = observations - 1
    return b0 + b1 / t + b2 / t**2


@njit(cache=True)
def _solve(matrix: Floats, right: Floats) -> Floats:
    """Solution of a small positive definite system by elimination; NaN when singular."""
    n = len(right)
    a, b = matrix.copy(), right.copy()
    for i in range(n):
        pivot = a[i, i]
        if not abs(pivot) > 1e-300:
            return np.full(n, np.nan)
        for j in range(i + 1, n):
            factor = a[j, i] / pivot
            for k in range(i, n):
                a[j, k] -= factor * a[i, k]
            b[j] -= factor * b[i]
    x = np.zeros(n)
    for i in range(n - 1, -1, -1):
        total = b[i]
        for k in range(i + 1, n):
            total -= a[i, k] * x[k]
        x[i] = total / a[i, i]
    return x


@njit(cache=True)
def dickey_fuller(series: Floats, lags: int) -> float:
    """t statistic of the unit root test without constant, `lags` lagged differences; NaN when it cannot be taken."""
    n = len(series)
    k, rows = lags + 1, n - 1 - lags
    if rows <= k:
        return np.nan
    moments, right, total = np.zeros((k, k)), np.zeros(k), 0.0
    x = np.zeros(k)
    for t in range(lags + 1, n):
        x[0] = series[t - 1]
        for g in range(1, k):
            x[g] = series[t - g] - series[t - g - 1]
        y = series[t] - series[t - 1]
        for i in range(k):
            right[i] += x[i] * y
            for j in range(k):
                moments[i, j] += x[i] * x[j]
        total += y * y
    beta = _solve(moments, right)
    explained = 0.0
    for i in range(k):
        explained += beta[i] * right[i]
    unit = np.zeros(k)
    unit[0] = 1.0
    variance = max(total - explained, 0.0) / (rows - k) * _solve(moments, unit)[0]
    return beta[0] / np.sqrt(variance) if variance > 0.0 else np.nan


@njit(cache=True)
def fit(y: Floats, x: Floats, lags: int) -> tuple[float, float, float, float, float]:
    """(constant, hedge ratio, statistic, half-life in bars, deviation of the residuals) of y = constant + ratio x + e.

    half-life: ln 2 / -ln(1 + k) with k of the residuals' e[t] - e[t-1] = k e[t-1]; infinite when they do not revert.
    deviation: sample deviation. NaN where a series does not move.
    """
    n = len(y)
    mean_x, mean_y = 0.0, 0.0
    for i in range(n):
        mean_x += x[i]
        mean_y += y[i]
    mean_x /= n
    mean_y /= n
    sxx, sxy = 0.0, 0.0
    for i in range(n):
        sxx += (x[i] - mean_x) ** 2
        sxy += (x[i] - mean_x) * (y[i] - mean_y)
    if not sxx > 0.0:
        return np.nan, np.nan, np.nan, np.nan, np.nan
    ratio = sxy / sxx
    constant = mean_y - ratio * mean_x
    residual = np.empty(n)
    for i in range(n):
        residual[i] = y[i] - constant - ratio * x[i]
    squares, product, level = 0.0, 0.0, 0.0
    for i in range(n):
        squares += residual[i] * residual[i]
    for i in range(1, n):
        product += residual[i - 1] * (residual[i] - residual[i - 1])
        level += residual[i - 1] * residual[i - 1]
    speed = product / level if level > 0.0 else 0.0
    half_life = np.inf
    if -1.0 < speed < 0.0:
        half_life = np.log(2.0) / -np.log1p(speed)
    elif speed <= -1.0:
        half_life = 0.0
    return constant, ratio, dickey_fuller(residual, lags), half_life, np.sqrt(squares / (n - 1))
