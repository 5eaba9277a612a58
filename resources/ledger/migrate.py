"""The ledger's schema: databases created when missing, Alembic migrations applied, one migrator at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, ProgrammingError

from resources.ledger.books import BookDiffers, ensure_book
from resources.settings import Settings

log = structlog.get_logger("ledger")

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x7461_7065_6D69


class SchemaError(Exception):
    """The ledger's schema and this code do not fit. The message says which is older."""


def upgrade(url: str) -> str:
    """Bring the ledger at `url` to this code's schema; return its revision. Nothing happens when it is there already.

    Raises SchemaError when the ledger was written by newer code.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    known = {revision.revision for revision in script.walk_revisions()}
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            at = revision_of(connection)
            if at == head:
                return str(head)
            if at is not None and at not in known:
                raise SchemaError(f"the ledger is at schema {at}, this code knows only up to {head}: update the code")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            log.info("ledger schema migrated", before=at or "empty", after=head)
    finally:
        engine.dispose()
    return str(head)


def revision_of(connection: Connection) -> str | None:
    """Schema revision of the connected ledger; None when it has none."""
    if connection.execute(text("SELECT to_regclass('public.alembic_version')")).scalar() is None:
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def ensure_databases(settings: Settings) -> None:
    """Create the ledger, Dagster and MLflow databases where missing, then migrate the ledger and, beside an account, its
    paper book. Raises SchemaError."""
    create_databases(settings.server_url(), (settings.ledger_database, settings.dagster_database, settings.mlflow_database))
    upgrade(settings.ledger_url())
    if settings.two_books:
        engine = create_engine(settings.ledger_url())
        try:
            ensure_book(engine)
        except BookDiffers as error:
            raise SchemaError(f"the paper book cannot be used: {error}") from None
        finally:
            engine.dispose()


def create_databases(server_url: str, names: Iterable[str]) -> None:
    """Create those of `names` that do not exist. A user who may not create databases needs them to exist already."""
    names = list(names)
    engine = create_engine(make_url(server_url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            there = set(connection.execute(text("SELECT datname FROM pg_database")).scalars())
            for name in names:
                if name in there:
                    continue
                quoted = connection.dialect.identifier_preparer.quote_identifier(name)
                try:
                    connection.execute(text(f"CREATE DATABASE {quoted} ENCODING 'UTF8' TEMPLATE template0"))
                except ProgrammingError:
                    if not _exists(server_url, name):  # someone else may have been faster
                        raise
                log.info("database created", name=name)
    except OperationalError:
        # A user of an external server may be kept out of the database `postgres`: then ours must all be there.
        if not all(_exists(server_url, name) for name in names):
            raise
    finally:
        engine.dispose()


def _exists(server_url: str, name: str) -> bool:
    engine = create_engine(make_url(server_url).set(database=name))
    try:
        with engine.connect():
            return True
    except OperationalError as error:
        if f'database "{name}" does not exist' in str(error.orig):
            return False
        raise
    finally:
        engine.dispose()
