"""Files in the inbox: `inbox_files` starts a run that takes the whole ones, `inbox_accepted` ingests what was accepted."""

import hashlib
import json
from collections.abc import Sequence
from datetime import date

import dagster as dg

from assets.common import configured_universe, session_partitions_def
from assets.inbox import JOB
from resources.feeds._file_index import Index
from resources.inbox import Inbox, Waiting
from resources.settings import settings
from trading.universe import Universe

MAX_TRIES = 3
"""Runs that are started for a file that stays where it is."""
NEAR_SESSIONS = 20
"""Spans of sessions with at most so many between them are ingested in one run: what is there already is not written again."""
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
RANGE_START_TAG, RANGE_END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def look(waiting: Sequence[Waiting], cursor: str | None, busy: bool) -> tuple[dg.RunRequest | dg.SkipReason, str]:
    """(what to do, new cursor): a run for the files that are as they were at the last look.

    cursor: name -> [size, mtime, runs started for it]. busy: a run is taking files now.
    """
    before: dict[str, list[int]] = json.loads(cursor) if cursor else {}
    now: dict[str, list[int]] = {}
    batch: list[str] = []
    given_up: list[str] = []
    for file in waiting:
        seen = before.get(file.name, [-1, -1, 0])
        same = seen[:2] == [file.size, file.mtime_ns]
        tries = seen[2] if same else 0
        now[file.name] = [file.size, file.mtime_ns, tries]
        if same and file.finished and file.size:
            (batch if tries < MAX_TRIES else given_up).append(file.name)
    if busy:
        return dg.SkipReason("A run is taking files now."), json.dumps(now)
    if not batch:
        if given_up:
            why = f"{', '.join(given_up)}: {MAX_TRIES} runs could not take it; mend the cause and touch the file"
        elif waiting:
            why = f"{len(waiting)} file(s) are new, empty or not finished; looked at again."
        else:
            why = "The inbox is empty."
        return dg.SkipReason(why), json.dumps(now)
    for name in batch:
        now[name][2] += 1
    key = hashlib.sha256(json.dumps([[n, *now[n]] for n in batch]).encode()).hexdigest()[:16]
    request = dg.RunRequest(
        run_key=f"inbox:{key}",
        run_config={"ops": {"accepted_files": {"config": {"files": batch}}}},
        tags={"tapeline/inbox_files": str(len(batch))},
    )
    return request, json.dumps(now)


def spans(index: Index, after: int, universe: Universe, last_key: str) -> list[tuple[date, date]]:
    """Spans of the universe's sessions touched by files accepted after number `after`; neighbours joined."""
    last = date.fromisoformat(last_key)
    touched = sorted(
        (max(lo, universe.history_start), min(hi, last))
        for file in index.files
        if file.order > after
        for held in file.symbols.values()
        for lo, hi in held.runs
        if hi >= universe.history_start and lo <= last
    )
    joined: list[tuple[date, date]] = []
    for lo, hi in touched:
        if joined and (lo <= joined[-1][1] or len(universe.sessions(joined[-1][1], lo)) <= NEAR_SESSIONS + 2):
            joined[-1] = (joined[-1][0], max(joined[-1][1], hi))
        else:
            joined.append((lo, hi))
    return [(days[0], days[-1]) for lo, hi in joined if (days := universe.sessions(lo, hi))]


@dg.sensor(
    name="inbox_files",
    job_name=JOB,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Files in data/inbox that rest (size and time unchanged between two looks) are taken, one run per batch.",
)
def inbox_files(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    running = context.instance.get_runs_count(dg.RunsFilter(job_name=JOB, statuses=UNDER_WAY))
    result, cursor = look(Inbox(settings()).waiting(), context.cursor, running > 0)
    if isinstance(result, dg.RunRequest):
        return dg.SensorResult(run_requests=[result], cursor=cursor)
    return dg.SensorResult(skip_reason=result, cursor=cursor)


@dg.sensor(
    name="inbox_accepted",
    job_name="ingest",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sessions of newly accepted files are ingested: lake, checks, verdicts and features as for every source.",
)
def inbox_accepted(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    index = Inbox(settings()).index()
    after = int(context.cursor or 0)
    if index.last_order <= after:
        return dg.SkipReason("No file was accepted since the last look.")
    last_key = session_partitions_def().get_last_partition_key()
    found = spans(index, after, configured_universe(), last_key) if last_key else []
    requests = [
        dg.RunRequest(
            run_key=f"inbox:{index.last_order}:{lo}:{hi}",
            tags={RANGE_START_TAG: lo.isoformat(), RANGE_END_TAG: hi.isoformat(), "tapeline/inbox": str(index.last_order)},
        )
        for lo, hi in found
    ]
    if not requests:
        reason = dg.SkipReason("The accepted files hold no session the universe keeps.")
        return dg.SensorResult(skip_reason=reason, cursor=str(index.last_order))
    return dg.SensorResult(run_requests=requests, cursor=str(index.last_order))


SENSORS = [inbox_files, inbox_accepted]
