"""Dagster's tables kept small: old minutes go, the newest word on every asset, partition and check stays."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetKey
from sqlalchemy import Engine, create_engine, text

from resources.dagster_upkeep import DAY_SECONDS, Limits, Night, UpkeepRefused, apply, nightly, plan
from resources.ledger import audit
from resources.settings import ROOT, Settings

DAYS = dg.DailyPartitionsDefinition(start_date="2024-01-01", end_date="2024-01-04")
LIMITS = Limits(30, 180, 30, 30, {("SENSOR", "SKIPPED"): 1})
TRADE = {"tapeline/lane": "trade"}
Rows = Callable[[str], list[tuple[object, ...]]]


@dg.asset(partitions_def=DAYS, check_specs=[dg.AssetCheckSpec("sound", asset="orders")])
def orders() -> dg.MaterializeResult:
    print("said by the step")
    return dg.MaterializeResult(
        metadata={"rows": 1}, check_results=[dg.AssetCheckResult(passed=True, check_name="sound")], tags={"lane": "trade"}
    )


@dg.asset(partitions_def=DAYS)
def broken() -> None:
    raise ValueError("no")


DEFS = dg.Definitions(
    [orders, broken],
    jobs=[dg.define_asset_job(n, selection=n, executor_def=dg.in_process_executor) for n in ("orders", "broken")],
)


class Log:
    """A Dagster instance on a real Postgres, whose runs can be made old."""

    def __init__(self, instance: dg.DagsterInstance, url: str, own: Settings) -> None:
        self.instance, self.own = instance, own
        self.engine = create_engine(url, isolation_level="AUTOCOMMIT")
        self.now = 2_000_000_000.0

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def run(self, job: str, day: str, days_ago: float, **tags: str) -> str:
        made = DEFS.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=day, raise_on_error=False, tags={**tags}
        )
        ended = self.now - days_ago * DAY_SECONDS
        with self.engine.connect() as connection:
            connection.execute(text("UPDATE runs SET end_time = :t WHERE run_id = :r"), {"t": ended, "r": made.run_id})
        return made.run_id

    def runless(self, rows: int, days_ago: float) -> None:
        """What the desk reports of its bars."""
        before = self.rows("SELECT coalesce(max(id), 0) FROM event_logs")[0][0]
        for n in range(rows):
            self.instance.report_runless_asset_event(
                dg.AssetMaterialization("fills", partition="2024-01-02", metadata={"n": n}, tags={"desk": "yes"})
            )
        with self.engine.connect() as connection:
            connection.execute(
                text("UPDATE event_logs SET timestamp = to_timestamp(:t) AT TIME ZONE 'UTC' WHERE id > :b"),
                {"t": self.now - days_ago * DAY_SECONDS, "b": before},
            )

    def runs(self) -> set[object]:
        return {row[0] for row in self.rows("SELECT run_id FROM runs")}


@pytest.fixture(scope="module")
def one_log(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    tmp_path = tmp_path_factory.mktemp("upkeep")
    name = f"upkeep_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    server = create_engine(f"{postgres_url}/postgres", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    url, logs = f"{postgres_url}/{name}", tmp_path / "data" / "dagster" / "storage"
    (tmp_path / "dagster.yaml").write_text(
        "storage:\n  custom:\n    module: resources.event_log\n    class: SessionStorage\n"
        f"    config:\n      postgres_url: {url}\ntelemetry:\n  enabled: false\n"
        "compute_logs:\n  module: dagster._core.storage.local_compute_log_manager\n  class: LocalComputeLogManager\n"
        f"  config:\n    base_dir: {logs}\n"
    )
    own = Settings(
        _env_file=None,
        data_dir=tmp_path / "data",
        postgres_url=postgres_url,
        dagster_database=name,  # type: ignore[call-arg, arg-type]
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        made = Log(instance, url, own)
        yield made
        made.engine.dispose()
    with server.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    server.dispose()


@pytest.fixture
def log(one_log: Log) -> Log:
    """The instance as new: its tables are made once, that takes seconds."""
    with one_log.engine.connect() as connection:
        connection.execute(text("TRUNCATE event_logs, asset_keys, asset_event_tags, asset_check_executions, run_tags, runs"))
    shutil.rmtree(one_log.own.path("dagster", "storage"), ignore_errors=True)
    return one_log


def test_old_minutes_go_and_the_newest_of_each_partition_and_check_stays(log: Log, ledger_engine: Engine) -> None:
    old = [log.run("orders", "2024-01-02", 40, **TRADE) for _ in range(3)]
    other_day = log.run("orders", "2024-01-03", 40, **TRADE)
    ordinary = log.run("orders", "2024-01-01", 40)  # not of the trade lane: 180 days
    young = log.run("orders", "2024-01-01", 5, **TRADE)
    before = plan(log.own, LIMITS, log.now)
    assert (before.runs, before.slimmed) == (2, 2)
    assert log.runs() == {*old, other_day, ordinary, young}, "the plan deletes nothing"
    done = apply(log.own, LIMITS, ledger_engine, who="test", now=log.now)
    assert (done.runs, done.run_events, done.checks) == (before.runs, before.run_events, before.checks)
    assert log.runs() == {old[-1], other_day, ordinary, young}
    for day, run_id in (("2024-01-02", old[-1]), ("2024-01-03", other_day), ("2024-01-01", young)):
        found = log.instance.fetch_materializations(dg.AssetRecordsFilter(AssetKey("orders"), asset_partitions=[day]), 10).records
        assert found[0].run_id == run_id
        assert found[0].asset_materialization is not None
        assert found[0].asset_materialization.metadata["rows"].value == 1
    kept = {e.dagster_event_type for e in log.instance.all_logs(old[-1])}
    assert {"RUN_START", "RUN_SUCCESS", "ASSET_MATERIALIZATION"} <= {k.name for k in kept if k}
    assert "STEP_START" not in {k.name for k in kept if k}
    assert log.instance.get_latest_materialization_event(AssetKey("orders")) is not None
    summary = log.instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(AssetKey("orders"), "sound")]
    )
    assert next(iter(summary.values())).run_id == young
    orphans = "SELECT count(*) FROM asset_event_tags t WHERE NOT EXISTS (SELECT 1 FROM event_logs e WHERE e.id = t.event_id)"
    assert log.rows(orphans) == [(0,)]
    again = plan(log.own, LIMITS, log.now)
    assert not again.anything, again


def test_what_says_that_a_partition_failed_stays_until_it_is_made(log: Log, ledger_engine: Engine) -> None:
    first, last = log.run("broken", "2024-01-02", 400), log.run("broken", "2024-01-02", 400)
    apply(log.own, LIMITS, ledger_engine, who="test", now=log.now)
    assert log.runs() == {last}, (first, last)
    assert log.rows("SELECT status FROM runs") == [("FAILURE",)]
    assert log.rows("SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION_PLANNED'") == [(1,)]


def test_a_failed_trade_run_stays_as_long_as_any_other_and_an_unfinished_one_for_ever(log: Log, ledger_engine: Engine) -> None:
    failed = log.run("broken", "2024-01-02", 40, **TRADE)
    newer = log.run("broken", "2024-01-02", 40, **TRADE)
    hanging = log.run("orders", "2024-01-02", 4000, **TRADE)
    with log.engine.connect() as connection:
        connection.execute(text("UPDATE runs SET status = 'STARTED' WHERE run_id = :r"), {"r": hanging})
    apply(log.own, LIMITS, ledger_engine, who="test", now=log.now)
    assert log.runs() == {failed, newer, hanging}


def test_what_the_desk_reported_goes_but_for_the_newest(log: Log, ledger_engine: Engine) -> None:
    log.runless(5, days_ago=60)
    assert plan(log.own, LIMITS, log.now).runless_events == 4
    assert apply(log.own, LIMITS, ledger_engine, who="test", now=log.now).runless_events == 4
    last = log.instance.get_latest_materialization_event(AssetKey("fills"))
    assert last is not None
    assert last.asset_materialization is not None
    assert last.asset_materialization.metadata["n"].value == 4
    log.runless(2, days_ago=1)
    assert plan(log.own, LIMITS, log.now).runless_events == 1, "the old newest is not the newest any more"


def test_what_runs_printed_goes_with_them_and_other_files_stay(log: Log, ledger_engine: Engine) -> None:
    gone, stays = log.run("orders", "2024-01-02", 40, **TRADE), log.run("orders", "2024-01-02", 5, **TRADE)
    storage = log.own.path("dagster", "storage")
    foreign = storage / "models" / "kept.bin"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("x")
    assert (storage / gone / "compute_logs").is_dir()
    before = plan(log.own, LIMITS, log.now)
    assert (before.log_folders, before.log_bytes > 0) == (1, True)
    done = apply(log.own, LIMITS, ledger_engine, who="test", now=log.now)
    assert (done.log_folders, done.problems) == (1, [])
    assert not (storage / gone).exists()
    assert (storage / stays / "compute_logs").is_dir()
    assert foreign.exists()


def test_it_is_in_the_audit_before_and_after(log: Log, ledger_engine: Engine) -> None:
    log.run("orders", "2024-01-02", 40, **TRADE)
    log.run("orders", "2024-01-02", 40, **TRADE)
    apply(log.own, LIMITS, ledger_engine, who="tapeline:ann", now=log.now)
    with ledger_engine.connect() as connection:
        told = connection.execute(text("SELECT actor, action FROM audit ORDER BY seq")).all()
    assert [tuple(row) for row in told if row.action.startswith("dagster_upkeep")] == [
        ("tapeline:ann", "dagster_upkeep"), ("tapeline:ann", "dagster_upkeep_done"),
    ]  # fmt: skip
    assert not audit.verify(ledger_engine)


def test_a_night_deletes_only_what_an_earlier_one_has_shown_under_the_same_limits(log: Log, ledger_engine: Engine) -> None:
    def night(hours: float, limits: Limits = LIMITS, **settings: object) -> Night:
        own = log.own.model_copy(update=settings)
        return nightly(own, limits, ledger_engine, who="dagster:1", now=log.now + hours * 3600)

    def shown() -> int:
        with ledger_engine.connect() as connection:
            return connection.execute(text("SELECT count(*) FROM audit WHERE action = 'dagster_upkeep_shown'")).scalar_one()

    assert night(0).why == "nothing is beyond the limits"
    old = {log.run("orders", "2024-01-02", 40, **TRADE) for _ in range(2)}
    assert (night(0, dagster_upkeep="show").done, shown()) == (None, 0)
    first = night(0)
    assert (first.would.runs, first.done, shown()) == (1, None, 1)
    assert "from the next night on" in first.why
    assert "half a day" in night(1).why, "started again in the same night"
    tighter = replace(LIMITS, trade_run_days=10)
    assert night(24, tighter).done is None, "limits that no night has shown"
    assert (log.runs(), shown()) == (old, 2)
    done = night(48, tighter).done
    assert done is not None
    assert done.runs == 1
    assert len(log.runs()) == 1
    assert shown() == 2


def test_delete_needs_no_night_before(log: Log, ledger_engine: Engine) -> None:
    for _ in range(2):
        log.run("orders", "2024-01-02", 40, **TRADE)
    own = log.own.model_copy(update={"dagster_upkeep": "delete"})
    done = nightly(own, LIMITS, ledger_engine, who="dagster:1", now=log.now).done
    assert done is not None
    assert done.runs == 1


def test_two_at_once_are_refused(log: Log, ledger_engine: Engine) -> None:
    with log.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(7160271)"))
        with pytest.raises(UpkeepRefused, match="another upkeep"):
            apply(log.own, LIMITS, ledger_engine, who="test", now=log.now)


def test_the_limits_are_those_of_the_settings_and_of_the_instance(tmp_path: Path) -> None:
    limits = Limits.of(Settings(_env_file=None, dagster_trade_run_days=7), ROOT / "dagster.yaml")  # type: ignore[call-arg]
    assert (limits.trade_run_days, limits.run_days) == (7, 180)
    assert limits.ticks["SENSOR", "SKIPPED"] == 1
    assert limits.ticks["SCHEDULE", "FAILURE"] == 90
    with pytest.raises(UpkeepRefused, match="cannot be read"):
        Limits.of(Settings(_env_file=None), tmp_path / "none.yaml")  # type: ignore[call-arg]
