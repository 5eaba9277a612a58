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


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Any, list[Any]]:
    """As resources.plots.figure, with fixed margins."""
    return plots.figure(width, height, rows, columns, fixed=True, **grid)


def few(count: int, points: int = 600) -> Ints:
    """Rows to draw of `count`: first and last kept, more than about a pixel each cannot be seen."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, points)).astype(np.int64))


def _grow(returns: Floats) -> Floats:
    return np.asarray(100 * (np.cumprod(1.0 + returns, axis=0) - 1.0), np.float64)


def _label(ax: Any, x: str = "", y: str = "") -> None:
    ax.set_xlabel(x, fontsize=8, color=MUTED)
    ax.set_ylabel(y, fontsize=8, color=MUTED)


def _histogram(ax: Any, values: Floats, lines: Sequence[tuple[str, float, str]], bins: int = 40) -> None:
    values = np.asarray(values)[np.isfinite(values)]
    if len(values):
        spread = float(np.ptp(values)) if len(values) > 1 else 0.0
        counts, edges = np.histogram(values, min(bins, max(5, len(values) // 3)) if spread > 0 else 1)
        ax.stairs(counts, edges, fill=True, color=BLUE, alpha=0.55, linewidth=0)  # one shape: bars one by one draw slowly
        ax.set_ylim(0, 1.25 * max(1, counts.max()) if lines else None)  # above the highest bar there is room for the legend
    for name, value, color in lines:
        if np.isfinite(value):
            ax.axvline(value, color=color, linewidth=1.4, label=name)
    if lines:
        low, high = ax.get_xlim()
        right = float(np.nanmean([value for _, value, _ in lines] or [low])) > (low + high) / 2
        ax.legend(fontsize=7, frameon=False, loc="upper left" if right else "upper right")


def against_baselines(
    times: Ints, returns: Floats, baselines: Sequence[tuple[str, Floats]], random_returns: Floats, random_totals: Floats,
    ladder: Sequence[tuple[float, float]], heading: str,
) -> bytes:  # fmt: skip
    """Equity in percent of the strategy, its baselines and the span of random entries; their totals; the cost ladder."""
    fig, (left, middle, right) = figure(12.5, 4.0, columns=3, width_ratios=[2.2, 1, 0.9])
    if random_returns.shape[1]:
        paths = _grow(random_returns)
        some = few(len(times))
        low, high = np.quantile(paths[some], [0.05, 0.95], axis=1)
        left.fill_between(utc(times[some]), low, high, color=MUTED, alpha=0.18, linewidth=0, label="random entries, 5 to 95 %")
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
    some = few(len(times))
    x, bands, actual = utc(times[some]), bands[:, some], actual[some]
    half = len(levels) // 2
    for k in range(half):
        left.fill_between(
            x, 100 * (bands[k] - 1), 100 * (bands[-1 - k] - 1), color=BLUE, alpha=0.14 + 0.12 * k, linewidth=0,
            label=f"{100 * levels[k]:.0f} to {100 * levels[-1 - k]:.0f} %",
        )  # fmt: skip
    left.plot(x, 100 * (bands[half] - 1), color=BLUE, linewidth=1.0, linestyle="--", label="median")
    left.plot(x, 100 * (actual - 1), color=ORANGE, linewidth=1.5, label="as it happened")
    left.axhline(0, color=INK, linewidth=0.7)
    left.legend(fontsize=7, frameon=False, loc="best")
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


def believed(figures: Mapping[str, Mapping[str, Any]], confidence: float) -> bytes:
    """Every strategy beside the others: Sharpe ratio with its interval and what the best of N has by luck; probabilistic and
    deflated Sharpe; track record over the minimum. figures: by strategy, of assets.research_verdicts.promotion_of."""
    names = list(figures)[::-1]
    rows = np.arange(len(names), dtype=np.float64)

    def values(key: str) -> Floats:
        return np.array([figures[name].get(key, np.nan) for name in names], np.float64)

    fig, (left, middle, right) = figure(12.5, 1.3 + 0.32 * max(3, len(names)), columns=3, sharey=True, width_ratios=[1.7, 1.2, 1])
    fig.subplots_adjust(left=0.17, wspace=0.08)
    below: dict[str, Any] = {"fontsize": 7, "frameon": False, "loc": "upper left", "bbox_to_anchor": (0, -0.1), "ncols": 2}
    sharpe, low, high, luck = (values(k) for k in ("sharpe", "sharpe_low", "sharpe_high", "luck_sharpe"))
    left.hlines(rows, low, high, color=BLUE, linewidth=1.6)
    left.plot(sharpe, rows, "o", color=BLUE, markersize=5, label="Sharpe ratio a year, 95 %")
    left.plot(luck, rows, "|", color=LOSS, markersize=11, markeredgewidth=1.8, label="best of N by luck")
    left.axvline(0, color=INK, linewidth=0.8)
    left.set_yticks(rows, names)
    left.set_ylim(-0.6, len(names) - 0.4)
    left.legend(**below)
    title(left, "Better than luck?")
    probable, deflated = values("probabilistic_sharpe"), values("deflated_sharpe")
    middle.barh(rows + 0.17, probable, height=0.3, color=MUTED, label="probabilistic")
    middle.barh(rows - 0.17, deflated, height=0.3, color=ORANGE, label="deflated by N trials")
    for row, value in zip(rows, deflated, strict=True):
        if not np.isfinite(value):
            middle.text(0.01, row - 0.3, "N not known", fontsize=6.5, color=LOSS)
    middle.axvline(confidence, color=LOSS, linewidth=1.0, linestyle="--")
    middle.set_xlim(0, 1)
    middle.legend(**below)
    title(middle, "P(true Sharpe above 0, above luck)")
    record = values("track_record")
    right.barh(rows, np.minimum(record, 3.0), height=0.45, color=[GAIN if r >= 1 else LOSS for r in record])
    right.axvline(1, color=INK, linewidth=0.9)
    right.set_xlim(0, 3)
    title(right, "Track record / the minimum")
    return png(fig)
