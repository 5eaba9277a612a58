"""Trade plans in the UI: every plan with where it stands, its levels, its resting orders and what happened last.

The desk moves plans; sensor `plans_and_files` tells Dagster whenever one moved, without a run. The asset can be materialised
by hand, too.
"""

from collections import Counter
from typing import Any

import dagster as dg

from assets.books import Book, books_of, together
from assets.common import markdown_table, table_schema
from assets.research import strategies
from resources.config import Config
from resources.dagster_resources import ConfigFilesResource, LedgerResource
from resources.ledger.store import Ledger
from trading.timeframes import iso

NEWEST_EVENTS = 60

_SCHEMA = table_schema(
    ("plan", "string", "name of the file's plan"),
    ("state", "string", "new, armed, entered, managing, closed, expired or cancelled"),
    ("direction", "string"),
    ("symbol", "string"),
    ("status", "string", "of the file: active, paused or stopped"),
    ("mode", "string"),
    ("valid", "string", "sessions in which it may enter"),
    ("entry", "string"),
    ("stop", "string", "level of the file"),
    ("targets", "string"),
    ("manage", "string", "what is done with the open trade"),
    ("invalidation", "string"),
    ("resting", "string", "orders that may rest at the broker now"),
    ("since", "timestamp", "in this state, market time"),
    ("revision", "string", "of the file in force"),
    ("last", "string", "newest event"),
    ("trade", "string", "id of the entry's intent"),
    ("reason", "string"),
    ("problem", "string", "what of the newest file is not in force"),
)

_SHOWN = ("plan", "state", "direction", "symbol", "entry", "stop", "targets", "resting", "last", "revision", "reason", "problem")
"""What the first table has: the page is narrow, the rest stands in the second."""


def plans_metadata(config: Config, ledger: Ledger) -> dict[str, Any]:
    """What the UI shows of the plans now, in every book. ledger: the main book's."""
    return together(books_of(ledger), lambda book: _of_book(book, config))


def _of_book(book: Book, config: Config) -> dict[str, Any]:
    """Plans that trade in this book by their mode, and those of which a trade is under way here whatever their mode became."""
    from resources.ledger.plans import newest_events, states
    from resources.plan_view import plan_rows, under_way

    mine, mode = book.config(config).plans, book.settings.label
    with book.ledger.engine.connect() as connection:
        here = under_way(states(connection))
        files = {name: plan for name, plan in config.plans.items() if name in mine or name in here}
        rows = plan_rows(files, connection, config.universe, book.settings.paper_half)
        events = newest_events(connection, NEWEST_EVENTS)
    open_, ended = [r for r in rows if not r.ended], [r for r in rows if r.ended]
    more = [c.name for c in _SCHEMA.columns]
    happened = [
        [iso(e["event_time"]), e["plan"], e["event"], f"{e['state_before']} -> {e['state_after']}", e["who"], e["reason"],
         e["revision"], ", ".join(f"{k} {v}" for k, v in e["content"].items())]
        for e in events
    ]  # fmt: skip
    return {
        "mode": mode,
        "dagster/row_count": len(rows),
        **dict(sorted(Counter(r.state for r in rows).items())),
        "plans": dg.MetadataValue.md(markdown_table(_SHOWN, [[getattr(r, c) for c in _SHOWN] for r in open_])),
        "over": dg.MetadataValue.md(markdown_table(_SHOWN, [[getattr(r, c) for c in _SHOWN] for r in ended])),
        "everything": dg.MetadataValue.md(markdown_table(more, [[getattr(r, c) for c in more] for r in open_])),
        "happened": dg.MetadataValue.md(
            markdown_table(["time", "plan", "event", "state", "who", "reason", "revision", "more"], happened)
        ),
        "with_problem": sum(bool(r.problem) for r in rows),
    }


@dg.asset(
    group_name="trading",
    owners=["team:trading"],
    kinds={"yaml", "postgres"},
    tags={"lane": "plans"},
    deps=[strategies, dg.AssetKey("positions")],
    metadata={"dagster/column_schema": _SCHEMA},
    description="Every trade plan: where it stands (armed, entered, managing, closed, expired, cancelled), the revision in "
    "force, its levels, its resting orders and what happened last. Kept up to date by sensor plans_and_files; plans are moved "
    "by the desk and edited as files, never here.",
)
def plans(config_files: ConfigFilesResource, ledger: LedgerResource) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata=plans_metadata(config_files.load(), ledger.ledger()))


ASSETS: list[Any] = [plans]
JOBS: list[Any] = [
    dg.define_asset_job(
        "check_config",
        selection=dg.AssetSelection.assets("strategies", "plans").without_checks()
        | dg.AssetSelection.checks(dg.AssetCheckKey(strategies.key, "config_valid")),
        executor_def=dg.in_process_executor,
        description="Read every file people edit, show what is wrong with it, and where each plan stands.",
    )
]
