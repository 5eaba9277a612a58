"""The plots of the daily report: the session's equity, where the money came from, every traded instrument, latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from resources.plots import BLUE, GAIN, GRID, INK, LOSS, MUTED, ORANGE, figure, time_axis, title, utc
from trading.bars import Bars


def equity(times: Sequence[int], values: Sequence[float], start: float | None, currency: str, fills: Sequence[int]) -> Any:
    """Equity at each bar close of the session against its start; `fills`: UTC us, marked on the line."""
    fig, (ax,) = figure(7.4, 3.0)
    x, y = utc(times), np.array(values, float)
    base = float(start) if start is not None else (float(y[0]) if len(y) else 0.0)
    if len(y):
        color = GAIN if y[-1] >= base else LOSS
        ax.plot(x, y, color=color, linewidth=1.6, drawstyle="steps-post", marker="o" if len(y) < 3 else None, markersize=4)
        ax.fill_between(x, y, base, step="post", color=color, alpha=0.10, linewidth=0)
        at = np.clip(np.searchsorted(np.array(times), np.array(fills, np.int64), side="right") - 1, 0, len(y) - 1)
        if len(at):
            ax.plot(utc(fills), y[at], "o", color=INK, markersize=4, label="fills", zorder=3)
            ax.legend(fontsize=8, frameon=False, loc="best")
    ax.axhline(base, color=MUTED, linewidth=0.9, linestyle="--")
    ax.annotate("start of session", (0.005, base), xycoords=("axes fraction", "data"), fontsize=7, color=MUTED, va="bottom")
    ax.yaxis.set_major_formatter("{x:,.0f}")
    if len(y) and float(np.ptp(np.append(y, base))) < 20:
        ax.yaxis.set_major_formatter("{x:,.2f}")
    ax.set_ylabel(currency, fontsize=8, color=MUTED)
    title(ax, "Equity through the session (UTC)")
    time_axis(ax, 8)
    return fig


def pnl_bars(names: Sequence[str], realized: Sequence[float], unrealized: Sequence[float], currency: str) -> Any:
    """Horizontal bars: realised and change of unrealised P&L per strategy and instrument."""
    fig, (ax,) = figure(4.6, 3.0)
    at = np.arange(len(names), dtype=float)
    for offset, values, label, solid in ((-0.18, realized, "realised", True), (0.18, unrealized, "unrealised change", False)):
        v = np.array(values, float)
        colors = [GAIN if value >= 0 else LOSS for value in v]
        ax.barh(at + offset, v, height=0.34, color=colors if solid else "white", edgecolor=colors, linewidth=1.2, label=label)
    ax.axvline(0, color=MUTED, linewidth=0.9)
    ax.set_yticks(at, list(names))
    ax.invert_yaxis()
    ax.set_ylim(max(len(names), 3) - 0.5, -0.5)
    ax.grid(False, axis="y")
    from matplotlib.patches import Patch

    ax.legend(
        handles=[Patch(facecolor=MUTED, edgecolor=MUTED, label="realised"),
                 Patch(facecolor="white", edgecolor=MUTED, label="change of unrealised")],
        fontsize=7, frameon=False, loc="lower right",
    )  # fmt: skip
    ax.set_xlabel(currency, fontsize=8, color=MUTED)
    title(ax, "P&L of the session by strategy")
    return fig


def trade_chart(
    bars: Bars,
    session_start: int | None,
    fills: Sequence[tuple[int, str, float]],
    levels: Sequence[tuple[str, float]],
    heading: str,
) -> Any:
    """Bars of one instrument with the session's fills (UTC us, side, price) and the working levels (name, price)."""
    fig, (ax,) = figure(6.0, 2.9)
    n = len(bars)
    at = np.arange(n)
    up = bars.close >= bars.open
    for rows, color in ((up, GAIN), (~up, LOSS)):
        ax.vlines(at[rows], bars.low[rows], bars.high[rows], color=color, linewidth=0.8, alpha=0.8)
        low, high = np.minimum(bars.open, bars.close)[rows], np.maximum(bars.open, bars.close)[rows]
        least = float(np.ptp(bars.close)) * 0.002
        ax.bar(at[rows], np.maximum(high - low, least), bottom=low, width=0.62, color=color, alpha=0.65, linewidth=0)
    if session_start is not None and n:
        first = int(np.searchsorted(bars.close_time, session_start, side="right"))
        ax.axvspan(first - 0.5, n - 0.5, color=BLUE, alpha=0.05, linewidth=0)
    for time_us, side, price in fills:
        x = min(n - 1, int(np.searchsorted(bars.close_time, time_us, side="left")))
        buy = side == "buy"
        ax.plot([x], [price], "^" if buy else "v", color=BLUE if buy else ORANGE, markersize=9, markeredgecolor="white", zorder=4)
    inside = (float(bars.low.min()), float(bars.high.max())) if n else (0.0, 1.0)
    margin = (inside[1] - inside[0]) * 0.6 or 1.0
    for name, price in levels:
        if inside[0] - margin <= price <= inside[1] + margin:
            color = LOSS if name == "stop" else GAIN if name == "target" else MUTED
            ax.axhline(price, color=color, linewidth=0.9, linestyle="--")
            ax.annotate(name, (1.0, price), xycoords=("axes fraction", "data"), fontsize=7, color=color, va="center")
    ticks = np.unique(np.linspace(0, max(0, n - 1), 6).astype(int)) if n else np.array([], int)
    form = "%d %b" if not bars.timeframe.intraday else "%d %b %H:%M"
    ax.set_xticks(ticks, [utc([int(bars.close_time[i])])[0].strftime(form) for i in ticks], fontsize=7)
    title(ax, heading)
    return fig


def latency_bars(stages: Sequence[tuple[str, float, float]]) -> Any:
    """Median and 95th percentile per stage, milliseconds."""
    fig, (ax,) = figure(7.4, 0.9 + 0.28 * max(1, len(stages)))
    at = np.arange(len(stages))
    ax.barh(at, [s[2] for s in stages], color=GRID, height=0.62, label="95th percentile")
    ax.barh(at, [s[1] for s in stages], color=BLUE, height=0.62, label="median")
    ax.set_yticks(at, [s[0] for s in stages])
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set_xlabel("milliseconds", fontsize=8, color=MUTED)
    ax.legend(fontsize=7, frameon=False, loc="lower right")
    title(ax, "Where the time goes, bar close to decisions handed over")
    return fig
