"""Committing a new version of one period: part files first, then the manifest that names them, then garbage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resources.lake.codec import Codec, Rows
from resources.lake.errors import CorruptPartition, LakeWriteFailed
from resources.lake.files import fsync_dir, make_dir
from resources.lake.manifest import KEPT_VERSIONS, REPAIR, Manifest, Part, SymbolEntry, collect_garbage, store_manifest
from resources.lake.parts import PartReader, write_part


@dataclass(frozen=True, slots=True)
class SymbolRows:
    """All rows of one symbol in a period, with its sessions' hashes and who wrote each."""

    rows: Rows
    sessions: list[int]
    counts: list[int]
    hashes: list[str]
    writes: list[tuple[str, int]]

    def __post_init__(self) -> None:
        if len({len(self.sessions), len(self.counts), len(self.hashes), len(self.writes)}) != 1:
            raise AssertionError("sessions, counts, hashes and writes differ in length")


def commit(
    folder: Path,
    dataset: str,
    period: str,
    old: Manifest | None,
    changed: Mapping[str, SymbolRows],
    codec: Codec,
    reader: PartReader,
) -> Manifest:
    """Replace the rows of the `changed` symbols (no sessions: the symbol goes) and keep those of the others.

    The caller holds the period's writer lock. Raises LakeWriteFailed (the old version stays) and CorruptPartition when
    rows to be kept cannot be read.
    """
    base = old or Manifest(dataset, period, 0)
    version = base.version + 1
    written: list[Path] = []
    try:
        make_dir(folder)
        parts, entries = _build(folder, version, base, changed, codec, reader, written)
        fsync_dir(folder)
        writes, entries = _renumber(base, changed, entries)
        previous = ((tuple(p.file for p in base.parts), *base.previous) if old else ())[: KEPT_VERSIONS - 1]
        manifest = Manifest(dataset, period, version, tuple(parts), writes, entries, previous)
        store_manifest(folder, manifest)
    except OSError as error:
        for path in written:
            with suppress(OSError):
                os.unlink(path)
        with suppress(OSError):
            os.unlink(folder / "manifest.json.tmp")
        raise LakeWriteFailed(
            f"{folder}: cannot write ({error}); the version before stays, free space and write again"
        ) from error
    with suppress(OSError):  # leftovers cost space, not truth; the next commit tries again
        collect_garbage(folder, manifest)
    return manifest


def _build(
    folder: Path,
    version: int,
    base: Manifest,
    changed: Mapping[str, SymbolRows],
    codec: Codec,
    reader: PartReader,
    written: list[Path],
) -> tuple[list[Part], dict[str, SymbolEntry]]:
    encoded = {symbol: codec.encode(symbol, new.rows) for symbol, new in changed.items() if new.sessions}
    layouts: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    touched: set[tuple[str, tuple[str, ...]]] = set()
    for symbol, entry in base.symbols.items():
        part = base.parts[entry.part]
        if symbol in changed:
            touched.add((part.kind, part.columns))
        else:
            layouts.setdefault((part.kind, part.columns), set()).add(symbol)
    for symbol, rows in encoded.items():
        layouts.setdefault((rows.kind, rows.columns), set()).add(symbol)
        touched.add((rows.kind, rows.columns))
    parts: list[Part] = []
    entries: dict[str, SymbolEntry] = {}
    for number, ((kind, columns), members) in enumerate(sorted(layouts.items())):
        index = len(parts)
        if (kind, columns) not in touched:
            part = next(p for p in base.parts if (p.kind, p.columns) == (kind, columns))
            parts.append(part)
            for symbol in members:
                entries[symbol] = _moved(base.symbols[symbol], index, base.symbols[symbol].offset)
            continue
        # A name is never used twice, even where versions start again because a folder went: a reader holding an older
        # manifest finds its file or none, never another one under the same name.
        path = folder / f"part-{version:06d}-{number}-{os.urandom(4).hex()}.parquet"
        written.append(path)
        offset = 0
        names: list[tuple[str, int]] = []
        data: dict[str, list[NDArray[Any]]] = {}
        source = next((p for p in base.parts if (p.kind, p.columns) == (kind, columns)), None)
        table: pa.Table | None = None
        for symbol in sorted(members):
            if symbol in encoded:
                new = encoded[symbol]
                count = sum(changed[symbol].counts)
                arrays = new.arrays
                entries[symbol] = _entry(changed[symbol], index, offset, new.meta)
            else:
                if source is None:
                    raise AssertionError(f"{symbol}: kept rows have no part")
                if table is None:
                    table = _kept_part(reader, folder / source.file, source)
                kept = base.symbols[symbol]
                count = sum(kept.rows)
                piece = table.slice(kept.offset, count)
                arrays = {name: piece.column(name).to_numpy() for name in piece.column_names}
                entries[symbol] = _moved(kept, index, offset)
            for name, column in arrays.items():
                data.setdefault(name, []).append(column)
            names.append((symbol, count))
            offset += count
        groups = write_part(path, names, data, codec.writer_options(kind, columns))
        parts.append(Part(path.name, kind, path.stat().st_size, groups, columns))
    return parts, entries


def _kept_part(reader: PartReader, path: Path, part: Part) -> pa.Table:
    try:
        return reader.read(path, part, 0, part.rows)
    except FileNotFoundError as error:
        raise CorruptPartition(f"{path}: named by its manifest but not there; {REPAIR}") from error


def _entry(new: SymbolRows, part: int, offset: int, meta: tuple[int, ...]) -> SymbolEntry:
    times = new.rows["close_time"]
    ends = list(accumulate(new.counts))
    first = tuple(int(times[e - c]) if c else 0 for e, c in zip(ends, new.counts, strict=True))
    last = tuple(int(times[e - 1]) if c else 0 for e, c in zip(ends, new.counts, strict=True))
    return SymbolEntry(
        part, offset, meta, tuple(new.sessions), tuple(new.counts), tuple(new.hashes), first, last, (-1,) * len(new.sessions)
    )


def _moved(entry: SymbolEntry, part: int, offset: int) -> SymbolEntry:
    return SymbolEntry(part, offset, entry.meta, entry.sessions, entry.rows, entry.hashes, entry.first, entry.last, entry.write)


def _renumber(
    base: Manifest, changed: Mapping[str, SymbolRows], entries: dict[str, SymbolEntry]
) -> tuple[tuple[tuple[str, int], ...], dict[str, SymbolEntry]]:
    """Write records still referred to, and the entries pointing into them."""
    index: dict[tuple[str, int], int] = {}
    out: dict[str, SymbolEntry] = {}
    for symbol in sorted(entries):
        e = entries[symbol]
        records = changed[symbol].writes if symbol in changed else [base.writes[w] for w in e.write]
        write = tuple(index.setdefault(record, len(index)) for record in records)
        out[symbol] = SymbolEntry(e.part, e.offset, e.meta, e.sessions, e.rows, e.hashes, e.first, e.last, write)
    return tuple(index), out


def empty_rows(columns: Mapping[str, NDArray[Any]]) -> Rows:
    """The same columns without rows."""
    return {name: np.empty(0, column.dtype) for name, column in columns.items()}
