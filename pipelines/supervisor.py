"""Starts everything, keeps it running, stops everything: what `make run` and `tapeline up` are.

    python -m pipelines.supervisor

The supervisor is small on purpose: it imports neither Dagster nor pandas. Every process has a session and a log file of
its own; only the supervisor hears Ctrl-C and ends them in order. Should the supervisor itself be killed, the guard, a
process that does nothing but wait for that, ends them; what even the guard could not end is ended at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from pipelines import preflight
from pipelines.children import Child, end_leftovers, process_lives, rotate, start_guard, stop_together, write_record
from pipelines.services import Service, environment, services
from resources.logs import configure, mask_text
from resources.postgres import EmbeddedPostgres, PostgresError
from resources.settings import Settings

TICK_SECONDS = 0.1
GIVE_UP_AFTER = 4
"""Deaths of a process that was never ready, after which the start is called off."""
ROTATE_EVERY_SECONDS = 60.0
LOCK_SECONDS = 25.0
DISK_EVERY_SECONDS = 5.0
DISK_REMIND_SECONDS = 60.0


class StartFailed(Exception):
    """Tapeline cannot start; the message is for the person who started it."""


class Supervisor:
    """Everything one installation runs. `run` returns the exit code when all has ended."""

    def __init__(
        self, settings: Settings, *, main_job: bool = True, build: Callable[[Settings], list[Service]] = services
    ) -> None:
        self.settings = settings
        self.begun = time.monotonic()
        self.stopping = 0
        self.children: list[Child] = []
        self.postgres: EmbeddedPostgres | None = None
        self.announced = False
        self._main_job = main_job
        self._build = build
        self._rotated = time.monotonic()
        self._database_down_since = 0.0
        self._disk_looked = self._disk_said = 0.0
        self._disk_full = False
        self._lock: IO[str] | None = None
        self._guard: int | None = None

    # -- the whole -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start all, watch until a signal, stop all."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            self._take_lock()
            end_leftovers(self._record, self.say)
            problems = preflight.check(self.settings)
            if problems:
                raise StartFailed("\n".join(problems))
            self._guard = start_guard(self._record)
            self._start_databases()
            self.children = [Child(service, self._log_file(service.name)) for service in self._build(self.settings)]
            while not self.stopping:
                self._tick()
                time.sleep(TICK_SECONDS)
            return 0
        except (StartFailed, PostgresError) as error:
            if self.stopping:  # Ctrl-C met initdb or the like
                return 0
            for line in str(error).splitlines():
                self.complain(line)
            return 1
        finally:
            self._stop_all()

    def say(self, words: str) -> None:
        """One line of progress for the person at the terminal."""
        # The terminal may be gone (closed window, broken pipe): that must not keep anything from being stopped.
        with contextlib.suppress(OSError, ValueError):
            print(f"[{time.monotonic() - self.begun:6.1f} s] {mask_text(words)}", flush=True)  # noqa: T201

    def complain(self, words: str) -> None:
        """One line of what is wrong."""
        with contextlib.suppress(OSError, ValueError):
            print(f"tapeline: {mask_text(words)}", file=sys.stderr, flush=True)  # noqa: T201

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.stopping += 1

    @property
    def _record(self) -> Path:
        """What is running, for the guard and the next start."""
        return self.settings.path("run", "children.json")

    def _log_file(self, name: str) -> Path:
        return self.settings.path("logs", f"{name}.log")

    def _take_lock(self) -> None:
        folder = self.settings.path("run")
        if problems := preflight.folder_problems(folder):
            raise StartFailed(problems[0])
        self._lock = (folder / "supervisor.lock").open("a+")
        begun = time.monotonic()
        while not _locked(self._lock):
            self._lock.seek(0)
            holder = self._lock.read().strip()
            # The guard of a killed supervisor keeps the lock until it has ended everything.
            waited = time.monotonic() - begun
            if (process_lives(holder) and waited > 1.0) or waited > LOCK_SECONDS:
                self._lock.close()
                self._lock = None
                raise StartFailed(
                    f"Tapeline already runs on {self.settings.path()} (pid {holder}): stop it first, or set TAPELINE_DATA_DIR"
                )
            time.sleep(0.2)
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    # -- starting ------------------------------------------------------------------------------------------------------

    def _start_databases(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        from resources.ledger.migrate import SchemaError, ensure_databases

        begun = time.monotonic()
        self.settings.path("mlflow", "artifacts").mkdir(parents=True, exist_ok=True)
        if self.settings.postgres_url is None:
            self.postgres = EmbeddedPostgres.of(self.settings)
            self.postgres.start()
            self._write_record()
            if self.postgres.place != self.postgres.directory:
                self.say(f"the database lies in {self.postgres.place}: Postgres does not run as root, and its user cannot enter "
                         f"{self.settings.path()}")  # fmt: skip
        try:
            ensure_databases(self.settings)
        except SchemaError as error:
            raise StartFailed(str(error)) from None
        except SQLAlchemyError as error:
            # The text of the driver's own error; SQLAlchemy's would add the statement.
            said = str(getattr(error, "orig", error)).strip().splitlines()
            raise StartFailed(f"the database cannot be used: {said[0] if said else type(error).__name__}") from None
        self.say(f"postgres ready ({time.monotonic() - begun:.1f} s)")

    def _tick(self) -> None:
        """One round: note deaths and readiness, start what may start."""
        self._watch_postgres()
        self._watch_disk()
        ready = {child.service.name for child in self.children if child.ready}
        for child in self.children:
            if child.running:
                reason = child.reason
                if not child.ready and child.probe():
                    self._on_ready(child)
                elif child.reason and child.reason != reason:
                    self.complain(child.reason)
                elif child.overdue:
                    self.say(f"{child.service.name} is not ready after {child.service.start_seconds:.0f} s: see {child.log_file}")
                    child.remind()
            elif child.ended:
                self._on_end(child)
            elif child.due and ready.issuperset(child.service.after) and not self._database_down_since:
                child.start()
                self._write_record()
        if not self.announced and self.children and all(child.ready for child in self.children):
            self._announce()
        if time.monotonic() - self._rotated > ROTATE_EVERY_SECONDS:
            self._rotated = time.monotonic()
            rotate(self.settings.path("logs"))

    def _watch_disk(self) -> None:
        now = time.monotonic()
        if now - self._disk_looked < DISK_EVERY_SECONDS:
            return
        self._disk_looked = now
        places = [self.settings.path(), *([self.postgres.place] if self.postgres is not None else [])]
        full = next(filter(None, map(preflight.disk_is_full, places)), "")
        if full and (not self._disk_full or now - self._disk_said > DISK_REMIND_SECONDS):
            self.complain(full)
            self._disk_said = now
        elif self._disk_full and not full:
            self.say("the disk has room again")
        self._disk_full = bool(full)

    def _watch_postgres(self) -> None:
        if self.postgres is None or self.postgres.alive():
            return
        now = time.monotonic()
        if not self._database_down_since:
            self._database_down_since = now
            self.complain(f"postgres died: {' / '.join(self.postgres.last_lines(3))}; starting it again")
        elif now - self._database_down_since < 1.0:
            return
        try:
            self.postgres.start(timeout_seconds=60.0)
        except PostgresError as error:
            self.complain(str(error))
            self._database_down_since = now + 4.0  # try again in five seconds
            return
        self._database_down_since = 0.0
        self._write_record()
        self.say("postgres is back")

    def _on_ready(self, child: Child) -> None:
        child.ready = True
        again = " again" if child.starts > 1 else ""
        where = f" {child.service.address}" if child.service.address else ""
        self.say(f"{child.service.name} ready{again}{where} ({child.age:.1f} s)")

    def _on_end(self, child: Child) -> None:
        code = child.collect()
        self._write_record()
        service = child.service
        if service.once and code == 0:
            child.ready = True
            child.finished = True
            self.say(f"{service.name} done ({child.age:.1f} s)")
            return
        if service.name == "main_job":
            child.finished = True
            self.complain(f"the main job did not finish ({_how(code)}): see above and {child.log_file}; everything else stays up")
            return
        if not child.was_ready and child.deaths >= GIVE_UP_AFTER:
            self._show_tail(child)
            times = f"{child.deaths} times before it was ready ({_how(code)})"
            raise StartFailed(f"{service.name} ended {times}: see {child.log_file}")
        wait = child.back_off()
        self.complain(f"{service.name} died ({_how(code)}); starting it again in {wait:.0f} s, log in {child.log_file}")
        if child.deaths >= 2:
            self._show_tail(child)

    def _show_tail(self, child: Child, count: int = 12) -> None:
        for line in child.last_lines(count):
            self.complain(f"  {child.service.name}: {line}")

    def _announce(self) -> None:
        self.announced = True
        own = self.settings
        account = own.live_account or "NOT SET, so no live order is sent: TAPELINE_LIVE_ACCOUNT"
        money = f"REAL MONEY at {own.broker}, account {account}" if own.mode == "live" else "no real order is sent"
        self.say(f"Tapeline is ready: mode {own.mode.upper()} ({money}), universe {own.universe}")
        self.say(f"  Dagster UI  {own.webserver_url}")
        self.say(f"  MLflow      {own.mlflow_url}")
        self.say(f"  Desk API    {own.desk_url}/docs (token in {own.token_file})")
        if own.two_books:
            self.say(f"  Paper book  {own.paper_book().desk_url}/docs (the same token; tapeline --book paper ...)")
        self.say("  stop with Ctrl-C")
        if self._main_job:
            command = (sys.executable, "-m", "pipelines.main_job")
            job = Service("main_job", command, lambda: False, environment(own), once=True, stop_seconds=3.0)
            self.children.append(Child(job, self._log_file("main_job"), on_line=lambda line: self.say(f"main job: {line}")))

    # -- stopping ------------------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """The desk first, so that it says its last word to the ledger; Postgres last."""
        running = [child for child in self.children if child.running]
        if running:
            self.say(f"stopping {', '.join(child.service.name for child in reversed(running))}")
        first = [child for child in running if child.service.name in ("main_job", "desk", "desk_paper")]
        stop_together(first, lambda: self.stopping > 1)
        stop_together([child for child in running if child not in first], lambda: self.stopping > 1)
        if self.postgres is not None:
            self.postgres.stop()
        if self._guard is not None:
            self._record.unlink(missing_ok=True)
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._guard, signal.SIGKILL)
                os.waitpid(self._guard, 0)
            self.say("stopped")
        if self._lock is not None:
            self._lock.close()

    def _write_record(self) -> None:
        pids: list[tuple[str, int]] = [(child.service.name, child.pid) for child in self.children if child.pid]
        if self.postgres is not None and self.postgres.process is not None:
            pids.insert(0, ("postgres", self.postgres.process.pid))
        write_record(self._record, pids)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Start Tapeline and stay until Ctrl-C. Exit code 0 after a clean stop, 1 when it could not start."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings, problems = preflight.read_settings()
    if settings is None:
        for problem in problems:
            print(f"tapeline: {problem}", file=sys.stderr)  # noqa: T201
        return 1
    if folder := preflight.folder_problems(settings.path("logs")):
        print(f"tapeline: {folder[0]}", file=sys.stderr)  # noqa: T201
        return 1
    with settings.path("logs", "supervisor.log").open("a") as log:
        configure("supervisor", settings.log_level, log)
        return Supervisor(settings, main_job="--no-main-job" not in given).run()


if __name__ == "__main__":
    sys.exit(main())
