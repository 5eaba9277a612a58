"""Dagster's Postgres storage, fast enough for runs over thousands of session partitions.

Stock Dagster 1.13 writes a run's planned materialisations one statement each, and one row per check and partition for
planned checks, although checks report once per run: a history of 4,800 sessions spends minutes before its first step.
Here planned materialisations go in batches, and a planned check is one row, which its evaluation then completes. It also
asks the catalogue for a table's columns before each question about assets or runs, notifies listeners that it no longer has,
and waits for the disk at every event: here a table or column once seen is known, nobody is notified, and an event is not
waited for (`_engine_of`). Tables and everything read are Dagster's own; replacing this class by the stock one
changes speed, nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dagster._core.definitions.asset_key import AssetKey
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import EventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, SqlEventLogStorageTable
from dagster._core.storage.runs.base import RunStorage
from dagster._serdes import ConfigurableClassData, serialize_value
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError

BATCH_SIZE = 1000
"""Events a statement. Dagster reads it from DAGSTER_EVENT_BATCH_SIZE, which is set here unless the operator did."""

IDLE_SECONDS = 2.0
"""A connection unused for longer is asked whether it still lives before it is used."""

POOL_SIZE = 6
"""Connections a process keeps: its three storages in two threads at once. Others are closed after their use."""

MOST_ENGINES = 4
"""Databases whose connections a process keeps. An installation has one."""

_BATCHED = {DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_MATERIALIZATION_PLANNED}

_facts: dict[str, set[str]] = {}
"""Tables, columns and built indexes that were seen, by database: migrations add them, and none ever goes."""
_WHOLE = "every storage has its tables"
_engines: dict[tuple[int, str], Engine] = {}
"""By process and database. Those of the process this one was forked from stay: closing them here would end its connections."""
_making = threading.Lock()


def _once(part: Any, fact: str, ask: Callable[[], bool]) -> bool:
    """Whether `fact` holds in the database of the storage `part`; once it did it is not asked for again."""
    facts = _facts.setdefault(part.postgres_url, set())
    if fact not in facts and ask():
        facts.add(fact)
    return fact in facts


class SessionEventLogStorage(PostgresEventLogStorage):
    """PostgresEventLogStorage with batched planned materialisations and one planned row per check and run."""

    def has_asset_key_col(self, column_name: str) -> bool:
        return _once(
            self, f"asset_keys.{column_name}", lambda: super(SessionEventLogStorage, self).has_asset_key_col(column_name)
        )

    def has_table(self, table_name: str) -> bool:
        return _once(self, table_name, lambda: super(SessionEventLogStorage, self).has_table(table_name))

    def has_secondary_index(self, name: str) -> bool:
        return _once(self, f"index {name}", lambda: super(SessionEventLogStorage, self).has_secondary_index(name))

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event, as stock does but for the NOTIFY: Dagster 1.13 itself listens to it no more."""
        statement = self.prepare_insert_event(event).returning(SqlEventLogStorageTable.c.id)
        with self._connect() as connection:
            event_id = int(connection.execute(statement).scalar_one())
        if event.is_dagster_event and event.dagster_event_type in ASSET_EVENTS and event.get_dagster_event().asset_key:
            with self.index_transaction() as connection:
                self._store_asset_event_tags(connection, [event], [event_id])
                self._store_asset_event(connection, event, event_id)
        if event.is_dagster_event and event.dagster_event_type in ASSET_CHECK_EVENTS:
            self.store_asset_check_event(event, event_id)

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        stock = super()._has_asset_key_col_on_connection
        return _once(self, f"asset_keys.{column_name}", lambda: stock(conn, column_name))

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store `events` (materialisations and planned ones) with one insert; any other kind one by one, as stock does.

        Raises what the database raises; Dagster then stores the events singly.
        """
        batched = [e for e in events if e.get_dagster_event().event_type in _BATCHED]
        if batched:
            statement = SqlEventLogStorageTable.insert().returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
            with self._connect() as connection:
                # Rows as parameters, not as one VALUES expression: SQLAlchemy compiles that one for seconds.
                rows = connection.execute(statement, [self._event_to_row(e) for e in batched]).fetchall()
            ids = [int(row[0]) for row in rows]
            newest: dict[AssetKey, tuple[EventLogEntry, int]] = {}
            for event, event_id in zip(batched, ids, strict=True):
                key = event.get_dagster_event().asset_key
                if key is not None:
                    newest[key] = (event, event_id)
            with self.index_transaction() as connection:
                self._store_asset_event_tags(connection, batched, ids)
                for event, event_id in newest.values():
                    self._store_asset_event(connection, event, event_id)
        rest = [e for e in events if e.get_dagster_event().event_type not in _BATCHED]
        if rest:
            super().store_event_batch(rest)

    def _store_asset_check_evaluation_planned(self, event: EventLogEntry, event_id: int | None) -> None:
        # The run's partitions are no part of it: Tapeline's checks report once per run, for whatever range it covers,
        # and rows per partition would stay "planned" for ever.
        planned: Any = event.get_dagster_event().event_specific_data
        with self.index_connection() as connection:
            connection.execute(
                AssetCheckExecutionsTable.insert().values(
                    asset_key=planned.asset_key.to_string(),
                    check_name=planned.check_name,
                    partition=None,
                    run_id=event.run_id,
                    execution_status=AssetCheckExecutionRecordStatus.PLANNED.value,
                    evaluation_event=serialize_value(event),
                    evaluation_event_timestamp=self._event_insert_timestamp(event),
                    evaluation_event_storage_id=event_id,
                )
            )


class SessionRunStorage(PostgresRunStorage):
    """PostgresRunStorage that looks its columns and indexes up once."""

    def has_backfill_id_column(self) -> bool:
        return _once(self, "runs.backfill_id", super().has_backfill_id_column)

    def has_run_stats_index_cols(self) -> bool:
        return _once(self, "runs.start_time", super().has_run_stats_index_cols)

    def has_built_index(self, migration_name: str) -> bool:
        return _once(self, f"index {migration_name}", lambda: super(SessionRunStorage, self).has_built_index(migration_name))


class SessionScheduleStorage(PostgresScheduleStorage):
    """PostgresScheduleStorage that looks its tables and indexes up once: stock asks for all their names several times a tick."""

    def has_instigators_table(self) -> bool:
        return _once(self, "instigators", super().has_instigators_table)

    def _has_instigators_table(self, conn: Connection) -> bool:
        stock = super()._has_instigators_table
        return _once(self, "instigators", lambda: stock(conn))

    def has_built_index(self, migration_name: str) -> bool:
        return _once(self, f"index {migration_name}", lambda: super(SessionScheduleStorage, self).has_built_index(migration_name))


class SessionStorage(DagsterPostgresStorage):
    """What dagster.yaml names under ``storage: custom:``; same configuration as ``storage: postgres:``."""

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None
    ) -> None:
        super().__init__(postgres_url, False, inst_data)  # says nothing to the server
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(BATCH_SIZE))
        self.should_autocreate_tables = should_autocreate_tables
        facts = _facts.setdefault(postgres_url, set())
        create = should_autocreate_tables and _WHOLE not in facts
        self._sessions_runs = SessionRunStorage(postgres_url, create)
        self._sessions_event_log = SessionEventLogStorage(postgres_url, create)
        self._schedule_storage = SessionScheduleStorage(postgres_url, create)
        if create:
            facts.add(_WHOLE)
        engine = _engine_of(postgres_url)
        for part in (self._sessions_runs, self._schedule_storage, self._sessions_event_log):
            part._engine.dispose()
            part._engine = engine

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> SessionStorage:
        return cls(pg_url_from_config(config_value), bool(config_value.get("should_autocreate_tables", True)), inst_data)

    @property
    def event_log_storage(self) -> EventLogStorage:
        return self._sessions_event_log

    @property
    def run_storage(self) -> RunStorage:
        return self._sessions_runs


def _engine_of(postgres_url: str) -> Engine:
    """This process's engine on the database, which every instance it opens uses: it keeps its connections open, and the server
    answers before its log is on the disk.

    Stock Dagster opens a connection for each statement, with a password handshake every time, and every evaluation of a sensor
    opens an instance: most of what an idle installation and a short run spend. Connections that a restart of the server broke
    are noticed and replaced. A power failure may cost the newest half second of Dagster's own book-keeping, never its
    consistency: the order of what is kept stays, and the ledger, which decides what was sent, waits for the disk at every commit.
    """
    with _making:
        known = _engines.get((os.getpid(), postgres_url))
        if known is None:
            known = create_engine(
                postgres_url, isolation_level="AUTOCOMMIT", pool_size=POOL_SIZE, max_overflow=90, pool_recycle=1800,
                connect_args={"options": "-c synchronous_commit=off"},
            )  # fmt: skip
            _ping_when_idle(known)
            own = [key for key in _engines if key[0] == os.getpid()]
            if len(own) >= MOST_ENGINES:
                _engines.pop(own[0]).dispose()  # whoever still uses it is given new connections
            _engines[os.getpid(), postgres_url] = known
        return known


def _ping_when_idle(engine: Any) -> None:
    """Ask a connection whether it lives only when it was idle for a while: a ping costs as much as a small statement."""

    @event.listens_for(engine, "checkin")
    def used(_connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def alive(connection: Any, record: Any, _proxy: Any) -> None:
        used_at = record.info.get("used")
        if connection is not None and used_at is not None and time.monotonic() - used_at > IDLE_SECONDS:
            try:
                cursor = connection.cursor()
                cursor.execute("SELECT 1")
                cursor.close()
            except Exception as error:  # the driver's own classes: whatever it is, this connection is not used
                raise DisconnectionError("the server closed an idle connection") from error
