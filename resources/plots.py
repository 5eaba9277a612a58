"""Plots for people: figures drawn without a display, as PNG for the Dagster UI and SVG for files.

matplotlib is imported inside the functions; figures are objects, never the global pyplot state, so that runs in one
process cannot draw into each other's plots.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INK: Final = "#1c2733"
MUTED: Final = "#6b7a89"
GRID: Final = "#e4e9ee"
BLUE: Final = "#1f5fa8"
ORANGE: Final = "#d97706"
GAIN: Final = "#14804a"
LOSS: Final = "#b3261e"
SERIES: Final = (BLUE, ORANGE, "#6d4bb0", "#14804a", "#a3304f", "#5b6b7a")


_LEFT, _RIGHT, _BOTTOM, _TOP, _BETWEEN, _ROWS_APART = 0.8, 0.18, 0.55, 0.36, 0.72, 0.25
"""Fixed room around and between the panels, inches: tick labels of up to nine characters, an axis label, a title."""


def figure(
    width: float, height: float, rows: int = 1, columns: int = 1, *, fixed: bool = False, **grid: Any
) -> tuple[Any, list[Any]]:
    """(figure, its axes in reading order). width, height: inches. fixed: margins as they are here instead of measured; to
    measure every label costs as much as to draw the picture, and research draws dozens in a run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout=None if fixed else "constrained", facecolor="white")
    if fixed:
        wide = (width - _LEFT - _RIGHT - _BETWEEN * (columns - 1)) / columns
        high = (height - _BOTTOM - _TOP - _ROWS_APART * (rows - 1)) / rows
        fig.subplots_adjust(
            left=_LEFT / width, right=1 - _RIGHT / width, bottom=_BOTTOM / height, top=1 - _TOP / height,
            wspace=_BETWEEN / wide, hspace=_ROWS_APART / high,
        )  # fmt: skip
    FigureCanvasAgg(fig)
    axes = [a for row in fig.subplots(rows, columns, squeeze=False, **grid) for a in row]
    for ax in axes:
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(GRID)
        ax.tick_params(colors=MUTED, labelsize=8, length=3)
        ax.grid(True, color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
    return fig, axes


def title(ax: Any, text: str) -> None:
    """Title of a panel at a fixed height: to look for one free of every tick label takes a fifth of the drawing."""
    ax.set_title(text, loc="left", y=1.0, fontsize=10, color=INK, fontweight="bold")


def png(fig: Any, dpi: int = 90) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def svg(fig: Any) -> bytes:
    """SVG without creation date or random ids: the same figure is the same text."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "tapeline", "svg.fonttype": "path"}):
        fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def data_uri(content: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def markdown_image(content: bytes, alt: str) -> str:
    """A PNG inside markdown, as the Dagster UI shows it."""
    return f"![{alt}]({data_uri(content)})"


def utc(times_us: Sequence[int] | NDArray[np.int64]) -> list[datetime]:
    """Naive UTC datetimes for an axis, of UTC us."""
    return [d.astype(object) for d in np.asarray(times_us, np.int64).astype("datetime64[us]")]


def time_axis(ax: Any, ticks: int = 6) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=ticks)
    ax.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(locator)
    ax.xaxis.set_major_formatter(formatter)
    ax.xaxis.get_offset_text().set(fontsize=8, color=MUTED)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One equity curve. close_time: int64 (T,) UTC us; equity: float64 (T,), account currency."""

    name: str
    close_time: NDArray[np.int64]
    equity: Floats


def seen(values: Floats, points: int = 1500) -> NDArray[np.int64]:
    """Rows to draw: all of them, or the first, the last, and each stretch's lowest and highest, so that no fall looks shallower
    than it was. More than about `points` cannot be seen and make the picture heavy."""
    count = len(values)
    if count <= points:
        return np.arange(count)
    edges = np.linspace(0, count, points // 2 + 1).astype(np.int64)
    lowest = [lo + int(np.argmin(values[lo:hi])) for lo, hi in pairwise(edges)]
    highest = [lo + int(np.argmax(values[lo:hi])) for lo, hi in pairwise(edges)]
    return np.unique([0, *lowest, *highest, count - 1])


def thin(curve: Curve, points: int = 1500) -> Curve:
    """The rows of the curve that can be seen."""
    if len(curve.equity) <= points:
        return curve
    keep = seen(curve.equity, points)
    return Curve(curve.name, curve.close_time[keep], curve.equity[keep])


def drawdown(equity: Floats) -> Floats:
    """Fall below the highest equity so far, as a fraction <= 0, (T,)."""
    if not len(equity):
        return equity
    peak = np.maximum.accumulate(equity)
    return np.where(peak > 0, equity / np.where(peak > 0, peak, 1.0) - 1.0, 0.0)


def equity_and_drawdown(curves: Sequence[Curve], currency: str, heading: str) -> bytes:
    """PNG: equity curves above, their drawdowns below."""
    fig, (top, below) = figure(9, 4.6, rows=2, fixed=True, sharex=True, height_ratios=[3, 1.2])
    for i, full in enumerate(curves):
        low = drawdown(full.equity)
        curve, dips = thin(full), thin(Curve(full.name, full.close_time, low))
        color = SERIES[i % len(SERIES)]
        top.plot(utc(curve.close_time), curve.equity, color=color, linewidth=1.3, label=curve.name)
        below.plot(utc(dips.close_time), dips.equity * 100, color=color, linewidth=1.0)
        if len(curves) == 1:
            below.fill_between(utc(dips.close_time), dips.equity * 100, 0, color=color, alpha=0.15, linewidth=0)
    title(top, heading)
    top.set_ylabel(currency, fontsize=8, color=MUTED)
    below.set_ylabel("drawdown %", fontsize=8, color=MUTED)
    top.yaxis.set_major_formatter("{x:,.0f}")
    if len(curves) > 1:
        top.legend(fontsize=8, frameon=False, loc="best")
    time_axis(below, 9)
    return png(fig)


def forecast_quality(
    roc: Sequence[tuple[str, Floats, Floats]],
    bins: Sequence[tuple[float, float, int]],
    prior: float,
    importance: Sequence[tuple[str, float]],
) -> bytes:
    """PNG: ROC per fold, calibration (forecast, observed, rows) against the diagonal, the most important features."""
    fig, (left, middle, right) = figure(12, 3.9, columns=3)
    for i, (name, fpr, tpr) in enumerate(roc):
        left.plot(fpr, tpr, color=SERIES[i % len(SERIES)], linewidth=1.1, label=name)
    left.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle="--", label="no skill")
    left.set_xlabel("false positive rate", fontsize=8, color=MUTED)
    left.set_ylabel("true positive rate", fontsize=8, color=MUTED)
    left.legend(fontsize=7, frameon=False, loc="lower right")
    title(left, "ROC of the walk-forward tests")
    forecast = np.array([b[0] for b in bins])
    observed = np.array([b[1] for b in bins])
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
    title(middle, "Calibration, 95 % intervals")
    top = list(importance)[:12][::-1]
    right.barh([n for n, _ in top], [v * 1000 for _, v in top], color=[BLUE if v > 0 else MUTED for _, v in top])
    right.set_xlabel("log loss added when shuffled, ×10⁻³", fontsize=8, color=MUTED)
    title(right, "Feature importance, last test window")
    return png(fig, 80)
