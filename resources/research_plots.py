"""Pictures of research: against the baselines, resampled histories, grids, walk-forward, perturbed bars. PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources import plots
from resources.plots import (
    BLUE,
    GAIN,
    INK,
    LOSS,
    MUTED,
    ORANGE,
    SERIES,
    Curve,
    png,
    thin,
    time_axis,
    title,
    utc,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


_LEFT, _RIGHT, _BOTTOM, _TOP, _BETWEEN, _ROWS_APART = 0.74, 0.18, 0.55, 0.36, 0.72, 0.25
"""Room around and between the panels, inches: for tick labels of up to seven characters, an axis label and a title."""


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Any, list[Any]]:
    """As resources.plots.figure with fixed margins: measuring every label costs more than drawing, and research draws dozens
    of pictures in a run."""
    fig, axes = plots.figure(width, height, rows, columns, layout=None, **grid)
    wide = (width - _LEFT - _RIGHT - _BETWEEN * (columns - 1)) / columns
    high = (height - _BOTTOM - _TOP - _ROWS_APART * (rows - 1)) / rows
    fig.subplots_adjust(
        left=_LEFT / width, right=1 - _RIGHT / width, bottom=_BOTTOM / height, top=1 - _TOP / height,
        wspace=_BETWEEN / wide, hspace=_ROWS_APART / high,
    )  # fmt: skip
    return fig, axes


def _grow(returns: Floats) -> Floats:
    return np.asarray(100 * (np.cumprod(1.0 + returns, axis=0) - 1.0), np.float64)


def _label(ax: Any, x: str = "", y: str = "") -> None:
    ax.set_xlabel(x, fontsize=8, color=MUTED)
    ax.set_ylabel(y, fontsize=8, color=MUTED)


def _histogram(ax: Any, values: Floats, lines: Sequence[tuple[str, float, str]], bins: int = 40) -> None:
    values = np.asarray(values)[np.isfinite(values)]
    if len(values):
        spread = float(np.ptp(values)) if len(values) > 1 else 0.0
        ax.hist(values, bins=min(bins, max(5, len(values) // 3)) if spread > 0 else 1, color=BLUE, alpha=0.55, linewidth=0)
    for name, value, color in lines:
        if np.isfinite(value):
            ax.axvline(value, color=color, linewidth=1.4, label=name)
    if lines:
        ax.legend(fontsize=7, frameon=False, loc="best")


def against_baselines(
    times: Ints, returns: Floats, baselines: Sequence[tuple[str, Floats]], random_returns: Floats, random_totals: Floats,
    ladder: Sequence[tuple[float, float]], heading: str,
) -> bytes:  # fmt: skip
    """Equity in percent of the strategy, its baselines and the span of random entries; their totals; the cost ladder."""
    fig, (left, middle, right) = figure(12.5, 4.0, columns=3, width_ratios=[2.2, 1, 0.9])
    if random_returns.shape[1]:
        paths = _grow(random_returns)
        low, high = np.quantile(paths, [0.05, 0.95], axis=1)
        left.fill_between(utc(times), low, high, color=MUTED, alpha=0.18, linewidth=0, label="random entries, 5 to 95 %")
    for i, (name, series) in enumerate(baselines):
        curve = thin(Curve(name, times, _grow(series)))
        left.plot(utc(curve.close_time), curve.equity, color=SERIES[(i + 1) % len(SERIES)], linewidth=1.0, label=name)
    mine = _grow(returns)
    curve = thin(Curve("strategy", times, mine))
    left.plot(utc(curve.close_time), curve.equity, color=BLUE, linewidth=1.8, label="strategy")
    left.legend(fontsize=7, frameon=False, loc="best")
    _label(left, y="result, % of the cash")
    time_axis(left)
    title(left, heading)
    _histogram(middle, 100 * random_totals, [("strategy", float(mine[-1]) if len(mine) else 0.0, ORANGE)], bins=20)
    _label(middle, "total result, %", "random entries")
    title(middle, "Is the timing worth anything?")
    factors, results = [f for f, _ in ladder], [100 * r for _, r in ladder]
    right.bar(range(len(factors)), results, color=[GAIN if r > 0 else LOSS for r in results], width=0.6)
    right.set_xticks(range(len(factors)), [f"{f:g}×" for f in factors])
    right.axhline(0, color=INK, linewidth=0.8)
    _label(right, "times its own costs", "result, %")
    title(right, "Cost ladder")
    return png(fig)


def split_bars(splits: Mapping[str, Mapping[str, tuple[int, float]]], currency: str, heading: str) -> bytes:
    """Net P&L of closed trades per group: one panel for each split (regime, session hour): name -> label -> (trades, net)."""
    fig, axes = figure(11, 3.2, columns=len(splits), width_ratios=[max(2, len(v)) ** 0.6 for v in splits.values()])
    for ax, (name, groups) in zip(axes, splits.items(), strict=True):
        nets = [net for _, net in groups.values()]
        ax.bar(range(len(groups)), nets, color=[GAIN if n > 0 else LOSS for n in nets], width=0.7)
        shown = [label if len(groups) > 8 else f"{label}\n{count}" for label, (count, _) in groups.items()]
        ax.set_xticks(range(len(groups)), shown)
        ax.tick_params(axis="x", labelsize=7)
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.yaxis.set_major_formatter("{x:,.0f}")
        _label(ax, "" if len(groups) > 8 else "trades below the name", currency)
        title(ax, f"{heading}: net by {name}" if ax is axes[0] else f"Net by {name}")
    return png(fig)


def resampled(times: Ints, actual: Floats, levels: Sequence[float], bands: Floats, drawdowns: Floats, shuffled: Floats,
              actual_drawdown: float, heading: str) -> bytes:  # fmt: skip
    """Fan of resampled histories with the actual one, and the drawdowns of resampled returns and of shuffled trades.

    bands (Q, T): quantiles `levels` of equity as a multiple of the start; actual (T,) likewise.
    """
    fig, (left, middle, right) = figure(12.5, 3.9, columns=3, width_ratios=[2.1, 1, 1])
    x = utc(times)
    half = len(levels) // 2
    for k in range(half):
        left.fill_between(
            x, 100 * (bands[k] - 1), 100 * (bands[-1 - k] - 1), color=BLUE, alpha=0.14 + 0.12 * k, linewidth=0,
            label=f"{100 * levels[k]:.0f} to {100 * levels[-1 - k]:.0f} %",
        )  # fmt: skip
    left.plot(x, 100 * (bands[half] - 1), color=BLUE, linewidth=1.0, linestyle="--", label="median")
    left.plot(x, 100 * (actual - 1), color=ORANGE, linewidth=1.5, label="as it happened")
    left.axhline(0, color=INK, linewidth=0.7)
    left.legend(fontsize=7, frameon=False, loc="upper left")
    _label(left, y="result, % of the cash")
    time_axis(left)
    title(left, heading)
    _histogram(middle, 100 * drawdowns, [("as it happened", 100 * actual_drawdown, ORANGE),
                                        ("19 in 20 below", 100 * float(np.quantile(drawdowns, 0.95)), LOSS)])  # fmt: skip
    _label(middle, "deepest drawdown, %", "histories")
    title(middle, "Returns resampled in blocks")
    lines = [("as it happened", 100 * actual_drawdown, ORANGE)]
    _histogram(right, 100 * shuffled, lines)
    _label(right, "deepest drawdown, %", "orders of the same trades")
    title(right, "Trades in random order")
    return png(fig)


def grid(sharpes: Floats, chosen: int | None, luck: float, logits: Floats, probability: float,
         inside: Floats, outside: Floats, heading: str) -> bytes:  # fmt: skip
    """Annual Sharpe ratios of every trial, sorted, with what luck alone would give; logits of the out-of-sample rank of the
    best; its Sharpe ratio in and out of sample."""
    fig, (left, middle, right) = figure(12.5, 3.8, columns=3)
    order = np.argsort(sharpes)
    colors = [ORANGE if i == chosen else BLUE for i in order]
    left.bar(range(len(order)), sharpes[order], color=colors, width=0.85)
    left.axhline(luck, color=LOSS, linewidth=1.2, linestyle="--", label="best of as many by luck")
    left.axhline(0, color=INK, linewidth=0.7)
    left.legend(fontsize=7, frameon=False, loc="lower right")
    _label(left, "trials, sorted" + ("; the file's own in orange" if chosen is not None else ""), "Sharpe ratio a year")
    title(left, heading)
    _histogram(middle, logits, [("median of the others", 0.0, LOSS)])
    _label(middle, "log odds of its rank out of sample", "splits")
    title(middle, f"PBO {probability:.2f}: best of one half, in the other")
    right.scatter(inside, outside, s=4, color=BLUE, alpha=0.25, linewidths=0)
    right.axhline(0, color=INK, linewidth=0.7)
    _label(right, "Sharpe per session, chosen half", "other half")
    title(right, "What the choice promised, and kept")
    return png(fig, 80)


def walk_forward(times: Ints, curves: Sequence[tuple[str, Ints, Floats]], fold_edges: Sequence[int], cpcv: Floats,
                 full: float, heading: str) -> bytes:  # fmt: skip
    """Out-of-sample results in percent of each walk-forward (name, rows, returns), and the Sharpe ratios of the combinatorial
    paths against that of the file's own parameters on everything."""
    fig, (left, right) = figure(11.5, 3.8, columns=2, width_ratios=[2.1, 1])
    for i, (name, rows, returns) in enumerate(curves):
        left.plot(utc(times[rows]), _grow(returns), color=SERIES[i], linewidth=1.4, label=name)
    for edge in fold_edges:
        left.axvline(utc(times[edge : edge + 1])[0], color=MUTED, linewidth=0.7, linestyle=":")
    left.axhline(0, color=INK, linewidth=0.7)
    left.legend(fontsize=7, frameon=False, loc="best")
    _label(left, y="result out of sample, %")
    time_axis(left)
    title(left, heading)
    _histogram(right, cpcv, [("file's own, all history", full, ORANGE), ("nothing", 0.0, INK)], bins=15)
    _label(right, "Sharpe ratio a year", "paths")
    title(right, f"Combinatorial purged: {len(cpcv)} paths")
    return png(fig)


def perturbed(total: Floats, drawdowns: Floats, factor: Floats, actual: tuple[float, float], heading: str) -> bytes:
    """Results of the runs on perturbed bars and costs: total result, drawdown, and result against cost factor."""
    fig, (left, middle, right) = figure(12, 3.6, columns=3)
    _histogram(left, 100 * total, [("on the real bars", 100 * actual[0], ORANGE), ("nothing", 0.0, INK)])
    _label(left, "total result, %", "runs")
    title(left, heading)
    _histogram(middle, 100 * drawdowns, [("on the real bars", 100 * actual[1], ORANGE)])
    _label(middle, "deepest drawdown, %", "runs")
    title(middle, "Drawdown")
    right.scatter(factor, 100 * total, s=5, color=BLUE, alpha=0.35, linewidths=0)
    right.axhline(0, color=INK, linewidth=0.7)
    _label(right, "times its own costs", "total result, %")
    title(right, "Result by costs")
    return png(fig, 80)


def compared(times: Ints, one: tuple[str, Floats], other: tuple[str, Floats], heading: str) -> bytes:
    """Results in percent of two revisions on the same bars, and their difference."""
    fig, (top, below) = figure(9, 4.4, rows=2, sharex=True, height_ratios=[2.2, 1])
    for (name, returns), color in zip((one, other), (BLUE, ORANGE), strict=True):
        curve = thin(Curve(name, times, _grow(returns)))
        top.plot(utc(curve.close_time), curve.equity, color=color, linewidth=1.4, label=name)
    top.legend(fontsize=8, frameon=False)
    _label(top, y="result, %")
    title(top, heading)
    gap = thin(Curve("b - a", times, _grow(other[1]) - _grow(one[1])))
    below.fill_between(utc(gap.close_time), gap.equity, 0, color=MUTED, alpha=0.4, linewidth=0)
    below.axhline(0, color=INK, linewidth=0.7)
    _label(below, y="second less first")
    time_axis(below)
    return png(fig)
