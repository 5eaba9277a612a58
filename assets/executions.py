"""Entries worked in slices, in the UI: every parent with how far it has come, and every slice with what became of it.

The desk works them; sensor `plans_and_files` tells Dagster whenever one moved, without a run. The asset can be materialised
by hand, too.
"""

from collections import Counter
from typing import Any

import dagster as dg

from assets.books import books_of, together
from assets.common import markdown_table, table_schema
from resources.dagster_resources import LedgerResource
from resources.ledger.store import Ledger
from trading.timeframes import iso

NEWEST = 60
"""Parents shown, newest first."""

_SCHEMA = table_schema(
    ("execution", "string", "id of the parent"),
    ("strategy", "string", "or plan"),
    ("symbol", "string"),
    ("mode", "string", "PAPER or LIVE: the mode it was opened in"),
    ("algo", "string", "twap, vwap or iceberg"),
    ("side", "string"),
    ("filled", "float64", "units"),
    ("of", "float64", "units approved"),
    ("at", "float64", "average price"),
    ("cost_bp", "float64", "average price against the signal's, in basis points: positive is worse"),
    ("slices", "string", "sent of the schedule's slots"),
    ("refused", "int64", "slices a rule refused"),
    ("until", "timestamp", "end of the window, market time"),
    ("state", "string", "working, ending or ended"),
    ("why", "string", "why it ends or ended"),
    ("decision", "string", "what it was made of"),
    ("trade", "string", "id of its trade"),
)


def cost_bp(algo: dict[str, Any]) -> float | None:
    """How much worse than the signal's price the slices were filled, in basis points; None before the first fill."""
    paid, wanted = algo["average_price"], algo["reference_price"]
    if paid is None or not wanted:
        return None
    return float((paid - wanted) / abs(wanted) * 1e4 * (1 if algo["side"] == "buy" else -1))


def executions_metadata(ledger: Ledger) -> dict[str, Any]:
    """What the UI shows of them now, in every book. ledger: the main book's."""
    return together(books_of(ledger), lambda book: _of_book(book.ledger, book.settings.label))


def _of_book(store: Ledger, mode: str) -> dict[str, Any]:
    from desk.desk_reads import algos

    found = algos(store.engine, state=None, session=None, strategy=None, symbol=None, limit=NEWEST)
    running = [a for a in found if a["state"] != "ended"]
    names = [c.name for c in _SCHEMA.columns]
    slices = [
        [a["id"], s["number"], "rest" if s["slot"] < 0 else s["slot"] + 1, iso(s["wanted_time"]), s["quantity"], s["state"],
         s["filled_quantity"], s["average_price"], s["order"], s["refusal"]]
        for a in found for s in a["slices"]
    ]  # fmt: skip
    header = ["execution", "slice", "slot", "sent", "quantity", "state", "filled", "at", "order", "refusal"]
    return {
        "mode": mode,
        "dagster/row_count": len(found),
        **dict(sorted(Counter(a["state"] for a in found).items())),
        "at_work": dg.MetadataValue.md(markdown_table(names, [_row(a) for a in running])),
        "over": dg.MetadataValue.md(markdown_table(names, [_row(a) for a in found if a["state"] == "ended"])),
        "slices": dg.MetadataValue.md(markdown_table(header, slices)),
    }


def _row(a: dict[str, Any]) -> list[Any]:
    cost = cost_bp(a)
    return [
        a["id"], a["strategy"], a["symbol"], str(a["mode"]).upper(), a["algo"], a["side"], a["filled"], a["quantity"],
        a["average_price"], None if cost is None else round(cost, 2), f"{a['sent']}/{a['slots']}" if a["slots"] else a["sent"],
        a["refused"], iso(a["end_time"]), a["state"], a["reason"], a["decision_id"], a["trade_id"],
    ]  # fmt: skip


@dg.asset(
    group_name="trading",
    owners=["team:trading"],
    kinds={"postgres"},
    tags={"lane": "plans"},
    deps=[dg.AssetKey("orders"), dg.AssetKey("fills")],
    metadata={"dagster/column_schema": _SCHEMA},
    description="Entries worked in slices (TWAP, VWAP, iceberg): how far each parent has come, its cost against the signal's "
    "price, and every slice with its order or what refused it. Kept up to date by sensor plans_and_files; `tapeline algos "
    "cancel` ends one.",
)
def executions(ledger: LedgerResource) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata=executions_metadata(ledger.ledger()))


ASSETS: list[Any] = [executions]
