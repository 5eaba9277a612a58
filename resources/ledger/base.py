"""What every part of the ledger's access stands on: the engine, transactions, rows in once and out as dicts."""

from __future__ import annotations

import json
import re
import select as select_module
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Connection,
    Dialect,
    Engine,
    Float,
    Select,
    Table,
    TextClause,
    create_engine,
    event,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InvalidatePoolError

from trading import ids

Row = dict[str, Any]


BOOK_KEY = "(:key + CASE current_schema() WHEN 'public' THEN 0 ELSE hashtext(current_schema())::bigint END)"
"""A key of an advisory lock, as SQL, that two books of one database do not share."""

_RESTED_SECONDS = 1.0
_USED = "used_monotonic"
_WATCHED: WeakKeyDictionary[Any, select_module.poll] = WeakKeyDictionary()
"""What looks at a connection's socket."""
_READS: WeakKeyDictionary[Dialect, Engine] = WeakKeyDictionary()
"""For an engine's reads (by its dialect, which it shares with engines of other options): connections that never begin a
transaction. One of the others told so for each read, and told back, costs twice as much as the read."""


class LedgerConflict(Exception):
    """A row with this id exists and says something else. Nothing was written."""


def connect(url: str, *, pool_size: int = 5) -> Engine:
    """Engine on the ledger. Connections are tested before use, so a restarted server is noticed and outlived.

    The one used last is used first: a desk at work stays on one connection, whose server process knows its tables.
    """
    own = make_url(url).query.get("options", "")  # the search path of a book beside the main one (resources/ledger/books.py)
    args: dict[str, Any] = {
        "pool_size": pool_size,
        "pool_use_lifo": True,
        "max_overflow": 10,
        "pool_timeout": 10,
        "executemany_mode": "values_plus_batch",  # many rows changed in one round trip
        "connect_args": {
            "connect_timeout": 5,
            "application_name": "tapeline",
            "keepalives_idle": 30,
            "options": f"-c timezone=UTC -c lock_timeout=20s {own}".strip(),
        },
    }
    # The paper broker names the schema of its tables itself.
    options: dict[str, Any] = {"schema_translate_map": {"paper": "paper_book_broker"}} if own else {}
    engine = create_engine(url, **args)
    reads = create_engine(url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, **args)  # there is nothing to take back
    for one in (engine, reads):
        event.listen(one, "checkout", _test)
        event.listen(one, "checkin", _note_use)
        event.listen(one, "before_cursor_execute", _with_first, retval=True)
    event.listen(engine, "engine_disposed", lambda _: reads.dispose())
    _READS[engine.dialect] = reads.execution_options(**options) if options else reads
    return engine.execution_options(**options) if options else engine


def engines_of(engine: Engine) -> tuple[Engine, ...]:
    """What an engine made by `connect` connects with: itself, and what its reads go by. For listeners."""
    return engine, *([_READS[engine.dialect]] if engine.dialect in _READS else [])


def _with_first(_connection: Any, _cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> tuple[str, Any]:
    """The statement with what its execution option `first` asks to be done before it (see `at_once`)."""
    first, values = context.execution_options.get("first", ("", {})) if context is not None else ("", {})
    if not first:
        return statement, parameters
    if many:
        raise ValueError("a statement that is executed once per row has no other before it")
    return f"{first}; {statement}", {**parameters, **values} if values else parameters


def at_once(first: str, values: Row | None = None) -> dict[str, Any]:
    """Execution options of a statement that goes to the server together with `first`, which is done before it: one round trip.
    The statement sees what was committed until `first` was done (a lock that is taken so covers it), and what `first` wrote.

    first: SQL as the driver takes it (%(name)s a value of `values`, none of whose names the statement has).
    Only for a ledger engine made by `connect`, and not for what is executed once per row (ValueError).
    """
    return {"execution_options": {"first": (first, values or {})}}


def _test(dbapi_connection: Any, record: Any, _: Any) -> None:
    """Is the server still at the other end? Asked when the connection rested, or when something lies on its socket that nobody
    asked for (its end does): a question costs a round trip, and a bar close takes the connection dozens of times."""
    used = record.info.get(_USED)
    if used is None or (time.monotonic() - used < _RESTED_SECONDS and not _told_something(dbapi_connection)):
        return
    import psycopg2

    try:
        dbapi_connection.autocommit = True
        with dbapi_connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        dbapi_connection.autocommit = False
    except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
        raise InvalidatePoolError(f"a connection of the pool has ended: {error}") from error


def _told_something(dbapi_connection: Any) -> bool:
    if dbapi_connection.closed:
        return True
    watched = _WATCHED.get(dbapi_connection)
    if watched is None:
        watched = _WATCHED[dbapi_connection] = select_module.poll()
        watched.register(dbapi_connection.fileno(), select_module.POLLIN)
    return bool(watched.poll(0))


def _note_use(dbapi_connection: Any, record: Any) -> None:
    record.info[_USED] = time.monotonic()


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for reads that each stand for themselves: no transaction is begun or ended for them."""
    reads = _READS.get(engine.dialect)
    if reads is not None:
        with reads.connect() as connection:
            yield connection
        return
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def now_us() -> int:
    """Real clock, UTC us."""
    return time.time_ns() // 1000


class Gather:
    """Several selects whose rows are read in one round trip, as one moment has them.

    selects: by name; a column keeps its name, and its value comes as JSON has it (numbers exact, NULL is None, no bytes or
    times). Rows keep the order of their select.
    """

    def __init__(self, **selects: Select[Any]) -> None:
        self.names = tuple(selects)
        self._floats = [[c.name for c in one.selected_columns if isinstance(c.type, Float)] for one in selects.values()]
        self._statement = select(*(
            select(func.coalesce(func.json_agg(literal_column(name)), literal_column("CAST('[]' AS json)")))
            .select_from(one.subquery(name))
            .scalar_subquery()
            .label(f"all_{name}")
            for name, one in selects.items()
        ))  # fmt: skip

    def read(self, connection: Connection, values: Row, **options: Any) -> dict[str, list[SimpleNamespace]]:
        """The rows of each select with these values of its parameters. options: of the execution (`at_once`)."""
        found = connection.execute(self._statement, values, **options).one()
        for rows, floats in zip(found, self._floats, strict=True):
            for row in rows:
                for name in floats:  # JSON writes a whole one without a point
                    if row[name] is not None:
                        row[name] = float(row[name])
        return {name: [SimpleNamespace(**row) for row in rows] for name, rows in zip(self.names, found, strict=True)}


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
        with reading(self.engine) as c:
            return [dict(row) for row in c.execute(chosen).mappings()]

    def first(self, chosen: Any) -> Row | None:
        with reading(self.engine) as c:
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
        place = place_of(connection, table)
        connection.execute(_insert_many(table, place, tuple(rows[0]), tuple(replacing), where), {"told": _told(rows)})


def update_many(connection: Connection, table: Table, rows: Sequence[Row], *, key: Sequence[str]) -> None:
    """Give rows, each named once by its `key` columns, the other values of `rows`, in one statement."""
    if rows:
        connection.execute(_update_many(place_of(connection, table), tuple(rows[0]), tuple(key)), {"told": _told(rows)})


def place_of(connection: Connection, table: Table) -> str:
    """The table as the book of this connection has it."""
    places = connection.get_execution_options().get("schema_translate_map") or {}
    schema = places.get(table.schema, table.schema)
    return f"{schema}.{table.name}" if schema else table.name


def _told(rows: Sequence[Row]) -> str:
    return json.dumps(rows, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows of one table for `insert_together`; replacing: see `insert_many`."""

    table: Table
    rows: Sequence[Row]
    replacing: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Update:
    """Rows of one table, each named once by its `key` columns, with new values for `write_together`."""

    table: Table
    rows: Sequence[Row]
    key: Sequence[str]


def insert_together(connection: Connection, parts: Sequence[Insert], last: str, values: Row) -> None:
    """Several `insert_many`, and `last` (SQL with its `values`), in one round trip. None of them sees what another wrote."""
    _write_together(connection, parts, last, values)


def write_together(connection: Connection, parts: Sequence[Insert | Update]) -> None:
    """Several `insert_many` and `update_many` in one round trip. None of them sees what another wrote: no row is named twice."""
    if any(part.rows for part in parts):
        _write_together(connection, parts, "SELECT 1", {})


def written_first(connection: Connection, parts: Sequence[Insert | Update]) -> dict[str, Any]:
    """`write_together` together with the statement that is executed with these options (`at_once`), before it."""
    made = [part for part in parts if part.rows]
    if not made:
        return {}
    told = {f"told{n}": _told(part.rows) for n, part in enumerate(made)}
    return at_once(_driver_sql(_shapes(connection, made)), told)


def _shapes(connection: Connection, made: Sequence[Insert | Update]) -> tuple[_Shape, ...]:
    return tuple(
        (p.table, place_of(connection, p.table), tuple(p.rows[0]), tuple(p.replacing if isinstance(p, Insert) else p.key),
         isinstance(p, Insert))
        for p in made
    )  # fmt: skip


def _write_together(connection: Connection, parts: Sequence[Insert | Update], last: str, values: Row) -> None:
    made = [part for part in parts if part.rows]
    told = {f"told{n}": _told(part.rows) for n, part in enumerate(made)}
    connection.execute(_together(_shapes(connection, made), last), {**told, **values})


_Shape = tuple[Table, str, tuple[str, ...], tuple[str, ...], bool]


@lru_cache(256)
def _driver_sql(shapes: tuple[_Shape, ...]) -> str:
    """`_together` as psycopg2 takes it."""
    return re.sub(r":(told\d+)", r"%(\1)s", _together(shapes, "SELECT 1").text)


@lru_cache(256)
def _together(shapes: tuple[_Shape, ...], last: str) -> TextClause:
    parts = [
        _insertion(table, place, names, more, "", f"told{n}") if new else _update(place, names, more, f"told{n}")
        for n, (table, place, names, more, new) in enumerate(shapes)
    ]
    named = ", ".join(f"part{n} AS ({part})" for n, part in enumerate(parts))
    return text(f"WITH {named} {last}" if parts else last)


@lru_cache(256)
def _insert_many(table: Table, place: str, names: tuple[str, ...], replacing: tuple[str, ...], where: str) -> TextClause:
    return text(_insertion(table, place, names, replacing, where, "told"))


def _insertion(table: Table, place: str, names: tuple[str, ...], replacing: tuple[str, ...], where: str, parameter: str) -> str:
    columns = ", ".join(names)
    statement = f"INSERT INTO {place} ({columns}) SELECT {columns} FROM {_rows_of(place, parameter)}"
    if replacing:
        key = ", ".join(column.name for column in table.primary_key)
        statement += f" ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in replacing)}"
        statement += f" WHERE {where}" if where else ""
    return statement


@lru_cache(256)
def _update_many(place: str, names: tuple[str, ...], key: tuple[str, ...]) -> TextClause:
    return text(_update(place, names, key, "told"))


def _update(place: str, names: tuple[str, ...], key: tuple[str, ...], parameter: str) -> str:
    new = ", ".join(f"{name} = told.{name}" for name in names if name not in key)
    same = " AND ".join(f"{place}.{name} = told.{name}" for name in key)
    return f"UPDATE {place} SET {new} FROM {_rows_of(place, parameter)} WHERE {same}"


def _rows_of(place: str, parameter: str = "told") -> str:
    return f"jsonb_populate_recordset(CAST(NULL AS {place}), CAST(:{parameter} AS jsonb)) AS told"


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
