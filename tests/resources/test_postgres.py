"""The embedded server: private, durable across crashes, and clear about what is wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from resources import postgres as launcher
from resources.ports import free_port
from resources.postgres import EmbeddedPostgres, PostgresError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to hand the server to another user")
Make = Callable[..., EmbeddedPostgres]
KEPT = "SELECT count(*) FROM pg_database WHERE datname = 'kept'"


@pytest.fixture
def room() -> Iterator[Path]:
    """A short folder every user may enter, as a checkout in an ordinary place is."""
    folder = Path(tempfile.mkdtemp(prefix="tapeline-t-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A data folder after a first start: what most tests begin with, copied, for a first start takes its time."""
    folder = Path(tempfile.mkdtemp(prefix="tapeline-t-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "data" / "postgres", folder / "data" / "secrets" / "pw", free_port(), durable=False)
    server.start()
    server.stop()
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def started_before(room: Path, prepared: Path) -> None:
    """`room` holds a data folder that was used before."""
    subprocess.run(["cp", "-a", str(prepared), str(room / "data")], check=True)


@pytest.fixture
def make(room: Path) -> Iterator[Make]:
    """Servers over `room`, all stopped at the end."""
    made: list[EmbeddedPostgres] = []

    def build(base: Path | None = None, port: int | None = None) -> EmbeddedPostgres:
        base = base or room / "data"
        relocated = room / "elsewhere"
        relocated.mkdir(exist_ok=True)
        server = EmbeddedPostgres(
            base / "postgres", base / "secrets" / "pw", port or free_port(), durable=False, relocate_to=(relocated,)
        )
        made.append(server)
        return server

    yield build
    for server in made:
        server.stop()


def ask(server: EmbeddedPostgres, *statements: str) -> object:
    with contextlib.closing(psycopg2.connect(server.url("postgres").replace("+psycopg2", ""))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None  # type: ignore[index]


@pytest.mark.usefixtures("started_before")
def test_what_is_committed_is_there_after_stop_and_start(make: Make) -> None:
    server = make()
    server.start()
    ask(server, "CREATE DATABASE kept")
    server.stop()
    assert not server.answers()
    again = make()
    again.start()
    assert ask(again, KEPT) == 1


def test_only_the_owner_can_read_the_password_and_only_the_password_opens(make: Make) -> None:
    server = make()
    server.start()
    assert server.password_file.stat().st_mode & 0o777 == 0o600
    assert server.password_file.parent.stat().st_mode & 0o777 == 0o700
    assert server.cluster.stat().st_mode & 0o077 == 0
    for user, password in (("tapeline", "wrong"), ("tapeline", ""), ("postgres", server.password_file.read_text().strip())):
        with pytest.raises(psycopg2.OperationalError):
            psycopg2.connect(host="127.0.0.1", port=server.port, user=user, password=password, dbname="postgres")
    assert ask(server, "SELECT current_setting('is_superuser')") == "off"
    assert ask(server, "SELECT current_setting('listen_addresses')") == "127.0.0.1"
    arguments = " ".join(psutil.Process(server.process.pid).cmdline())  # type: ignore[union-attr]
    assert server.password_file.read_text().strip() not in arguments


def test_it_is_durable_unless_told_otherwise(room: Path) -> None:
    server = EmbeddedPostgres(room / "p", room / "s" / "pw", free_port())
    try:
        server.start()
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert ask(server, f"SELECT current_setting('{name}')") == "on"
    finally:
        server.stop()


@pytest.mark.usefixtures("started_before")
@as_root
def test_root_hands_the_server_to_an_unprivileged_user(make: Make) -> None:
    server = make()
    server.start()
    process = psutil.Process(server.process.pid)  # type: ignore[union-attr]
    assert process.uids().real != 0
    assert server.place == server.directory


@pytest.mark.usefixtures("started_before")
def test_a_killed_server_is_started_again_with_what_was_committed(make: Make) -> None:
    server = make()
    server.start()
    ask(server, "CREATE DATABASE kept")
    os.kill(server.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
    server.process.wait()  # type: ignore[union-attr]
    assert not server.alive()
    server.start()
    assert ask(server, KEPT) == 1


@pytest.mark.usefixtures("started_before")
def test_a_server_left_by_a_killed_supervisor_is_ended_and_replaced(make: Make) -> None:
    left = make()
    left.start()
    server = make(port=left.port)
    server.start()
    assert left.process.wait(60) is not None  # type: ignore[union-attr]
    assert server.answers()


@pytest.mark.usefixtures("started_before")
def test_a_stale_pid_file_that_names_a_living_stranger_does_not_hinder(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    pid_file = server.cluster / "postmaster.pid"
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        pid_file.write_text(f"{stranger.pid}\n{server.cluster}\n1\n{server.port}\n\n127.0.0.1\n")
        server.start()
        assert server.answers()
        assert stranger.poll() is None, "the stranger is left alone"
    finally:
        stranger.kill()
        stranger.wait()


def test_a_first_start_cut_short_begins_anew(make: Make) -> None:
    server = make()
    half = server.directory / "cluster.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    server.start()
    assert server.answers()
    assert not half.exists()


@pytest.mark.usefixtures("started_before")
def test_a_lost_password_file_is_made_anew(make: Make) -> None:
    server = make()
    server.start()
    ask(server, "CREATE DATABASE kept")
    old = server.password_file.read_text()
    server.stop()
    server.password_file.unlink()
    server.start()
    assert server.password_file.read_text() != old
    assert ask(server, KEPT) == 1


@pytest.mark.usefixtures("started_before")
def test_a_taken_port_is_one_line_that_names_its_holder_and_the_setting(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = make(port=taken.getsockname()[1])
        with pytest.raises(PostgresError) as caught:
            server.start()
    said = str(caught.value)
    assert "\n" not in said
    assert f"(pid {os.getpid()})" in said
    assert "TAPELINE_POSTGRES_PORT" in said


@pytest.mark.usefixtures("started_before")
def test_a_server_that_cannot_start_says_why(make: Make) -> None:
    server = make()
    server.start()
    server.stop()
    (server.cluster / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match="no_such_setting"):
        server.start()


@as_root
class TestDataFolderOnlyRootMayEnter:
    @pytest.fixture
    def closed(self, room: Path) -> Path:
        folder = room / "root-only"
        folder.mkdir(mode=0o700)
        return folder

    def test_the_cluster_lies_where_its_user_can_go_and_nobody_s_permissions_change(
        self, make: Make, closed: Path, room: Path
    ) -> None:
        server = make(closed / "data")
        server.start()
        ask(server, "CREATE DATABASE kept")
        server.stop()
        assert server.place.parent == room / "elsewhere"
        assert (closed / "data" / "postgres" / "location").read_text() == str(server.place)
        assert closed.stat().st_mode & 0o777 == 0o700
        again = make(closed / "data")
        again.start()
        assert ask(again, KEPT) == 1

    def test_a_moved_data_folder_finds_its_cluster(self, make: Make, closed: Path) -> None:
        first = make(closed / "data")
        first.start()
        first.stop()
        (closed / "data").rename(closed / "moved")
        moved = make(closed / "moved")
        moved.start()
        assert moved.place == first.place

    def test_a_copied_data_folder_does_not_take_the_original_s_ledger(self, make: Make, closed: Path) -> None:
        first = make(closed / "data")
        first.start()
        first.stop()
        shutil.copytree(closed / "data", closed / "copy")
        with pytest.raises(PostgresError, match="is a copy"):
            make(closed / "copy").start()

    def test_a_cluster_that_is_gone_is_an_error_not_an_empty_ledger(self, make: Make, closed: Path) -> None:
        first = make(closed / "data")
        first.start()
        first.stop()
        shutil.rmtree(first.place)
        with pytest.raises(PostgresError, match="it is not there"):
            make(closed / "data").start()

    def test_programs_only_root_may_run_are_copied(self, make: Make, closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        newest = max(launcher._installations(), key=launcher._major)
        package = newest.parent
        hidden = closed / "venv" / package.name / newest.name
        shutil.copytree(newest, hidden, symlinks=True)
        shutil.copytree(package.with_name(f"{package.name}.libs"), closed / "venv" / f"{package.name}.libs")
        monkeypatch.setattr(launcher, "_installations", lambda: [hidden])
        server = make()
        server.start()
        assert server.answers()
        executable = Path(psutil.Process(server.process.pid).exe())  # type: ignore[union-attr]
        assert server.place in executable.parents
