"""Keeping Dagster's own tables small: what is older than the limits goes, what the UI shows of each asset stays.

Dagster purges its ticks and nothing else. A minute of trading leaves a run, some forty rows of its log and a file of what
it printed, gigabytes in a year. Here old runs, their rows and files are deleted, in small transactions that
trading does not feel. Kept whatever their age:

- the newest event of each kind per asset and partition (materialisation, observation), and what its check said last;
- a run that holds such an event, with its first and last words; only the log of its steps goes;
- an unfinished run, and a failed one for as long as `run_days`;
- a run of a backfill that is not over.

The ledger is the truth about signals, decisions and orders; nothing in it is touched.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from resources.ledger import audit
from resources.ledger.store import Ledger
from resources.settings import ROOT, Settings

DAY_SECONDS = 86_400.0
BATCH_RUNS = 200
BATCH_EVENTS = 5000
PAUSE_SECONDS = 0.02
"""Between two transactions: others get the disk."""
NOTICE_KEY = "dagster_upkeep_notice"
"""desk_state: what the nightly upkeep has shown that it would delete, under which limits."""
NOTICE_SECONDS = 12 * 3600.0
"""So long people have to look at it."""
_LOCK = 7_160_271
_RUN_ID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
_VACUUMED = ("event_logs", "asset_event_tags", "asset_check_executions", "runs", "run_tags", "job_ticks")


class UpkeepRefused(Exception):
    """Nothing was done; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Days after which something goes. ticks: (type, status) -> days, from dagster.yaml."""

    trade_run_days: int
    run_days: int
    event_days: int
    log_days: int
    ticks: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @staticmethod
    def of(own: Settings, instance_file: Path | None = None) -> Limits:
        """Raises UpkeepRefused when dagster.yaml cannot be read."""
        path = instance_file or ROOT / "dagster.yaml"
        try:
            retention = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("retention") or {}
        except (OSError, yaml.YAMLError) as error:
            raise UpkeepRefused(f"{path}: cannot be read ({error}); expected Dagster's instance settings") from error
        ticks: dict[tuple[str, str], int] = {}
        for kind in ("schedule", "sensor"):
            days = (retention.get(kind) or {}).get("purge_after_days")
            for status in ("SKIPPED", "STARTED", "SUCCESS", "FAILURE"):
                value = days.get(status.lower()) if isinstance(days, Mapping) else days
                if isinstance(value, int) and value > 0:
                    ticks[kind.upper(), status] = value
        return Limits(own.dagster_trade_run_days, own.dagster_run_days, own.dagster_event_days, own.dagster_log_days, ticks)

    def to_dict(self) -> dict[str, Any]:
        """All of them as JSON has them."""
        return asdict(self) | {"ticks": {f"{kind} {status}": days for (kind, status), days in sorted(self.ticks.items())}}


@dataclass(slots=True)
class Upkeep:
    """What would go, or went. runs: whole; slimmed: runs that stay without the log of their steps. bytes: of log files."""

    runs: int = 0
    slimmed: int = 0
    run_events: int = 0
    runless_events: int = 0
    checks: int = 0
    ticks: int = 0
    log_folders: int = 0
    log_bytes: int = 0
    oldest_run: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def anything(self) -> bool:
        return any((self.runs, self.run_events, self.runless_events, self.checks, self.ticks, self.log_folders))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_KEPT = """
CREATE TEMP TABLE kept_events ON COMMIT PRESERVE ROWS AS
  SELECT max(id) AS id FROM event_logs
   WHERE asset_key IS NOT NULL AND dagster_event_type NOT IN ('ASSET_MATERIALIZATION_PLANNED', 'ASSET_CHECK_EVALUATION_PLANNED')
   GROUP BY asset_key, dagster_event_type, partition
"""
# A planned materialisation that came to nothing says that its partition failed: while nothing newer was made, it stays.
_KEPT_PLANNED = """
INSERT INTO kept_events
  SELECT p.id FROM (SELECT asset_key, partition, max(id) AS id FROM event_logs
                     WHERE asset_key IS NOT NULL AND dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'
                     GROUP BY asset_key, partition) p
    LEFT JOIN (SELECT asset_key, partition, max(id) AS id FROM event_logs
                WHERE asset_key IS NOT NULL AND dagster_event_type = 'ASSET_MATERIALIZATION'
                GROUP BY asset_key, partition) m
      ON m.asset_key = p.asset_key AND m.partition IS NOT DISTINCT FROM p.partition
   WHERE m.id IS NULL OR m.id < p.id
"""
_KEPT_CHECKS = """
CREATE TEMP TABLE kept_checks ON COMMIT PRESERVE ROWS AS
  SELECT max(id) AS id FROM asset_check_executions GROUP BY asset_key, check_name, partition
   UNION
  SELECT max(id) FROM asset_check_executions WHERE execution_status <> 'PLANNED' GROUP BY asset_key, check_name, partition
"""
_KEPT_BY_CHECKS = """
INSERT INTO kept_events
  SELECT e FROM asset_check_executions c JOIN kept_checks k ON k.id = c.id,
         LATERAL (VALUES (c.evaluation_event_storage_id), (c.materialization_event_storage_id)) AS v(e)
   WHERE e IS NOT NULL
"""
_DOOMED = """
CREATE TEMP TABLE doomed_runs ON COMMIT PRESERVE ROWS AS
  SELECT r.id, r.run_id, false AS slim, coalesce(r.end_time, extract(epoch FROM r.create_timestamp)) AS ended
    FROM runs r
   WHERE r.status IN ('SUCCESS', 'FAILURE', 'CANCELED')
     AND coalesce(r.end_time, extract(epoch FROM r.create_timestamp)) <
         CASE WHEN r.status = 'SUCCESS' AND EXISTS (SELECT 1 FROM run_tags t
                    WHERE t.run_id = r.run_id AND t.key = 'tapeline/lane' AND t.value = 'trade')
              THEN :trade_before ELSE :run_before END
     AND NOT EXISTS (SELECT 1 FROM bulk_actions b WHERE b.key = r.backfill_id AND b.status IN ('REQUESTED', 'CANCELING'))
"""
_SLIM = """
UPDATE doomed_runs SET slim = true WHERE run_id IN (
  SELECT e.run_id FROM event_logs e JOIN kept_events k ON k.id = e.id
   UNION SELECT c.run_id FROM asset_check_executions c JOIN kept_checks k ON k.id = c.id)
"""
# Of a slimmed run stay what is kept and what the run itself said (its start, its end, the engine's errors).
_GOING = """
  e.run_id = ANY(:runs) AND NOT EXISTS (SELECT 1 FROM kept_events k WHERE k.id = e.id)
  AND NOT (e.run_id = ANY(:slim) AND e.step_key IS NULL AND e.dagster_event_type IS NOT NULL
           AND (e.dagster_event_type LIKE 'PIPELINE%' OR e.dagster_event_type = 'RUN_CANCELING'))
"""
_DELETE_EVENTS = f"""
WITH gone AS (DELETE FROM event_logs e WHERE {_GOING} RETURNING e.id),
     tags AS (DELETE FROM asset_event_tags t USING gone WHERE t.event_id = gone.id)
SELECT count(*) FROM gone
"""
_RUNLESS = """
  SELECT e.id FROM event_logs e
   WHERE e.run_id = '' AND e.timestamp < to_timestamp(:before) AT TIME ZONE 'UTC'
     AND NOT EXISTS (SELECT 1 FROM kept_events k WHERE k.id = e.id)
"""
_DELETE_RUNLESS = f"""
WITH gone AS (DELETE FROM event_logs WHERE id IN ({_RUNLESS} ORDER BY e.id LIMIT :batch) RETURNING id),
     tags AS (DELETE FROM asset_event_tags t USING gone WHERE t.event_id = gone.id)
SELECT count(*) FROM gone
"""
_OLD_CHECKS = """
  NOT EXISTS (SELECT 1 FROM kept_checks k WHERE k.id = c.id)
  AND (EXISTS (SELECT 1 FROM doomed_runs d WHERE d.run_id = c.run_id)
       OR (c.run_id = '' AND c.evaluation_event_timestamp < to_timestamp(:before) AT TIME ZONE 'UTC'))
"""
_TICKS = "type = :type AND status = :status AND timestamp < to_timestamp(:before) AT TIME ZONE 'UTC'"


def plan(own: Settings, limits: Limits, now: float | None = None) -> Upkeep:
    """What `apply` would delete now. Reads only. now: real time, UTC seconds."""
    now = time.time() if now is None else now
    begun, found = time.monotonic(), Upkeep()
    with _connected(own.dagster_url()) as connection:
        _select(connection, limits, now)
        runs = connection.execute(text("SELECT run_id, slim, ended FROM doomed_runs ORDER BY ended")).all()
        found.runs = sum(not r.slim for r in runs)
        for part in _batches(runs):
            count = connection.execute(text(f"SELECT e.run_id, count(*) FROM event_logs e WHERE {_GOING} GROUP BY 1"), part).all()
            found.run_events += sum(n for _, n in count)
            found.slimmed += sum(run_id in set(part["slim"]) for run_id, _ in count)
        if runs:
            found.oldest_run = time.strftime("%Y-%m-%d", time.gmtime(float(runs[0].ended)))
        before = now - limits.event_days * DAY_SECONDS
        found.runless_events = connection.execute(text(f"SELECT count(*) FROM ({_RUNLESS}) x"), {"before": before}).scalar_one()
        counted = f"SELECT count(*) FROM asset_check_executions c WHERE {_OLD_CHECKS}"
        found.checks = connection.execute(text(counted), {"before": before}).scalar_one()
        for values in _tick_limits(limits, now):
            found.ticks += connection.execute(text(f"SELECT count(*) FROM job_ticks WHERE {_TICKS}"), values).scalar_one()
        doomed = {str(r.run_id) for r in runs if not r.slim}
        for _, size in _old_logs(connection, own.path("dagster", "storage"), doomed, limits, now):
            found.log_folders += 1
            found.log_bytes += size
    found.seconds = round(time.monotonic() - begun, 3)
    return found


def apply(own: Settings, limits: Limits, ledger: Engine, *, who: str, now: float | None = None) -> Upkeep:
    """Delete what the limits say; the audit holds what goes before it goes, and what went. Returns what went.

    Raises UpkeepRefused when another upkeep is at it, and what the database raises: what was deleted by then is gone whole
    runs at a time, and the next upkeep goes on from there.
    """
    now = time.time() if now is None else now
    begun, done = time.monotonic(), Upkeep()
    days = {k: v for k, v in asdict(limits).items() if k != "ticks"}
    with _connected(own.dagster_url()) as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}).scalar_one():
            raise UpkeepRefused("another upkeep of Dagster's tables is running: wait for it")
        _select(connection, limits, now)
        runs = connection.execute(text("SELECT run_id, slim, ended FROM doomed_runs ORDER BY ended")).all()
        going = {"runs": sum(not r.slim for r in runs), "may_be_slimmed": sum(bool(r.slim) for r in runs)}
        with ledger.begin() as c:
            audit.append(c, who, "dagster_upkeep", {"days": days, "now": int(now), **going})
        before = {"before": now - limits.event_days * DAY_SECONDS}
        done.checks = connection.execute(text(f"DELETE FROM asset_check_executions c WHERE {_OLD_CHECKS}"), before).rowcount
        for part in _batches(runs):
            done.run_events += int(connection.execute(text(_DELETE_EVENTS), part).scalar_one())
            whole = sorted(set(part["runs"]) - set(part["slim"]))
            done.runs += connection.execute(text("DELETE FROM runs WHERE run_id = ANY(:whole)"), {"whole": whole}).rowcount
            time.sleep(PAUSE_SECONDS)
        while count := int(connection.execute(text(_DELETE_RUNLESS), before | {"batch": BATCH_EVENTS}).scalar_one()):
            done.runless_events += count
            time.sleep(PAUSE_SECONDS)
        for values in _tick_limits(limits, now):
            done.ticks += connection.execute(text(f"DELETE FROM job_ticks WHERE {_TICKS}"), values).rowcount
        for folder, size in list(_old_logs(connection, own.path("dagster", "storage"), set(), limits, now)):
            try:
                shutil.rmtree(folder)
            except OSError as error:
                done.problems.append(f"{folder.name}: {error.strerror}")
                continue
            with suppress(OSError):  # the run's own folder, when nothing else is in it
                folder.parent.rmdir() if folder.name == "compute_logs" else None
            done.log_folders += 1
            done.log_bytes += size
        done.problems += _vacuum(connection)
        done.slimmed = going["may_be_slimmed"]
    done.seconds = round(time.monotonic() - begun, 3)
    with ledger.begin() as c:
        audit.append(c, who, "dagster_upkeep_done", {k: v for k, v in done.to_dict().items() if k != "seconds"})
    return done


@dataclass(frozen=True, slots=True)
class Night:
    """What one night came to. would: beyond the limits; done: what went, None when nothing did, and `why`."""

    would: Upkeep
    done: Upkeep | None
    why: str = ""


def nightly(own: Settings, limits: Limits, ledger: Engine, *, who: str, now: float | None = None) -> Night:
    """What the schedule does, as ``TAPELINE_DAGSTER_UPKEEP`` says. Under limits that no earlier night has shown it only shows,
    says so in the audit, and deletes from the next night on. Raises what `apply` raises.
    """
    now = time.time() if now is None else now
    would = plan(own, limits, now)
    if not would.anything:
        return Night(would, None, "nothing is beyond the limits")
    if own.dagster_upkeep == "show":
        return Night(would, None, "TAPELINE_DAGSTER_UPKEEP=show: nothing is ever deleted by itself")
    if own.dagster_upkeep == "announced" and (wait := _announce(ledger, limits, would, who, now)):
        return Night(would, None, wait)
    return Night(would, apply(own, limits, ledger, who=who, now=now))


def _announce(ledger: Engine, limits: Limits, would: Upkeep, who: str, now: float) -> str:
    """Why nothing is deleted yet; "" once what these limits delete was shown half a day ago or earlier."""
    under = limits.to_dict()
    store = Ledger(ledger)
    shown = store.get_state(NOTICE_KEY) or {}
    if shown.get("limits") != under or not isinstance(shown.get("shown"), (int, float)):
        told = {k: v for k, v in would.to_dict().items() if k not in ("seconds", "problems")}
        with store.transaction() as c:
            store.put_state(NOTICE_KEY, {"limits": under, "shown": now}, connection=c)
            audit.append(c, who, "dagster_upkeep_shown", {"limits": under, **told})
        return "shown for the first time under these limits: from the next night on it is deleted"
    if now - shown["shown"] < NOTICE_SECONDS:
        return "shown less than half a day ago: the next night deletes it"
    return ""


# -- steps ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    """Each statement is its own transaction. Temporary tables and the lock go with the connection."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _select(connection: Connection, limits: Limits, now: float) -> None:
    """What stays and which runs go, as temporary tables."""
    for statement in (_KEPT, _KEPT_PLANNED, _KEPT_CHECKS, _KEPT_BY_CHECKS):
        connection.execute(text(statement))
    connection.execute(text("CREATE INDEX ON kept_events (id)"))
    connection.execute(text("CREATE INDEX ON kept_checks (id)"))
    ends = {"trade_before": now - limits.trade_run_days * DAY_SECONDS, "run_before": now - limits.run_days * DAY_SECONDS}
    connection.execute(text(_DOOMED), ends)
    connection.execute(text("CREATE INDEX ON doomed_runs (run_id)"))
    connection.execute(text(_SLIM))
    for table in ("kept_events", "kept_checks", "doomed_runs"):
        connection.execute(text(f"ANALYZE {table}"))


def _batches(runs: Any) -> Iterator[dict[str, list[str]]]:
    for i in range(0, len(runs), BATCH_RUNS):
        part = runs[i : i + BATCH_RUNS]
        yield {"runs": [r.run_id for r in part], "slim": [r.run_id for r in part if r.slim]}


def _tick_limits(limits: Limits, now: float) -> Iterator[dict[str, Any]]:
    for (kind, status), days in sorted(limits.ticks.items()):
        yield {"type": kind, "status": status, "before": now - days * DAY_SECONDS}


def _old_logs(connection: Connection, storage: Path, doomed: set[str], limits: Limits, now: float) -> Iterator[tuple[Path, int]]:
    """(folder, bytes) of what runs printed: of runs that are gone or in `doomed`, and of finished ones past `log_days`."""
    if not storage.is_dir():
        return
    known = {str(r.run_id): (r.status, r.ended) for r in connection.execute(text(
        "SELECT run_id, status, coalesce(end_time, extract(epoch FROM create_timestamp)) AS ended FROM runs"
    ))}  # fmt: skip
    for folder in sorted(storage.iterdir()):
        if not _RUN_ID.match(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        run = known.get(folder.name)
        if run is None or folder.name in doomed:
            # A folder younger than a day may belong to a run of this moment.
            if folder.name in doomed or now - folder.stat().st_mtime > DAY_SECONDS:
                yield folder, _size(folder)
            continue
        status, ended = run
        logs = folder / "compute_logs"
        finished = status in ("SUCCESS", "FAILURE", "CANCELED")
        if finished and float(ended) < now - limits.log_days * DAY_SECONDS and logs.is_dir() and not logs.is_symlink():
            yield logs, _size(logs)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _vacuum(connection: Connection) -> list[str]:
    """Let the space of deleted rows be used again, and the planner know how much is left."""
    problems = []
    for table in _VACUUMED:
        try:
            connection.execute(text(f"VACUUM (ANALYZE) {table}"))
        except SQLAlchemyError as error:  # the rows are gone all the same; Postgres does it by itself, later
            problems.append(f"VACUUM {table}: {type(error).__name__}")
    return problems
