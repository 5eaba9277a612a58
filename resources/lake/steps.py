"""The named moments of a commit, so that tests can end a process, or fail a disk, at each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

STEPS: Final = (
    "lock_taken", "folder_made", "part_written", "parts_synced", "superseded_written", "manifest_drafted", "manifest_swapped",
    "garbage_collected", "hot_dropped",
)  # fmt: skip
"""In the order a commit passes them; `superseded_written` only where rows are replaced, `hot_dropped` where minutes fold."""

_hook: Callable[[str], None] | None = None


def step(name: str) -> None:
    """A commit has come this far."""
    if _hook is not None:
        _hook(name)


def on_step(hook: Callable[[str], None] | None) -> None:
    """Call `hook` at every step from now on (None: no more). For tests: an OSError it raises is the disk's."""
    global _hook
    _hook = hook
