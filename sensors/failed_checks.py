"""`failed_checks`: an asset check that begins to fail, or passes again, is written into the audit, from where it is told.

Only changes are written: a check that fails at every bar close is one failure until it passes. How far the event log is
read, and which checks fail, is kept in the ledger in the transaction of the audit records, so none is lost or told twice.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import dagster as dg
from dagster import DagsterEventType, EventRecordsFilter

from resources.dagster_resources import LedgerResource
from resources.ledger import audit
from resources.ledger.store import Ledger

STATE_KEY = "failed_checks"
BATCH = 500
_LONGEST_TEXT = 500


class Evaluation(NamedTuple):
    """One evaluation of an asset check. storage_id: its place in Dagster's event log."""

    storage_id: int
    asset: str
    check: str
    passed: bool
    severity: str
    blocking: bool
    text: str
    run_id: str


def note(ledger: Ledger, evaluations: Sequence[Evaluation], start_after: int) -> int:
    """Write what changed into the audit; returns how many records. start_after: where reading began, for the first time."""
    written = 0
    with ledger.transaction() as c:
        state: dict[str, Any] = ledger.get_state(STATE_KEY, connection=c) or {"cursor": start_after, "failing": {}}
        failing: dict[str, str] = dict(state["failing"])
        for e in evaluations:
            if e.storage_id <= state["cursor"]:
                continue
            name = f"{e.asset}:{e.check}"
            kind = "ERROR" if e.blocking or e.severity == "ERROR" else "WARN"
            content = {
                "asset": e.asset, "check": e.check, "severity": kind, "blocking": e.blocking,
                "text": e.text[:_LONGEST_TEXT], "run_id": e.run_id,
            }  # fmt: skip
            if not e.passed and failing.get(name) != kind:
                failing[name] = kind
                audit.append(c, "dagster", "check_failed", content)
                written += 1
            elif e.passed and failing.pop(name, None) is not None:
                audit.append(c, "dagster", "check_passed", content)
                written += 1
        last = max((e.storage_id for e in evaluations), default=state["cursor"])
        ledger.put_state(STATE_KEY, {"cursor": max(last, state["cursor"]), "failing": failing}, connection=c)
    return written


def read(instance: dg.DagsterInstance, after: int) -> list[Evaluation]:
    """The next evaluations behind `after`, in the order they were stored."""
    wanted = EventRecordsFilter(event_type=DagsterEventType.ASSET_CHECK_EVALUATION, after_cursor=after)
    found = []
    for record in instance.get_event_records(wanted, limit=BATCH, ascending=True):
        event = record.event_log_entry.dagster_event
        if event is None:
            continue
        data = event.asset_check_evaluation_data
        found.append(
            Evaluation(
                record.storage_id, data.asset_key.to_user_string(), data.check_name, data.passed, data.severity.value,
                bool(data.blocking), data.description or "", record.event_log_entry.run_id,
            )
        )  # fmt: skip
    return found


def newest(instance: dg.DagsterInstance) -> int:
    """Place of the newest evaluation: history is not told."""
    wanted = EventRecordsFilter(event_type=DagsterEventType.ASSET_CHECK_EVALUATION)
    records = instance.get_event_records(wanted, limit=1, ascending=False)
    return records[0].storage_id if records else 0


@dg.sensor(
    name="failed_checks",
    minimum_interval_seconds=10,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Writes asset checks that begin to fail, or pass again, into the audit: from there the channels are told.",
)
def failed_checks(context: dg.SensorEvaluationContext, ledger: LedgerResource) -> dg.SensorResult:
    book = ledger.ledger()
    state = book.get_state(STATE_KEY)
    start = int(state["cursor"]) if state is not None else newest(context.instance)
    written = note(book, read(context.instance, start), start)
    said = json.dumps({"written": written}) if written else "No check has changed."
    return dg.SensorResult(skip_reason=said)
