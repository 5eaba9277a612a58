"""Which code is running: the revision every row of the ledger carries."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from functools import cache, lru_cache

from resources.settings import ROOT

_SOURCES = ("trading", "ml", "resources", "desk", "assets", "sensors", "pipelines")


@cache
def code_revision() -> str:
    """``<12 hex digits of git HEAD>`` with ``+dirty`` when sources differ from it; ``src-<hash>`` where there is no git.

    Read once a process: what a process runs does not change while it runs.
    """
    head = _git("rev-parse", "--short=12", "HEAD")
    if head:
        changed = _git("status", "--porcelain", "--", *_SOURCES, "data/config/plugins")
        return f"{head}+dirty" if changed else head
    return f"src-{source_hash()}"


def source_state() -> tuple[int, int]:
    """(number of source files, newest modification in ns): changes whenever a source file does."""
    count, newest = 0, 0
    for folder in _SOURCES:
        for where, folders, names in os.walk(ROOT / folder):
            folders[:] = [f for f in folders if f != "__pycache__"]
            for name in names:
                if name.endswith(".py"):
                    with contextlib.suppress(OSError):
                        newest = max(newest, os.stat(os.path.join(where, name)).st_mtime_ns)
                        count += 1
    return count, newest


def source_hash() -> str:
    """First 12 hex digits of a SHA-256 over every source file's path and bytes; read again only when one changed."""
    return _hash_of(source_state())


@lru_cache(maxsize=1)
def _hash_of(_state: tuple[int, int]) -> str:
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    """Output of a git command in this very checkout; empty when there is no git, no commit, or the root is not its top."""
    if not (ROOT / ".git").exists():
        return ""  # a git above the project would name somebody else's revision
    # Another user may own the checkout (root starting a user's project): reading its revision is still right.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
