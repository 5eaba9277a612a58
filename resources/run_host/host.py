"""The run host: imports the code location once, forks a child for each Dagster run.

    python -m resources.run_host.host --module pipelines.definitions

The host itself never opens a database or starts a thread, so that a fork is a clean start: each child opens its own
Dagster instance, executes its one run and exits. One child is forked ahead for the trade lane: it has its connections open
and its job loaded when a bar closes, takes one run and is followed by another (`spare.py`). When the project's sources
change, the host says so to the next launcher (which then uses a stock process for that run) and replaces itself by a fresh
one.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from resources.lake import ticks
from resources.revision import source_hash, source_state
from resources.run_host.execute import execute_run, report_crash
from resources.run_host.protocol import read_line, socket_address
from resources.run_host.spare import Spare, await_run, rehearsal_of
from resources.settings import settings

FIRST_SPARE_SECONDS = 15.0
"""After the start, before the first run of the trade lane: the start itself needs both cores."""

SPARE_PATIENCE_SECONDS = 10.0
"""Longest wait for the run that took the spare before another is forked beside it."""

_PRELOAD = ("dagster_postgres", "numba", "talib", "sqlalchemy.dialects.postgresql", "psycopg2", "pyarrow.parquet", "httpx")


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
    spare: Spare | None = None
    spare_wanted: float = 0.0
    origin: str = ""

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
        self.spare_wanted = time.monotonic() + FIRST_SPARE_SECONDS
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
            self._keep_spare()
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
                spare = self.spare.pid if self.spare is not None else None
                state = {"pid": os.getpid(), "running": len(self.children), "waiting": len(self.waiting), "spare": spare}
                self._reply(connection, state)
            elif operation == "forget":
                known = request.get("run_id") in self.waiting
                if known:
                    self.waiting.remove(request["run_id"])
                self._reply(connection, {"forgotten": known})
            elif operation == "launch":
                self._launch(connection, str(request["run_id"]), bool(request.get("urgent")), str(request.get("origin", "")))
            else:
                self._reply(connection, {"unavailable": f"unknown operation {operation!r}"})

    def _launch(self, connection: socket.socket, run_id: str, urgent: bool, origin: str) -> None:
        if not self.stale and source_state() != self.sources:
            self.stale = True
        if self.stale:
            self._drop_spare()
            self._reply(connection, {"unavailable": "the code changed, the run host restarts with it"})
            return
        if run_id in self.waiting or run_id in self.children.values():
            self._reply(connection, {"taken": True})  # asked twice: executed once
            return
        if urgent:
            self.origin = origin
            self._reply(connection, {"pid": self._use_spare(run_id) or self._fork(run_id, urgent)})
            self.spare_wanted = time.monotonic() + SPARE_PATIENCE_SECONDS
        elif self._ordinary() < self.slots:
            self._reply(connection, {"pid": self._fork(run_id, urgent)})
        else:
            self.waiting.append(run_id)
            self._reply(connection, {"queued": len(self.waiting)})

    @staticmethod
    def _reply(connection: socket.socket, answer: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _ordinary(self) -> int:
        return len(self.children) - len(self.urgent_pids)

    def _start_waiting(self) -> None:
        while self.waiting and self._ordinary() < self.slots and not self.stopping:
            self._fork(self.waiting.popleft(), urgent=False)

    def _fork(self, run_id: str, urgent: bool) -> int:
        pid = self._child(f"run {run_id}", lambda: execute_run(run_id))
        self.children[pid] = run_id
        if urgent:
            self.urgent_pids.add(pid)
        return pid

    def _child(self, name: str, work: Callable[[], int]) -> int:
        """Fork a process that does `work` and exits with what it gives. Returns its pid, in the host only."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._become_child()
                code = work()
            except BaseException as error:  # noqa: BLE001 - the child must never return into the host's loop
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return pid

    # -- the process that waits for the next run of the trade lane ------------------------------------------------------

    def _keep_spare(self) -> None:
        """Fork a spare when there is none: after the run that took the last one, so that it does not slow that run."""
        if self.spare is not None or self.stale or self.stopping or time.monotonic() < self.spare_wanted:
            return
        self._read_config()
        read_end, write_end = os.pipe()

        def work() -> int:
            os.close(write_end)
            return await_run(read_end, self.origin, rehearsal_of(self.module))

        self.spare = Spare(self._child("spare", work), write_end)
        os.close(read_end)

    def _use_spare(self, run_id: str) -> int | None:
        """Hand the run to the spare. Returns its pid, None when there is none or it is gone."""
        spare, self.spare = self.spare, None
        if spare is None:
            return None
        if not spare.take(run_id):
            return None
        self.children[spare.pid] = run_id
        self.urgent_pids.add(spare.pid)
        return spare.pid

    def _drop_spare(self) -> None:
        if self.spare is not None:
            self.spare.dismiss()
            self.spare = None

    @staticmethod
    def _read_config() -> None:
        """What the files say is inherited by the children, which look whether it still is so."""
        from resources.config_cache import current_config

        try:
            current_config(settings())
        except Exception as error:  # noqa: BLE001 - the run says it, where people look
            print(f"run host: the configuration cannot be read: {type(error).__name__}", file=sys.stderr, flush=True)  # noqa: T201

    def _become_child(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        self.listener.close()
        os.close(self.wake_read)
        if self.spare is not None:  # its end of the pipe must close with the host
            os.close(self.spare.write_end)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.spare is not None and pid == self.spare.pid:  # the database was away, or it was killed: another one later
                self._drop_spare()
                self.spare_wanted = time.monotonic() + SPARE_PATIENCE_SECONDS
            run_id = self.children.pop(pid, None)
            if pid in self.urgent_pids:
                self.urgent_pids.remove(pid)
                self.spare_wanted = 0.0 if not self.urgent_pids else self.spare_wanted
            code = os.waitstatus_to_exitcode(status)
            if run_id is not None and code != 0:
                self._report_crash(run_id, code)

    def _report_crash(self, run_id: str, code: int) -> None:
        """A child of its own marks the run failed when it died without saying so (SIGKILL, segfault, memory)."""
        self._child(f"run {run_id}", lambda: report_crash(run_id, code))

    def _stop_children(self) -> None:
        self._drop_spare()
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
    source_hash()
    gc.collect()
    gc.freeze()  # what is imported stays as it is: the children's collector need not look at it, nor copy its pages
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
