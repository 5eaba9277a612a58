"""A backtest for the eye: a figure for the notebook, one HTML page without outside parts.

``BacktestResult.plot()`` and ``.html()`` come here; matplotlib is imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from resources import plots
from trading import metrics
from trading.backtest import BacktestResult

_POINTS = 2000
_TRADES = 500
_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;color:#1c2733;max-width:1280px;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:2rem}table{border-collapse:collapse;font-size:13px}"
    "td,th{padding:.25rem .7rem;border-bottom:1px solid #e4e9ee;text-align:right}th{color:#6b7a89;font-weight:600}"
    "td{white-space:nowrap}td:first-child,th:first-child{text-align:left}img{max-width:100%}.note{color:#6b7a89}"
    ".wide{overflow-x:auto}.gain{color:#1a7f4b}.loss{color:#b3261e}"
)


def plot(result: BacktestResult, width: float = 10.0, height: float = 7.0) -> Any:
    """Figure of three panels over one time axis: equity with the trades' ends, drawdown, gross and net exposure.

    Of long runs only the rows are drawn that can be seen: the lowest and highest equity of each stretch, so that no drawdown
    looks shallower than it was.
    """
    figure, axes = plots.figure(width, height, rows=3, sharex=True, height_ratios=(3, 1, 1))
    below = -100.0 * metrics.drawdowns(result.equity, result.cash)
    keep, exposure = plots.seen(result.equity, _POINTS), result.exposures()
    times = plots.utc(result.close_time[keep])
    top, middle, bottom = axes
    plots.title(top, _headline(result))
    top.plot(times, result.equity[keep], color=plots.BLUE, linewidth=1.2)
    top.axhline(result.cash, color=plots.MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    _mark_trades(top, result)
    plots.title(middle, f"Drawdown, %: {below.min():.1f} at its deepest" if len(below) else "Drawdown, %")
    middle.fill_between(times, below[keep], 0, color=plots.LOSS, alpha=0.35, linewidth=0)
    middle.set_ylim(top=0)
    plots.title(bottom, "Exposure")
    keep = np.union1d(plots.seen(exposure["gross"], _POINTS), plots.seen(exposure["net"], _POINTS))
    times = plots.utc(result.close_time[keep])  # a position is what it is until the next close: steps, no slopes
    bottom.fill_between(times, exposure["gross"][keep], 0, color=plots.MUTED, alpha=0.25, linewidth=0, label="gross", step="post")
    bottom.plot(times, exposure["net"][keep], color=plots.ORANGE, linewidth=1.0, label="net", drawstyle="steps-post")
    _legend(bottom)
    for ax in (top, bottom):
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}")
    plots.time_axis(bottom)
    return figure


def _headline(result: BacktestResult) -> str:
    if not len(result.equity):
        return "Equity"
    end, trades = float(result.equity[-1]), len(np.unique(result.trades.trade[result.trades.closed]))
    return f"Equity: {end:,.0f}, {100 * (end / result.cash - 1):+.1f} %, {trades} trade{'' if trades == 1 else 's'} closed"


def _mark_trades(ax: Any, result: BacktestResult) -> None:
    """A dot on the equity where a trade ended: green with a profit, red with a loss; only as many as can be seen."""
    t = result.trades
    ended = np.flatnonzero(t.closed)
    if not 0 < len(ended) <= _TRADES:
        return
    row = np.searchsorted(result.close_time, t.exit_time[ended])
    for chosen, colour, name in ((t.pnl[ended] > 0, plots.GAIN, "gain"), (t.pnl[ended] <= 0, plots.LOSS, "loss")):
        times = plots.utc(result.close_time[row[chosen]])
        ax.scatter(times, result.equity[row[chosen]], s=14, color=colour, zorder=3, linewidths=0, label=name)
    _legend(ax)


def _legend(ax: Any) -> None:
    """Above the panel's right end, where it hides nothing."""
    ax.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1, fontsize=8, ncols=2, frameon=False,
        labelcolor=plots.MUTED,
    )  # fmt: skip


def html(result: BacktestResult, title: str, periods_per_year: float | None) -> str:
    """The whole result as one page. The newest 500 trades are listed."""
    measured = result.metrics(periods_per_year)
    rows = result.trades.rows()
    counted = [
        ("ambiguous bars, decided for the stop", result.ambiguous_bars), ("margin calls", result.margin_calls),
        ("positions liquidated", result.liquidations), ("managed trades ended by a roll", result.rolled_out),
        ("orders", result.orders), ("bars", result.bars),
        ("borrow cost paid", result.borrow_paid), ("dividends", result.dividends),
    ]  # fmt: skip
    figures = [(name.replace("_", " "), _shown(name, value)) for name, value in measured.to_dict().items()] + counted
    image = plots.data_uri(plots.png(plot(result)))
    note = f"The newest {_TRADES} of {len(rows)} trades. " if len(rows) > _TRADES else ""
    newest = [_told(row) for row in rows[-_TRADES:]]
    trades = _table([name.replace("_", " ") for name in newest[0]], [list(r.values()) for r in newest]) if newest else ""
    trades = f"<p class=note>{note}Times are UTC.</p><div class=wide>{trades}</div>" if newest else "<p>No trade.</p>"
    refusals = _table(["refusal", "count"], sorted(result.refusals.items())) if result.refusals else "<p>None.</p>"
    halts = [list(h.values()) for h in result.halt_rows()][-_TRADES:]
    breakers = f"<h2>Breakers</h2>{_table(['time', 'what is halted', 'breaker', 'what it does'], halts)}" if halts else ""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><img alt='Equity, drawdown and exposure' src='{image}'>"
        f"<h2>Figures</h2>{_table(['figure', 'value'], figures)}<h2>Refused entries</h2>{refusals}{breakers}"
        f"<h2>Trades</h2>{trades}</html>"
    )


def _told(row: dict[str, Any]) -> dict[str, Any]:
    """A trade without what says nothing: a strategy without a name, the seconds of its times where there are none."""
    shown = {
        name: value[:16].replace("T", " ") if name.endswith("_time") and value.endswith(":00Z") else value
        for name, value in row.items()
        if name != "strategy" or value
    }
    if math.isfinite(row["pnl"]):
        shown["pnl"] = _Money(row["pnl"])
    return shown


class _Money(float):
    """An amount with its sign and two digits, green or red."""


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(str(h))}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}</td>" for v in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_SHARES = ("total_return", "cagr", "max_drawdown", "win_rate", "exposure")


def _shown(name: str, value: Any) -> Any:
    """Shares as percent, the others as they are."""
    return f"{100 * value:,.2f} %" if name in _SHARES and math.isfinite(value) else value


def _cell(value: Any) -> str:
    if isinstance(value, _Money):
        return f"<span class={'gain' if value > 0 else 'loss'}>{value:+,.2f}</span>"
    if isinstance(value, float):
        return f"{value:,.6g}" if math.isfinite(value) else "–"
    return escape(str(value))
