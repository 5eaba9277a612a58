"""Market data: the instruments, and their bars per timeframe as the source gives them or derived from those.

A dataset ``bars_<timeframe>`` holds every instrument that has that timeframe: natively, or resampled from its native one.
Every asset covers any range of sessions in one run. One symbol's failing source fails the asset by name after the other
symbols are written: what is good stays.
"""

from typing import Any

import dagster as dg

from assets.bars_run import BarsRun, Outcome
from assets.common import (
    BARS_SCHEMA,
    INSTRUMENTS_SCHEMA,
    MARKET_DATA_OWNERS,
    configured_universe,
    markdown_table,
    session_partitions_def,
)  # fmt: skip
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from trading.timeframes import Timeframe
from trading.universe import Universe


@dg.asset(
    group_name="market_data",
    owners=MARKET_DATA_OWNERS,
    kinds={"python", "yaml"},
    tags={"lane": "ingest"},
    metadata={"dagster/column_schema": INSTRUMENTS_SCHEMA},
    description="What is observed and traded: venue calendar, price grid, contract terms and source of every instrument.",
)
def instruments(config_files: ConfigFilesResource) -> dg.MaterializeResult:
    config = config_files.load()
    universe = config.universe
    rows = [
        [i.symbol, i.asset_class, i.calendar, i.tick_size, i.lot_size, i.multiplier, i.currency, i.feed, i.native_timeframe,
         ", ".join(sorted(i.tradable_in)) or "observed only", i.description]
        for i in universe.instruments.values()
    ]  # fmt: skip
    header = ["symbol", "class", "calendar", "tick", "lot", "multiplier", "currency", "feed", "native", "tradable in", ""]
    problems = [[p.file, p.line, p.key, p.message, p.expected, p.nearest] for p in config.problems]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "universe": f"{universe.name} (revision {universe.revision[:12]})",
            "simulated": universe.simulated,
            "history": f"{universe.history_start} to {universe.history_end or 'today'}",
            "instruments": dg.MetadataValue.md(markdown_table(header, rows)),
            "config_problems": len(problems),
            "problems": dg.MetadataValue.md(
                markdown_table(["file", "line", "key", "problem", "expected", "did you mean"], problems)
            ),
        },
        data_version=dg.DataVersion(universe.revision),
    )


def timeframes_of(universe: Universe) -> list[Timeframe]:
    """Timeframes the universe has bars of, shortest first: every native one and all that can be made of it."""
    return [t for t in Timeframe if sources_of(universe, t)]


def sources_of(universe: Universe, timeframe: Timeframe) -> dict[Timeframe, list[str]]:
    """Native timeframe -> symbols, of the bars that ``bars_<timeframe>`` holds; its own key where they come from a feed."""
    found: dict[Timeframe, list[str]] = {}
    for symbol, instrument in universe.instruments.items():
        native = instrument.native_timeframe
        whole = not timeframe.intraday or timeframe.minutes % native.minutes == 0
        if native is timeframe or (native.minutes < timeframe.minutes and whole):
            found.setdefault(native, []).append(symbol)
    return found


def bars_asset(universe: Universe, timeframe: Timeframe, partitions_def: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The asset ``bars_<timeframe>`` of a universe."""
    sources = sources_of(universe, timeframe)
    derived = sorted((t for t in sources if t is not timeframe), key=lambda t: t.minutes)
    origins = []
    if timeframe in sources:
        feeds = sorted({universe.instruments[s].feed for s in sources[timeframe]})
        origins.append(f"{', '.join(sources[timeframe])} as the source gives them ({', '.join(feeds)})")
    origins += [f"{', '.join(sources[t])} derived from {t}, anchored at the session open" for t in derived]

    @dg.asset(
        name=f"bars_{timeframe}",
        group_name="market_data",
        owners=MARKET_DATA_OWNERS,
        kinds={"parquet", "python"},
        tags={"lane": "ingest", "timeframe": str(timeframe), "native": "yes" if timeframe in sources else "no"},
        # quality judges jumps by the actions that are known
        deps=[instruments, dg.AssetKey("corporate_actions"), *(dg.AssetKey(f"bars_{t}") for t in derived)],
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        metadata={"dagster/column_schema": BARS_SCHEMA},
        description=f"Bars of {timeframe} per session: " + "; ".join(origins) + ". A bar is known at its close_time.",
    )
    def bars(
        context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
    ) -> dg.MaterializeResult:
        run = BarsRun(config_files, lake.lake(), timeframe, ledger=ledger.ledger, run_id=context.run.run_id)
        outcome = run.ingest(context.partition_key_range.start, context.partition_key_range.end)
        if outcome.failed:
            raise dg.Failure(_failure_text(run.dataset, outcome), metadata=_failure_metadata(outcome), allow_retries=False)
        return run.report(context, outcome)

    return bars


def _failure_text(dataset: str, outcome: Outcome) -> str:
    named = "; ".join(f"{symbol}: {why}" for symbol, why in sorted(outcome.failed.items()))
    kept = f"{len(outcome.written)} other symbol(s) were written" if outcome.written else "no other symbol was asked for"
    return f"{dataset}: {len(outcome.failed)} symbol(s) could not be read ({named}); {kept}. Mend the source and run again."


def _failure_metadata(outcome: Outcome) -> dict[str, Any]:
    return {
        "failed": dg.MetadataValue.md(markdown_table(["symbol", "why"], sorted(outcome.failed.items()))),
        "written": dg.MetadataValue.md(markdown_table(["symbol", "rows"], [[s, len(b)] for s, b in outcome.written.items()])),
    }


def bars_assets(universe: Universe, partitions_def: dg.PartitionsDefinition[str]) -> list[dg.AssetsDefinition]:
    """An asset for every timeframe the universe has bars of."""
    return [bars_asset(universe, timeframe, partitions_def) for timeframe in timeframes_of(universe)]


_BARS = bars_assets(configured_universe(), session_partitions_def())
BARS_ASSET_KEYS: list[dg.AssetKey] = [a.key for a in _BARS]
ASSETS: list[dg.AssetsDefinition] = [instruments, *_BARS]
CHECKS: list[dg.AssetChecksDefinition] = []
