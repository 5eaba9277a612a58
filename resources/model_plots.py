"""Pictures of trainings: figures against their targets, forecast quality by member, seeds of an agent. PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from resources.plots import BLUE, GAIN, INK, LOSS, MUTED, ORANGE, SERIES, figure, png, title

Floats = NDArray[np.float64]


def targets(kpis: Sequence[tuple[str, float, float, float, float, bool]], heading: str) -> bytes:
    """(name, measured, low, high, target, met): each figure with its interval as a multiple of its target."""
    fig, (ax,) = figure(9, 0.75 + 0.5 * max(1, len(kpis)))
    drawn = [k for k in kpis if math.isfinite(k[1]) and k[4]]
    for row, (_, value, low, high, target, met) in enumerate(reversed(drawn)):
        color = GAIN if met else LOSS
        if math.isfinite(low) and math.isfinite(high):
            ax.plot([low / target, high / target], [row, row], color=color, linewidth=2.2, alpha=0.55)
        ax.plot(value / target, row, "o", color=color, markersize=6)
    ax.axvline(1.0, color=INK, linewidth=1.0, linestyle="--", label="target")
    ax.axvline(0.0, color=MUTED, linewidth=0.7)
    ax.set_yticks(range(len(drawn)), [k[0] for k in reversed(drawn)])
    ax.set_ylim(-0.6, max(0.6, len(drawn) - 0.4))
    ax.set_xlabel("times its target, with 95 % interval", fontsize=8, color=MUTED)
    ax.legend(fontsize=7, frameon=False, loc="best")
    title(ax, heading)
    if not drawn:
        ax.text(0.5, 0.5, "no figure is known: nothing was traded", ha="center", transform=ax.transAxes, color=MUTED, fontsize=9)
    return png(fig)


def members(
    curves: Sequence[tuple[str, float, Floats, Floats]],
    bins: Sequence[tuple[float, float, int]],
    prior: float,
    coverage: Mapping[str, Sequence[float]],
    levels: Sequence[float],
) -> bytes:
    """ROC by forecaster (name, AUC, false, true positive rates), calibration of the ensemble, quantile coverage by forecaster."""
    fig, (left, middle, right) = figure(12.5, 3.9, columns=3)
    for i, (name, area, fpr, tpr) in enumerate(curves):
        left.plot(fpr, tpr, color=SERIES[i % len(SERIES)], linewidth=1.1, label=f"{name}  {area:.3f}")
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle="--", label="no skill")
    left.set_xlabel("false positive rate", fontsize=8, color=MUTED)
    left.set_ylabel("true positive rate", fontsize=8, color=MUTED)
    left.legend(fontsize=7, frameon=False, loc="lower right")
    title(left, "ROC out of sample")
    forecast, observed = np.array([b[0] for b in bins]), np.array([b[1] for b in bins])
    rows = np.array([max(1, b[2]) for b in bins], float)
    error = 1.96 * np.sqrt(np.clip(observed * (1 - observed), 1e-9, None) / rows)
    middle.errorbar(forecast, observed, yerr=error, fmt="o", color=BLUE, markersize=4, linewidth=1, capsize=2)
    low = float(min(forecast.min(), observed.min())) - 0.02
    high = float(max(forecast.max(), observed.max())) + 0.02
    middle.plot([low, high], [low, high], color=MUTED, linewidth=0.9, linestyle="--")
    middle.axhline(prior, color=ORANGE, linewidth=0.9, linestyle=":", label=f"class prior {prior:.3f}")
    middle.legend(fontsize=7, frameon=False, loc="upper left")
    middle.set_xlabel("forecast probability", fontsize=8, color=MUTED)
    middle.set_ylabel("observed share", fontsize=8, color=MUTED)
    title(middle, "Calibration of the ensemble, 95 % intervals")
    width = 0.8 / max(1, len(coverage))
    for i, (name, shares) in enumerate(coverage.items()):
        at = np.arange(len(levels)) + (i - (len(coverage) - 1) / 2) * width
        right.bar(at, [100 * s for s in shares], width=width * 0.9, color=SERIES[i % len(SERIES)], label=name)
    for k, level in enumerate(levels):
        right.plot([k - 0.45, k + 0.45], [100 * level] * 2, color=INK, linewidth=1.2, linestyle="--")
    right.set_xticks(range(len(levels)), [f"{100 * q:.0f} % quantile" for q in levels])
    right.set_ylabel("returns at or below it, %", fontsize=8, color=MUTED)
    right.legend(fontsize=6, frameon=False, loc="upper left")
    title(right, "Quantile coverage")
    return png(fig, 80)


def seeds(scores: Floats, iqm: tuple[float, float, float], curve: Sequence[float], heading: str) -> bytes:
    """Sharpe ratios a year (folds, seeds) with the interquartile mean and its interval; reward while the final agent learnt."""
    fig, (left, right) = figure(11, 3.6, columns=2)
    folds, count = scores.shape
    for f in range(folds):
        left.plot(
            np.arange(count) + (f - (folds - 1) / 2) * 0.12, scores[f], "o", color=SERIES[f % len(SERIES)], label=f"fold {f + 1}"
        )
    value, low, high = iqm
    if math.isfinite(low):
        left.axhspan(low, high, color=BLUE, alpha=0.12, linewidth=0, label="95 % interval")
    left.axhline(value, color=BLUE, linewidth=1.2, label=f"interquartile mean {value:.2f}")
    left.axhline(0, color=INK, linewidth=0.7)
    left.set_xticks(range(count), [f"seed {s}" for s in range(count)])
    left.set_ylabel("Sharpe ratio a year", fontsize=8, color=MUTED)
    left.legend(fontsize=7, frameon=False, loc="best")
    title(left, heading)
    right.plot(np.arange(1, len(curve) + 1), 1e4 * np.asarray(curve, float), color=ORANGE, linewidth=1.3)
    right.axhline(0, color=INK, linewidth=0.7)
    right.set_xlabel("update", fontsize=8, color=MUTED)
    right.set_ylabel("reward per bar, 10⁻⁴", fontsize=8, color=MUTED)
    title(right, "The final agent while it learnt")
    return png(fig, 80)
