"""Reports: one page per session that a trader reads before the next one."""

import time
from typing import Any

import dagster as dg

from assets.books import Book, books_of, together
from assets.common import session_partitions_def
from assets.upstream import MadeOutput
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from resources.outputs import REPORT
from resources.revision import code_revision


@dg.asset(
    group_name="reports",
    owners=["team:trading"],
    kinds={"html", "postgres"},
    tags={"lane": "report"},
    partitions_def=session_partitions_def(),
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
    deps=[dg.AssetKey(name) for name in ("signals", "decisions", "orders", "fills", "positions")],
    check_specs=[
        dg.AssetCheckSpec(
            "nothing_needs_attention",
            asset="daily_report",
            description="No order in an unknown state, no position without a stop, every bar close with its run, every check "
            "passed, equity explained by fills and prices.",
        )
    ],
    description="The session for people: result and positions, trades, orders, fills, signals and why the refused ones were "
    "refused, data quality, latency, and the chain behind every order. Kept as one HTML file; mode and simulated data are "
    "stamped on it.",
)
def daily_report(
    context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    from datetime import date

    from resources import report, report_data, report_sources

    session = date.fromisoformat(context.partition_key)
    config, attention = config_files.load(), dict[str, list[str]]()
    output = MadeOutput(ledger, REPORT, session.isoformat())

    def of_book(book: Book) -> dict[str, Any]:
        """One book's page: written, told, and what needs attention noted."""
        sources = report_sources.sources_of(
            config.universe, lake.lake(), session, currency=book.settings.account_currency, mode=book.settings.mode,
            code_revision=code_revision(), generated_wall=time.time_ns() // 1000,
        )  # fmt: skip
        made = report_data.collect(book.ledger, session, sources)
        path = report.write_html(made, book.settings.book_path("reports"))
        book.ledger.mark_reported(session.isoformat())
        attention[book.settings.label] = list(made.attention)
        return {
            "mode": made.mode,
            "simulated_data": made.simulated,
            "report": dg.MetadataValue.md(report.render_markdown(made)),
            "html": dg.MetadataValue.path(str(path)),
            "net_result": round(made.net, 2),
            "realized": round(made.realized, 2),
            "unrealized_change": round(made.unrealized_change, 2),
            "commission": round(made.commission, 2),
            "trades_closed": len(made.trades),
            "positions_open": len(made.open_positions),
            "signals": len(made.signals),
            "refused": sum(s.outcome.startswith("refused") for s in made.signals),
            "orders": len(made.orders),
            "fills": len(made.fills),
            "chain": dg.MetadataValue.md(report.chain_markdown(made)),
        }

    books = books_of(ledger.ledger())
    metadata = together(books, of_book)
    output.record()
    label = "{}: " if len(books) > 1 else ""
    lines = [f"- {label.format(book)}{text}" for book, texts in attention.items() for text in texts]
    return dg.MaterializeResult(
        metadata=metadata,
        check_results=[
            dg.AssetCheckResult(
                passed=not lines,
                check_name="nothing_needs_attention",
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"attention": dg.MetadataValue.md("\n".join(lines) or "nothing")},
            )
        ],
    )


ASSETS: list[Any] = [daily_report]
CHECKS: list[Any] = []
