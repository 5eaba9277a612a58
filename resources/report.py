"""The daily report: what a session's trading was, as one HTML page to keep and as markdown for the Dagster UI.

resources/report_data.py reads a SessionReport from the ledger; this module only writes it down.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from resources import plots, report_plots
from resources.report_model import SessionReport, counted
from trading.timeframes import from_us

TEMPLATES = Path(__file__).with_name("templates")


# -- how values are written ---------------------------------------------------------------------------------------------


def money(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "not known"
    rounded = round(value, 2) + 0.0  # no negative zero
    return f"{rounded:+,.2f}" if signed and rounded else f"{rounded:,.2f}"


def price(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def quantity(value: float) -> str:
    return f"{value:,.8f}".rstrip("0").rstrip(".")


def clock(time_us: int | None) -> str:
    """``28 Dec 14:00`` UTC."""
    return "–" if time_us is None else from_us(time_us).strftime("%d %b %H:%M")


def moment(time_us: int) -> str:
    """``28 Dec 2017 14:00`` UTC."""
    return from_us(time_us).strftime("%d %b %Y %H:%M")


def milliseconds(value: float) -> str:
    return f"{value:,.0f} ms" if value < 10_000 else f"{value / 1000:,.1f} s"


def short(identifier: str) -> str:
    """``sig-3fa9c1`` of a full id: enough to recognise it, the full one is in the tool tip and in the ledger."""
    kind, dash, digits = identifier.partition("-")
    return f"{kind}-{digits[:8]}" if dash else identifier[:12]


def words(code: str) -> str:
    return code.replace("_", " ")


# -- HTML ---------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        money=money,
        price=price,
        quantity=quantity,
        clock=clock,
        moment=moment,
        milliseconds=milliseconds,
        short=short,
        words=words,
    )
    return environment.get_template("daily_report.html.j2")


def _figures(report: SessionReport) -> dict[str, Any]:
    """The report's figures by name; only those there is something to draw for."""
    out: dict[str, Any] = {}
    if report.equity:
        moments = sorted({f.fill_time for f in report.fills})
        out["equity"] = report_plots.equity(report.equity_times, report.equity, report.start_equity, report.currency, moments)
    if report.pnl:
        out["pnl"] = report_plots.pnl_bars(
            [f"{words(r.strategy)} {r.symbol}" for r in report.pnl], [r.realized for r in report.pnl],
            [r.unrealized_change for r in report.pnl], report.currency,
        )  # fmt: skip
    if len(report.stages) > 1:
        out["latency"] = report_plots.latency_bars([(s.stage, s.median_ms, s.p95_ms) for s in report.stages[:-1]])
    return out


def render_html(report: SessionReport) -> str:
    """The report as one self-contained page: styles and plots inside, no script, nothing fetched."""
    images = {name: plots.data_uri(plots.svg(fig), "image/svg+xml") for name, fig in _figures(report).items()}
    charts = [
        (
            c.symbol,
            plots.data_uri(
                plots.svg(report_plots.trade_chart(c.bars, c.session_start, c.fills, c.levels, c.heading)), "image/svg+xml"
            ),
        )
        for c in report.charts
    ]
    return str(_template().render(r=report, images=images, charts=charts))


def write_html(report: SessionReport, folder: Path) -> Path:
    """Write ``<session>.html`` into `folder`, atomically: a reader sees the old page or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report.session.isoformat()}.html"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(render_html(report))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# -- markdown -----------------------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], most: int = 12) -> list[str]:
    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell(c) for c in row) + " |" for row in rows[:most]]
    if len(rows) > most:
        lines += ["", f"… and {len(rows) - most} more in the HTML report."]
    return [*lines, ""]


def render_markdown(report: SessionReport, *, picture: bool = True) -> str:
    """The report as the Dagster UI shows it: headline, what needs attention, equity plot, the tables' heads."""
    labels = [report.mode, *(["SIMULATED DATA"] if report.simulated else []), *(["REPLAY"] if report.replayed else [])]
    stamp = " · ".join(f"**{label}**" for label in labels)
    lines = [f"{stamp} · session {report.session:%A %d %B %Y} · universe {report.universe}", ""]
    lines += [f"## {money(report.net, True)} {report.currency}", "", report.headline, ""]
    if report.attention:
        lines += ["### Needs attention", "", *[f"- {text}" for text in report.attention], ""]
    if picture and report.equity:
        lines += [plots.markdown_image(plots.png(_figures(report)["equity"], 70), "equity through the session"), ""]
    lines += _table(
        ["realised", "change of unrealised", "commission", "equity", "unexplained"],
        [[money(report.realized, True), money(report.unrealized_change, True), money(report.commission),
          money(report.end_equity), money(report.unexplained, True)]],
    )  # fmt: skip
    if report.pnl:
        lines += ["### P&L and positions", ""]
        lines += _table(
            ["strategy", "instrument", "realised", "change of unrealised", "position", "average", "last", "stop", "target"],
            [[r.strategy, r.symbol, money(r.realized, True), money(r.unrealized_change, True), quantity(r.position),
              price(r.average_price if r.position else None, r.price_digits), price(r.last_price, r.price_digits),
              price(r.stop, r.price_digits), price(r.target, r.price_digits)] for r in report.pnl],
        )  # fmt: skip
    if report.trades:
        lines += ["### Trades closed", ""]
        lines += _table(
            ["exit", "strategy", "instrument", "side", "quantity", "entry", "exit price", "why", "P&L", "R"],
            [[clock(t.exit_time), t.strategy, t.symbol, t.side, quantity(t.quantity), price(t.entry_price, t.price_digits),
              price(t.exit_price, t.price_digits), words(t.exit_reason), money(t.pnl, True),
              "–" if t.r_multiple is None else f"{t.r_multiple:+.2f}"] for t in report.trades],
        )  # fmt: skip
    lines += ["### Signals", ""]
    if report.refusals:
        lines += ["Refused: " + ", ".join(f"{code} × {n}" for code, n in report.refusals) + ".", ""]
    if report.signals:
        lines += _table(
            ["bar close", "strategy", "instrument", "action", "outcome", "why"],
            [[clock(s.close_time), s.strategy, s.symbol, words(s.action), s.outcome, s.refusal] for s in report.signals],
        )  # fmt: skip
    else:
        lines += ["No signal in this session.", ""]
    if report.orders:
        lines += ["### Orders", ""]
        lines += _table(
            ["time", "instrument", "leg", "order", "state", "filled", "average", "id"],
            [[clock(o.created_time), o.symbol, o.leg, f"{o.side} {quantity(o.quantity)} {words(o.order_type)}", o.state,
              quantity(o.filled), price(o.average_price, o.price_digits), f"`{o.id}`"] for o in report.orders],
        )  # fmt: skip
    if report.quality:
        lines += ["### Data quality", ""]
        lines += _table(
            ["dataset", "partitions", "checks", "failed", "warnings", "without verdict"],
            [[q.dataset, str(q.partitions), str(q.checks), str(q.failed_errors), str(q.failed_warnings),
              ", ".join(q.missing + q.stale) or "none"] for q in report.quality],
        )  # fmt: skip
    if report.stages:
        total = report.stages[-1]
        lines += [
            f"### Latency: median {milliseconds(total.median_ms)}, 95th percentile {milliseconds(total.p95_ms)} "
            f"from bar close to decisions handed over ({counted(total.closes, 'close')})", "",
        ]  # fmt: skip
        lines += _table(
            ["stage", "median", "95th percentile", "worst"],
            [[s.stage, milliseconds(s.median_ms), milliseconds(s.p95_ms), milliseconds(s.worst_ms)] for s in report.stages],
        )
    return "\n".join(lines)


def chain_markdown(report: SessionReport, most: int = 40) -> str:
    """The links behind every order with full ids, and the command that prints all of it."""
    if not report.chain:
        return "No order in this session."
    rows = [
        [f"`{c.order_id}`", c.broker_order_id, words(c.leg), f"`{c.decision_id}`", f"`{c.signal_id}`", c.strategy_revision,
         " ".join(f"`{b}`" for b in c.bars[:2]), f"`tapeline trace {c.order_id}`"]
        for c in report.chain
    ]  # fmt: skip
    header = ["order", "broker id", "leg", "decision", "signal", "strategy file", "newest bars", "all of it"]
    return "\n".join(_table(header, rows, most))
