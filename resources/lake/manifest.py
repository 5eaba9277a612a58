"""The manifest of one period: which part files count, and what each (session, symbol) in them is.

A reader that has read a manifest has a consistent version: part files never change, and the files of the last two
versions stay. The file is JSON, ``{"crc32": "<8 hex>", "manifest": {...}}``; the checksum covers the bytes of the inner
object as written. In an object store an empty one stands for none.
"""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Any

from resources.lake.errors import CorruptPartition, StorageFailed
from resources.lake.storage import MANIFEST, Storage, Token

FORMAT = "tapeline-lake/1"
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

    meta: what the codec needs to decode (price scale). write: index into Manifest.writes per session. masks: which of the
    codec's optional columns each session has, bit by bit (empty: none anywhere); where a session lacks a column that the
    part has, its values there mean nothing.
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
    masks: tuple[int, ...] = ()

    def starts(self) -> list[int]:
        """Row of each session's first bar, relative to `offset`, with the total at the end."""
        return [0, *accumulate(self.rows)]

    def to_list(self) -> list[Any]:
        """The fields in order; masks only where there are any."""
        start = [self.part, self.offset, self.meta, self.sessions, self.rows, self.hashes, self.first, self.last, self.write]
        return [*start, self.masks] if self.masks else start

    def mask(self, i: int) -> int:
        return self.masks[i] if self.masks else 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """One version of one period. token: what the storage knows it by; None before it is stored."""

    dataset: str
    period: str
    version: int
    parts: tuple[Part, ...] = ()
    writes: tuple[tuple[str, int], ...] = ()
    symbols: Mapping[str, SymbolEntry] = field(default_factory=dict)
    previous: tuple[tuple[str, ...], ...] = ()
    token: Token | None = field(default=None, compare=False)

    def to_bytes(self) -> bytes:
        body = {
            "format": FORMAT,
            "dataset": self.dataset,
            "period": self.period,
            "version": self.version,
            "parts": [[p.file, p.kind, p.size, p.groups, p.columns] for p in self.parts],
            "writes": self.writes,
            "previous": self.previous,
            "symbols": {s: e.to_list() for s, e in self.symbols.items()},
        }
        text = json.dumps(body, separators=(",", ":")).encode()
        return _HEAD + b"%08x" % zlib.crc32(text) + _MIDDLE + text + b"}\n"

    @staticmethod
    def from_bytes(data: bytes, where: str, token: Token | None = None) -> Manifest:
        """Parse a manifest file. Raises CorruptPartition naming it."""
        start = len(_HEAD) + 8 + len(_MIDDLE)
        text = data[start:-2]
        sound = (
            data.startswith(_HEAD) and data.endswith(b"}\n") and data[len(_HEAD) : len(_HEAD) + 8] == b"%08x" % zlib.crc32(text)
        )
        if not sound:
            raise CorruptPartition(f"{where}: torn or edited manifest (checksum does not match); {REPAIR}")
        body: dict[str, Any] = json.loads(text)
        if body.get("format") != FORMAT:
            raise CorruptPartition(f"{where}: format {body.get('format')!r}, expected {FORMAT!r}: written by another version")
        return Manifest(
            body["dataset"],
            body["period"],
            body["version"],
            tuple(Part(f, k, size, tuple(groups), tuple(columns)) for f, k, size, groups, columns in body["parts"]),
            tuple((source, wall) for source, wall in body["writes"]),
            {s: SymbolEntry(e[0], e[1], *(tuple(x) for x in e[2:])) for s, e in body["symbols"].items()},
            tuple(tuple(files) for files in body["previous"]),
            token,
        )


REPAIR = "delete this period's folder and materialise its sessions again"


class ManifestCache:
    """Parsed manifests by folder, as long as the storage says that the file is the same one."""

    def __init__(self, storage: Storage, limit: int = 512) -> None:
        self._storage = storage
        self._limit = limit
        self._lock = Lock()
        self._known: OrderedDict[str, Manifest] = OrderedDict()

    def load(self, folder: str) -> Manifest | None:
        """The manifest of the period in `folder`; None when there is none. Raises CorruptPartition."""
        with self._lock:
            known = self._known.get(folder)
        where = self._storage.where(f"{folder}/{MANIFEST}")
        try:
            found = self._storage.load(folder, known.token if known else None)
        except StorageFailed:
            raise
        except OSError as error:
            raise CorruptPartition(f"{where}: cannot be read ({error.strerror or error}); {REPAIR}") from error
        if found is None:
            return None
        token, data = found
        if data is None and known is not None:
            manifest = known
        elif data == b"" and not self._storage.durable_delete:
            dataset, _, period = folder.partition("/")
            manifest = Manifest(dataset, period.rpartition("/")[2], 0, token=token)
        else:
            manifest = Manifest.from_bytes(data or b"", where, token)
        with self._lock:
            self._known[folder] = manifest
            self._known.move_to_end(folder)
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
        return manifest

    def clear(self) -> None:
        with self._lock:
            self._known.clear()


def collect_garbage(storage: Storage, folder: str, manifest: Manifest) -> None:
    """Remove part files no kept version names. Only the period's lock holder may call it."""
    kept = {p.file for p in manifest.parts} | {f for files in manifest.previous for f in files} | {MANIFEST}
    for file in storage.files(folder):
        if file.name not in kept:
            storage.delete(f"{folder}/{file.name}")
