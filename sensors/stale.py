"""`stale_partitions`: partitions made of bars that have changed since are recomputed, and the UI shows them until they are.

One run at a time, for everything that is stale then. What a run could not mend is asked for again only when marks change or
after RETRY_SECONDS: a partition whose source cannot be read must not start a run every few seconds.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from assets.recompute import ANNOUNCED_PATIENCE_SECONDS, open_sessions
from assets.upstream import JOB_NAME, upstream_evaluations
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from resources.lake import LakeError
from resources.ledger import changes
from resources.ledger.changes import StaleMark
from resources.ledger.store import Ledger
from resources.outputs import newest_change
from trading.universe import Universe

RETRY_SECONDS = 600


def fingerprint(marks: Sequence[StaleMark]) -> str:
    """Names a set of marks: another reason for a mark makes another set."""
    digest = hashlib.sha256()
    for mark in marks:
        digest.update(f"{mark.name} {mark.marked_wall}\n".encode())
    return digest.hexdigest()[:16]


def wanted(ledger: Ledger, cursor: str | None, now_wall: int) -> tuple[str | None, dict[str, Any]]:
    """(run key of the run that should start now or None, new cursor). Marks in sessions open at the desk are the desk's."""
    seen: dict[str, Any] = json.loads(cursor) if cursor else {}
    marks = changes.stale(ledger.engine)
    live = open_sessions(ledger)
    mine = [m for m in marks if m.session not in live]
    forgotten = changes.announced(ledger.engine, before_wall=now_wall - int(ANNOUNCED_PATIENCE_SECONDS * 1e6))
    told = f"{fingerprint(marks)}:{newest_change(ledger)}"  # a change may mark nothing and overtake a model or report
    asked = f"{fingerprint(mine)}:{len(forgotten)}:{now_wall // (RETRY_SECONDS * 1_000_000)}" if mine or forgotten else ""
    run_key = asked if asked and asked != seen.get("asked") else None
    return run_key, {"told": told, "asked": asked}


@dg.sensor(
    name="stale_partitions",
    job_name=JOB_NAME,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Bars changed after something was made of them: recompute exactly that, and show it until it is done.",
)
def stale_partitions(
    context: dg.SensorEvaluationContext, config_files: ConfigFilesResource, ledger: LedgerResource, lake: LakeResource
) -> dg.SensorResult | dg.SkipReason:
    book = ledger.ledger()
    before: dict[str, Any] = json.loads(context.cursor) if context.cursor else {}
    run_key, after = wanted(book, context.cursor, time.time_ns() // 1000)
    if run_key is not None and _running(context.instance):
        run_key, after["asked"] = None, before.get("asked", "")  # it mends these marks, or they are asked for again
    events = list(_events(book, config_files.load().universe, lake)) if after["told"] != before.get("told") else []
    if run_key is None and not events:
        return dg.SensorResult(skip_reason="Nothing is stale, or what is has been asked for.", cursor=json.dumps(after))
    requests = [dg.RunRequest(run_key=run_key)] if run_key is not None else []
    return dg.SensorResult(run_requests=requests, asset_events=events, cursor=json.dumps(after))


def _events(ledger: Ledger, universe: Universe, lake: LakeResource) -> Iterator[dg.AssetCheckEvaluation]:
    """What the UI is told. A lake that cannot be read fails its own checks; here it hides no stale partition."""
    try:
        yield from list(upstream_evaluations(ledger, universe, lake.lake()))
    except LakeError:
        yield from upstream_evaluations(ledger, universe)


def _running(instance: dg.DagsterInstance) -> bool:
    active = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    return bool(instance.get_runs(dg.RunsFilter(job_name=JOB_NAME, statuses=active), limit=1))
