"""What launcher and host say to each other: one JSON line each way over a Unix socket."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

WORKER_TAG = "tapeline/worker"
"""Run tag ``pid:start_ticks`` of the process that executes the run. start_ticks tells a reused pid from the worker."""

LANE_TAG = "tapeline/lane"
TRADE_LANE = "trade"
CELERY_HOST_TAG = "tapeline/celery_host"
"""Run tag: name of the machine whose Celery worker executes the run; the pid of WORKER_TAG is one of that machine."""

_MAX_LINE = 64 * 1024


class HostUnavailable(Exception):
    """No run host answers on the socket, or it must restart first. The run was not taken."""


class HostUnclear(Exception):
    """The request was sent and no clear answer came: the host may have taken the run. Never launch it elsewhere."""


def queue_name(prefix: str, *, urgent: bool) -> str:
    """Celery queue of the trade lane, or of everything else."""
    return f"{prefix}.{'trade' if urgent else 'runs'}"


def socket_address(path: Path) -> str:
    """Address of the socket; relative to the working directory when the absolute one is too long for the kernel."""
    absolute = str(path)
    if len(absolute.encode()) <= 100:
        return absolute
    relative = os.path.relpath(absolute)
    return relative if len(relative) < len(absolute) else absolute


def ask(path: Path, request: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Send one request, return the answer.

    Raises HostUnavailable when the request cannot have been taken, HostUnclear when it may have been.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(socket_address(path))
        except OSError as error:
            raise HostUnavailable(f"no run host at {path.name}: {error}") from error
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = read_line(connection)
        except OSError as error:
            raise HostUnclear(f"the run host did not answer: {error}") from error
    if not line:
        raise HostUnclear("the run host closed the connection without an answer")
    answer: dict[str, Any] = json.loads(line)
    if answer.get("unavailable"):
        raise HostUnavailable(str(answer["unavailable"]))
    return answer


def read_line(connection: socket.socket) -> bytes:
    """Bytes up to the first newline (without it), or what came before the peer closed."""
    data = bytearray()
    while len(data) < _MAX_LINE:
        chunk = connection.recv(4096)
        if not chunk:
            break
        data += chunk
        if b"\n" in chunk:
            break
    return bytes(data).split(b"\n", 1)[0]


def process_start_ticks(pid: int) -> int | None:
    """Start time of process `pid` in clock ticks since boot, None when there is none (or it is a zombie)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else int(fields[19])


def worker_mark(pid: int) -> str:
    return f"{pid}:{process_start_ticks(pid) or 0}"


def worker_alive(mark: str) -> int | None:
    """Pid of the worker named by its mark when it still lives, else None."""
    pid_text, _, ticks = mark.partition(":")
    pid = int(pid_text)
    return pid if process_start_ticks(pid) == int(ticks) else None
