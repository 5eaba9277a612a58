"""Durable file operations: write with fsync, atomic rename, one writer per period."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resources.lake.errors import LakeWriteFailed
from resources.lake.steps import step

LOCK_SECONDS = 30.0


def fsync_dir(folder: Path) -> None:
    """Make the folder's entries durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_dir(folder: Path) -> None:
    """Create `folder` and its parents durably."""
    if folder.is_dir():
        return
    make_dir(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync_dir(folder.parent)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` so that after a crash `path` holds either the old bytes or the new ones, never a mixture."""
    temporary = path.with_name(f"{path.name}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    step("manifest_drafted")
    os.replace(temporary, path)
    step("manifest_swapped")
    fsync_dir(path.parent)


@contextmanager
def writer_lock(path: Path, wait_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the only writer's place named by `path` (flock: freed by the system when the process dies).

    Raises LakeWriteFailed when another writer still holds it after `wait_seconds`.
    """
    make_dir(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LakeWriteFailed(f"{path}: held by another writer for {wait_seconds:g} s; try again") from None
                time.sleep(0.002)
        yield
    finally:
        os.close(fd)
