"""A second book in the ledger's database: the paper book beside an account with real money.

A book is what one desk answers for at one broker: signals, decisions, orders, fills, positions, account, halts, audit, messages.
It has its own tables in a schema of its own, so that nothing of one book can be counted in the other: equity, loss limits,
exposures, comparisons with the broker, the chain of the audit. What is known of the market and of the files is one for all
books and stays in the schema ``public``: verdicts, corporate actions, quarantine, changes of partitions, request budgets.

Whoever connects with the search path ``paper_book, public`` (Settings.ledger_url of the paper book) works on the second book with
the code of the first. Its tables are made after those of the main book at every start; a migration only has to know ``public``,
unless it takes something away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from resources.ledger.tables import PAPER_SCHEMA

SCHEMA: Final = "paper_book"
BROKER_SCHEMA: Final = "paper_book_broker"
"""Where the paper broker of the second book keeps its own book; that of the main one, should it be paper, is `PAPER_SCHEMA`."""
OWN: Final = (
    "signals", "decisions", "intents", "orders", "order_events", "fills", "positions", "account_snapshots", "closes", "sessions",
    "desk_state", "dagster_outbox", "audit", "action_applications", "position_adjustments", "plan_levels", "plan_states",
    "plan_revisions", "plan_events", "algo_parents", "algo_slices", "notifications", "notification_channels",
    "notification_cursor",
)  # fmt: skip
"""What a book has of its own, referenced tables first."""
SHARED: Final = (
    "quality_verdicts", "config_problems", "action_decisions", "partition_changes", "stale_partitions", "announced_changes",
    "affected_decisions", "made_outputs", "feed_budgets", "quarantined_rows", "quarantine_resolutions", "quality_scores",
    "known_empty", "backfill_requests",
)  # fmt: skip
"""What is one for all books."""
BROKER_OWN: Final = ("orders", "events", "account", "positions", "splits")
"""Tables of a paper broker."""
_LOCK: Final = 0x7461_7065_6262
_COLUMNS: Final = text("""
    SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
           pg_get_expr(d.adbin, d.adrelid) AS standard, a.attidentity <> '' AS identity
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass(:table) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
""")
_INDEXES: Final = text("""
    SELECT replace(pg_get_indexdef(i.indexrelid), ' ON ' || :schema || '.', ' ON ') AS said
    FROM pg_index i WHERE i.indrelid = to_regclass(:schema || '.' || :table)
""")
_REFERENCES: Final = text("""
    SELECT conname AS name, pg_get_constraintdef(oid) AS said FROM pg_constraint
    WHERE conrelid = to_regclass(:table) AND contype = 'f' ORDER BY conname
""")
_TRIGGERS: Final = text("""
    SELECT tgname AS name, pg_get_triggerdef(oid, true) AS said FROM pg_trigger
    WHERE tgrelid = to_regclass(:table) AND NOT tgisinternal ORDER BY tgname
""")


class BookDiffers(Exception):
    """The tables of the second book cannot be brought to the main book's. The message names table and column."""


def ensure_book(engine: Engine) -> None:
    """Make or complete the second book's tables after those of ``public``. Raises BookDiffers; nothing is changed then.

    Every statement that makes something is the main book's own definition, said with the second book's schema in front.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        for source, made, tables in (("public", SCHEMA, OWN), (PAPER_SCHEMA, BROKER_SCHEMA, BROKER_OWN)):
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {made}"))
            for name in tables:
                _table(connection, _Pair(source, made, name))
            for name in tables:
                _references(connection, _Pair(source, made, name))
                _triggers(connection, _Pair(source, made, name))
        # What happened before the book was there is told to nobody, as at the first start of the main one.
        connection.execute(
            text(f"INSERT INTO {SCHEMA}.notification_cursor VALUES ('audit', 0, 0) ON CONFLICT (source) DO NOTHING")
        )


def has_book(connection: Connection) -> bool:
    """Whether the second book was ever made in this database."""
    return connection.execute(text(f"SELECT to_regclass('{SCHEMA}.orders')")).scalar() is not None


def look_into(connection: Connection, schema: str | None) -> None:
    """Until the end of this transaction `connection` sees the tables of the book in `schema`; None: its own again."""
    connection.execute(text("SET LOCAL search_path TO " + (f"{schema}, public" if schema else "DEFAULT")))


@dataclass(frozen=True, slots=True)
class _Pair:
    """A table of the main book and the one that is made after it."""

    source: str
    made: str
    name: str

    @property
    def theirs(self) -> str:
        return f"{self.source}.{self.name}"

    @property
    def ours(self) -> str:
        return f"{self.made}.{self.name}"

    def said_of_ours(self, definition: str) -> str:
        """A definition of the main book's table, of ours instead."""
        for written in (f" ON {self.theirs} ", f" ON {self.name} "):
            if written in definition:
                return definition.replace(written, f" ON {self.ours} ", 1)
        raise BookDiffers(f"{self.theirs}: a definition that names another table: {definition}")


def each_book(connection: Connection) -> Iterator[None]:
    """For a loop that is to see every book of the database: its body runs once for each, in the caller's transaction. What is
    read of a book must be read to its end within its turn."""
    yield
    if has_book(connection):
        look_into(connection, SCHEMA)
        try:
            yield
        finally:
            look_into(connection, None)


def _table(connection: Connection, pair: _Pair) -> None:
    theirs, ours = _columns(connection, pair.theirs), _columns(connection, pair.ours)
    if not ours:
        # An identity column gets a sequence of its own; indexes and checks come with it, references and triggers do not.
        connection.execute(text(f"CREATE TABLE {pair.ours} (LIKE {pair.theirs} INCLUDING ALL)"))
        return
    known = {column["name"]: column for column in ours}
    for column in theirs:
        name = column["name"]
        if name not in known:
            _add(connection, pair.ours, column)
        elif (known[name]["type"], known[name]["required"]) != (column["type"], column["required"]):
            raise BookDiffers(
                f"{pair.ours}.{name} is {known[name]['type']}, in {pair.source} it is {column['type']} "
                f"({'' if column['required'] else 'not '}required): a migration changed the main book only"
            )
    gone = sorted(set(known) - {column["name"] for column in theirs})
    if gone:
        raise BookDiffers(f"{pair.ours} has columns that {pair.theirs} has no more: {', '.join(gone)}")
    there = {_nameless(row.said) for row in connection.execute(_INDEXES, {"schema": pair.made, "table": pair.name})}
    for row in connection.execute(_INDEXES, {"schema": pair.source, "table": pair.name}).all():
        if _nameless(row.said) not in there:
            connection.execute(text(pair.said_of_ours(row.said)))


def _columns(connection: Connection, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(_COLUMNS, {"table": table}).mappings()]


def _add(connection: Connection, table: str, column: dict[str, Any]) -> None:
    words = f"ALTER TABLE {table} ADD COLUMN {column['name']} {column['type']}"
    if column["standard"] is not None:
        words += f" DEFAULT {column['standard']}"
    if column["required"]:
        words += " NOT NULL"
    try:
        with connection.begin_nested():
            connection.execute(text(words))
    except ProgrammingError as error:
        raise BookDiffers(f"{table}.{column['name']} cannot be added: {error.orig}") from None


def _nameless(definition: str) -> str:
    """An index's definition without its name, which is another one in a table that was made after another."""
    return definition[definition.index(" ON ") :]


def _references(connection: Connection, pair: _Pair) -> None:
    """Foreign keys, to the tables of the same book."""
    here = {row.name for row in connection.execute(_REFERENCES, {"table": pair.ours})}
    for row in connection.execute(_REFERENCES, {"table": pair.theirs}).all():
        if row.name not in here:
            said = row.said.replace(f"REFERENCES {pair.source}.", "REFERENCES ")
            said = said.replace("REFERENCES ", f"REFERENCES {pair.made}.", 1)
            connection.execute(text(f"ALTER TABLE {pair.ours} ADD CONSTRAINT {row.name} {said}"))


def _triggers(connection: Connection, pair: _Pair) -> None:
    here = {row.name for row in connection.execute(_TRIGGERS, {"table": pair.ours})}
    for row in connection.execute(_TRIGGERS, {"table": pair.theirs}).all():
        if row.name not in here:
            connection.execute(text(pair.said_of_ours(row.said)))
