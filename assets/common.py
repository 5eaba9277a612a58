"""What all assets share: who owns them, how their tables, plots and partitions are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from assets.partitions import configured_universe, session_partitions_def, session_span
from resources.plots import markdown_image

__all__ = [
    "BARS_SCHEMA", "MARKET_DATA_OWNERS", "configured_universe", "features_schema", "image", "markdown_table",
    "session_partitions_def", "session_span",
]  # fmt: skip

MARKET_DATA_OWNERS = ["team:market-data"]

BARS_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("symbol", "string", "instrument of the universe"),
        dg.TableColumn("session", "date", "trading day of the venue's calendar"),
        dg.TableColumn("close_time", "timestamp[us, UTC]", "the moment the bar is known"),
        dg.TableColumn("open", "float64", "first price, quote currency, unadjusted"),
        dg.TableColumn("high", "float64", "highest price"),
        dg.TableColumn("low", "float64", "lowest price"),
        dg.TableColumn("close", "float64", "last price"),
        dg.TableColumn("volume", "float64", "as the source counts it; 0 where the instrument has none"),
    ],
    constraints=dg.TableConstraints(other=["unique(symbol, close_time)", "low <= open, close <= high"]),
)

INSTRUMENTS_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("symbol", "string"),
        dg.TableColumn("asset_class", "string"),
        dg.TableColumn("calendar", "string", "venue calendar"),
        dg.TableColumn("tick_size", "decimal", "price grid in quote currency"),
        dg.TableColumn("lot_size", "decimal", "smallest quantity step"),
        dg.TableColumn("multiplier", "decimal", "currency per price point and unit"),
        dg.TableColumn("currency", "string"),
        dg.TableColumn("feed", "string", "source of its native bars"),
        dg.TableColumn("native_timeframe", "string", "higher timeframes are derived from it"),
        dg.TableColumn("tradable_in", "string", "modes in which orders are allowed"),
    ]
)


def table_schema(*columns: tuple[str, str] | tuple[str, str, str]) -> dg.TableSchema:
    """A column schema of (name, type) or (name, type, description)."""
    made = [dg.TableColumn(c[0], c[1], c[2] if len(c) == 3 else None) for c in columns]
    return dg.TableSchema(columns=made)


def features_schema() -> dg.TableSchema:
    """symbol, session, close_time and every feature, described by the kernel's catalogue."""
    from trading.features import definitions

    keys = BARS_SCHEMA.columns[:3]
    columns = [
        dg.TableColumn(d["name"], "float64", f"{d['description']} [{d['unit']}], known after {d['warm_up']} bars")
        for d in definitions()
    ]
    return dg.TableSchema(columns=[*keys, *columns])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], limit: int = 200) -> str:
    """A markdown table of at most `limit` rows, the rest counted below it; ``none`` when there are no rows."""
    lines = [f"| {' | '.join(_cell(c) for c in row)} |" for row in rows]
    if not lines:
        return "none"
    head = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    more = [f"\n{len(lines) - limit} more rows"] if len(lines) > limit else []
    return "\n".join([*head, *lines[:limit], *more])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        value = f"{value:.6g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def image(png: bytes, alt: str) -> dg.MarkdownMetadataValue:
    """A PNG as the UI shows it among an asset's metadata."""
    return dg.MetadataValue.md(markdown_image(png, alt))
