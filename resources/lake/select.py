"""Picking sessions out of a manifest."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import date
from functools import lru_cache

from resources.lake.manifest import Manifest, SymbolEntry
from resources.lake.model import Partition
from trading.timeframes import session_date, session_number


def within(entry: SymbolEntry, start: date | None, end: date | None) -> list[int]:
    """Positions of the entry's sessions in [start, end]."""
    lo = 0 if start is None else bisect_left(entry.sessions, session_number(start))
    hi = len(entry.sessions) if end is None else bisect_right(entry.sessions, session_number(end))
    return list(range(lo, hi))


def consecutive(picked: list[int]) -> list[tuple[int, int]]:
    """[lo, hi) ranges of consecutive positions."""
    out: list[tuple[int, int]] = []
    for i in picked:
        if out and out[-1][1] == i:
            out[-1] = (out[-1][0], i + 1)
        else:
            out.append((i, i + 1))
    return out


_session_date = lru_cache(maxsize=65536)(session_date)


def partition_of(dataset: str, symbol: str, manifest: Manifest, entry: SymbolEntry, i: int) -> Partition:
    """Session `i` of the entry as the lake hands it out."""
    source, wall = manifest.writes[entry.write[i]]
    day = _session_date(entry.sessions[i])
    return Partition(dataset, day, symbol, entry.rows[i], entry.hashes[i], entry.first[i], entry.last[i], source, wall)
