"""Shared fixtures: one real Postgres for the whole test run, a fresh migrated ledger for each test that asks."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from resources.ledger.migrate import create_databases, upgrade
from resources.ledger.store import Ledger, connect
from resources.ports import free_port
from resources.postgres import EmbeddedPostgres

# Time limits of single examples say more about a busy machine than about the code.
hypothesis_settings.register_profile("tapeline", deadline=None)
hypothesis_settings.load_profile("tapeline")

_TEMPLATE = "ledger_template"
_MEMORY_DISK = "/dev/shm"
_SERVER_BYTES = 3 << 30
_numbers = itertools.count(1)

# Which files begin first when several workers share them: long ones early, so that none is left to one worker at the end.
# The whole installation first of all. It waits much of its time; what only computes runs beside it and minds no delay.
_TURNS = (
    "e2e", "test_house", "bench", "ml/test_recurrent_ppo", "trading", "ml", "assets/test_model_assets",
    "assets/test_research_results", "assets/test_quality", "assets",
    "desk/test_api", "desk/test_kill_switch", "pipelines/test_supervisor", "desk/test_live_day", "pipelines/test_services",
    "faults", "soak", "resources/test_celery_lane", "desk/test_engine", "desk/test_corporate_actions", "resources/test_simulated",
    "resources/test_notifier", "resources/test_fmp", "resources/test_tracking", "resources/test_postgres", "pipelines/test_cli",
    "desk", "pipelines", "sensors", "resources",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order of _TURNS; the tests of a file stay as they are written."""
    room = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        place = item.path.with_suffix("").relative_to(room).as_posix() if item.path.is_relative_to(room) else ""
        return next((k for k, begins in enumerate(_TURNS) if place.startswith(begins)), len(_TURNS))

    items.sort(key=turn)


def pytest_collectstart() -> None:
    """What is imported stays to the end: looking it through for garbage, again and again, is a fifth of collecting's time."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor is it looked through by the collections of the tests, half a second each."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _no_settings_of_the_shell() -> Iterator[None]:
    """Tests see the defaults, whatever TAPELINE_* the shell has."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TAPELINE_") and "TEST" not in name}
    yield
    os.environ.update(kept)


@pytest.fixture(autouse=True, scope="session")
def _dagster_in_memory_notes_no_revision() -> Iterator[None]:
    """Which migrations an instance in memory has behind it nobody asks: writing it down is most of what making one takes."""
    with pytest.MonkeyPatch.context() as patch:
        if "dagster" in sys.modules:  # else no test here makes one
            from dagster._core.storage.event_log import in_memory as events
            from dagster._core.storage.runs import in_memory as runs

            for module in (events, runs):
                patch.setattr(module, "stamp_alembic_rev", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The embedded server on a free port, in a folder of its own, without fsync."""
    room = Path(tempfile.mkdtemp(prefix="tapeline-pg-", dir=_memory_disk()))
    room.chmod(0o755)  # as root the server runs as another user, who must get in
    server = EmbeddedPostgres(
        room / "postgres", room / "secrets" / "password", free_port(), durable=False, relocate_to=(Path("/tmp"), Path("/var/tmp"))
    )
    try:
        server.start()
        _sign_in_quickly(server)
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.place, ignore_errors=True)
        shutil.rmtree(room, ignore_errors=True)


def _memory_disk() -> str | None:
    """A folder in memory with room for the server, None where there is none (the system's temporary folder then).

    A ledger is five hundred files. On a disk, ext4 looks at every file deleted in the last seconds before it makes a new one,
    so that a new ledger for each test costs ten times what it costs in memory.
    """
    try:
        place = os.statvfs(_MEMORY_DISK)
    except (OSError, AttributeError):
        return None
    roomy = place.f_bavail * place.f_frsize > _SERVER_BYTES and os.access(_MEMORY_DISK, os.W_OK | os.X_OK)
    return _MEMORY_DISK if roomy and not place.f_flag & os.ST_NOEXEC else None


def _sign_in_quickly(server: EmbeddedPostgres) -> None:
    """The same password hashed in one round: thousands of sign-ins of the tests would spend their time on the others."""
    engine = create_engine(server.url("postgres"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SET scram_iterations = 1"))
        connection.execute(text(f"ALTER ROLE CURRENT_USER PASSWORD '{server.password_file.read_text().strip()}'"))


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """``postgresql+psycopg2://user:password@host:port`` of the test run's server, without a database."""
    return postgres.url("").rstrip("/")


@pytest.fixture(scope="session")
def _ledger_template(postgres_url: str) -> str:
    create_databases(postgres_url, [_TEMPLATE])
    upgrade(f"{postgres_url}/{_TEMPLATE}")
    return _TEMPLATE


@pytest.fixture
def new_ledger_url(postgres_url: str, _ledger_template: str) -> Iterator[Callable[[], str]]:
    """Makes migrated, empty ledgers: each call gives the URL of another one."""
    server = create_engine(f"{postgres_url}/postgres", isolation_level="AUTOCOMMIT")
    made: list[str] = []

    def make() -> str:
        name = f"ledger_{os.getpid()}_{next(_numbers)}"
        with server.connect() as connection:
            # By files: the other strategy writes every page of the template to the write-ahead log first.
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{_ledger_template}" STRATEGY FILE_COPY'))
        made.append(name)
        return f"{postgres_url}/{name}"

    yield make
    with server.connect() as connection:
        for name in made:
            # A background worker of the server may just be in it: what stays goes with the server.
            with contextlib.suppress(DBAPIError):
                connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    server.dispose()


@pytest.fixture
def ledger_url(new_ledger_url: Callable[[], str]) -> str:
    """URL of a fresh migrated ledger."""
    return new_ledger_url()


@pytest.fixture
def ledger_engine(ledger_url: str) -> Iterator[Engine]:
    """Engine on a fresh migrated ledger."""
    engine = connect(ledger_url)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(ledger_engine: Engine) -> Ledger:
    """A fresh migrated ledger."""
    return Ledger(ledger_engine)
