"""signals -> decisions -> orders: one bar close of the whole universe becomes traced, gated decisions at the desk.

A run works on one bar close (tag ``tapeline/close_time``), or, started by hand from the UI without the tag, on every
close of the session partition. Ids are content hashes, so that a second run of the same close adds nothing and sends
nothing.
"""

import time
from typing import Any

import dagster as dg

from assets import trade_lane
from assets.common import markdown_table, session_partitions_def
from desk.doubts import Doubt, standing
from resources import model_serving
from resources.dagster_resources import ConfigFilesResource, DeskResource, LakeResource, LedgerResource
from resources.desk_client import DeskUnavailable
from resources.ledger import modes as ledger_modes
from resources.ledger.store import Ledger
from resources.revision import code_revision
from resources.settings import settings
from trading.instruments import Mode
from trading.modes import capped
from trading.signals import Decision, Signal
from trading.timeframes import iso

CLOSE_TIME_TAG = "tapeline/close_time"
NOTHING_IN_DOUBT = "nothing_in_doubt"

_PARTITIONS = session_partitions_def()
_COMMON: dict[str, Any] = {
    # Before the checks of the same run, which inform: what refuses is the gate, by the verdicts in the ledger.
    "op_tags": {"dagster/priority": "1"},
    "group_name": "trading",
    "owners": ["team:trading"],
    "partitions_def": _PARTITIONS,
    "backfill_policy": dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
}


def _bar_datasets() -> list[dg.AssetKey]:
    from assets.market_data import BARS_ASSET_KEYS

    return list(BARS_ASSET_KEYS)


def _closes(context: dg.AssetExecutionContext, config: Any, lake: Any, ledger: Any) -> list[int]:
    tag = context.run.tags.get(CLOSE_TIME_TAG)
    return [int(tag)] if tag else trade_lane.close_times_of(context.partition_key, ledger, lake, config)


def _wall() -> int:
    return time.time_ns() // 1000


def _mode() -> str:
    return settings().mode.upper()


def _modes(store: Ledger) -> str:
    """The mode of every strategy and plan, and the one in effect here."""
    highest = Mode(settings().mode)
    with store.engine.connect() as connection:
        known = ledger_modes.read(connection)
    rows = [
        [name, s.mode.value, capped(s.mode, highest).value, iso(s.since_wall), s.who, s.reason, s.wish.replace("NAME", name)]
        for name, s in known.items()
    ]
    return markdown_table(["name", "mode", "in effect", "since", "who", "reason", "its file"], rows)


# What happened comes first in every table: the page is narrow, and ids are for those who look for them.
_ORDER_HEADER = ["strategy", "leg", "symbol", "side", "quantity", "type", "state", "average", "text", "order", "chain"]
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


def _signal_rows(made: list[Signal]) -> list[list[Any]]:
    return [
        [s.strategy, s.symbol, iso(s.close_time), str(s.action), s.reference_price, s.stop_price, s.target_price, s.id,
         s.strategy_revision, " ".join(f"{p.dataset}/{p.session}={p.content_hash[:12]}" for p in s.partitions[:3])]
        for s in made
    ]  # fmt: skip


def _stored(store: Ledger, session: str) -> list[Signal]:
    return [Signal.from_dict(row["content"]) for row in store.signals(session=session)]


def _decision_row(d: Decision) -> list[Any]:
    said = d.refusal or " ".join(f"{v.gate}={v.value}" for v in d.verdicts)
    yes = "yes" if d.approved else "no"
    return [d.signal.strategy, d.signal.symbol, iso(d.signal.close_time), str(d.signal.action), yes, said, d.id, d.signal.id]


def _order_rows(store: Ledger, session: str) -> list[list[Any]]:
    return [
        [o["strategy"], o["leg"], o["symbol"], o["side"], o["quantity"], o["order_type"], o["state"],
         o["average_price"], o["text"], o["id"], f"`tapeline trace {o['id']}`"]
        for o in store.orders(session)
    ]  # fmt: skip


@dg.asset(
    **_COMMON,
    deps=_bar_datasets(),
    kinds={"python", "postgres"},
    tags={"lane": "trade"},
    metadata={"dagster/column_schema": _SIGNAL_COLUMNS},
    description="What every active strategy and plan wants at a bar close, computed on anchored windows of known bars only.",
)
def signals(
    context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    started_wall = _wall()
    config, store, bars = config_files.load(), ledger.ledger(), lake.lake()
    made: list[Signal] = []
    silent: dict[str, str] = {}
    closes = _closes(context, config, bars, store)
    for close_time in closes:
        store.stamp_close(close_time, run_started_wall=started_wall, run_id=context.run.run_id)
        serving = model_serving.at_close(config, close_time, store, settings())
        outcome = trade_lane.evaluate_close(close_time, context.partition_key, serving, bars, store, settings().mode)
        store.insert_signals(
            outcome.signals, session=context.partition_key, code_revision=code_revision(), run_id=context.run.run_id
        )
        store.stamp_close(close_time, signals_wall=_wall())
        silent.update(outcome.silent)
        made += outcome.signals
    rows = _signal_rows(made)
    context.log.info(f"{len(rows)} signals at {len(closes)} bar close(s)")
    header = ["strategy", "symbol", "bar close", "action", "reference", "stop", "target", "signal", "revision", "bars (hash)"]
    return dg.MaterializeResult(
        metadata={
            "mode": _mode(),
            "closes": dg.MetadataValue.md(", ".join(iso(t) for t in closes[:24]) or "none"),
            "dagster/row_count": len(rows),
            "signals": dg.MetadataValue.md(markdown_table(header, rows)),
            "session_so_far": dg.MetadataValue.md(markdown_table(header, _signal_rows(_stored(store, context.partition_key)))),
            "silent": dg.MetadataValue.md(markdown_table(["strategy / instrument", "why"], sorted(silent.items()))),
            "modes": dg.MetadataValue.md(_modes(store)),
            "config_problems": len(config.problems),
        }
    )


@dg.asset(
    **_COMMON,
    deps=[signals],
    kinds={"python", "postgres"},
    tags={"lane": "trade"},
    description="Signals after the gates: every gate's verdict, yes or no, and the stored snapshot from which it replays.",
)
def decisions(
    context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    config, store = config_files.load(), ledger.ledger()
    rows: list[list[Any]] = []
    approved = 0
    for close_time in _closes(context, config, lake.lake(), store):
        undecided = trade_lane.undecided(store, close_time)
        latest = store.latest_close()
        now_time = max(close_time, int(latest["close_time"])) if latest is not None else close_time
        serving = model_serving.at_close(config, close_time, store, settings())
        made = trade_lane.decide(undecided, serving, store, now_time, lake.lake())
        store.insert_decisions(made, session=context.partition_key, code_revision=code_revision(), run_id=context.run.run_id)
        for taken in model_serving.swap(config, close_time, context.partition_key, store, settings()):
            context.log.info(f"{taken.registered} version {taken.version} serves from the next bar on ({taken.why})")
        store.stamp_close(close_time, decisions_wall=_wall())
        approved += sum(row.decision.approved for row in made)
        rows += [_decision_row(row.decision) for row in made]
    so_far = [_decision_row(d) for d in trade_lane.decisions_of(store, session=context.partition_key)]
    header = ["strategy", "symbol", "bar close", "action", "approved", "refusal or gate values", "decision", "signal"]
    return dg.MaterializeResult(
        metadata={
            "mode": _mode(),
            "dagster/row_count": len(rows),
            "approved": approved,
            "refused": len(rows) - approved,
            "decisions": dg.MetadataValue.md(markdown_table(header, rows)),
            "conflicts": dg.MetadataValue.md(markdown_table(header, [r for r in so_far if r[5].startswith("CONFLICT")])),
            "session_so_far": dg.MetadataValue.md(markdown_table(header, so_far)),
        }
    )


def _doubts(store: Ledger) -> list[Doubt]:
    with store.engine.connect() as connection:
        return standing(connection)


def _doubts_table(doubts: list[Doubt]) -> str:
    rows = [[d.kind, d.symbol, d.strategy, d.leg, iso(d.since_time), d.blocks, d.awaits, d.says, d.order] for d in doubts]
    return markdown_table(["what", "symbol", "strategy", "leg", "since", "blocks", "awaits", "heard", "order"], rows)


@dg.asset(
    **_COMMON,
    deps=[decisions],
    kinds={"python", "postgres"},
    tags={"lane": "trade"},
    description="Approved decisions handed to the desk, which sizes, checks risk, records the intent and sends the order.",
    check_specs=[
        dg.AssetCheckSpec(
            NOTHING_IN_DOUBT, asset="orders", description="No order in doubt, no exit waiting, no difference with the broker."
        )
    ],
)
def orders(
    context: dg.AssetExecutionContext,
    config_files: ConfigFilesResource,
    lake: LakeResource,
    ledger: LedgerResource,
    desk: DeskResource,
) -> dg.MaterializeResult:
    config, store, client = config_files.load(), ledger.ledger(), desk.client()
    rows: list[list[Any]] = []
    for close_time in _closes(context, config, lake.lake(), store):
        approved = [d for d in trade_lane.decisions_of(store, close_time=close_time) if d.approved]
        try:
            posted = trade_lane.post(approved, client, close_time, trade_lane.legs(config))
            client.close_done(close_time, run_id=context.run.run_id, outcome="done")
        except DeskUnavailable as error:
            raise dg.Failure(
                f"The desk did not take the decisions of {iso(close_time)}: {error}. Nothing is lost: start this run again; "
                "what the desk already has is not sent twice, what is late expires."
            ) from error
        by_id = {d.id: d for d in approved}
        for answer in posted:
            signal = by_id[answer.decision_id].signal
            ids = " ".join(answer.intent_ids)
            command = f"`tapeline trace {answer.intent_ids[0]}`" if answer.intent_ids else ""
            result = "accepted" if answer.accepted else answer.refusal
            rows.append([signal.strategy, signal.symbol, result, ids, command, answer.decision_id, signal.id])
    doubts = _doubts(store)
    header = ["strategy", "symbol", "desk", "order ids", "chain", "decision", "signal"]
    return dg.MaterializeResult(
        metadata={
            "mode": _mode(),
            "dagster/row_count": len(rows),
            "accepted": sum(row[2] == "accepted" for row in rows),
            "in_doubt": dg.MetadataValue.md(_doubts_table(doubts)),
            "orders": dg.MetadataValue.md(markdown_table(header, rows)),
            "session_so_far": dg.MetadataValue.md(markdown_table(_ORDER_HEADER, _order_rows(store, context.partition_key))),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=NOTHING_IN_DOUBT,
                passed=not doubts,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"in_doubt": dg.MetadataValue.md(_doubts_table(doubts)), "count": len(doubts)},
            )
        ],
    )


fills = dg.AssetSpec(
    "fills",
    deps=[orders],
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

ASSETS: list[Any] = [signals, decisions, orders, fills, positions]
CHECKS: list[Any] = []
