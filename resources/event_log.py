"""Dagster's Postgres storage, fast enough for runs over thousands of session partitions.

Stock Dagster 1.13 writes a run's planned materialisations one statement each, and one row per check and partition for
planned checks, although checks report once per run: a history of 4,800 sessions spends minutes before its first step.
Here planned materialisations go in batches, and a planned check is one row, which its evaluation then completes. It also
asks the catalogue for a table's columns before each question about assets or runs, notifies listeners that it no longer has,
and waits for the disk at every event: here a table or column once seen is known, nobody is notified, and an event is not
waited for (`_quick_connections`). Tables and everything read are Dagster's own; replacing this class by the stock one
changes speed, nothing else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
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
from dagster_postgres.storage import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DisconnectionError

BATCH_SIZE = 1000
"""Events a statement. Dagster reads it from DAGSTER_EVENT_BATCH_SIZE, which is set here unless the operator did."""

IDLE_SECONDS = 2.0
"""A connection unused for longer is asked whether it still lives before it is used."""

_BATCHED = {DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_MATERIALIZATION_PLANNED}


class SessionEventLogStorage(PostgresEventLogStorage):
    """PostgresEventLogStorage with batched planned materialisations and one planned row per check and run."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._seen_columns: set[str] = set()
        self._seen_tables: set[str] = set()
        super().__init__(*arguments, **named)

    def has_asset_key_col(self, column_name: str) -> bool:
        """Columns are added by migrations and never go: one that was seen is there."""
        return column_name in self._seen_columns or super().has_asset_key_col(column_name)

    def has_table(self, table_name: str) -> bool:
        """Tables are added by migrations and never go."""
        if table_name not in self._seen_tables and super().has_table(table_name):
            self._seen_tables.add(table_name)
        return table_name in self._seen_tables

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
        if column_name not in self._seen_columns and super()._has_asset_key_col_on_connection(conn, column_name):
            self._seen_columns.add(column_name)
        return column_name in self._seen_columns

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
    """PostgresRunStorage that looks its columns up once."""

    _stats_columns_seen = False
    _backfill_column_seen = False

    def has_backfill_id_column(self) -> bool:
        if not self._backfill_column_seen:
            self._backfill_column_seen = super().has_backfill_id_column()
        return self._backfill_column_seen

    def has_run_stats_index_cols(self) -> bool:
        if not self._stats_columns_seen:
            self._stats_columns_seen = super().has_run_stats_index_cols()
        return self._stats_columns_seen


class SessionStorage(DagsterPostgresStorage):
    """What dagster.yaml names under ``storage: custom:``; same configuration as ``storage: postgres:``."""

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data)
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(BATCH_SIZE))
        self._sessions_event_log = SessionEventLogStorage(postgres_url, should_autocreate_tables)
        self._sessions_runs = SessionRunStorage(postgres_url, should_autocreate_tables)
        for part in (self._sessions_runs, self.schedule_storage, self._sessions_event_log):
            _quick_connections(part, postgres_url)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> SessionStorage:
        return cls(pg_url_from_config(config_value), bool(config_value.get("should_autocreate_tables", True)), inst_data)

    @property
    def event_log_storage(self) -> EventLogStorage:
        return self._sessions_event_log

    @property
    def run_storage(self) -> RunStorage:
        return self._sessions_runs


def _quick_connections(part: Any, postgres_url: str) -> None:
    """Let a storage keep its connections open, and let the server answer before its log is on the disk.

    Stock Dagster opens a connection for each statement, with a password handshake every time: most of what an idle daemon
    and a short run spend. Connections that a restart of the server broke are noticed and replaced. A power failure may
    cost the newest half second of Dagster's own book-keeping, never its consistency: the order of what is kept stays, and
    the ledger, which decides what was sent, waits for the disk at every commit.
    """
    part._engine.dispose()
    part._engine = create_engine(
        postgres_url, isolation_level="AUTOCOMMIT", pool_size=2, max_overflow=30, pool_recycle=1800,
        connect_args={"options": "-c synchronous_commit=off"},
    )  # fmt: skip
    _ping_when_idle(part._engine)


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
