"""What gates cost and save, for the eye. matplotlib is imported inside the functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from resources import plots
from trading.gate_report import GateReport, Outcomes

_MOST = 30


def earned(found: Sequence[GateReport]) -> bytes:
    """PNG: for every gate of every strategy the mean result (R) of the signals it refused that could have been taken, with two
    standard errors, beside the strategy's trades; right of it how many were refused. The gates that refused most come first."""
    rows = [(r, line) for r in found for line in r.lines]
    rows = sorted(rows, key=lambda x: -x[1].refused)[:_MOST][::-1]
    fig, (left, right) = plots.figure(
        11, 1.2 + 0.32 * max(len(rows), 1), columns=2, sharey=True, gridspec_kw={"width_ratios": (3, 1)}
    )
    if not rows:
        return _nothing(fig, left, right)
    labels = [f"{report.strategy}: {line.gate}" for report, line in rows]
    for y, (report, line) in enumerate(rows):
        _mean(left, y - 0.14, report.taken, plots.MUTED)
        _mean(left, y + 0.14, line.free, plots.BLUE)
    for colour, name in ((plots.MUTED, "taken"), (plots.BLUE, "refused, free to take")):
        left.plot([], [], "o-", color=colour, markersize=4, linewidth=1.2, label=name)
    left.axvline(0.0, color=plots.INK, linewidth=0.8)
    left.set_yticks(range(len(rows)), labels, fontsize=8)
    left.set_ylim(-0.6, len(rows) - 0.4)
    left.set_xlabel("mean result, R; bars: two standard errors", fontsize=8, color=plots.MUTED)
    plots.title(left, "What the refused signals would have earned")
    right.barh(range(len(rows)), [line.refused for _, line in rows], color=plots.BLUE, height=0.5)
    right.barh(range(len(rows)), [line.alone for _, line in rows], color=plots.ORANGE, height=0.5)
    right.set_xlabel("refused; orange: by this gate alone", fontsize=8, color=plots.MUTED)
    plots.title(right, "How many")
    left.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return plots.png(fig)


def _nothing(fig: Any, *axes: Any) -> bytes:
    """A picture that says that there is nothing to show."""
    for ax in axes:
        ax.set_axis_off()
    plots.title(axes[0], "No strategy has a gate that judged a signal")
    return plots.png(fig)


def _mean(ax: Any, y: float, of: Outcomes, colour: str) -> None:
    if not math.isfinite(of.mean_r):
        return
    error = 2 * of.error_r if math.isfinite(of.error_r) else 0.0
    ax.errorbar([of.mean_r], [y], xerr=[error], fmt="o", markersize=4, linewidth=1.2, capsize=2, color=colour)
