"""What every part of the ledger's access stands on: the engine, transactions, rows in once and out as dicts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Engine, Table, TextClause, create_engine, select, text
from sqlalchemy.dialects.postgresql import insert

from trading import ids

Row = dict[str, Any]


class LedgerConflict(Exception):
    """A row with this id exists and says something else. Nothing was written."""


def connect(url: str, *, pool_size: int = 5) -> Engine:
    """Engine on the ledger. Connections are tested before use, so a restarted server is noticed and outlived."""
    return create_engine(
        url,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=10,
        pool_timeout=10,
        executemany_mode="values_plus_batch",  # many rows changed in one round trip
        connect_args={
            "connect_timeout": 5,
            "application_name": "tapeline",
            "keepalives_idle": 30,
            "options": "-c timezone=UTC -c lock_timeout=20s",
        },
    )


def now_us() -> int:
    """Real clock, UTC us."""
    return time.time_ns() // 1000


class LedgerBase:
    """The ledger at `engine`. Raises sqlalchemy's OperationalError while the server is away."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextmanager
    def transaction(self, connection: Connection | None = None) -> Iterator[Connection]:
        """The caller's transaction when given, else a new one: committed at the end, rolled back on an exception."""
        if connection is not None:
            yield connection
        else:
            with self.engine.begin() as own:
                yield own

    def rows(self, table: Table, order: Sequence[Any], **equal: Any) -> list[Row]:
        chosen = select(table).order_by(*order)
        for name, value in equal.items():
            if isinstance(value, (list, tuple)):
                chosen = chosen.where(table.c[name].in_(value))
            elif value is not None:
                chosen = chosen.where(table.c[name] == value)
        with self.engine.connect() as c:
            return [dict(row) for row in c.execute(chosen).mappings()]

    def first(self, chosen: Any) -> Row | None:
        with self.engine.connect() as c:
            row = c.execute(chosen).mappings().first()
        return dict(row) if row is not None else None


def insert_many(
    connection: Connection, table: Table, rows: Sequence[Row], *, replacing: Sequence[str] = (), where: str = ""
) -> None:
    """Insert rows of the same columns in one statement, in their order, whatever their number costs the driver little.

    replacing: columns that a row whose key is there already gets from the new one (``excluded``) where the condition holds;
    without, such a row raises IntegrityError. Values as JSON has them (no bytes). Raises ValueError for NaN and infinity.
    """
    if rows:
        connection.execute(_insert_many(table, tuple(rows[0]), tuple(replacing), where), {"told": _told(rows)})


def update_many(connection: Connection, table: Table, rows: Sequence[Row], *, key: Sequence[str]) -> None:
    """Give rows, each named once by its `key` columns, the other values of `rows`, in one statement."""
    if rows:
        connection.execute(_update_many(table, tuple(rows[0]), tuple(key)), {"told": _told(rows)})


def _told(rows: Sequence[Row]) -> str:
    return json.dumps(rows, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


@lru_cache(256)
def _insert_many(table: Table, names: tuple[str, ...], replacing: tuple[str, ...], where: str) -> TextClause:
    columns = ", ".join(names)
    statement = f"INSERT INTO {table.fullname} ({columns}) SELECT {columns} FROM {_rows_of(table)}"
    if replacing:
        key = ", ".join(column.name for column in table.primary_key)
        statement += f" ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in replacing)}"
        statement += f" WHERE {where}" if where else ""
    return text(statement)


@lru_cache(256)
def _update_many(table: Table, names: tuple[str, ...], key: tuple[str, ...]) -> TextClause:
    new = ", ".join(f"{name} = told.{name}" for name in names if name not in key)
    same = " AND ".join(f"{table.fullname}.{name} = told.{name}" for name in key)
    return text(f"UPDATE {table.fullname} SET {new} FROM {_rows_of(table)} WHERE {same}")


def _rows_of(table: Table) -> str:
    return f"jsonb_populate_recordset(CAST(NULL AS {table.fullname}), CAST(:told AS jsonb)) AS told"


def insert_once(connection: Connection, table: Table, rows: Sequence[Row], *, same: Sequence[str]) -> list[Any]:
    """Insert rows whose key is new and return those keys; a known key whose `same` columns differ raises LedgerConflict."""
    key = next(iter(table.primary_key))
    by_key: dict[Any, Row] = {}
    for row in rows:
        known = by_key.setdefault(row[key.name], row)
        if known is not row and any(_differs(known[name], row[name]) for name in same):
            raise LedgerConflict(f"{table.name}: two different rows for {row[key.name]}")
    if not by_key:
        return []
    # One order for all writers, so that two of them cannot wait for each other.
    ordered = [by_key[name] for name in sorted(by_key)]
    statement = insert(table).values(ordered).on_conflict_do_nothing(index_elements=[key]).returning(key)
    new = set(connection.execute(statement).scalars())
    for name, row in by_key.items():
        if name in new:
            continue
        columns = [table.c[column] for column in (key.name, *same)]
        stored = connection.execute(select(*columns).where(key == name)).mappings().one()
        for column in same:
            if _differs(stored[column], row[column]):
                raise LedgerConflict(f"{table.name}: {name} is stored with another {column}; what is stored stands")
    return [name for name in by_key if name in new]


def _differs(one: Any, other: Any) -> bool:
    if isinstance(one, (bytes, memoryview)) or isinstance(other, (bytes, memoryview)):
        return bytes(one) != bytes(other)
    # As plain values: the database gives 1e16 back as the integer it equals.
    return bool(json.loads(ids.canonical(one)) != json.loads(ids.canonical(other)))
