"""`feed_live` on the native bars: are the live feeds fresh, and what have they been through?

The desk looks at its feeds every second and writes what it sees to the ledger; this check reads it. It is evaluated in
each trade run, and by the sensor `feed_health` as soon as a feed falls silent: then there are no bar closes, hence no
runs, and the check is what a person sees. What stops trading is the desk's own verdict of the same name on the symbol's
partitions, with severity error, which the data-quality gate reads.
"""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.common import MARKET_DATA_OWNERS, configured_universe, markdown_table
from assets.market_data import sources_of, timeframes_of
from resources.dagster_resources import LedgerResource
from trading.timeframes import Timeframe, iso
from trading.universe import Universe

FEED_LIVE = "feed_live"
STATE_KEY = "live_feed"
"""Where the desk writes the state of its feeds (desk.live_feed)."""
SILENT_DESK_SECONDS = 30.0
_COLUMNS = ("last_close", "last_bar_age_seconds", "bars", "repaired", "late", "duplicates", "corrected", "malformed", "gap")
_DESCRIPTION = (
    "Live feeds are fresh: every bar that is due has come, connections stand, no hole is open. Shows the age of the last bar, "
    "reconnects and repaired gaps. A universe that is replayed has no live feeds and passes."
)


def feed_result(state: Mapping[str, Any] | None, universe: Universe, timeframe: Timeframe, now_wall: int) -> dg.AssetCheckResult:
    """The check's answer. state: what the desk wrote last, None when it never listened; now_wall: real time, UTC us."""
    dataset = f"bars_{timeframe}"
    symbols = {s for s, i in universe.instruments.items() if i.native_timeframe is timeframe}
    feeds = [f for f in (state or {}).get("feeds", []) if f["timeframe"] == str(timeframe)]
    if state is None or not feeds:
        return _answer(dataset, True, "No live feed: the desk replays, or has not started.", {"live": False})
    age = (now_wall - int(state["wall"])) / 1e6
    trouble = {s: why for s, why in sorted(state["trouble"].items()) if s in symbols}
    rows = [
        [symbol, f["feed"], *("" if (v := told.get(c)) is None else v for c in _COLUMNS)]
        for f in feeds
        for symbol, told in sorted(f["symbols"].items())
    ]
    metadata: dict[str, Any] = {
        "live": True,
        "seen_seconds_ago": round(age, 1),
        "market_time": str(state["market_time_text"]),
        "connected": ", ".join(f"{f['feed']}: {'yes' if f['connected'] else 'NO'}" for f in feeds),
        "reconnects": sum(int(f["reconnects"]) for f in feeds),
        "repaired_bars": sum(int(s["repaired"]) for f in feeds for s in f["symbols"].values()),
        "open_gaps": sum(s["gap"] is not None for f in feeds for s in f["symbols"].values()),
        "oldest_bar_age_seconds": max(
            (float(s["last_bar_age_seconds"]) for f in feeds for s in f["symbols"].values() if s["last_bar_age_seconds"]),
            default=0.0,
        ),
        "late_bars": int(state["late_bars"]),
        "simulated": universe.simulated,
        "symbols": dg.MetadataValue.md(markdown_table(["symbol", "feed", *_COLUMNS], rows)),
    }
    if trouble:
        metadata["trouble"] = dg.MetadataValue.md(markdown_table(["symbol", "why"], list(trouble.items())))
    if age > SILENT_DESK_SECONDS:
        said = f"The desk has not looked at its feeds since {iso(int(state['wall']))}: is it running?"
    elif trouble:
        first, why = next(iter(trouble.items()))
        said = f"{len(trouble)} of {len(symbols)} symbols in trouble, nothing new is risked on them; {first}: {why}"
    else:
        said = f"{len(rows)} symbols are fresh, {metadata['reconnects']} reconnects, {metadata['repaired_bars']} bars repaired."
    return _answer(dataset, not trouble and age <= SILENT_DESK_SECONDS, said, metadata)


def _answer(dataset: str, passed: bool, said: str, metadata: dict[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=passed, asset_key=dataset, check_name=FEED_LIVE, severity=dg.AssetCheckSeverity.ERROR, description=said,
        metadata=metadata,
    )  # fmt: skip


def feed_check(universe: Universe, timeframe: Timeframe) -> dg.AssetChecksDefinition:
    """``feed_live`` of ``bars_<timeframe>``."""

    @dg.asset_check(
        asset=dg.AssetKey(f"bars_{timeframe}"), name=FEED_LIVE, description=_DESCRIPTION,
        metadata={"owners": ", ".join(MARKET_DATA_OWNERS)},
    )  # fmt: skip
    def feed_live(ledger: LedgerResource) -> dg.AssetCheckResult:
        state = ledger.ledger().get_state(STATE_KEY)
        return feed_result(state, configured_universe(), timeframe, time.time_ns() // 1000)

    return feed_live


def native_timeframes(universe: Universe) -> list[Timeframe]:
    """Timeframes some instrument's feed delivers."""
    return [t for t in timeframes_of(universe) if t in sources_of(universe, t)]


CHECKS: list[dg.AssetChecksDefinition] = [feed_check(configured_universe(), t) for t in native_timeframes(configured_universe())]
