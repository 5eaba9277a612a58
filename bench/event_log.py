"""Does a year of minutes slow Dagster's pages? A full event log, the questions its pages ask, before and after the upkeep.

A server, a database and Dagster's webserver over Tapeline's own definitions are started for the time. One run of the trade
job's shape is executed by Dagster itself; its rows, byte for byte as they were written, are then repeated in the database
for every minute of a year of sessions with fresh ids, times and partitions. Milliseconds are medians of five; reference is the
same question to the empty log, ratio what the year costs. The goal is a page that a person does not wait for.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.core import Row, at_most

GOAL_MS = 1000.0
YEAR = 2017
MINUTES = 390
REPEATS = 5
TEMPLATE_DAY = "2017-12-29"

_RUN = (
    "... on Runs { results { id runId status jobName startTime endTime updateTime tags { key value } assetSelection { path } } }"
)


def _runs(filtered: str = "") -> str:
    return f"{{ runsOrError({filtered}limit: 26) {{ __typename {_RUN} }} }}"


def _count(name: str, statuses: str) -> str:
    return f"{name}: runsOrError(filter: {{statuses: [{statuses}]}}, limit: 1) {{ ... on Runs {{ count }} }}"


QUESTIONS = {
    "runs_page": _runs(),
    "runs_page_counts": f"{{ {_count('done', 'SUCCESS')} {_count('busy', 'STARTED, STARTING, CANCELING')} }}",
    "runs_of_a_job": _runs('filter: {pipelineName: "trade"}, '),
    "runs_by_tag": _runs('filter: {tags: [{key: "tapeline/lane", value: "trade"}]}, '),
    "timeline": """{ runsOrError(filter: {statuses: [SUCCESS, FAILURE, CANCELED], updatedAfter: %(now)f}, limit: 500) {
        ... on Runs { results { id status startTime endTime } } } }""",
    "assets_page": """{ assetsOrError(limit: 1000) { __typename ... on AssetConnection { nodes { id key { path } } } }
        assetNodes { id assetKey { path } assetMaterializations(limit: 1) { timestamp runId }
          partitionStats { numMaterialized numPartitions numFailed numMaterializing }
          assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status runId } } } } } }""",
    "asset_partitions_page": """{ assetNodeOrError(assetKey: {path: ["signals"]}) { ... on AssetNode {
        assetPartitionStatuses { __typename ... on TimePartitionStatuses { ranges { startKey endKey status } } }
        assetMaterializations(partitions: ["2017-06-01"], limit: 50) {
          timestamp runId partition metadataEntries { label } tags { key value } } } } }""",
    "asset_events_page": """{ assetOrError(assetKey: {path: ["orders"]}) { ... on Asset { assetMaterializations(limit: 50) {
        timestamp runId partition runOrError { ... on Run { status jobName } } metadataEntries { label } } } } }""",
    "check_page": """{ assetCheckExecutions(assetKey: {path: ["orders"]}, checkName: "nothing_in_doubt", limit: 25) {
        id runId status timestamp } }""",
    "run_page": """{ logsForRun(runId: "%(run)s", limit: 1000) { __typename ... on EventConnection { cursor events { __typename
        ... on MessageEvent { message timestamp stepKey } } } } }""",
}


def run(quick: bool) -> Iterator[Row]:
    """Rows of every page before (full) and after the upkeep, the sizes, and what filling and upkeep took."""
    from sqlalchemy import create_engine

    from resources import dagster_upkeep
    from resources.ledger.migrate import create_databases, upgrade

    days = 6 if quick else 252
    with _server() as (room, url):
        for name in ("ledger", "dagster"):
            create_databases(f"{url}/postgres", [name])
        upgrade(f"{url}/ledger")
        home = _home(room, f"{url}/dagster")
        template = _template(home)
        engine = create_engine(f"{url}/dagster", isolation_level="AUTOCOMMIT")
        with _webserver(home, room) as address:
            empty = _ask_all(address, template)
            seconds = _fill(engine, template, days)
            yield Row("filled_runs", _one(engine, "SELECT count(*) FROM runs"), "runs")
            yield Row("filled_events", _one(engine, "SELECT count(*) FROM event_logs"), "rows")
            yield Row("filled_size", _one(engine, "SELECT pg_database_size(current_database())") / 2**20, "MiB")
            yield Row("filling", seconds, "s")
            last = str(_one(engine, "SELECT run_id FROM runs ORDER BY id DESC LIMIT 1"))
            for name, milliseconds in _ask_all(address, last).items():
                yield Row(f"year_{name}", milliseconds, "ms", empty[name], milliseconds / empty[name], goal=at_most(GOAL_MS))
            own = _settings(room, url)
            ledger = create_engine(f"{url}/ledger")
            limits = dagster_upkeep.Limits.of(own)
            now = float(_one(engine, f"SELECT max(end_time) FROM runs WHERE run_id <> '{template}'"))
            would = dagster_upkeep.plan(own, limits, now)
            yield Row("upkeep_dry_run", would.seconds, "s")
            done = dagster_upkeep.apply(own, limits, ledger, who="bench", now=now)
            ledger.dispose()
            yield Row("upkeep_applied", done.seconds, "s")
            yield Row("kept_runs", _one(engine, "SELECT count(*) FROM runs"), "runs")
            yield Row("kept_events", _one(engine, "SELECT count(*) FROM event_logs"), "rows")
            for name, milliseconds in _ask_all(address, last).items():
                yield Row(f"kept_{name}", milliseconds, "ms", empty[name], milliseconds / empty[name], goal=at_most(GOAL_MS))
        engine.dispose()


# -- what is started -----------------------------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[tuple[Path, str]]:
    from resources.ports import free_port
    from resources.postgres import EmbeddedPostgres

    room = Path(tempfile.mkdtemp(prefix="tapeline-bench-"))
    room.chmod(0o755)
    server = EmbeddedPostgres(
        room / "postgres", room / "secrets" / "password", free_port(), durable=False, relocate_to=(Path("/tmp"), Path("/var/tmp"))
    )
    try:
        server.start()
        yield room, server.url("").rstrip("/")
    finally:
        server.stop()
        shutil.rmtree(server.place, ignore_errors=True)
        shutil.rmtree(room, ignore_errors=True)


def _settings(room: Path, url: str) -> Any:
    from resources.settings import Settings

    names: dict[str, Any] = {"postgres_url": url, "dagster_database": "dagster", "ledger_database": "ledger"}
    return Settings(_env_file=None, data_dir=room / "data", **names)  # type: ignore[call-arg]


def _home(room: Path, url: str) -> Path:
    home = room / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text(
        "storage:\n  custom:\n    module: resources.event_log\n    class: SessionStorage\n"
        f"    config:\n      postgres_url: {url}\ntelemetry:\n  enabled: false\n"
    )
    return home


def _template(home: Path) -> str:
    """Execute one run of the trade job's shape, report one close as the desk does; the run's id."""
    import dagster as dg

    table = "| strategy | symbol | bar close | action |\n" + "| trend | EURUSD | 2017-12-29T12:00:00Z | enter_long |\n" * 8
    days = dg.DailyPartitionsDefinition(start_date="2017-01-01", end_date="2018-01-01")
    common: dict[str, Any] = {"partitions_def": days, "group_name": "trading", "code_version": "1"}

    def told() -> dict[str, Any]:
        rows = {"mode": "PAPER", "dagster/row_count": 8, "accepted": 1}
        return rows | {"table": dg.MetadataValue.md(table), "session_so_far": dg.MetadataValue.md(table * 3)}

    @dg.asset(**common)
    def signals() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=told())

    @dg.asset(**common, deps=[signals])
    def decisions() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=told())

    spec = dg.AssetCheckSpec("nothing_in_doubt", asset="orders")

    @dg.asset(**common, deps=[decisions], check_specs=[spec])
    def orders() -> dg.MaterializeResult:
        good = dg.AssetCheckResult(check_name="nothing_in_doubt", passed=True, metadata={"count": 0})
        return dg.MaterializeResult(metadata=told(), check_results=[good])

    defs = dg.Definitions(
        [signals, decisions, orders], jobs=[dg.define_asset_job("trade", selection="*", executor_def=dg.in_process_executor)]
    )
    tags = {"tapeline/lane": "trade", "tapeline/close_time": "1514548800000000", "tapeline/close": "2017-12-29T12:00:00Z"}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        job = defs.resolve_job_def("trade")
        made = job.execute_in_process(instance=instance, partition_key=TEMPLATE_DAY, tags=tags)
        for key in ("bars_1m", "fills"):
            instance.report_runless_asset_event(
                dg.AssetMaterialization(key, partition=TEMPLATE_DAY, metadata={"rows": 100, "content_hash": {"A": "0" * 64}})
            )
        return made.run_id


@contextmanager
def _webserver(home: Path, room: Path) -> Iterator[str]:
    from resources.ports import free_port
    from resources.settings import ROOT

    port = free_port()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TAPELINE_", "DAGSTER_"))}
    environment = {**kept, "DAGSTER_HOME": str(home), "TAPELINE_DATA_DIR": str(room / "data"), "DAGSTER_DISABLE_TELEMETRY": "yes"}
    command = [
        sys.executable,
        "-m",
        "dagster_webserver",
        "-m",
        "pipelines.definitions",
        "-p",
        str(port),
        "--dagster-log-level",
        "error",
    ]
    with (room / "webserver.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/graphql"
    try:
        end = time.monotonic() + 180
        while True:
            with suppress(OSError, ValueError, KeyError):
                if _ask(address, "{ assetNodes { id } }")["assetNodes"]:
                    break
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit(f"event_log: no webserver:\n{(room / 'webserver.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
        if process.poll() is None:
            process.kill()


def _ask(address: str, query: str) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps({"query": query}).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        body = json.load(answer)
    if body.get("errors"):
        raise ValueError(body["errors"][0]["message"])
    data: dict[str, Any] = body["data"]
    return data


def _ask_all(address: str, run_id: str) -> dict[str, float]:
    """Milliseconds of each page's question, the median of some askings after one for the caches."""
    found = {}
    for name, query in QUESTIONS.items():
        asked = query.replace("%(run)s", run_id).replace("%(now)f", f"{time.time() - 3600:.1f}")
        _ask(address, asked)
        spent = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            _ask(address, asked)
            spent.append((time.perf_counter() - begun) * 1000)
        found[name] = statistics.median(spent)
    return found


# -- the year ------------------------------------------------------------------------------------------------------------

_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'event_logs' AND indexname NOT LIKE '%pkey'"
_MINUTES = """
CREATE UNLOGGED TABLE year AS
  SELECT md5(d::text || '/' || m)::uuid::text AS run_id, to_char(d, 'YYYY-MM-DD') AS day, m,
         d + interval '14 hours 30 minutes' + m * interval '1 minute' AS at
    FROM (SELECT d FROM generate_series(date ':year-01-03', date ':year-12-28', interval '1 day') d
           WHERE extract(isodow FROM d) < 6 ORDER BY d DESC LIMIT :days) x, generate_series(1, :minutes) m
   ORDER BY at
"""
_COPIED = "replace(replace({column}, '{run}', y.run_id), '{day}', y.day)"
_FILL = (
    """INSERT INTO runs (run_id, snapshot_id, pipeline_name, mode, status, run_body, partition, partition_set,
                         create_timestamp, update_timestamp, start_time, end_time)
       SELECT y.run_id, t.snapshot_id, t.pipeline_name, t.mode, t.status, {run_body}, t.partition, t.partition_set,
              y.at, y.at, extract(epoch FROM y.at), extract(epoch FROM y.at) + 1
         FROM year y, runs t WHERE t.run_id = '{run}' ORDER BY y.at""",
    """INSERT INTO run_tags (run_id, key, value)
       SELECT y.run_id, t.key, CASE t.key WHEN 'dagster/partition' THEN y.day
              WHEN 'tapeline/close_time' THEN (extract(epoch FROM y.at) * 1000000)::bigint::text ELSE t.value END
         FROM year y, run_tags t WHERE t.run_id = '{run}'""",
    """INSERT INTO event_logs (run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)
       SELECT CASE t.run_id WHEN '' THEN '' ELSE y.run_id END, {event}, t.dagster_event_type, y.at, t.step_key, t.asset_key,
              CASE WHEN t.partition IS NOT NULL THEN y.day END
         FROM year y, event_template t ORDER BY y.at, t.id""",
    """INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp)
       SELECT e.id, e.asset_key, t.key, CASE WHEN t.key = 'dagster/partition' THEN e.partition ELSE t.value END, e.timestamp
         FROM event_logs e JOIN (SELECT DISTINCT asset_key, key, value FROM asset_event_tags) t ON t.asset_key = e.asset_key
        WHERE e.dagster_event_type = 'ASSET_MATERIALIZATION' AND e.run_id <> '{run}'""",
    """INSERT INTO asset_check_executions (asset_key, check_name, partition, run_id, execution_status, evaluation_event,
              evaluation_event_timestamp, evaluation_event_storage_id, materialization_event_storage_id)
       SELECT t.asset_key, t.check_name, t.partition, e.run_id, t.execution_status, {evaluation_event}, e.timestamp, e.id, m.id
         FROM event_logs e JOIN year y USING (run_id)
         JOIN asset_check_executions t ON t.run_id = '{run}'
         JOIN event_logs m ON m.run_id = e.run_id AND m.asset_key = t.asset_key
              AND m.dagster_event_type = 'ASSET_MATERIALIZATION'
        WHERE e.dagster_event_type = 'ASSET_CHECK_EVALUATION'""",
)


def _fill(engine: Any, run_id: str, days: int) -> float:
    """Repeat the template's rows for every minute of `days` sessions; seconds. Indices are made anew at the end."""
    from sqlalchemy import text

    begun = time.monotonic()
    words = {"run": run_id, "day": TEMPLATE_DAY}
    copied = {c: _COPIED.format(column=f"t.{c}", **words) for c in ("run_body", "event", "evaluation_event")}
    with engine.connect() as c:
        c.execute(text("SET synchronous_commit = off"))
        minutes = _MINUTES.replace(":year", str(YEAR)).replace(":days", str(days)).replace(":minutes", str(MINUTES))
        c.exec_driver_sql(minutes)
        c.exec_driver_sql("ANALYZE year")
        c.exec_driver_sql(f"CREATE UNLOGGED TABLE event_template AS SELECT * FROM event_logs WHERE run_id IN ('{run_id}', '')")
        indexes = c.execute(text(_INDEXES)).all()
        for name, _ in indexes:
            c.exec_driver_sql(f'DROP INDEX "{name}"')
        for n, statement in enumerate(_FILL):
            if n == 3:
                for _, definition in indexes:
                    c.exec_driver_sql(definition)
                c.exec_driver_sql("ANALYZE event_logs")
            c.exec_driver_sql(statement.format(**words, **copied).replace("%", "%%"))
        for table in ("event_logs", "runs", "run_tags", "asset_event_tags", "asset_check_executions"):
            c.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
        c.exec_driver_sql("DROP TABLE year, event_template")
    return time.monotonic() - begun


def _one(engine: Any, query: str) -> Any:
    from sqlalchemy import text

    with engine.connect() as connection:
        return connection.execute(text(query)).scalar_one()
