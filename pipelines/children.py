"""Child processes: started in sessions of their own, watched, ended as whole groups; nothing outlives its supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pipelines.services import NotReady, Service
from resources.settings import ROOT

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0
STEADY_SECONDS = 60.0
"""A process that lived this long has recovered: its next death is a first one again."""
LOG_BYTES = 20_000_000
_PR_SET_PDEATHSIG = 1

Say = Callable[[str], None]


class Child:
    """One service's process, through all its restarts. Use from one thread, the main one.

    on_line: gets each line the process writes; without it they go to the log file only.
    """

    def __init__(self, service: Service, log_file: Path, on_line: Say | None = None) -> None:
        self.service = service
        self.log_file = log_file
        self.ready = False
        self.was_ready = False
        self.finished = False
        self.starts = 0
        self.deaths = 0
        self.reason = ""
        self._on_line = on_line
        self._shown = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._ended = 0.0
        self._due = 0.0
        self._next_probe = 0.0
        self._reminder = service.start_seconds

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ended(self) -> bool:
        """It has ended and `collect` was not called yet."""
        return self._process is not None and self._process.poll() is not None

    @property
    def due(self) -> bool:
        """Not running, not finished, and its back-off is over."""
        return self._process is None and not self.finished and time.monotonic() >= self._due

    @property
    def age(self) -> float:
        """Seconds since the last start, or its life time once it has ended."""
        return (self._ended or time.monotonic()) - self._started

    @property
    def overdue(self) -> bool:
        return not self.ready and not self.service.once and self.age > self._reminder

    def remind(self) -> None:
        """Said once: the next reminder comes after twice the time."""
        self._reminder *= 2

    def start(self) -> None:
        """Start the process, bound to the life of the calling thread."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        nice = self.service.nice

        def as_child() -> None:
            if _bind_to_parent is not None:
                _bind_to_parent()
            os.nice(nice)

        with self.log_file.open("ab") as sink:
            self._shown = sink.tell()
            self._process = subprocess.Popen(
                self.service.command, cwd=ROOT, env=dict(self.service.environment), stdin=subprocess.DEVNULL, stdout=sink,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=as_child,
            )  # fmt: skip
        self.starts += 1
        self._started, self._ended = time.monotonic(), 0.0
        self._reminder = self.service.start_seconds

    def probe(self) -> bool:
        """Whether it is ready now; asked at growing intervals, so that asking does not slow the start."""
        self._show_lines()
        now = time.monotonic()
        if now < self._next_probe or self.service.once:
            return False
        self._next_probe = now + min(0.25 + self.age / 20, 2.0)
        try:
            if not self.service.ready():
                return False
        except NotReady as reason:
            self.reason = str(reason)
            return False
        self.was_ready = True
        self.reason = ""
        return True

    def collect(self) -> int:
        """Exit code of an ended process; what is left of its group is ended as well, so that its port is free."""
        assert self._process is not None
        code = self._process.wait()
        self._ended = time.monotonic()
        self._show_lines()
        end_group(self._process.pid, 3.0)
        self._process = None
        if self.age > STEADY_SECONDS:
            self.deaths = 0
        self.deaths += 1
        self.ready = False
        return code

    def back_off(self) -> float:
        """Seconds until the next start: 1, 2, 4, ... at most 30."""
        wait = min(FIRST_WAIT_SECONDS * 2 ** (self.deaths - 1), LONGEST_WAIT_SECONDS)
        self._due = time.monotonic() + wait
        return float(wait)

    def terminate(self) -> None:
        """Ask it to stop."""
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(self.service.stop_signal)

    def kill(self) -> None:
        """End its whole group now."""
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5.0)

    def last_lines(self, count: int) -> list[str]:
        return _tail(self.log_file, count)

    def _show_lines(self) -> None:
        if self._on_line is None:
            return
        with self.log_file.open("rb") as source:
            source.seek(self._shown)
            text = source.read()
        whole, newline, _rest = text.rpartition(b"\n")
        self._shown += len(whole) + len(newline)
        for line in whole.decode(errors="replace").splitlines():
            self._on_line(line)


def stop_together(children: Sequence[Child], hurry: Callable[[], bool]) -> None:
    """Ask all to stop, wait for each as long as its service allows (briefly when in a hurry), then end what is left."""
    begun = time.monotonic()
    for child in children:
        child.terminate()
    while any(child.running for child in children):
        passed = time.monotonic() - begun
        for child in children:
            if child.running and passed > (1.0 if hurry() else child.service.stop_seconds):
                child.kill()
        time.sleep(0.05)
    for child in children:
        if child.pid is not None:
            end_group(child.pid, 2.0)


def end_group(leader: int, patience_seconds: float) -> None:
    """End every process of the session `leader` leads or led: SIGTERM, then SIGKILL."""
    if not _signal_group(leader, signal.SIGTERM):
        return
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        if not _signal_group(leader, 0):
            return
        time.sleep(0.05)
    _signal_group(leader, signal.SIGKILL)


def _signal_group(leader: int, number: int) -> bool:
    """Signal the process group; False when nobody is in it."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


# -- what outlives a killed supervisor ---------------------------------------------------------------------------------


def write_record(path: Path, pids: Iterable[tuple[str, int]]) -> None:
    """Note what runs: name, pid and start time, which together name a process for good."""
    rows = [{"name": name, "pid": pid, "started": _start_ticks(pid)} for name, pid in pids]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(rows))
    fresh.replace(path)


def end_leftovers(path: Path, say: Say) -> None:
    """End what an earlier, killed supervisor left running. Postgres is not ended here: its launcher does it with care."""
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError):
        return
    left = [row for row in rows if row["name"] != "postgres" and _still_there(row["pid"], row["started"])]
    if left:
        say(f"ending what an earlier start left: {', '.join(row['name'] for row in left)}")
    for row in left:
        _signal_group(row["pid"], signal.SIGTERM)
    for row in left:
        end_group(row["pid"], 8.0)
    path.unlink(missing_ok=True)


def start_guard(path: Path) -> int:
    """Fork a process that waits for this one to die and then ends everything `path` names; return its pid.

    It holds one end of a pipe whose other end only this process holds: whatever way this process ends, the pipe closes.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reading)
        return pid
    try:
        os.setsid()
        os.close(writing)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while os.read(reading, 1):
            pass
        # A moment for the children that heard of it themselves.
        time.sleep(0.5)
        with contextlib.suppress(OSError, ValueError):
            rows = json.loads(path.read_text())
            for row in reversed(rows):
                if row["name"] != "postgres" and _still_there(row["pid"], row["started"]):
                    _signal_group(row["pid"], signal.SIGTERM)
            for row in reversed(rows):
                if row["name"] != "postgres" and _still_there(row["pid"], row["started"]):
                    end_group(row["pid"], 8.0)
            for row in rows:
                if row["name"] == "postgres" and _start_ticks(row["pid"]) == row["started"]:
                    os.kill(row["pid"], signal.SIGINT)
    finally:
        os._exit(0)


def _start_ticks(pid: int) -> int | None:
    """When the process started, in kernel ticks; None when it is gone. On systems without /proc: 0, the pid alone counts."""
    if not sys.platform.startswith("linux"):
        return 0 if _signal_process(pid) else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def process_lives(pid: str) -> bool:
    """Whether `pid`, as read from a file, names a running process. One that has ended and was not collected is none."""
    if not pid.isdigit() or not _signal_process(int(pid)):
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return not sys.platform.startswith("linux")


def _signal_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _still_there(leader: int, started: int | None) -> bool:
    """Whether the process, or others of the session it led, still run. A pid is not given anew while it names a group."""
    now = _start_ticks(leader)
    if now is not None:
        return now == started
    return _signal_group(leader, 0)


def _bind_parent() -> Callable[[], None] | None:
    """On Linux: a function that has the kernel end the calling process when its parent dies. Prepared before the fork."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def bind() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    return bind


_bind_to_parent = _bind_parent()


# -- log files ---------------------------------------------------------------------------------------------------------


def rotate(folder: Path, limit: int = LOG_BYTES) -> None:
    """Keep one older file of each log that has grown large. The writers append, so emptying the file is enough."""
    for path in folder.glob("*.log"):
        with contextlib.suppress(OSError):
            if path.stat().st_size > limit:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)


def _tail(path: Path, count: int) -> list[str]:
    try:
        with path.open("rb") as source:
            source.seek(0, os.SEEK_END)
            source.seek(max(0, source.tell() - 16_384))
            return [line for line in source.read().decode(errors="replace").splitlines() if line.strip()][-count:]
    except OSError:
        return []
