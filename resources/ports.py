"""TCP ports: is one free, and who holds it when it is not."""

from __future__ import annotations

import contextlib
import random
import socket

_DICE = random.SystemRandom()
"""Not the shared generator: processes that seed it alike would try the same ports."""


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could bind `port` on `host` now. Ports in TIME_WAIT count as free, as servers reuse them."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def port_answers(host: str, port: int, timeout_seconds: float = 0.5) -> bool:
    """Whether something accepts connections on `port` of `host`."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=timeout_seconds):
        return True
    return False


def port_holder(port: int) -> str:
    """``name (pid 123)`` of the process that has `port`, or words saying that it cannot be seen by this user."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                with contextlib.suppress(psutil.Error):
                    return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "a process this user cannot see"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago. For tests: a server should rather bind 0 itself.

    Taken below the range from which outgoing connections get theirs, where one could be gone again in a moment.
    """
    for _ in range(100):
        port = _DICE.randint(10_000, 32_000)
        if port_is_free(host, port):
            return port
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
        return port
