"""Pictures of drift: which features have moved, what the model says now and said then, what it earned. PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resources.plots import BLUE, GRID, INK, LOSS, MUTED, ORANGE, figure, png, time_axis, title, utc

Floats = NDArray[np.float64]


def moved(shifts: Sequence[tuple[str, float, float, bool]], limit: float, heading: str, shown: int = 20) -> bytes:
    """(name, stability index, what 19 in 20 stretches of the training part stay below, moved) of every column, largest first."""
    rows = sorted(shifts, key=lambda s: -(s[1] if math.isfinite(s[1]) else math.inf))[:shown][::-1]
    fig, (ax,) = figure(9, 0.9 + 0.24 * max(2, len(rows)))
    for at, (_, value, usual, has_moved) in enumerate(rows):
        ax.barh(at, value if math.isfinite(value) else limit, color=LOSS if has_moved else BLUE, height=0.62,
                alpha=1.0 if math.isfinite(value) else 0.3)  # fmt: skip
        if math.isfinite(usual):
            ax.plot([usual, usual], [at - 0.4, at + 0.4], color=INK, linewidth=1.4)
    ax.axvline(limit, color=LOSS, linewidth=1.0, linestyle="--", label=f"limit {limit:g}")
    ax.plot([], [], color=INK, linewidth=1.4, label="19 in 20 stretches of the training part are below")
    ax.set_yticks(range(len(rows)), [r[0] for r in rows], fontsize=7)
    ax.set_xlabel("population stability index", fontsize=8, color=MUTED)
    ax.legend(fontsize=7, frameon=False, loc="lower right")
    title(ax, heading)
    return png(fig)


def outputs(columns: Sequence[tuple[str, Floats, Floats]], heading: str) -> bytes:
    """(name, values in the training part, values now) of every output, as histograms of shares."""
    fig, axes = figure(5.2 * max(1, len(columns)), 3.4, columns=max(1, len(columns)))
    for ax, (name, then, now) in zip(axes, columns, strict=False):
        both = np.concatenate([then, now])
        both = both[np.isfinite(both)]
        low, high = (float(both.min()), float(both.max())) if len(both) else (0.0, 1.0)
        bins = np.linspace(low, high if high > low else low + 1e-6, 31)
        for values, color, label in ((then, MUTED, "training part"), (now, ORANGE, "now")):
            known = values[np.isfinite(values)]
            if len(known):
                ax.hist(known, bins=bins, weights=np.full(len(known), 100.0 / len(known)), color=color, alpha=0.55, label=label)
        ax.set_xlabel(name, fontsize=8, color=MUTED)
        ax.set_ylabel("share of rows, %", fontsize=8, color=MUTED)
        ax.legend(fontsize=7, frameon=False)
    title(axes[0], heading)
    return png(fig)


def performance(
    ends: NDArray[np.int64], returns: Floats, height: Floats, limit: float, alarms: Sequence[int], falls: Sequence[int],
    expected: float, heading: str,
) -> bytes:  # fmt: skip
    """Growth since the training part ended against what the walk-forward result would have been, with the changes that were
    found; below: how far Page-Hinkley sees it behind. ends: int64 (T,) UTC us; the others float64 (T,) or positions."""
    fig, (top, low) = figure(10, 4.6, rows=2, sharex=True, gridspec_kw={"height_ratios": [2, 1]})
    if not len(ends):
        top.text(0.5, 0.5, "no session since the training part", ha="center", transform=top.transAxes, color=MUTED, fontsize=9)
        return png(fig)
    when = utc(ends)
    top.plot(when, 100 * (np.cumprod(1 + returns) - 1), color=BLUE, linewidth=1.3, label="after costs")
    top.plot(when, 100 * ((1 + expected) ** np.arange(1, len(ends) + 1) - 1), color=MUTED, linewidth=1.0, linestyle="--",
             label="at the walk-forward mean")  # fmt: skip
    for at, color, label in ((falls, ORANGE, "ADWIN: the mean fell"), (alarms, LOSS, "Page-Hinkley alarm")):
        for n, i in enumerate(at):
            top.axvline(when[i], color=color, linewidth=1.1, label=label if n == 0 else None)
    top.axhline(0, color=INK, linewidth=0.7)
    top.set_ylabel("growth, %", fontsize=8, color=MUTED)
    top.legend(fontsize=7, frameon=False, loc="best")
    title(top, heading)
    low.fill_between(when, 100 * height, color=GRID)
    low.plot(when, 100 * height, color=ORANGE, linewidth=1.0)
    if math.isfinite(limit):
        low.axhline(100 * limit, color=LOSS, linewidth=1.0, linestyle="--", label="alarm")
        low.legend(fontsize=7, frameon=False, loc="best")
    low.set_ylabel("behind, %", fontsize=8, color=MUTED)
    time_axis(low)
    return png(fig)


def explained(parts: Sequence[tuple[str, float]], base: float, output: float, unit: str, heading: str, shown: int = 12) -> bytes:
    """One decision: what each feature added between what the model says of the average row and what it said, largest first."""
    ordered = sorted(parts, key=lambda p: -abs(p[1]))
    rest = sum(v for _, v in ordered[shown:])
    rows = [*ordered[:shown], *([(f"{len(ordered) - shown} others", rest)] if len(ordered) > shown else [])][::-1]
    fig, (ax,) = figure(8, 0.9 + 0.26 * max(2, len(rows)))
    at = output
    for level in range(len(rows) - 1, -1, -1):  # from the output at the top down to the average row
        value = rows[level][1]
        ax.barh(level, -value, left=at, color=BLUE if value > 0 else LOSS, height=0.62)
        at -= value
    ax.axvline(base, color=MUTED, linewidth=1.0, linestyle="--", label=f"the average row {base:+.3f}")
    ax.axvline(output, color=INK, linewidth=1.0, label=f"this one {output:+.3f}")
    ax.set_yticks(range(len(rows)), [f"{n}  {v:+.3f}" for n, v in rows], fontsize=7)
    ax.set_xlabel(unit, fontsize=8, color=MUTED)
    ax.legend(fontsize=7, frameon=False, loc="best")
    title(ax, heading)
    return png(fig)
