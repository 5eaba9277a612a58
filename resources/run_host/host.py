"""The run host: imports the code location once, forks a child for each Dagster run.

    python -m resources.run_host.host --module pipelines.definitions

The host itself never opens a database or starts a thread, so that a fork is a clean start: each child opens its own
Dagster instance, executes its one run and exits. When the project's sources change, the host says so to the next
launcher (which then uses a stock process for that run) and replaces itself by a fresh one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from resources.lake import ticks
from resources.run_host.protocol import WORKER_TAG, read_line, socket_address, worker_mark
from resources.settings import ROOT, settings

_SOURCE_FOLDERS = ("trading", "ml", "resources", "desk", "assets", "sensors", "pipelines")
_PRELOAD = ("dagster_postgres", "numba", "talib", "sqlalchemy.dialects.postgresql", "psycopg2", "pyarrow.parquet", "httpx")


def source_state() -> tuple[int, int]:
    """(number of source files, newest modification in ns): changes whenever a source file does."""
    count, newest = 0, 0
    for folder in _SOURCE_FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            with contextlib.suppress(OSError):
                newest = max(newest, path.stat().st_mtime_ns)
                count += 1
    return count, newest


@dataclass
class RunHost:
    """State of the host: children by pid, waiting run ids. `slots` bounds the runs outside the trade lane."""

    listener: socket.socket
    module: str
    slots: int
    children: dict[int, str] = field(default_factory=dict)
    urgent_pids: set[int] = field(default_factory=set)
    waiting: deque[str] = field(default_factory=deque)
    stopping: bool = False
    stale: bool = False
    sources: tuple[int, int] = (0, 0)
    wake_read: int = -1

    def serve(self) -> None:
        """Answer launchers until SIGTERM or SIGINT, then stop the children."""
        self.wake_read, wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.sources = source_state()
        print(f"run host ready: pid {os.getpid()}, {self.module}", flush=True)  # noqa: T201 - its log line
        while not self.stopping:
            listener = self.listener.fileno()
            ready, _, _ = select.select([listener, self.wake_read], [], [], 5.0)
            if self.wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake_read, 4096)
            self._reap()
            if listener in ready and not self.stopping:
                self._answer()
            self._start_waiting()
            if self.stale and not self.children and not self.waiting:
                self._replace_self()
        self._stop_children()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _answer(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(2.0)
            try:
                request = json.loads(read_line(connection) or b"{}")
            except (OSError, ValueError) as error:
                self._reply(connection, {"unavailable": f"unreadable request: {type(error).__name__}"})
                return
            operation = request.get("op")
            if operation == "ping":
                self._reply(connection, {"pid": os.getpid(), "running": len(self.children), "waiting": len(self.waiting)})
            elif operation == "forget":
                known = request.get("run_id") in self.waiting
                if known:
                    self.waiting.remove(request["run_id"])
                self._reply(connection, {"forgotten": known})
            elif operation == "launch":
                self._launch(connection, str(request["run_id"]), bool(request.get("urgent")))
            else:
                self._reply(connection, {"unavailable": f"unknown operation {operation!r}"})

    def _launch(self, connection: socket.socket, run_id: str, urgent: bool) -> None:
        if not self.stale and source_state() != self.sources:
            self.stale = True
        if self.stale:
            self._reply(connection, {"unavailable": "the code changed, the run host restarts with it"})
            return
        if run_id in self.waiting or run_id in self.children.values():
            self._reply(connection, {"taken": True})  # asked twice: executed once
            return
        if urgent or self._ordinary() < self.slots:
            self._reply(connection, {"pid": self._fork(run_id, urgent)})
        else:
            self.waiting.append(run_id)
            self._reply(connection, {"queued": len(self.waiting)})

    @staticmethod
    def _reply(connection: socket.socket, answer: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _ordinary(self) -> int:
        return len(self.children) - len(self.urgent_pids)

    def _start_waiting(self) -> None:
        while self.waiting and self._ordinary() < self.slots and not self.stopping:
            self._fork(self.waiting.popleft(), urgent=False)

    def _fork(self, run_id: str, urgent: bool) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._become_child()
                code = execute_run(run_id)
            except BaseException as error:  # noqa: BLE001 - the child must never return into the host's loop
                print(f"run {run_id}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        self.children[pid] = run_id
        if urgent:
            self.urgent_pids.add(pid)
        return pid

    def _become_child(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        self.listener.close()
        os.close(self.wake_read)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            run_id = self.children.pop(pid, None)
            self.urgent_pids.discard(pid)
            code = os.waitstatus_to_exitcode(status)
            if run_id is not None and code != 0:
                self._report_crash(run_id, code)

    def _report_crash(self, run_id: str, code: int) -> None:
        """A child of its own marks the run failed when it died without saying so (SIGKILL, segfault, memory)."""
        if os.fork() == 0:
            try:
                self._become_child()
                report_crash(run_id, code)
            except BaseException as error:  # noqa: BLE001 - as above; run monitoring is the second net
                print(f"run {run_id}: {type(error).__name__}", file=sys.stderr, flush=True)  # noqa: T201
            finally:
                os._exit(0)

    def _stop_children(self) -> None:
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 8.0
        while self.children and time.monotonic() < end:
            self._reap()
            time.sleep(0.05)
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _replace_self(self) -> None:
        self.listener.close()
        print("run host: the code changed, starting afresh", flush=True)  # noqa: T201
        os.execv(sys.executable, [sys.executable, "-m", "resources.run_host.host", "--module", self.module])  # noqa: S606 - our own interpreter


def execute_run(run_id: str) -> int:
    """Execute run `run_id` in this process, as `dagster api execute_run` does. Returns the process's exit code."""
    from dagster import DagsterInstance
    from dagster._cli.api import _execute_run_command_body
    from dagster._utils.interrupts import capture_interrupts

    with capture_interrupts(), DagsterInstance.get() as instance:
        # Marked before anything else: from here on the launcher can see, and stop, the process.
        instance.add_run_tags(run_id, {WORKER_TAG: worker_mark(os.getpid())})
        return _execute_run_command_body(run_id, instance, lambda _event: None, False)


def report_crash(run_id: str, code: int) -> None:
    """Mark a run failed, or cancelled where that was asked for, whose process ended with `code` and left it unfinished."""
    from dagster import DagsterInstance, DagsterRunStatus

    with DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            if run.status is DagsterRunStatus.CANCELING:
                # The interrupt met it before its own handling stood: it ended as it was asked to.
                instance.report_run_canceled(run, f"The run's process was {how}.")
            else:
                instance.report_run_failed(run, f"The run's process was {how}.")


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(socket_address(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(description="Fork Dagster runs from one pre-imported process.")
    parser.add_argument("--module", default="pipelines.definitions")
    arguments = parser.parse_args()
    for name in _PRELOAD:
        importlib.import_module(name)
    importlib.import_module("dagster._cli.api")
    importlib.import_module(arguments.module)
    ticks.warm_up()
    # Bound only when all is imported: a launcher that finds no socket falls back to a stock process.
    host = RunHost(_listen(settings().run_host_socket), arguments.module, settings().run_slots)
    try:
        host.serve()
    finally:
        with contextlib.suppress(OSError):
            host.listener.close()
            settings().run_host_socket.unlink()


if __name__ == "__main__":
    main()
