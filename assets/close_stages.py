"""The three stages of a bar close on one book: signals, decisions, orders, and what each of them tells Dagster's pages.

What is told is made up behind the last stage (a Report): the close waits for no book-keeping.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg
from sqlalchemy import text

from assets import trade_lane
from assets.books import Book
from assets.common import markdown_table
from desk.doubts import Doubt, standing
from resources import model_serving
from resources.desk_client import DeskClient, DeskUnavailable
from resources.ledger import modes as ledger_modes
from resources.ledger.store import Ledger
from resources.revision import code_revision
from resources.settings import Settings
from trading import decisions as kernel
from trading.instruments import Mode
from trading.modes import capped
from trading.signals import Decision, Signal
from trading.timeframes import iso

NOTHING_IN_DOUBT = "nothing_in_doubt"
SIGNALS, DECISIONS, ORDERS = "signals", "decisions", "orders"
SO_FAR = 200
"""Newest rows of a session that a page shows."""

Report = Callable[[], dg.MaterializeResult]
"""What is told of a stage that is done."""

# What happened comes first in every table: the page is narrow, and ids are for those who look for them.
_ORDER_HEADER = ["strategy", "leg", "symbol", "side", "quantity", "type", "state", "average", "text", "order", "chain"]


def wall() -> int:
    return time.time_ns() // 1000


def _signal_rows(made: list[Signal]) -> list[list[Any]]:
    return [
        [s.strategy, s.symbol, iso(s.close_time), str(s.action), s.reference_price, s.stop_price, s.target_price, s.id,
         s.strategy_revision, " ".join(f"{p.dataset}/{p.session}={p.content_hash[:12]}" for p in s.partitions[:3])]
        for s in made
    ]  # fmt: skip


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


def _newest(rows: list[list[Any]], count: int) -> list[list[Any]]:
    """`rows`, with a line in front for those of the `count` that are not among them."""
    return rows if count <= len(rows) else [[f"{count - len(rows)} earlier ones", *[""] * (len(rows[0]) - 1)], *rows]


@dataclass(frozen=True)
class BookRun:
    """What the three stages of a run work with, on one book. closes: UTC us, ascending. config: what trades in the book."""

    run_id: str
    session: str
    closes: list[int]
    config: Any
    book: Book
    lake: Any
    log: Any
    started_wall: int

    @property
    def store(self) -> Ledger:
        return self.book.ledger

    @property
    def settings(self) -> Settings:
        return self.book.settings


def _modes(run: BookRun) -> str:
    """The mode of every strategy and plan, and the one in effect in this book."""
    highest = Mode(run.settings.mode)
    with run.store.engine.connect() as connection:
        known = ledger_modes.read(connection)
    named = {*run.config.strategies, *run.config.plans} if not run.book.alone else set(known)
    rows = [
        [name, s.mode.value, capped(s.mode, highest).value, iso(s.since_wall), s.who, s.reason, s.wish.replace("NAME", name)]
        for name, s in known.items()
        if name in named
    ]
    return markdown_table(["name", "mode", "in effect", "since", "who", "reason", "its file"], rows)


def _signals(run: BookRun) -> Report:
    store, made, silent = run.store, [], dict[str, str]()
    for close_time in run.closes:
        with store.transaction() as c:
            # How long the stages took is not worth waiting for the disk: the next commit brings it there.
            c.execute(text("SET LOCAL synchronous_commit = off"))
            store.stamp_close(close_time, run_started_wall=run.started_wall, run_id=run.run_id, connection=c)
        serving = model_serving.at_close(run.config, close_time, store, run.settings)
        outcome = trade_lane.evaluate_close(close_time, run.session, serving, run.lake, store, run.settings.mode)
        with store.transaction() as c:
            revision = code_revision()
            store.insert_signals(outcome.signals, session=run.session, code_revision=revision, run_id=run.run_id, connection=c)
            store.stamp_close(close_time, signals_wall=wall(), connection=c)
        silent.update(outcome.silent)
        made += outcome.signals
    run.log.info(f"{len(made)} signals at {len(run.closes)} bar close(s)")
    header = ["strategy", "symbol", "bar close", "action", "reference", "stop", "target", "signal", "revision", "bars (hash)"]

    def report() -> dg.MaterializeResult:
        rows = _signal_rows(made)
        newest, count = store.newest_signals(run.session, SO_FAR)
        so_far = _newest(_signal_rows([Signal.from_dict(row["content"]) for row in newest]), count)
        return dg.MaterializeResult(
            asset_key=SIGNALS,
            metadata={
                "mode": run.settings.label,
                "closes": dg.MetadataValue.md(", ".join(iso(t) for t in run.closes[:24]) or "none"),
                "dagster/row_count": len(rows),
                "signals": dg.MetadataValue.md(markdown_table(header, rows)),
                "session_so_far": dg.MetadataValue.md(markdown_table(header, so_far, SO_FAR + 1)),
                "silent": dg.MetadataValue.md(markdown_table(["strategy / instrument", "why"], sorted(silent.items()))),
                "modes": dg.MetadataValue.md(_modes(run)),
                "config_problems": len(run.config.problems),
            },
        )

    return report


def _decisions(run: BookRun) -> Report:
    store, rows, approved = run.store, list[list[Any]](), 0
    for close_time in run.closes:
        undecided = trade_lane.undecided(store, close_time)
        latest = store.latest_close()
        now_time = max(close_time, int(latest["close_time"])) if latest is not None else close_time
        serving = model_serving.at_close(run.config, close_time, store, run.settings)
        made = trade_lane.decide(undecided, serving, store, now_time, run.lake)
        with store.transaction() as c:
            store.insert_decisions(made, session=run.session, code_revision=code_revision(), run_id=run.run_id, connection=c)
            store.stamp_close(close_time, decisions_wall=wall(), connection=c)
        for taken in model_serving.swap(run.config, close_time, run.session, store, run.settings):
            run.log.info(f"{taken.registered} version {taken.version} serves from the next bar on ({taken.why})")
        approved += sum(row.decision.approved for row in made)
        rows += [_decision_row(row.decision) for row in made]
    header = ["strategy", "symbol", "bar close", "action", "approved", "refusal or gate values", "decision", "signal"]

    def report() -> dg.MaterializeResult:
        newest, count = store.newest_decisions(run.session, SO_FAR)
        found = [_decision_row(kernel.decision_of(bytes(row["snapshot"]), bytes(row["outcome"]))) for row in newest]
        conflicts = [r for r in found if r[5].startswith("CONFLICT")]
        return dg.MaterializeResult(
            asset_key=DECISIONS,
            metadata={
                "mode": run.settings.label,
                "dagster/row_count": len(rows),
                "approved": approved,
                "refused": len(rows) - approved,
                "decisions": dg.MetadataValue.md(markdown_table(header, rows)),
                "conflicts": dg.MetadataValue.md(markdown_table(header, conflicts)),
                "session_so_far": dg.MetadataValue.md(markdown_table(header, _newest(found, count), SO_FAR + 1)),
            },
        )

    return report


def _doubts(store: Ledger) -> list[Doubt]:
    with store.engine.connect() as connection:
        return standing(connection)


def _doubts_table(doubts: list[Doubt]) -> str:
    rows = [[d.kind, d.symbol, d.strategy, d.leg, iso(d.since_time), d.blocks, d.awaits, d.says, d.order] for d in doubts]
    return markdown_table(["what", "symbol", "strategy", "leg", "since", "blocks", "awaits", "heard", "order"], rows)


def _orders(run: BookRun, client: DeskClient, *, checked: bool, ends: list[Callable[[], None]]) -> Report:
    """ends: gets what tells the desk that the closes are answered, for the caller to do."""
    store, rows = run.store, list[list[Any]]()
    for close_time in run.closes:
        approved = [d for d in trade_lane.decisions_of(store, close_time=close_time) if d.approved]
        try:
            posted = trade_lane.post(approved, client, close_time, trade_lane.legs(run.config))
        except DeskUnavailable as error:
            raise _not_taken(close_time, error) from error
        ends.append(partial(_end, client, close_time, run.run_id))
        by_id = {d.id: d for d in approved}
        for answer in posted:
            signal = by_id[answer.decision_id].signal
            ids = " ".join(answer.intent_ids)
            command = f"`tapeline trace {answer.intent_ids[0]}`" if answer.intent_ids else ""
            result = "accepted" if answer.accepted else answer.refusal
            rows.append([signal.strategy, signal.symbol, result, ids, command, answer.decision_id, signal.id])
    header = ["strategy", "symbol", "desk", "order ids", "chain", "decision", "signal"]

    def report() -> dg.MaterializeResult:
        doubts = _doubts(store)
        return dg.MaterializeResult(
            asset_key=ORDERS,
            metadata={
                "mode": run.settings.label,
                "dagster/row_count": len(rows),
                "accepted": sum(row[2] == "accepted" for row in rows),
                "in_doubt": dg.MetadataValue.md(_doubts_table(doubts)),
                "orders": dg.MetadataValue.md(markdown_table(header, rows)),
                "session_so_far": dg.MetadataValue.md(markdown_table(_ORDER_HEADER, _order_rows(store, run.session))),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=NOTHING_IN_DOUBT,
                    passed=not doubts,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={"in_doubt": dg.MetadataValue.md(_doubts_table(doubts)), "count": len(doubts)},
                )
            ]
            if checked
            else [],
        )

    return report


def _end(client: DeskClient, close_time: int, run_id: str) -> None:
    """Tell the desk that the close is answered: a replay goes on to the next one."""
    try:
        client.close_done(close_time, run_id=run_id, outcome="done")
    except DeskUnavailable as error:
        raise _not_taken(close_time, error) from error


def _not_taken(close_time: int, error: DeskUnavailable) -> dg.Failure:
    return dg.Failure(
        f"The desk did not take the decisions of {iso(close_time)}: {error}. Nothing is lost: start this run again; "
        "what the desk already has is not sent twice, what is late expires."
    )


def stages(
    run: BookRun, wanted: list[str], client: Callable[[], DeskClient], ends: list[Callable[[], None]], *, checked: bool
) -> tuple[dict[str, Report], Exception | None]:
    """The wanted stages of one book, in order: what each will tell, and why those behind the last one were not begun."""
    by_name: dict[str, Callable[[], Report]] = {
        SIGNALS: lambda: _signals(run),
        DECISIONS: lambda: _decisions(run),
        ORDERS: lambda: _orders(run, client(), checked=checked, ends=ends),
    }
    reports: dict[str, Report] = {}
    for name in wanted:
        try:
            reports[name] = by_name[name]()
        except Exception as error:  # noqa: BLE001 - raised by the caller, once the stages before it are told
            return reports, error
    return reports, None
