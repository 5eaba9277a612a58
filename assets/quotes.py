"""Quote bars per session, of the instruments whose universe entry says ``quotes: true``."""

from typing import Any

import dagster as dg
import numpy as np

from assets.common import MARKET_DATA_OWNERS, configured_universe, markdown_table, session_partitions_def
from assets.market_data import instruments
from resources.dagster_resources import ConfigFilesResource, LakeResource
from resources.feeds.protocol import FeedError
from trading.quotes import QUOTE_COLUMNS, QuoteBars
from trading.timeframes import Timeframe
from trading.universe import Universe

DATASET = "quotes_1m"

QUOTES_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("symbol", "string"),
        dg.TableColumn("session", "date"),
        dg.TableColumn("close_time", "timestamp[us, UTC]", "the moment the quote bar is known"),
        *(dg.TableColumn(name, "float64", "NaN: no quote on that side") for name in QUOTE_COLUMNS),
    ]
)


def quoted(universe: Universe) -> list[str]:
    """Symbols whose quotes are kept."""
    return [s for s, i in universe.instruments.items() if i.quotes]


@dg.asset(
    name=DATASET,
    group_name="market_data",
    owners=MARKET_DATA_OWNERS,
    kinds={"parquet", "python"},
    tags={"lane": "ingest", "timeframe": "1m"},
    deps=[instruments],
    partitions_def=session_partitions_def(),
    backfill_policy=dg.BackfillPolicy.single_run(),
    metadata={"dagster/column_schema": QUOTES_SCHEMA},
    description="Best bid and ask per minute, as the source gives them. A side nobody quoted is empty, never the other's copy.",
)
def quotes(context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource) -> dg.MaterializeResult:
    from datetime import date

    from resources.feeds.lean import QuoteHistory

    universe = config_files.load().universe
    start, end = (date.fromisoformat(k) for k in (context.partition_key_range.start, context.partition_key_range.end))
    written: dict[str, QuoteBars] = {}
    failed: dict[str, str] = {}
    for symbol in quoted(universe):
        instrument = universe.instruments[symbol]
        try:
            feed = config_files.feed(instrument.feed)
            if not isinstance(feed, QuoteHistory):
                raise FeedError(f"feed {instrument.feed} has no quote bars: set quotes: false on {symbol}")
            written[symbol] = feed.quotes(instrument, Timeframe.M1, start, end)
            lake.lake().write_quotes(
                DATASET, {symbol: written[symbol]}, start=start, end=end, source=instrument.feed, instruments=universe.instruments
            )
        except FeedError as error:
            failed[symbol] = str(error)
    rows = [_row(symbol, bars) for symbol, bars in written.items()]
    if failed:
        named = "; ".join(f"{s}: {why}" for s, why in sorted(failed.items()))
        raise dg.Failure(f"{DATASET}: {len(failed)} symbol(s) could not be read ({named})", allow_retries=False)
    header = ["symbol", "rows", "one-sided", "crossed", "median spread"]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(len(b) for b in written.values()),
            "quotes": dg.MetadataValue.md(markdown_table(header, rows)),
        }
    )


def _row(symbol: str, bars: QuoteBars) -> list[Any]:
    one_sided = int(np.sum(np.isnan(bars.bid_close) != np.isnan(bars.ask_close)))
    spread = float(np.nanmedian(bars.spread)) if np.isfinite(bars.spread).any() else float("nan")
    return [symbol, len(bars), one_sided, int(bars.crossed.sum()), spread]


ASSETS: list[dg.AssetsDefinition] = [quotes] if quoted(configured_universe()) else []
