"""Committing a new version of one period: part files first, then the manifest that names them, then garbage."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np

from resources.lake.codec import Codec, Rows
from resources.lake.errors import CorruptPartition, LakeWriteFailed, WriteRaced
from resources.lake.manifest import KEPT_VERSIONS, REPAIR, Manifest, Part, SymbolEntry, collect_garbage
from resources.lake.parts import PartReader, Piece, write_part
from resources.lake.steps import step
from resources.lake.storage import Storage


@dataclass(frozen=True, slots=True)
class SymbolRows:
    """All rows of one symbol in a period, with its sessions' hashes, who wrote each and which optional columns it has."""

    rows: Rows
    sessions: list[int]
    counts: list[int]
    hashes: list[str]
    writes: list[tuple[str, int]]
    masks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len({len(self.sessions), len(self.counts), len(self.hashes), len(self.writes)}) != 1:
            raise AssertionError("sessions, counts, hashes and writes differ in length")


NOTHING = SymbolRows({}, [], [], [], [])
"""A symbol that goes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one dataset are read and written."""

    storage: Storage
    reader: PartReader
    dataset: str
    codec: Codec


def commit(place: Place, folder: str, period: str, old: Manifest | None, changed: Mapping[str, SymbolRows]) -> Manifest:
    """Replace the rows of the `changed` symbols (no sessions: the symbol goes) and keep those of the others. Returns what
    is committed.

    The caller holds the period's writer lock. Raises LakeWriteFailed (the old version stays), WriteRaced (another writer's
    version stays) and CorruptPartition when rows to be kept cannot be read.
    """
    storage = place.storage
    base = old or Manifest(place.dataset, period, 0)
    version = base.version + 1
    written: list[str] = []
    try:
        storage.make_folder(folder)
        step("folder_made")
        parts, entries = _build(place, folder, version, base, changed, written)
        storage.sync_folder(folder)
        step("parts_synced")
        writes, entries = _renumber(base, changed, entries)
        previous = ((tuple(p.file for p in base.parts), *base.previous) if old else ())[: KEPT_VERSIONS - 1]
        manifest = Manifest(place.dataset, period, version, tuple(parts), writes, entries, previous)
    except OSError as error:
        _discard(storage, written)
        raise _failed(storage, folder, error) from error
    try:
        storage.swap(folder, manifest.to_bytes(), base.token)
    except WriteRaced:
        _discard(storage, written)
        raise
    except OSError as error:
        # The parts stay: whether the swap has happened is not known. The next commit collects what no manifest names.
        with suppress(OSError):
            storage.delete(f"{folder}/manifest.json.tmp")
        raise _failed(storage, folder, error) from error
    with suppress(OSError):  # leftovers cost space, not truth; the next commit tries again
        collect_garbage(storage, folder, manifest)
    step("garbage_collected")
    return manifest


def _failed(storage: Storage, folder: str, error: OSError) -> LakeWriteFailed:
    return LakeWriteFailed(
        f"{storage.where(folder)}: cannot write ({error}); the version before stays, free space and write again"
    )


def _discard(storage: Storage, written: list[str]) -> None:
    for path in written:
        with suppress(OSError):
            storage.delete(path)


def _build(
    place: Place, folder: str, version: int, base: Manifest, changed: Mapping[str, SymbolRows], written: list[str]
) -> tuple[list[Part], dict[str, SymbolEntry]]:
    encoded = {symbol: place.codec.encode(symbol, new.rows) for symbol, new in changed.items() if new.sessions}
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
        source = next((p for p in base.parts if (p.kind, p.columns) == (kind, columns)), None)
        if (kind, columns) not in touched and source is not None:
            parts.append(source)
            entries.update({symbol: replace(base.symbols[symbol], part=index) for symbol in members})
            continue
        offset = 0
        pieces: list[Piece] = []
        kept: Rows | None = None
        for symbol in sorted(members):
            if symbol in encoded:
                new = encoded[symbol]
                count = sum(changed[symbol].counts)
                pieces.append(Piece(symbol, count, new.arrays))
                entries[symbol] = _entry(changed[symbol], index, offset, new.meta)
            else:
                if source is None:
                    raise AssertionError(f"{symbol}: kept rows have no part")
                if kept is None:
                    kept = _whole_part(place, f"{folder}/{source.file}", source)
                old = base.symbols[symbol]
                count = sum(old.rows)
                pieces.append(Piece(symbol, count, {n: a[old.offset : old.offset + count] for n, a in kept.items()}))
                entries[symbol] = replace(old, part=index, offset=offset)
            offset += count
        # A name is never used twice, even where versions start again because a folder went: a reader holding an older
        # manifest finds its file or none, never another one under the same name.
        file = f"part-{version:06d}-{number}-{os.urandom(4).hex()}.parquet"
        written.append(f"{folder}/{file}")
        size, groups = write_part(place.storage, written[-1], pieces, place.codec.writer_options(kind, columns))
        step("part_written")
        parts.append(Part(file, kind, size, groups, columns))
    return parts, entries


def _whole_part(place: Place, path: str, part: Part) -> Rows:
    try:
        return place.reader.read(path, part, 0, part.rows)
    except FileNotFoundError as error:
        raise CorruptPartition(f"{place.storage.where(path)}: named by its manifest but not there; {REPAIR}") from error


def _entry(new: SymbolRows, part: int, offset: int, meta: tuple[int, ...]) -> SymbolEntry:
    times, starts = new.rows["close_time"], np.array([0, *accumulate(new.counts)])
    if 0 in new.counts:  # a session without rows has no times: 0; the position is any that there is
        held = starts[1:] > starts[:-1]
        first = np.where(held, times[np.where(held, starts[:-1], 0)], 0)
        last = np.where(held, times[np.where(held, starts[1:] - 1, 0)], 0)
    else:
        first, last = times[starts[:-1]], times[starts[1:] - 1]
    sessions, rows, hashes, masks = tuple(new.sessions), tuple(new.counts), tuple(new.hashes), tuple(new.masks)
    times_of = tuple(first.tolist()), tuple(last.tolist())
    return SymbolEntry(part, offset, meta, sessions, rows, hashes, *times_of, (-1,) * len(sessions), masks if any(masks) else ())


def _renumber(
    base: Manifest, changed: Mapping[str, SymbolRows], entries: dict[str, SymbolEntry]
) -> tuple[tuple[tuple[str, int], ...], dict[str, SymbolEntry]]:
    """Write records still referred to, and the entries pointing into them."""
    index: dict[tuple[str, int], int] = {}
    out: dict[str, SymbolEntry] = {}
    for symbol in sorted(entries):
        e = entries[symbol]
        records = changed[symbol].writes if symbol in changed else [base.writes[w] for w in e.write]
        if records and records.count(records[0]) == len(records):  # the rule: one write brought all its sessions
            numbers: tuple[int, ...] = (index.setdefault(records[0], len(index)),) * len(records)
        else:
            numbers = tuple(index.setdefault(record, len(index)) for record in records)
        out[symbol] = replace(e, write=numbers)
    return tuple(index), out
