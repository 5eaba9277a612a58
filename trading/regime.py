"""Market regimes: trending, ranging or volatile, by rules and by a hidden Markov model.

Both say at a bar only what was known at its close: the rules look at trailing windows, the model gives filtered
probabilities (given the bars so far), never smoothed ones (given the bars to come), with parameters fitted on bars before.
A label is int8: UNKNOWN while there is too little history, then RANGING, TRENDING or VOLATILE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars

Floats = NDArray[np.float64]
Labels = NDArray[np.int8]


class Regime(IntEnum):
    UNKNOWN = -1
    RANGING = 0
    TRENDING = 1
    VOLATILE = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class RegimeRules:
    """window: bars over which direction and volatility are measured. history: bars whose volatility is "usual". trending:
    efficiency ratio (Kaufman 1995: |net move| / sum of |moves|) from which a market trends. volatile: multiple of the median
    volatility of `history` from which it is volatile, whatever its direction."""

    window: int = 20
    history: int = 250
    trending: float = 0.35
    volatile: float = 1.8

    def __post_init__(self) -> None:
        if self.window < 2 or self.history < self.window or not 0 < self.trending < 1 or not self.volatile > 1:
            raise ValueError(
                f"window={self.window} history={self.history} trending={self.trending} volatile={self.volatile}: expected at "
                "least 2, at least window, within (0, 1), above 1"
            )

    @property
    def warm_up(self) -> int:
        """Bars before the first label."""
        return self.window + self.history


@numba.njit(cache=True)
def _rolling(returns, window, net, total, deviation):  # type: ignore[no-untyped-def]
    """Net move, sum of |moves| and root mean square of the last `window` returns, summed anew at every bar: a running sum
    would depend on where the series began."""
    for t in range(window - 1, len(returns)):
        s = 0.0
        a = 0.0
        q = 0.0
        for k in range(t - window + 1, t + 1):
            r = returns[k]
            s += r
            a += abs(r)
            q += r * r
        net[t] = s
        total[t] = a
        deviation[t] = math.sqrt(q / window)


@numba.njit(cache=True)
def _label(net, total, deviation, window, history, trending, volatile, out):  # type: ignore[no-untyped-def]
    for t in range(window + history - 1, len(net)):
        usual = np.median(deviation[t - history + 1 : t + 1])
        if not (usual > 0.0) or math.isnan(deviation[t]):
            continue
        if deviation[t] >= volatile * usual:
            out[t] = 2
        elif total[t] > 0.0 and abs(net[t]) / total[t] >= trending:
            out[t] = 1
        else:
            out[t] = 0


def log_returns(bars: Bars) -> Floats:
    """log(close_t / close_{t-1}), (T,), 0 at the first bar; NaN where a price is not positive."""
    out = np.zeros(len(bars))
    with np.errstate(divide="ignore", invalid="ignore"):
        out[1:] = np.diff(np.log(bars.close))
    return np.where(np.isfinite(out), out, np.nan)


def rule_regimes(bars: Bars, rules: RegimeRules | None = None) -> Labels:
    """Regime by rules at every bar, int8 (T,). Volatile comes first: a crash is a trend nobody should follow by rule."""
    rules = rules or RegimeRules()
    returns = log_returns(bars)
    net, total, deviation = (np.full(len(bars), np.nan) for _ in range(3))
    out = np.full(len(bars), int(Regime.UNKNOWN), np.int8)
    if len(bars) >= rules.warm_up:
        _rolling(returns, rules.window, net, total, deviation)
        _label(net, total, deviation, rules.window, rules.history, rules.trending, rules.volatile, out)
    return out


# -- the hidden Markov model -----------------------------------------------------------------------------------------------

STATES: Final = 3
_FLOOR = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class MarkovModel:
    """Gaussian hidden Markov model of K states over D observations a bar.

    start float64 (K,), transition (K, K) rows summing to 1, mean (K, D), variance (K, D) diagonal. labels: the Regime each
    state stands for. centre, scale (D,): observations are (x - centre) / scale, of the bars it was fitted on.
    """

    start: Floats
    transition: Floats
    mean: Floats
    variance: Floats
    labels: tuple[Regime, ...]
    centre: Floats
    scale: Floats
    log_likelihood: float

    def filtered(self, observations: Floats) -> Floats:
        """P(state_t | observations up to t), float64 (T, K); a row with a missing value keeps the last belief, moved on."""
        x = (np.asarray(observations, np.float64) - self.centre) / self.scale
        out = np.empty((len(x), len(self.start)))
        _forward(x, self.start, self.transition, self.mean, self.variance, out)
        return out


@numba.njit(cache=True)
def _density(x, mean, variance, out):  # type: ignore[no-untyped-def]
    """Log density of one observation in every state."""
    for k in range(mean.shape[0]):
        total = 0.0
        for d in range(mean.shape[1]):
            gap = x[d] - mean[k, d]
            total -= 0.5 * (math.log(2.0 * math.pi * variance[k, d]) + gap * gap / variance[k, d])
        out[k] = total


@numba.njit(cache=True)
def _forward(x, start, transition, mean, variance, out):  # type: ignore[no-untyped-def]
    """Filtered probabilities; returns the log likelihood. Scaled at every step (Rabiner 1989)."""
    states = len(start)
    density = np.empty(states)
    prior = start.copy()
    likelihood = 0.0
    for t in range(len(x)):
        if t:
            for k in range(states):
                s = 0.0
                for j in range(states):
                    s += out[t - 1, j] * transition[j, k]
                prior[k] = s
        known = True
        for d in range(x.shape[1]):
            if math.isnan(x[t, d]):
                known = False
        if not known:
            for k in range(states):
                out[t, k] = prior[k]
            continue
        _density(x[t], mean, variance, density)
        top = density.max()
        total = 0.0
        for k in range(states):
            out[t, k] = prior[k] * math.exp(density[k] - top)
            total += out[t, k]
        if total <= 0.0:
            for k in range(states):
                out[t, k] = prior[k]
            continue
        for k in range(states):
            out[t, k] /= total
        likelihood += math.log(total) + top
    return likelihood


@numba.njit(cache=True)
def _maximise(x, start, transition, mean, variance, filtered):  # type: ignore[no-untyped-def]
    """One round of expectation maximisation in place, from the filtered probabilities (forward filtering, backward
    smoothing). Smoothing stays inside the bars the model is fitted on."""
    n, width = x.shape
    states = len(start)
    smooth = filtered.copy()
    moves = np.zeros((states, states))
    ahead = np.empty(states)
    for t in range(n - 2, -1, -1):
        for k in range(states):
            s = 0.0
            for j in range(states):
                s += filtered[t, j] * transition[j, k]
            ahead[k] = smooth[t + 1, k] / s if s > 0.0 else 0.0
        for j in range(states):
            s = 0.0
            for k in range(states):
                part = filtered[t, j] * transition[j, k] * ahead[k]
                moves[j, k] += part
                s += part
            smooth[t, j] = s
    for j in range(states):
        start[j] = smooth[0, j]
        total = moves[j].sum()
        for k in range(states):
            # A prior count keeps every move possible: a state never left in the sample is not left for ever.
            transition[j, k] = (moves[j, k] + 0.1) / (total + 0.1 * states)
        weight = smooth[:, j].sum()
        for d in range(width):
            m = 0.0
            for t in range(n):
                m += smooth[t, j] * x[t, d]
            m = m / weight if weight > 1e-9 else 0.0
            v = 0.0
            for t in range(n):
                v += smooth[t, j] * (x[t, d] - m) ** 2
            mean[j, d] = m
            variance[j, d] = max(v / weight if weight > 1e-9 else 1.0, 1e-4)


def observations(bars: Bars, window: int = 20) -> Floats:
    """What the model sees at a bar, float64 (T, 2): log of the trailing root-mean-square return, and the efficiency ratio
    of the same window; NaN in the first `window` bars and where nothing moved."""
    returns = log_returns(bars)
    net, total, deviation = (np.full(len(bars), np.nan) for _ in range(3))
    if len(bars) > window:
        _rolling(returns[1:], window, net[1:], total[1:], deviation[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.stack([np.log(deviation), np.abs(net) / total], axis=1)
    return np.where(np.isfinite(out), out, np.nan)


def fit(seen: Floats, *, rounds: int = 60, tolerance: float = 1e-4) -> MarkovModel:
    """Fit to observations (T, 2) by expectation maximisation, begun at quantiles: the same data give the same model.

    States are named by what they are: the most volatile one VOLATILE, of the others the more directed one TRENDING. Rows
    with missing values are left out. Raises ValueError on fewer than 100 whole rows.
    """
    x = np.asarray(seen, np.float64)
    x = x[np.isfinite(x).all(axis=1)]
    if len(x) < 100:
        raise ValueError(f"{len(x)} whole rows, expected at least 100 to fit a regime model")
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), _FLOOR)
    z = (x - centre) / scale
    by_volatility = np.argsort(z[:, 0], kind="stable")
    loud = by_volatility[int(len(z) * 0.8) :]
    calm = by_volatility[: int(len(z) * 0.8)]
    by_direction = calm[np.argsort(z[calm, 1], kind="stable")]
    groups = [by_direction[: len(by_direction) // 2], by_direction[len(by_direction) // 2 :], loud]
    mean = np.array([z[g].mean(axis=0) for g in groups])
    variance = np.maximum(np.array([z[g].var(axis=0) for g in groups]), 1e-2)
    start, transition = np.full(STATES, 1 / STATES), np.full((STATES, STATES), 0.02) + np.eye(STATES) * 0.94
    filtered = np.empty((len(z), STATES))
    last = -math.inf
    for _ in range(rounds):
        likelihood = float(_forward(z, start, transition, mean, variance, filtered))
        if likelihood - last < tolerance * abs(likelihood):
            break
        last = likelihood
        _maximise(z, start, transition, mean, variance, filtered)
    volatile = int(mean[:, 0].argmax())
    rest = [k for k in range(STATES) if k != volatile]
    trending = max(rest, key=lambda k: mean[k, 1])
    labels = tuple(
        Regime.VOLATILE if k == volatile else Regime.TRENDING if k == trending else Regime.RANGING for k in range(STATES)
    )
    return MarkovModel(start, transition, mean, variance, labels, centre, scale, last)


def markov_regimes(
    bars: Bars, *, window: int = 20, train: int = 1_000, refit: int = 250, certain: float = 0.6, first: int = 0
) -> Labels:
    """Regime by the hidden Markov model at every bar, int8 (T,): UNKNOWN before `train` bars and where no state has at least
    probability `certain`.

    Refitted every `refit` bars on the last `train` bars then known, and used on later bars only. Fits begin at row
    train + k * refit of the bars given, so live and research agree when both begin at the same (anchored) bar.
    first: rows before it may stay UNKNOWN, and fits that only they would use are left out.
    """
    if not (0.0 < certain <= 1.0 and train >= 100 and refit >= 1):
        raise ValueError(f"train={train} refit={refit} certain={certain}: expected at least 100, at least 1, within (0, 1]")
    seen = observations(bars, window)
    out = np.full(len(bars), int(Regime.UNKNOWN), np.int8)
    for begin in range(train, len(bars), refit):
        if begin + refit <= first:
            continue
        past = seen[begin - train : begin]
        if np.isfinite(past).all(axis=1).sum() < 100:
            continue
        model = fit(past)
        end = min(begin + refit, len(bars))
        probability = model.filtered(seen[begin - train : end])[train:]
        best = probability.argmax(axis=1)
        names = np.array([int(label) for label in model.labels], np.int8)[best]
        sure = probability[np.arange(len(best)), best] >= certain
        out[begin:end] = np.where(sure & np.isfinite(seen[begin:end]).all(axis=1), names, int(Regime.UNKNOWN))
    return out
