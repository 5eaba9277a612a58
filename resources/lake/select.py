"""Picking sessions out of a manifest."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator
from datetime import date
from functools import lru_cache

from resources.lake.manifest import Manifest, SymbolEntry
from resources.lake.model import Partition
from trading.timeframes import session_date, session_number


def within(entry: SymbolEntry, start: date | None, end: date | None) -> range:
    """Positions of the entry's sessions in [start, end]."""
    lo = 0 if start is None else bisect_left(entry.sessions, session_number(start))
    hi = len(entry.sessions) if end is None else bisect_right(entry.sessions, session_number(end))
    return range(lo, hi)


def consecutive(picked: list[int]) -> list[tuple[int, int]]:
    """[lo, hi) ranges of consecutive positions."""
    out: list[tuple[int, int]] = []
    for i in picked:
        if out and out[-1][1] == i:
            out[-1] = (out[-1][0], i + 1)
        else:
            out.append((i, i + 1))
    return out


Held = dict[int, dict[str, Partition]]
"""Partitions by session number and symbol."""

_session_date = lru_cache(maxsize=65536)(session_date)


def partition_of(dataset: str, symbol: str, manifest: Manifest, entry: SymbolEntry, i: int) -> Partition:
    """Session `i` of the entry as the lake hands it out."""
    ((_, found),) = partitions_of(dataset, symbol, manifest, entry, range(i, i + 1))
    return found


def partitions_of(
    dataset: str, symbol: str, manifest: Manifest, entry: SymbolEntry, picked: range
) -> Iterator[tuple[int, Partition]]:
    """(session number, partition) of the entry's sessions `picked`."""
    cut, writes = slice(picked.start, picked.stop), manifest.writes
    columns = (entry.sessions, entry.rows, entry.hashes, entry.first, entry.last, entry.write)
    for number, rows, content_hash, first, last, write in zip(*(column[cut] for column in columns), strict=True):
        source, wall = writes[write]
        yield number, Partition(dataset, _session_date(number), symbol, rows, content_hash, first, last, source, wall)


def held_of(manifests: Iterable[Manifest], symbols: Container[str] | None, start: date | None, end: date | None) -> Held:
    """What the manifests hold of `symbols` (None: of all) in [start, end], by session and symbol; later ones override."""
    found: Held = {}
    for manifest in manifests:
        for symbol, entry in manifest.symbols.items():
            if symbols is None or symbol in symbols:
                for number, p in partitions_of(manifest.dataset, symbol, manifest, entry, within(entry, start, end)):
                    found.setdefault(number, {})[symbol] = p
    return found


def of_manifest(manifest: Manifest, symbols: Container[str], start: date, end: date) -> list[Partition]:
    """`in_order(held_of([manifest], ...))`, in one go."""
    found: list[Partition] = []
    numbers: list[int] = []
    for symbol, entry in sorted(manifest.symbols.items()):
        if symbol in symbols:
            for number, p in partitions_of(manifest.dataset, symbol, manifest, entry, within(entry, start, end)):
                if p.rows:
                    numbers.append(number)
                    found.append(p)
    return [found[i] for i in sorted(range(len(found)), key=numbers.__getitem__)]


def in_order(found: Held) -> list[Partition]:
    """Those that have rows, by session and symbol."""
    return [p for number in sorted(found) for _, p in sorted(found[number].items()) if p.rows]
