"""Dagster's storage for runs over many sessions: the same rows as stock, in batches, one planned row per check."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import Pool

from resources import event_log
from resources.event_log import SessionEventLogStorage

DAYS = dg.TimeWindowPartitionsDefinition(start="2024-01-01", end="2024-03-01", fmt="%Y-%m-%d", cron_schedule="0 0 * * 1-5")


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def first(context: dg.AssetExecutionContext) -> None:
    context.add_asset_metadata({"rows": 3}, partition_key=context.partition_keys[-1])


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[first])
def second(context: dg.AssetExecutionContext) -> None: ...


@dg.multi_asset_check(specs=[dg.AssetCheckSpec("good", asset="first"), dg.AssetCheckSpec("bad", asset="first")])
def judged() -> Iterator[dg.AssetCheckResult]:
    yield dg.AssetCheckResult(passed=True, check_name="good")
    yield dg.AssetCheckResult(passed=False, check_name="bad")


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    name = f"events_{os.getpid()}_{uuid.uuid4().hex[:8]}"
    server = create_engine(f"{postgres_url}/postgres", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f'CREATE DATABASE "{name}"'))
    yield f"{postgres_url}/{name}"
    with server.connect() as connection:
        connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    server.dispose()


@pytest.fixture
def instance(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
    with dg.DagsterInstance.from_config(str(_home(tmp_path, database))) as made:
        yield made


def _home(room: Path, database: str) -> Path:
    """A DAGSTER_HOME with this storage."""
    (room / "dagster.yaml").write_text(
        "storage:\n  custom:\n    module: resources.event_log\n    class: SessionStorage\n"
        f"    config:\n      postgres_url: {database}\ntelemetry:\n  enabled: false\n"
    )
    return room


@pytest.fixture
def rows(database: str) -> Iterator[Callable[[str], list[tuple[object, ...]]]]:
    engine = create_engine(database)

    def ask(query: str) -> list[tuple[object, ...]]:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    yield ask
    engine.dispose()


def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    defs = dg.Definitions([first, second], asset_checks=[judged], jobs=[dg.define_asset_job("all", selection="*")])
    keys = DAYS.get_partition_keys()
    return defs.resolve_job_def("all").execute_in_process(
        instance=instance,
        tags={"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]},
    )


def test_a_range_of_sessions_is_planned_and_materialised_session_by_session(
    instance: dg.DagsterInstance, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    assert isinstance(instance.event_log_storage, SessionEventLogStorage)
    assert run(instance).success
    count = len(DAYS.get_partition_keys())
    kinds = "('ASSET_MATERIALIZATION', 'ASSET_MATERIALIZATION_PLANNED')"
    assert rows(
        "SELECT dagster_event_type, asset_key, count(*), count(DISTINCT partition) FROM event_logs "
        f"WHERE dagster_event_type IN {kinds} GROUP BY 1, 2 ORDER BY 1, 2"
    ) == [
        (kind, f'["{asset}"]', count, count)
        for kind in ("ASSET_MATERIALIZATION", "ASSET_MATERIALIZATION_PLANNED")
        for asset in ("first", "second")
    ]
    for asset in (first, second):
        assert set(instance.get_materialized_partitions(asset.key)) == set(DAYS.get_partition_keys())
        latest = instance.get_latest_materialization_event(asset.key)
        assert latest is not None
        assert latest.asset_materialization is not None
        assert latest.asset_materialization.partition == DAYS.get_partition_keys()[-1]


def test_a_check_of_a_range_is_one_row_that_its_evaluation_completes(
    instance: dg.DagsterInstance, rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    run(instance)
    assert rows("SELECT check_name, partition, execution_status FROM asset_check_executions ORDER BY 1") == [
        ("bad", None, "FAILED"),
        ("good", None, "SUCCEEDED"),
    ]


def test_events_are_written_in_batches(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = SessionEventLogStorage.store_event_batch

    def counting(self: SessionEventLogStorage, events: list[dg.EventLogEntry]) -> None:
        sizes.append(len(events))
        real(self, events)

    monkeypatch.setattr(SessionEventLogStorage, "store_event_batch", counting)
    run(instance)
    count = len(DAYS.get_partition_keys())
    # Planned: both assets' sessions and two checks at once; then each asset's materialisations.
    assert sizes == [2 * count + 2, count, count]


def opened(room: Path) -> int:
    """Connections to the database that two more instances, asked something each, make."""
    made = 0

    def counting(*_: object) -> None:
        nonlocal made
        made += 1

    event.listen(Pool, "connect", counting)
    try:
        for _ in range(2):
            with dg.DagsterInstance.from_config(str(room)) as one:
                assert one.get_run_records(limit=1) == []
                assert one.get_asset_records([]) == []
                assert one.all_instigator_state() == []
    finally:
        event.remove(Pool, "connect", counting)
    return made


def test_an_instance_opened_again_says_nothing_to_the_server_and_uses_the_connections_of_the_first(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """Every evaluation of a sensor opens one."""
    assert instance.get_run_records(limit=1) == []
    assert opened(tmp_path) == 0


def test_a_forked_process_never_speaks_on_its_parents_connections(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert instance.get_run_records(limit=1) == []
    with monkeypatch.context() as forked:
        forked.setattr(os, "getpid", lambda: 1)
        assert opened(tmp_path) > 0
    assert opened(tmp_path) == 0


def test_a_server_that_ended_its_connections_is_spoken_to_anew(
    instance: dg.DagsterInstance, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "IDLE_SECONDS", -1.0)  # every use comes after a pause
    assert instance.get_run_records(limit=1) == []
    server = create_engine(f"{database.rpartition('/')[0]}/postgres", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        ended = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE datname = :name"
        assert connection.execute(text(ended), {"name": database.rpartition("/")[2]}).scalar_one() > 0
    server.dispose()
    assert opened(tmp_path) > 0


def test_tables_and_indexes_are_looked_for_until_they_are_seen(database: str, tmp_path: Path) -> None:
    storage = event_log.SessionScheduleStorage(database, should_autocreate_tables=False)
    assert not storage.has_instigators_table()
    with dg.DagsterInstance.from_config(str(_home(tmp_path, database))) as made:
        assert storage.has_instigators_table()
        assert made.schedule_storage is not None
        assert made.schedule_storage.has_instigators_table()
