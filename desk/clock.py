"""The desk's market clock: real time for a live feed, a settable one for a replay. The code that asks does not know which."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Callable market clock: UTC microseconds, never going back."""

    def __call__(self) -> int: ...


def wall() -> int:
    """Real time, UTC microseconds."""
    return time.time_ns() // 1_000


class SystemClock:
    """The market clock of a live feed: real time."""

    def __call__(self) -> int:
        return wall()


class SimulatedClock:
    """The market clock of a replay: stands still until it is advanced. Safe to read from any thread.

    start: UTC us, or None: real time until the first `advance` sets it.
    """

    def __init__(self, start: int | None = None) -> None:
        self._now = start
        self._source: Callable[[], int] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> int:
        now, source = self._now, self._source
        if source is not None:
            return source() if now is None else max(now, source())
        return wall() if now is None else now

    def follow(self, source: Callable[[], int]) -> None:
        """From now on time passes as `source` (UTC us) says, from where the clock stands: a live market's time."""
        self._source = source

    def advance(self, to: int) -> int:
        """Move to `to` (UTC us) unless that is in the past: market time never goes back. Returns the time now."""
        with self._lock:
            self._now = to if self._now is None else max(self._now, to)
            return self._now
