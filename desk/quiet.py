"""The garbage collector's pauses, kept away from the moment in which a bar close asks for exits.

A full collection walks every object the process ever made: hundreds of milliseconds when the cores are wanted by others, and
by itself it begins whenever enough objects were made, which is in the middle of a close. Here it is put off until the exits are
sent, and what the desk keeps for long (configuration, calendars, compiled statements) is walked once and then left alone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager

SETTLE_SECONDS = 60.0
"""Real time between two collections of what was made since the last one."""
RENEW_SECONDS = 3600.0
"""Real time after which everything is walked again, so that what was set aside and ended meanwhile is given back."""


@contextmanager
def no_collection() -> Iterator[None]:
    """Nothing is collected by itself until the end of this; nested uses end with the outermost one."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Settler:
    """Collects between the closes, in the process that asked for it (`start`): nobody waits for anything then."""

    def __init__(self) -> None:
        self._settled: float | None = None
        self._renewed = 0.0

    def start(self) -> None:
        """From now on `after_close` collects. For the desk's own process: what is set aside is set aside for all of it."""
        self._settled = self._renewed = -RENEW_SECONDS

    def after_close(self, now: float | None = None) -> bool:
        """A close is recorded. now: seconds of the monotonic clock. True when something was collected."""
        if self._settled is None:
            return False
        now = time.monotonic() if now is None else now
        if now - self._settled < SETTLE_SECONDS:
            return False
        if now - self._renewed >= RENEW_SECONDS:
            gc.unfreeze()
            self._renewed = now
        gc.collect()
        gc.freeze()
        self._settled = now
        return True


settler = Settler()
"""The desk process's own."""
