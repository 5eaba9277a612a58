"""The configuration, read again only when one of its files changed.

Parsing and checking every strategy costs a tenth of a second: a run that asks three times, and a process that is forked
from one that has read it, need not do it again. Whoever asks sees the files as they are: their names, sizes and times are
looked at every time.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from resources.settings import Settings

if TYPE_CHECKING:
    from resources.config import Config

Stamp = tuple[tuple[str, int, int], ...]

_lock = threading.Lock()
_last: tuple[object, Config] | None = None


def stamp(folder: Path) -> Stamp:
    """(path, modification time in ns, size) of every file below `folder`, sorted: differs when one changed."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f != "__pycache__"]
        for name in names:
            path = os.path.join(where, name)
            try:
                status = os.stat(path)
            except OSError:  # gone while we looked, or a link to nowhere
                continue
            found.append((path, status.st_mtime_ns, status.st_size))
    return tuple(sorted(found))


def current_config(settings: Settings) -> Config:
    """`resources.config.load_config`, or what it said last when files, settings and day are the same. Raises ConfigInvalid."""
    global _last
    from resources.config import load_config

    with _lock:
        # Before reading: a file that changes while it is read is read again the next time. Plans are held against the day.
        # Models by their aliases: a version is written once and never changed.
        models = stamp(settings.path("models"))
        key = (stamp(settings.config), models, settings, datetime.now(UTC).date())
        if _last is None or _last[0] != key:
            _last = (key, load_config(settings))
        return _last[1]
