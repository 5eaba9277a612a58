"""A process that has imported what a desk needs and forks one whenever a test wants one started.

Importing takes a desk longer than most lives in these tests last. The zygote imports once (and runs what it is told to warm
up with), stays a single thread without connections, and forks: each child is a process of its own, in a session of its own,
with the environment and the log file it was given, dies of a SIGKILL as any other, and its end is told with its status. When
whoever started the zygote is gone, it ends its children and itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import itertools
import os
import pickle
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
_HEAD = struct.Struct(">I")
_OURS = (signal.SIGINT, signal.SIGTERM)


class ZygoteFailed(Exception):
    """The zygote is gone, or could not do what was asked."""


def _send(to: socket.socket, message: Any) -> None:
    data = pickle.dumps(message)
    to.sendall(_HEAD.pack(len(data)) + data)


class _Inbox:
    """Whole messages out of a stream of bytes."""

    def __init__(self) -> None:
        self._received = bytearray()

    def take(self, data: bytes) -> list[Any]:
        self._received += data
        messages = []
        while len(self._received) >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._received)
            if len(self._received) < _HEAD.size + length:
                break
            messages.append(pickle.loads(bytes(self._received[_HEAD.size : _HEAD.size + length])))
            del self._received[: _HEAD.size + length]
        return messages


# -- whoever wants children ----------------------------------------------------------------------------------------------


class Child:
    """A forked process, with the part of subprocess.Popen that tests use. args: what it runs."""

    def __init__(self, zygote: Zygote, number: int, pid: int, args: str, log: Path) -> None:
        self.pid = pid
        self._number = number  # process numbers come back
        self.args = args
        self._zygote = zygote
        self._log = log

    def __repr__(self) -> str:
        return f"Child({self.args}, pid={self.pid}, returncode={self.returncode})"

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal that ended it, or None as long as nobody asked and it had ended."""
        return self._zygote.ended.get(self._number)

    def poll(self) -> int | None:
        self._zygote.wait_until(lambda: self._number in self._zygote.ended, 0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Exit code. Raises subprocess.TimeoutExpired."""
        if not self._zygote.wait_until(lambda: self._number in self._zygote.ended, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._zygote.ended[self._number]

    def send_signal(self, number: int) -> None:
        """Nothing happens to a child that has ended, and nothing to whoever has its number then."""
        if self.poll() is None:
            self._zygote.ask("signal", self._number, int(number))

    def output(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """Starts one. Safe from several threads."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TAPELINE_")}
        # A pool of threads, and the allocator of Arrow that cleans up in one, do not survive a fork.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.zygote", str(theirs.fileno())],
                cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.ended: dict[int, int] = {}
        """Exit codes by number of the spawning."""
        self._socket = ours
        self._answers: dict[int, tuple[str, Any]] = {}
        self._inbox = _Inbox()
        self._numbers, self._files = itertools.count(1), itertools.count(1)
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._owner = os.getpid()
        self._logs = Path(tempfile.mkdtemp(prefix="tapeline-zygote-"))
        self._done: set[str] = set()
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        return self._process.pid

    def spawn(
        self, target: str, *args: Any, env: Mapping[str, str] | None = None, cwd: Path | None = None, log: Path | None = None
    ) -> Child:
        """Fork a process that runs ``module:function`` of `target` with `args`; what that returns is its exit code.

        env: its whole environment (default: the zygote's). log: file that takes its output (default: one of its own).
        """
        log = log or self._logs / f"{next(self._files)}.log"
        number, pid = self.ask("spawn", target, args, dict(env) if env is not None else None, str(cwd or ROOT), str(log))
        return Child(self, number, pid, target, log)

    def call(self, target: str, *args: Any) -> Any:
        """Run `target` in the zygote itself, so that every child has what it leaves: modules, compiled code, warm engines."""
        answer = self.ask("call", target, args)
        self._done.add(target)
        return answer

    def did(self, target: str) -> bool:
        """Whether `target` was called before."""
        return target in self._done

    def ask(self, *request: Any) -> Any:
        number = next(self._numbers)
        with self._writing:
            _send(self._socket, (number, *request))
        self.wait_until(lambda: number in self._answers, None)
        how, answer = self._answers.pop(number)
        if how != "ok":
            raise ZygoteFailed(f"{request[:2]}: {answer}")
        return answer

    def wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Take in what the zygote says until `condition` holds or the time is over."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._reading.acquire(timeout=left or 0.001):
                if condition():
                    return True
                if deadline is not None and time.monotonic() >= deadline:
                    return False
                continue
            try:
                if condition():
                    return True
                # Others wait for their turn to read: a short wait, then theirs.
                if not self._read(min(left, 0.05)) and deadline is not None and time.monotonic() >= deadline:
                    return condition()
            finally:
                self._reading.release()

    def _read(self, timeout: float) -> bool:
        with selectors.DefaultSelector() as ready:
            ready.register(self._socket, selectors.EVENT_READ)
            if not ready.select(timeout):
                return False
        data = self._socket.recv(1 << 16)
        if not data:
            raise ZygoteFailed(f"the zygote has ended with {self._process.wait()}: see its output above")
        for message in self._inbox.take(data):
            if message[0] == "ended":
                self.ended[message[1]] = message[2]
            else:
                self._answers[message[0]] = message[1:]
        return True

    def close(self) -> None:
        """End it and every child that is left. Harmless a second time."""
        if os.getpid() != self._owner or self._socket.fileno() < 0:
            return
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._logs, ignore_errors=True)


_started: dict[int, Zygote] = {}


def zygote() -> Zygote:
    """This process's zygote, started when first asked for."""
    if os.getpid() not in _started:
        _started[os.getpid()] = Zygote()
    return _started[os.getpid()]


def modules(*names: str) -> None:
    """Import them: called in the zygote."""
    for name in names:
        importlib.import_module(name)


# -- the zygote ----------------------------------------------------------------------------------------------------------


def _resolve(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def single() -> None:
    """Raises RuntimeError when this process has a second thread: a fork would leave its locks held for ever."""
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else []
    names = names or [thread.name for thread in threading.enumerate()]
    if max(len(names), threading.active_count()) != 1:
        raise RuntimeError(f"the zygote has {len(names)} threads ({', '.join(names)}): nothing is forked from it")


class _Server:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._children: dict[int, int] = {}
        """Process numbers by number of the spawning, of those that are not reaped."""
        self._numbers = itertools.count(1)
        self._inbox = _Inbox()
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)

    def serve(self) -> None:
        """Until the other side is gone; no child outlives it."""
        try:
            self._serve()
        finally:
            self._end_all()

    def _serve(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asked
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without its children
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as ready:
            ready.register(self._channel, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fileobj is self._woken:
                        with contextlib.suppress(BlockingIOError):
                            self._woken.recv(4096)
                        self._reap()
                        continue
                    data = self._channel.recv(1 << 16)
                    if not data:
                        return
                    for number, kind, *arguments in self._inbox.take(data):
                        self._one(number, kind, arguments)

    def _one(self, number: int, kind: str, arguments: list[Any]) -> None:
        try:
            answer = getattr(self, f"_{kind}")(*arguments)
        except Exception:
            _send(self._channel, (number, "failed", traceback.format_exc()))
        else:
            _send(self._channel, (number, "ok", answer))

    def _call(self, target: str, args: tuple[Any, ...]) -> Any:
        return _resolve(target)(*args)

    def _signal(self, number: int, sign: int) -> None:
        self._reap()
        if number in self._children:  # not reaped: the process number is still its own
            os.kill(self._children[number], sign)

    def _spawn(self, target: str, args: tuple[Any, ...], env: dict[str, str] | None, cwd: str, log: str) -> tuple[int, int]:
        function = _resolve(target)
        single()
        gc.collect()
        gc.freeze()  # a child's collector would touch, and so copy, every object there is
        sys.stdout.flush()
        sys.stderr.flush()
        held = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)  # what comes too early for the child is not lost on our handlers
        pid = os.fork()
        if pid == 0:
            self._be(function, args, env, cwd, log)
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        number = next(self._numbers)
        self._children[number] = pid
        return number, pid

    def _be(self, function: Any, args: tuple[Any, ...], env: dict[str, str] | None, cwd: str, log: str) -> None:
        """Be the child; never comes back."""
        code = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _OURS)
            for end in (self._channel, self._woken, self._wake):
                end.close()
            with open(log, "ab", buffering=0) as sink:
                os.dup2(sink.fileno(), 1)
                os.dup2(sink.fileno(), 2)
            os.chdir(cwd)
            if env is not None:
                os.environ.clear()
                os.environ.update(env)
                time.tzset()
            _new_dice()
            code = int(function(*args) or 0)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                threading._shutdown()  # type: ignore[attr-defined]  # waits for threads as the interpreter does at its end
                atexit._run_exitfuncs()
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        for number, pid in list(self._children.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._children[number]
                with contextlib.suppress(OSError):  # whoever asked may be gone: the next read sees it
                    _send(self._channel, ("ended", number, os.waitstatus_to_exitcode(status)))

    def _end_all(self) -> None:
        for pid in self._children.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self._children.values():
            os.waitpid(pid, 0)


def _new_dice() -> None:
    """Dice of its own, as a fresh interpreter has: two children draw differently."""
    import random

    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def main(arguments: list[str]) -> int:
    with contextlib.suppress(BrokenPipeError):
        _Server(socket.socket(fileno=int(arguments[0]))).serve()
    return 0


if __name__ == "__main__":
    from tests.faults.zygote import main as imported  # one module, under its own name, in parent and children

    sys.exit(imported(sys.argv[1:]))
