"""Pictures of bars and features for the UI. matplotlib is imported only when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources import plots
from trading.bars import Bars
from trading.timeframes import iso

CANDLES = 60
_APART = 0.62
"""Inches between panels one below the other: times of the upper one, title of the lower one."""
MAX_PANELS = 12


def bar_panels(series: Sequence[Bars]) -> bytes:
    """PNG: one panel per symbol, the newest bars as candles over a line of the ones before."""
    shown = [b for b in series if len(b)][:MAX_PANELS]
    columns = min(3, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    high = 1.5
    fig, axes = plots.figure(4.2 * columns, (high + _APART) * rows + 0.3, rows, columns, fixed=True)
    fig.subplots_adjust(hspace=_APART / high, right=1 - 0.42 / (4.2 * columns))  # the last time is centred below its bar
    for ax, bars in zip(axes, shown, strict=False):
        candles(ax, bars)
        plots.title(ax, f"{bars.symbol}  {bars.close[-1]:,.6g}")
        _label_times(ax, bars)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    return plots.png(fig, dpi=80)


def candles(ax: Any, bars: Bars, newest: int = CANDLES) -> None:
    """Draw `bars` by position, so that nights and weekends leave no holes."""
    from matplotlib.collections import PolyCollection

    n = len(bars)
    at = np.arange(n)
    old = max(0, n - newest)
    if bool(np.all(bars.high == bars.low)):
        ax.plot(at, bars.close, color=plots.BLUE, linewidth=1)  # closes only: a candle would be a dot
        return
    if old:
        ax.plot(at[: old + 1], bars.close[: old + 1], color=plots.MUTED, linewidth=1)
    x, o, c = at[old:], bars.open[old:], bars.close[old:]
    colors = np.where(c >= o, plots.GAIN, plots.LOSS)
    ax.vlines(x, bars.low[old:], bars.high[old:], color=colors, linewidth=0.8)
    # A body without height would vanish.
    least = max(float(np.nanmax(bars.high) - np.nanmin(bars.low)), 1e-12) / 250
    low = np.minimum(o, c)
    high = low + np.maximum(np.abs(c - o), least)
    left, right = x - 0.35, x + 0.35
    corners = np.stack([left, low, left, high, right, high, right, low], axis=1).reshape(-1, 4, 2)
    ax.add_collection(PolyCollection(list(corners), facecolors=colors, linewidths=0))  # one thing to draw instead of sixty
    ax.autoscale_view()


def feature_panels(bars: Bars, names: Sequence[str], values: NDArray[np.float64], wanted: Sequence[Sequence[str]]) -> bytes:
    """PNG: candles with the first group of features over them, one panel below for each further group.

    values: float64 (T, F) by `names`, the rows of `bars`.
    """
    groups = [[n for n in group if n in names] for group in wanted]
    fig, axes = plots.figure(9, 2.6 + 1.3 * (len(groups) - 1), len(groups), 1, fixed=True, sharex=True)
    candles(axes[0], bars)
    plots.title(axes[0], f"{bars.symbol} {bars.timeframe} and features, to {iso(int(bars.close_time[-1]))}")
    for ax, group in zip(axes, groups, strict=True):
        for i, name in enumerate(group):
            ax.plot(np.arange(len(bars)), values[:, list(names).index(name)], linewidth=1.1, label=name, color=plots.SERIES[i])
        if group:
            ax.legend(fontsize=7, frameon=False, loc="upper left", ncols=len(group))
    _label_times(axes[-1], bars)
    return plots.png(fig, dpi=80)


def _label_times(ax: Any, bars: Bars) -> None:
    n = len(bars)
    at = np.unique(np.linspace(0, n - 1, 4 if n > 6 else 3).round().astype(int)).tolist()  # so few bars apart, dates collide
    intraday = bars.timeframe.intraday
    ax.set_xticks(at, [iso(int(bars.close_time[i]))[5 if intraday else 0 : 16 if intraday else 10].replace("T", " ") for i in at])
