"""Corporate actions of the universe and the rolls of its continuous futures, with what they explain in the raw bars."""

import math
from functools import partial
from typing import Any

import dagster as dg
import numpy as np

from assets.common import MARKET_DATA_OWNERS, image, markdown_table
from assets.market_data import instruments
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from resources.feeds.protocol import FeedError
from resources.settings import settings
from trading.corporate_actions import MOVES_PRICE, CorporateAction, steps, unexplained_splits
from trading.instruments import AssetClass, Instrument
from trading.timeframes import Timeframe, from_us, session_date
from trading.universe import Universe

SHOWN = 400

ACTIONS_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("symbol", "string"),
        dg.TableColumn("kind", "string", "split, dividend, symbol_change, spin_off, roll, delisting"),
        dg.TableColumn("ex_session", "date", "first session at the new level"),
        dg.TableColumn("known_time", "timestamp[us, UTC]", "from when it could be known"),
        dg.TableColumn("factor", "float64", "new units per old unit: earlier prices are divided by it; none: not known"),
        dg.TableColumn("amount", "float64", "cash per old unit (dividend), price step (roll)"),
        dg.TableColumn("other_symbol", "string", "former ticker, company spun off, contract rolled into"),
        dg.TableColumn("source", "string"),
    ]
)
_COMMON: dict[str, Any] = {"group_name": "market_data", "owners": MARKET_DATA_OWNERS, "deps": [instruments]}


def continuous(instrument: Instrument) -> bool:
    """Is it the continuous series of a future?"""
    terms = instrument.future
    return instrument.asset_class is AssetClass.FUTURE and terms is not None and terms.continuous


@dg.asset(
    **_COMMON,
    kinds={"python", "json"},
    tags={"lane": "ingest"},
    metadata={"dagster/column_schema": ACTIONS_SCHEMA},
    check_specs=[
        dg.AssetCheckSpec(
            "sources_read", asset="corporate_actions", description="Could every source and file of corporate actions be read?"
        )
    ],
    description=(
        "Splits, dividends, symbol changes, spin-offs and delistings of every instrument, from config/actions, operators and "
        "the sources' own files. Raw prices are stored; adjusted views are computed from these, as known at a time."
    ),
)
def corporate_actions(
    context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    from resources.changes import note_actions
    from resources.corporate_actions import content_hash, gather, read_actions, write_actions
    from resources.ledger.actions import confirmed_actions
    from trading.ids import content_hash as hash_of

    universe = config_files.load().universe
    watched = {s: i for s, i in universe.instruments.items() if not continuous(i)}

    def lean(instrument: Instrument) -> list[CorporateAction]:
        from resources.feeds.lean import LeanFeed

        feed = config_files.feed("lean")
        assert isinstance(feed, LeanFeed)
        return feed.actions(instrument)

    with ledger.ledger().engine.connect() as connection:
        confirmed = confirmed_actions(connection)
    gathered = gather(watched, settings().config / "actions", lean, confirmed)
    place = lake.lake()
    changed, overtaken = [], 0
    for symbol, found in gathered.actions.items() if not gathered.problems else ():
        before = read_actions(place, symbol)
        if content_hash(before) == content_hash(found):
            continue
        note = partial(note_actions, ledger.ledger(), symbol, before, found, universe=universe, lake=place)
        # Before the write, so that a run killed in between leaves nothing unmarked; after it, because what was recomputed in
        # between still read the former ones.
        adjusted = settings().price_view == "adjusted"
        if adjusted:
            note()
        write_actions(place, symbol, found)
        overtaken += len(note()) if adjusted else 0
        changed.append(symbol)
    stored = {symbol: read_actions(place, symbol) for symbol in sorted(watched)}
    every = [action for found in stored.values() for action in found]
    if gathered.problems:
        # A file that cannot be read may hold the very split that is due: what was known before stands.
        context.log.error(f"nothing was stored: {'; '.join(str(p) for p in gathered.problems)}")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(every),
            "changed": ", ".join(changed) or "none",
            "features_marked_stale": overtaken,
            "actions": dg.MetadataValue.md(markdown_table(_HEADER, [_row(a) for a in _newest(every)], SHOWN)),
            "overruled": dg.MetadataValue.md(
                markdown_table([*_HEADER, "instead of"], [[*_row(a), f"{b.factor:g} {b.source}"] for a, b in gathered.overruled])
            ),
            "sources_failed": dg.MetadataValue.md(markdown_table(["symbol", "why"], sorted(gathered.failed.items()))),
            "problems": dg.MetadataValue.md(
                markdown_table(["file", "line", "problem"], [[p.file, p.line, str(p)] for p in gathered.problems])
            ),
            **({"timeline": image(timeline(every), "actions over time")} if every else {}),
        },
        data_version=dg.DataVersion(hash_of([content_hash(found) for found in stored.values()])[:16]),
        check_results=[
            dg.AssetCheckResult(
                check_name="sources_read",
                passed=not (gathered.failed or gathered.problems),
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"failed": len(gathered.failed), "problems": len(gathered.problems)},
            )
        ],
    )


@dg.asset(
    **_COMMON,
    kinds={"python", "json"},
    tags={"lane": "ingest"},
    metadata={"dagster/column_schema": ACTIONS_SCHEMA},
    description=(
        "When each continuous future passes from one contract to the next, by its rule, from what was known on the day before; "
        "with the step between the two contracts that back-adjusting takes out."
    ),
)
def futures_rolls(config_files: ConfigFilesResource, lake: LakeResource) -> dg.MaterializeResult:
    from resources.corporate_actions import write_actions
    from resources.feeds.lean import LeanFeed
    from trading.calendars import calendar
    from trading.rolls import roll_actions

    universe = config_files.load().universe
    rows: list[list[Any]] = []
    stored: list[CorporateAction] = []
    failed: dict[str, str] = {}
    for symbol, instrument in universe.instruments.items():
        if not continuous(instrument):
            continue
        try:
            feed = config_files.feed(instrument.feed)
            if not isinstance(feed, LeanFeed):
                raise FeedError(f"feed {instrument.feed} has no contracts to roll between")
            table = feed.roll_table(instrument)
        except FeedError as error:
            failed[symbol] = str(error)
            continue
        found = roll_actions(symbol, table, calendar(instrument.calendar), f"{instrument.feed}:{instrument.feed_symbol}")
        write_actions(lake.lake(), symbol, found)
        stored += found
        rows += [
            [symbol, session_date(r.session), r.old, r.new, session_date(r.decided), r.reason,
             *("" if math.isnan(x) else x for x in (r.old_close, r.new_close, r.difference, r.factor))]
            for r in table.rolls
        ]  # fmt: skip
    header = ["symbol", "first session", "from", "to", "decided by", "because", "old close", "new close", "difference", "factor"]
    if failed:
        named = "; ".join(f"{s}: {why}" for s, why in sorted(failed.items()))
        raise dg.Failure(f"{len(failed)} roll table(s) could not be made ({named}); the others are stored", allow_retries=False)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "rolls": dg.MetadataValue.md(markdown_table(header, rows, SHOWN)),
            **({"timeline": image(timeline(stored), "rolls over time")} if stored else {}),
        }
    )


# -- checks ------------------------------------------------------------------------------------------------------------


@dg.asset_check(
    asset=corporate_actions,
    description=(
        "Every overnight step of the raw prices that looks like a split (3:2 to 100:1, either way) has an action, or an "
        "operator said that it was the market's. Unexplained ones are named."
    ),
)
def splits_explained(config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource) -> dg.AssetCheckResult:
    from resources.corporate_actions import read_actions
    from resources.ledger.actions import dismissed_sessions

    universe, place = config_files.load().universe, lake.lake()
    stocks = {s: i for s, i in universe.instruments.items() if i.asset_class is AssetClass.EQUITY}
    with ledger.ledger().engine.connect() as connection:
        dismissed = dismissed_sessions(connection, stocks)
    rows, compared = [], 0
    for symbol, instrument in sorted(stocks.items()):
        bars = place.read_bars(f"bars_{_longest(universe, instrument)}", symbol)
        compared += len(np.unique(bars.session))
        for session, factor in unexplained_splits(*steps(bars), read_actions(place, symbol)):
            day = session_date(session)
            if day.isoformat() not in dismissed.get(symbol, set()):
                rows.append([symbol, day, factor, f"`tapeline actions confirm {symbol} --session {day} --factor {factor:g}`"])
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "sessions": compared,
            "unexplained": dg.MetadataValue.md(markdown_table(["symbol", "session", "looks like", "confirm, or dismiss"], rows)),
        },
    )


@dg.asset_check(
    asset=corporate_actions,
    description="Every split, spin-off and dividend inside the stored history of an instrument has bars in its ex session.",
)
def actions_have_bars(config_files: ConfigFilesResource, lake: LakeResource) -> dg.AssetCheckResult:
    from resources.corporate_actions import read_actions

    universe, place = config_files.load().universe, lake.lake()
    rows, seen = [], 0
    for symbol, instrument in sorted(universe.instruments.items()):
        held = np.unique(place.read_bars(f"bars_{instrument.native_timeframe}", symbol).session)
        for action in read_actions(place, symbol) if len(held) else []:
            if action.kind in MOVES_PRICE and held[0] < action.ex_session <= held[-1]:
                seen += 1
                if action.ex_session not in held:
                    rows.append(_row(action))
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"actions": seen, "without_bars": dg.MetadataValue.md(markdown_table(_HEADER, rows))},
    )


# -- tables and pictures -----------------------------------------------------------------------------------------------

_HEADER = ["symbol", "kind", "ex session", "factor", "amount", "other", "known", "source"]


def _row(action: CorporateAction) -> list[Any]:
    factor = f"{action.factor:.8g}" if action.factor_known else "not known"
    known = f"{from_us(action.known_time):%Y-%m-%d %H:%M}"
    ex = session_date(action.ex_session)
    return [action.symbol, action.kind, ex, factor, action.amount or "", action.other_symbol, known, action.source]


def _newest(actions: list[CorporateAction]) -> list[CorporateAction]:
    return sorted(actions, key=lambda a: (-a.ex_session, a.symbol))


def _longest(universe: Universe, instrument: Instrument) -> Timeframe:
    """The timeframe that shows a step from one session to the next with the fewest rows."""
    return Timeframe.D1 if instrument.native_timeframe.intraday else instrument.native_timeframe


def timeline(actions: list[CorporateAction]) -> bytes:
    """PNG: one row per symbol, a mark per action by its kind."""
    from resources import plots

    symbols = sorted({a.symbol for a in actions}, reverse=True)
    kinds = sorted({str(a.kind) for a in actions})
    fig, (ax,) = plots.figure(9, 1.0 + 0.26 * len(symbols))
    for i, kind in enumerate(kinds):
        mine = [a for a in actions if str(a.kind) == kind]
        at = plots.utc([a.ex_session * 86_400_000_000 for a in mine])
        ax.plot(at, [symbols.index(a.symbol) for a in mine], "|", markersize=11, markeredgewidth=1.6,
                color=plots.SERIES[i % len(plots.SERIES)], label=kind)  # fmt: skip
    ax.set_yticks(range(len(symbols)), symbols)
    ax.set_ylim(-0.7, len(symbols) - 0.3)
    ax.legend(fontsize=7, frameon=False, loc="upper left", ncols=len(kinds), bbox_to_anchor=(0, 1.0 + 0.35 / len(symbols)))
    plots.time_axis(ax)
    return plots.png(fig)


ASSETS: list[dg.AssetsDefinition] = [corporate_actions, futures_rolls]
CHECKS: list[dg.AssetChecksDefinition] = [splits_explained, actions_have_bars]
