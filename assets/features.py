"""Features per bar: what models learn from, computed once from anchored windows and versioned by their definition.

Every row is what a live computation of that row gives, bit for bit, whatever range a run covers: recursive indicators
start at the same anchored session either way (trading.windows).
"""

import time
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import dagster as dg
import numpy as np

from assets.bars_run import partitions_hash
from assets.changes import database_now, settle_range
from assets.common import (
    MARKET_DATA_OWNERS,
    configured_universe,
    features_schema,
    image,
    markdown_table,
    session_partitions_def,
)
from assets.market_data import sources_of, timeframes_of
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from resources.lake import FeatureFrame, Lake, LakeError
from resources.price_view import actions_for
from resources.settings import settings
from trading import windows
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.corporate_actions import UnknownFactor
from trading.features import FEATURES_VERSION, NAMES, TIMEFRAMES, WARM_UP, definitions
from trading.price_view import features_as_of
from trading.timeframes import Timeframe, iso, session_date, session_number
from trading.universe import Universe

DETAILED_SESSIONS = 250
PLOTTED_BARS = 150
_PLOTTED = (
    ("sma_20", "bollinger_upper", "bollinger_lower", "ema_26"),
    ("rsi_14", "stochastic_k"),
    ("macd", "macd_signal"),
    ("volatility_20",),
)


def compute_range(
    lake: Lake, dataset: str, symbol: str, timeframe: Timeframe, venue: Calendar, start: date, end: date
) -> tuple[Bars, np.ndarray[Any, np.dtype[np.float64]]]:
    """(raw bars of sessions [start, end], their features float64 (T, F)), read from the anchor of the first session on.

    On which prices the features are computed across a split or spin-off is the setting `price_view`'s to say. Raises
    LakeError when bars or actions cannot be read, UnknownFactor when an action's factor is not known.
    """
    anchor = session_date(windows.window_start(session_number(start), timeframe, WARM_UP, venue))
    bars = lake.read_bars(dataset, symbol, min(anchor, start), end)
    _, values = features_as_of(bars, venue, actions_for(lake, symbol, settings().price_view))
    keep = slice(int(np.searchsorted(bars.session, session_number(start))), None)
    return bars.rows(keep), values[keep]


class StaleRange:
    """The stale marks of a dataset before a run reads its inputs: it may take away those, and none that come later."""

    def __init__(self, ledger: LedgerResource, dataset: str) -> None:
        """A ledger that is not there yet has no marks; one that is away fails the run."""
        self._dataset = dataset
        try:
            self._ledger = ledger.ledger()
        except FileNotFoundError:
            self._before = None
        else:
            self._before = database_now(self._ledger.engine)

    def settle(self, symbols: Iterable[str], start: date, end: date) -> None:
        if self._before is not None:
            settle_range(self._ledger, self._dataset, symbols, start, end, before=self._before)


def features_asset(universe: Universe, timeframe: Timeframe, partitions_def: dg.PartitionsDefinition[str]) -> dg.AssetsDefinition:
    """The asset ``features_<timeframe>`` of a universe."""
    dataset, source = f"features_{timeframe}", f"bars_{timeframe}"

    @dg.asset(
        name=dataset,
        group_name="features",
        owners=MARKET_DATA_OWNERS,
        kinds={"parquet", "python"},
        tags={"lane": "ingest", "timeframe": str(timeframe)},
        deps=[dg.AssetKey(source), dg.AssetKey("corporate_actions")],
        partitions_def=partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=FEATURES_VERSION,
        metadata={"dagster/column_schema": features_schema(), "features_version": FEATURES_VERSION},
        description=f"{len(NAMES)} features per {timeframe} bar: moving averages, oscillators, bands, volatility, volume and "
        "candlestick patterns. A row uses bars up to its own close only, across a split on its own price level; a value is "
        "empty until its indicator has settled.",
    )
    def features(
        context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
    ) -> dg.MaterializeResult:
        now_universe, store = config_files.load().universe, lake.lake()
        marked = StaleRange(ledger, dataset)
        keys = context.partition_keys
        start, end = date.fromisoformat(keys[0]), date.fromisoformat(keys[-1])
        frames: list[FeatureFrame] = []
        made: dict[str, Bars] = {}
        failed: dict[str, str] = {}
        began = time.perf_counter()
        for symbol in (s for group in sources_of(now_universe, timeframe).values() for s in group):
            venue = calendar(now_universe.instruments[symbol].calendar)
            try:
                bars, values = compute_range(store, source, symbol, timeframe, venue, start, end)
            except (LakeError, UnknownFactor) as error:
                failed[symbol] = str(error)
                continue
            made[symbol] = bars
            frames.append(FeatureFrame(symbol, NAMES, bars.close_time, bars.session, values, FEATURES_VERSION))
        partitions = store.write_feature_frames(dataset, frames, start=start, end=end)
        marked.settle(made, start, end)
        seconds = time.perf_counter() - began
        if failed:
            named = "; ".join(f"{symbol}: {why}" for symbol, why in sorted(failed.items()))
            raise dg.Failure(
                f"{dataset}: the bars of {len(failed)} symbol(s) cannot be read ({named}); the features of {len(made)} "
                "other(s) were written.",
                metadata={"failed": dg.MetadataValue.md(markdown_table(["symbol", "why"], sorted(failed.items())))},
                allow_retries=False,
            )
        counts: dict[str, int] = {}
        for part in partitions:
            counts[part.session.isoformat()] = counts.get(part.session.isoformat(), 0) + part.rows
        for key in keys[-DETAILED_SESSIONS:]:
            context.add_asset_metadata({"dagster/partition_row_count": counts.get(key, 0)}, partition_key=key)
        context.add_asset_metadata(_run_metadata(store, dataset, frames, made, seconds), partition_key=keys[-1])
        context.log.info(f"{dataset}: {sum(counts.values())} rows of {len(made)} symbols in {seconds:.2f} s")
        version = dg.DataVersion(partitions_hash(partitions)) if len(keys) == 1 else None
        shared: dict[str, Any] = {
            "features_version": FEATURES_VERSION, "sessions": f"{keys[0]} to {keys[-1]}", "simulated": now_universe.simulated
        }  # fmt: skip
        return dg.MaterializeResult(metadata=shared, data_version=version)

    return features


def _run_metadata(
    lake: Lake, dataset: str, frames: Sequence[FeatureFrame], made: dict[str, Bars], seconds: float
) -> dict[str, Any]:
    """Metadata shown with the last session of a run."""
    rows = sum(len(f) for f in frames)
    settled = {f.symbol: int(np.isfinite(f.values).all(axis=1).sum()) for f in frames}
    table = [
        [f.symbol, len(f), settled[f.symbol], iso(int(f.close_time[0])), iso(int(f.close_time[-1]))] for f in frames if len(f)
    ]
    catalogue = [[d["name"], d["description"], d["unit"], d["warm_up"]] for d in definitions()]
    metadata: dict[str, Any] = {
        "dagster/row_count": rows,
        "dagster/uri": (lake.root / dataset).as_uri(),
        "dagster/table_name": dataset,
        "columns": len(NAMES),
        "rows_per_second": round(rows / max(seconds, 1e-9)),
        "symbols": dg.MetadataValue.md(markdown_table(["symbol", "rows", "fully known", "first close", "last close"], table)),
        "catalogue": dg.MetadataValue.md(markdown_table(["feature", "what", "unit", "known after bars"], catalogue)),
    }
    shown = max((f for f in frames if len(f)), key=lambda f: (int(f.close_time[-1]), len(f), f.symbol), default=None)
    if shown is not None:
        metadata["plot"] = _plot(lake, dataset, shown, made[shown.symbol])
    return metadata


def _plot(lake: Lake, dataset: str, frame: FeatureFrame, bars: Bars) -> dg.MarkdownMetadataValue:
    """The newest bars of one symbol with a few features, older ones read from the lake when the run made only few."""
    from assets.market_plots import feature_panels

    values = frame.values
    if len(frame) < PLOTTED_BARS:
        end = session_date(int(frame.session[-1]))
        try:
            older = lake.read_features(dataset, frame.symbol, None, end)
            read = lake.read_bars(dataset.replace("features_", "bars_"), frame.symbol, None, end)
        except LakeError:  # the plot shows what this run made
            older, read = frame, bars
        if np.array_equal(older.close_time, read.close_time):
            values, bars = older.values, read
    newest = slice(max(0, len(bars) - PLOTTED_BARS), None)
    png = feature_panels(bars.rows(newest), NAMES, values[newest], _PLOTTED)
    return image(png, f"{frame.symbol}: newest bars and features")


def features_assets(universe: Universe, partitions_def: dg.PartitionsDefinition[str]) -> list[dg.AssetsDefinition]:
    """The features assets of a universe, shortest timeframe first."""
    return [features_asset(universe, t, partitions_def) for t in timeframes_of(universe) if t in TIMEFRAMES]


ASSETS: list[dg.AssetsDefinition] = features_assets(configured_universe(), session_partitions_def())
CHECKS: list[dg.AssetChecksDefinition] = []
