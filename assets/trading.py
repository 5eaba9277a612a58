"""signals -> decisions -> orders: one bar close of the whole universe becomes traced, gated decisions at the desk.

A run works on one bar close (tag ``tapeline/close_time``), or, started by hand from the UI without the tag, on every
close of the session partition. Ids are content hashes, so that a second run of the same close adds nothing and sends
nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from assets import trade_lane
from assets.books import books_of
from assets.close_beside import beside, together
from assets.close_stages import DECISIONS, NOTHING_IN_DOUBT, ORDERS, SIGNALS, BookRun, stages, wall
from assets.common import session_partitions_def
from resources.dagster_resources import ConfigFilesResource, DeskResource, LakeResource, LedgerResource
from resources.settings import settings

CLOSE_TIME_TAG = "tapeline/close_time"

_PARTITIONS = session_partitions_def()
_COMMON: dict[str, Any] = {
    "group_name": "trading",
    "owners": ["team:trading"],
    "partitions_def": _PARTITIONS,
    "kinds": {"python", "postgres"},
    "tags": {"lane": "trade"},
}


def _bar_datasets() -> list[dg.AssetKey]:
    from assets.market_data import BARS_ASSET_KEYS

    return list(BARS_ASSET_KEYS)


def _closes(context: dg.AssetExecutionContext, config: Any, lake: Any, ledger: Any) -> list[int]:
    tag = context.run.tags.get(CLOSE_TIME_TAG)
    return [int(tag)] if tag else trade_lane.close_times_of(context.partition_key, ledger, lake, config)


_SIGNAL_COLUMNS = dg.TableSchema(
    columns=[
        dg.TableColumn("id", "string", "content hash of strategy, revision, instrument, timeframe, close time, action"),
        dg.TableColumn("strategy", "string"),
        dg.TableColumn("strategy_revision", "string", "hash of the strategy file"),
        dg.TableColumn("symbol", "string"),
        dg.TableColumn("timeframe", "string"),
        dg.TableColumn("close_time", "int", "UTC microseconds"),
        dg.TableColumn("action", "string", "enter_long or enter_short"),
        dg.TableColumn("content", "json", "prices, stop, target, validity, sizing, needed partitions with hashes"),
    ]
)


@dg.multi_asset(
    name="trade_close",
    specs=[
        dg.AssetSpec(
            SIGNALS,
            **_COMMON,
            deps=_bar_datasets(),
            metadata={"dagster/column_schema": _SIGNAL_COLUMNS},
            description="What every active strategy and plan wants at a bar close, computed on anchored windows of known bars "
            "only.",
        ),
        dg.AssetSpec(
            DECISIONS,
            **_COMMON,
            deps=[SIGNALS],
            description="Signals after the gates: every gate's verdict, yes or no, and the stored snapshot from which it "
            "replays.",
        ),
        dg.AssetSpec(
            ORDERS,
            **_COMMON,
            deps=[DECISIONS],
            description="Approved decisions handed to the desk, which sizes, checks risk, records the intent and sends the "
            "order.",
        ),
    ],
    check_specs=[
        dg.AssetCheckSpec(
            NOTHING_IN_DOUBT, asset=ORDERS, description="No order in doubt, no exit waiting, no difference with the broker."
        )
    ],
    # Before the checks of the same run, which inform: what refuses is the gate, by the verdicts in the ledger.
    op_tags={"dagster/priority": "1"},
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
)
def trade_close(
    context: dg.AssetExecutionContext,
    config_files: ConfigFilesResource,
    lake: LakeResource,
    ledger: LedgerResource,
    desk: DeskResource,
) -> Iterator[dg.MaterializeResult]:
    """The three stages one after the other; what people look at is written when the desk has its decisions.

    One step: the close waits for no book-keeping between them. A stage that fails leaves those before it materialised.
    """
    started_wall = wall()
    config, store, bars = config_files.load(), ledger.ledger(), lake.lake()
    closes = _closes(context, config, bars, store)
    checked = bool(context.selected_asset_check_keys)
    wanted = [name for name in (SIGNALS, DECISIONS, ORDERS) if dg.AssetKey(name) in context.selected_asset_keys]
    main, *others = books_of(store)
    said = (context.run.run_id, context.partition_key)
    run = BookRun(*said, closes, main.config(config), main, bars, context.log, started_wall)
    ends: list[Callable[[], None]] = []
    reports, problem = stages(run, wanted, desk.client, ends, checked=checked)
    # The account comes first: its decisions wait for nothing of the paper book. The close ends when both are through, because
    # a replay then goes on, and the next close's bars and verdicts take the place of those that are decided on here.
    for book in others if problem is None else ():
        theirs, problem = beside(BookRun(*said, closes, config, book, bars, context.log, started_wall), wanted)
        reports = {name: together(report, theirs.get(name)) for name, report in reports.items()}
    for end in ends:
        try:
            end()
        except dg.Failure as error:
            problem = problem or error
            reports.pop(ORDERS, None)
            break
    for report in reports.values():
        yield report()
    if problem is not None:
        raise problem


fills = dg.AssetSpec(
    "fills",
    deps=[ORDERS],
    group_name="trading",
    owners=["team:trading"],
    kinds={"postgres"},
    partitions_def=_PARTITIONS,
    description="Executions the broker reported, recorded by the desk. External: the desk reports it, nothing here makes it.",
)
positions = dg.AssetSpec(
    "positions",
    deps=["fills"],
    group_name="trading",
    owners=["team:trading"],
    kinds={"postgres"},
    partitions_def=_PARTITIONS,
    description="Open positions per strategy and instrument after the session's fills. External: the desk reports it.",
)


def _beside_specs() -> list[dg.AssetSpec]:
    """What the desk of the paper book reports, where there is one."""
    if not settings().two_books:
        return []
    return [
        dg.AssetSpec(
            f"paper_{spec.key.to_user_string()}",
            deps=deps,
            group_name="trading",
            owners=["team:trading"],
            kinds={"postgres"},
            partitions_def=_PARTITIONS,
            description=f"PAPER, simulated money. {spec.description}",
        )
        for spec, deps in ((fills, [ORDERS]), (positions, ["paper_fills"]))
    ]


ASSETS: list[Any] = [trade_close, fills, positions, *_beside_specs()]
CHECKS: list[Any] = []
