"""The manifest of one period: which part files count, and what each (session, symbol) in them is.

A reader that has read a manifest has a consistent version: part files never change, and the files of the last two
versions stay on disk. The file is JSON, ``{"crc32": "<8 hex>", "manifest": {...}}``; the checksum covers the bytes of
the inner object as written.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from resources.lake.errors import CorruptPartition
from resources.lake.files import replace_file

FORMAT = "tapeline-lake/1"
FILE_NAME = "manifest.json"
KEPT_VERSIONS = 2
_HEAD = b'{"crc32":"'
_MIDDLE = b'","manifest":'


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file. kind: the codec's layout; groups: rows of each row group; columns: value columns if they vary."""

    file: str
    kind: str
    size: int
    groups: tuple[int, ...]
    columns: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(self.groups)


@dataclass(frozen=True, slots=True)
class SymbolEntry:
    """The sessions of one symbol inside a period, ascending, contiguous in one part from row `offset`.

    meta: what the codec needs to decode (price scale). write: index into Manifest.writes per session.
    """

    part: int
    offset: int
    meta: tuple[int, ...]
    sessions: tuple[int, ...]
    rows: tuple[int, ...]
    hashes: tuple[str, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    write: tuple[int, ...]

    def starts(self) -> list[int]:
        """Row of each session's first bar, relative to `offset`, with the total at the end."""
        return [0, *np.cumsum(self.rows).tolist()]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of one period."""

    dataset: str
    period: str
    version: int
    parts: tuple[Part, ...] = ()
    writes: tuple[tuple[str, int], ...] = ()
    symbols: dict[str, SymbolEntry] = field(default_factory=dict)
    previous: tuple[tuple[str, ...], ...] = ()

    def to_bytes(self) -> bytes:
        body = {
            "format": FORMAT,
            "dataset": self.dataset,
            "period": self.period,
            "version": self.version,
            "parts": [[p.file, p.kind, p.size, p.groups, p.columns] for p in self.parts],
            "writes": self.writes,
            "previous": self.previous,
            "symbols": {
                s: [e.part, e.offset, e.meta, e.sessions, e.rows, e.hashes, e.first, e.last, e.write]
                for s, e in self.symbols.items()
            },
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        return _HEAD + b"%08x" % zlib.crc32(text) + _MIDDLE + text + b"}\n"

    @staticmethod
    def from_bytes(data: bytes, path: Path) -> Manifest:
        """Parse a manifest file. Raises CorruptPartition naming `path`."""
        start = len(_HEAD) + 8 + len(_MIDDLE)
        text = data[start:-2]
        sound = (
            data.startswith(_HEAD) and data.endswith(b"}\n") and data[len(_HEAD) : len(_HEAD) + 8] == b"%08x" % zlib.crc32(text)
        )
        if not sound:
            raise CorruptPartition(f"{path}: torn or edited manifest (checksum does not match); {REPAIR}")
        body: dict[str, Any] = json.loads(text)
        if body.get("format") != FORMAT:
            raise CorruptPartition(f"{path}: format {body.get('format')!r}, expected {FORMAT!r}: written by another version")
        return Manifest(
            body["dataset"],
            body["period"],
            body["version"],
            tuple(Part(f, k, size, tuple(groups), tuple(columns)) for f, k, size, groups, columns in body["parts"]),
            tuple((source, wall) for source, wall in body["writes"]),
            {s: SymbolEntry(e[0], e[1], *(tuple(x) for x in e[2:])) for s, e in body["symbols"].items()},
            tuple(tuple(files) for files in body["previous"]),
        )


REPAIR = "delete this period's folder and materialise its sessions again"


class ManifestCache:
    """Parsed manifests by path, as long as the file is the same one.

    The same: inode, size, mtime and the checksum at its head. Two versions written within one tick of the system's clock
    may share the first three (an inode freed by a rename is given out again).
    """

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._lock = Lock()
        self._known: OrderedDict[Path, tuple[tuple[int, int, int, bytes], Manifest]] = OrderedDict()

    def load(self, folder: Path) -> Manifest | None:
        """The manifest of the period in `folder`; None when there is none. Raises CorruptPartition."""
        path = folder / FILE_NAME
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            stat = os.fstat(fd)
            key = (stat.st_ino, stat.st_size, stat.st_mtime_ns, os.pread(fd, len(_HEAD) + 8, 0))
            with self._lock:
                known = self._known.get(path)
                if known is not None and known[0] == key:
                    self._known.move_to_end(path)
                    return known[1]
            with os.fdopen(os.dup(fd), "rb") as file:
                data = file.read()
        except OSError as error:
            raise CorruptPartition(f"{path}: cannot be read ({error.strerror}); {REPAIR}") from error
        finally:
            os.close(fd)
        manifest = Manifest.from_bytes(data, path)
        with self._lock:
            self._known[path] = (key, manifest)
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
        return manifest

    def clear(self) -> None:
        with self._lock:
            self._known.clear()


def store_manifest(folder: Path, manifest: Manifest) -> None:
    """Commit `manifest`: from the rename on, readers see it."""
    replace_file(folder / FILE_NAME, manifest.to_bytes())


def collect_garbage(folder: Path, manifest: Manifest) -> None:
    """Remove part files no kept version names. Only the period's lock holder may call it."""
    kept = {p.file for p in manifest.parts} | {f for files in manifest.previous for f in files} | {FILE_NAME}
    for file in os.scandir(folder):
        if file.name not in kept and file.is_file():
            os.unlink(file.path)
