"""Where the files of a lake are: a folder on a disk, or a prefix in an object store, told apart by the URL alone.

Paths are relative to the root, with slashes. Part files are written once and never changed; only manifests are swapped,
and a swap happens only when the manifest is still the one that was read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from resources.lake.errors import LakeError, WriteRaced
from resources.lake.files import fsync_dir, make_dir, replace_file, writer_lock
from resources.lake.steps import step

if TYPE_CHECKING:
    from resources.lake.object_store import Credentials

MANIFEST = "manifest.json"
_BUFFER_BYTES = 1 << 18
_HEAD_BYTES = 19  # {"crc32":"xxxxxxxx"

Token = tuple[Any, ...]
"""What tells one version of a manifest from another."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file below a folder. size in bytes; wall: when it was written, UTC us."""

    name: str
    size: int
    wall: int


class Storage(Protocol):
    """What a lake asks of the place its files are in. OSError (FileNotFoundError) where a call fails."""

    url: str
    attempts: int
    """How often a commit that raced with another writer's is repeated."""
    durable_delete: bool
    """Does drop remove the manifest? Else an empty one stays in its place."""

    def where(self, path: str) -> str:
        """`path` as an operator would look for it; never with a secret in it."""
        ...

    def folders(self, path: str) -> list[str]:
        """Names of the folders directly below `path`; none when it is not there."""
        ...

    def files(self, path: str) -> list[Entry]:
        """Files directly below `path`, by name; none when it is not there."""
        ...

    def lock(self, path: str) -> AbstractContextManager[None]:
        """The only writer's place named by `path`. Raises LakeWriteFailed when another holds it too long."""
        ...

    def make_folder(self, path: str) -> None: ...

    def sync_folder(self, path: str) -> None: ...

    def load(self, folder: str, known: Token | None) -> tuple[Token, bytes | None] | None:
        """The folder's manifest: (token, bytes), bytes None when `known` still is its token; None: there is none."""
        ...

    def swap(self, folder: str, data: bytes, base: Token | None) -> None:
        """Make `data` the folder's manifest; base: token it replaces, None: the first. Raises WriteRaced."""
        ...

    def drop(self, folder: str, base: Token) -> None:
        """Take the folder's manifest away, if it still is `base`. Raises WriteRaced."""
        ...

    def create(self, path: str) -> AbstractContextManager[pa.NativeFile]:
        """A new file, there and durable when the block ends without an error, not there otherwise."""
        ...

    def open(self, path: str) -> tuple[pa.NativeFile, int, Token]:
        """(file, its size, what tells it from another file of that name)."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file; none there is no error."""
        ...

    def remove_folder(self, path: str) -> None:
        """Remove a folder and the files in it."""
        ...


class LocalStorage:
    """A folder on a disk. One writer a period by flock, which the system frees when its process dies."""

    attempts = 1
    durable_delete = True

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.url = str(self.root)
        self._prefix = f"{self.root}/"

    def where(self, path: str) -> str:
        return self._prefix + path

    def folders(self, path: str) -> list[str]:
        try:
            return sorted(f.name for f in os.scandir(self._prefix + path) if f.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, path: str) -> list[Entry]:
        found = []
        with suppress(FileNotFoundError):
            for f in os.scandir(self._prefix + path):
                with suppress(FileNotFoundError):  # gone since the folder was opened
                    if f.is_file():
                        stat = f.stat()
                        found.append(Entry(f.name, stat.st_size, stat.st_mtime_ns // 1000))
        return sorted(found, key=lambda e: e.name)

    @contextmanager
    def lock(self, path: str) -> Iterator[None]:
        with writer_lock(self.root / path):
            step("lock_taken")
            yield

    def make_folder(self, path: str) -> None:
        make_dir(self.root / path)

    def sync_folder(self, path: str) -> None:
        fsync_dir(self.root / path)

    def load(self, folder: str, known: Token | None) -> tuple[Token, bytes | None] | None:
        # The same version: inode, size, mtime and the checksum at its head. Two versions written within one tick of the
        # system's clock may share the first three (an inode freed by a rename is given out again).
        try:
            fd = os.open(f"{self._prefix}{folder}/{MANIFEST}", os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            stat = os.fstat(fd)
            token = (stat.st_ino, stat.st_size, stat.st_mtime_ns, os.pread(fd, _HEAD_BYTES, 0))
            if token == known:
                return token, None
            with os.fdopen(os.dup(fd), "rb") as file:
                return token, file.read()
        finally:
            os.close(fd)

    def swap(self, folder: str, data: bytes, base: Token | None) -> None:
        replace_file(self.root / folder / MANIFEST, data)

    def drop(self, folder: str, base: Token) -> None:
        os.unlink(self.root / folder / MANIFEST)
        fsync_dir(self.root / folder)

    @contextmanager
    def create(self, path: str) -> Iterator[pa.NativeFile]:
        full = self._prefix + path
        draft = f"{full}.tmp"
        done = False
        try:
            with pa.BufferedOutputStream(pa.OSFile(draft, "wb"), _BUFFER_BYTES) as file:  # a call per column chunk otherwise
                yield file
            fd = os.open(draft, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            os.replace(draft, full)
            done = True
        finally:
            if not done:
                with suppress(OSError):
                    os.unlink(draft)

    def open(self, path: str) -> tuple[pa.NativeFile, int, Token]:
        full = self._prefix + path
        stat = os.stat(full)
        # Arrow's own file: no Python call per column read.
        return pa.OSFile(full, "rb"), stat.st_size, (stat.st_ino, stat.st_mtime_ns)

    def delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._prefix + path)

    def remove_folder(self, path: str) -> None:
        with suppress(FileNotFoundError):
            for file in os.scandir(self._prefix + path):
                if file.is_file():
                    os.unlink(file.path)
            os.rmdir(self._prefix + path)


def open_storage(root: Path | str, credentials: Credentials | None = None) -> Storage:
    """The storage at `root`: a folder, or ``s3://bucket/prefix?endpoint_override=...&region=...``.

    Raises LakeError for a URL it does not know; the message never repeats the part where secrets could be.
    """
    if isinstance(root, str) and "://" in root:
        scheme = root.partition("://")[0]
        if scheme == "s3":
            from resources.lake.object_store import ObjectStorage

            return ObjectStorage.at(root, credentials)
        if scheme == "file":
            return LocalStorage(Path(root.removeprefix("file://")))
        raise LakeError(f"no storage for {scheme}:// URLs; expected a folder or s3://bucket/prefix?endpoint_override=...")
    return LocalStorage(Path(root))


__all__ = ["MANIFEST", "Entry", "LocalStorage", "Storage", "Token", "WriteRaced", "open_storage"]
