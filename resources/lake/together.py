"""Many series in one scan, and kept by their content: what a bar close reads of a whole universe.

Read one by one, a hundred instruments open the same file a hundred times and decode the same row groups again and again.
Here manifests are looked at once, each row group is read once, and the rows of a session whose content hash was seen before
are taken from memory. Nothing is believed that the manifests of this moment do not say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from threading import Lock

import numpy as np

from resources.lake.codec import Rows
from resources.lake.codecs import codec_of
from resources.lake.errors import LakeError
from resources.lake.parts import row_groups_of
from resources.lake.periods import DatasetName
from resources.lake.reading import LakeReader, Mark, Run
from resources.lake.rows import with_mask

KEPT_ROWS = 6_000_000
"""Rows kept in memory, of all series together: about 60 bytes each."""

_Key = tuple[str, str, date | None]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A series as it was last given out: the sessions it is made of, and its rows."""

    marks: tuple[Mark, ...]
    rows: Rows


class SeriesMemory:
    """Reads through `reader`; may be shared by threads. rows: how many are kept."""

    def __init__(self, reader: LakeReader, rows: int = KEPT_ROWS) -> None:
        self._reader = reader
        self._limit = rows
        self._lock = Lock()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._held = 0
        self.read_rows = 0
        """Rows read from files so far."""

    def forget(self) -> None:
        """Keep nothing of what was read so far."""
        with self._lock:
            self._kept.clear()
            self._held = 0

    def read(self, name: DatasetName, starts: Mapping[str, date | None], end: date | None) -> dict[str, Rows]:
        """Rows of each symbol with starts[symbol] <= session <= end; symbols without any are left out.

        The arrays are shared with who asks next: they are not to be written to. Raises CorruptPartition, LakeError.
        """
        return self._reader.while_files_go(lambda: self._once(name, starts, end)) if starts else {}

    def _once(self, name: DatasetName, starts: Mapping[str, date | None], end: date | None) -> dict[str, Rows]:
        bounds = [start for start in starts.values() if start is not None]
        manifests = self._reader.manifests_in(name, min(bounds) if len(bounds) == len(starts) else None, end)
        found: dict[str, tuple[_Key, tuple[Mark, ...], int, Rows | None]] = {}
        missing: list[tuple[str, Run]] = []
        for symbol, start in starts.items():
            runs = self._reader.runs(name, symbol, start, end, manifests)
            if not runs:
                continue
            key = name.name, symbol, start
            marks = tuple(mark for run in runs for mark in run.marks)
            mask = -1
            for run in runs:
                mask &= run.mask
            head, held = self._head(key, marks, mask, codec_of(name).optional)
            found[symbol] = key, marks, mask, head
            missing += [(symbol, run) for run in _after(runs, held)]
        pieces = self._pieces(name, missing)
        return {symbol: self._join(name, symbol, *found[symbol], pieces.get(symbol, [])) for symbol in found}

    def _head(self, key: _Key, marks: tuple[Mark, ...], mask: int, optional: tuple[str, ...]) -> tuple[Rows | None, int]:
        """(rows in memory of the first sessions of `marks`, how many); (None, 0) when they begin otherwise."""
        with self._lock:
            kept = self._kept.get(key)
        if kept is None:
            return None, 0
        same = 0
        for old, new in zip(kept.marks, marks, strict=False):
            if old != new:
                break
            same += 1
        # What was left out for a session that is no longer in the way must be read again.
        wanted = {column for i, column in enumerate(optional) if mask >> i & 1} if mask >= 0 else set()
        held = sum(mark.rows for mark in marks[:same])
        if not held or any(column not in kept.rows for column in wanted):
            return None, 0
        whole = same == len(kept.marks)
        return with_mask(optional, kept.rows if whole else {c: v[:held] for c, v in kept.rows.items()}, mask), held

    def _pieces(self, name: DatasetName, missing: list[tuple[str, Run]]) -> dict[str, list[tuple[int, Rows]]]:
        """(first session, rows) of the runs, by symbol."""
        by_file: dict[str, list[tuple[str, Run]]] = {}
        for symbol, run in missing:
            by_file.setdefault(run.path, []).append((symbol, run))
        scans = [scan for wanted in by_file.values() for scan in _scans(wanted)]
        codec = codec_of(name)

        def read(scan: list[tuple[str, Run]]) -> list[tuple[str, int, Rows]]:
            first, last = min(run.start for _, run in scan), max(run.stop for _, run in scan)
            part = scan[0][1].part
            columns = self._reader.parts.read(scan[0][1].path, part, first, last)
            self.read_rows += last - first
            got = []
            for symbol, run in scan:
                cut = slice(run.start - first, run.stop - first)
                own = {column: values[cut] for column, values in columns.items()}
                got.append((symbol, run.session, codec.decode(own, part.kind, run.meta, part.columns)))
            return got

        pieces: dict[str, list[tuple[int, Rows]]] = {}
        for got in self._reader.each(read, scans):
            for symbol, session, rows in got:
                pieces.setdefault(symbol, []).append((session, rows))
        return pieces

    def _join(
        self, name: DatasetName, symbol: str, key: _Key, marks: tuple[Mark, ...], mask: int, head: Rows | None,
        pieces: list[tuple[int, Rows]],
    ) -> Rows:  # fmt: skip
        """The series of `symbol`, which is kept."""
        optional = codec_of(name).optional
        parts = [] if head is None else [head]
        parts += [with_mask(optional, rows, mask) for _, rows in sorted(pieces, key=lambda piece: piece[0])]
        if len({tuple(part) for part in parts}) > 1:
            raise LakeError(f"{name.name} {symbol}: the range mixes rows of different columns; materialise the range again")
        rows = parts[0] if len(parts) == 1 else {c: np.concatenate([part[c] for part in parts]) for c in parts[0]}
        count = len(rows["close_time"])
        with self._lock:
            before = self._kept.pop(key, None)
            self._held += count - (len(before.rows["close_time"]) if before is not None else 0)
            self._kept[key] = _Kept(marks, rows)
            while self._held > self._limit and len(self._kept) > 1:
                _, gone = self._kept.popitem(last=False)
                self._held -= len(gone.rows["close_time"])
        return rows


def _after(runs: list[Run], held: int) -> Iterator[Run]:
    """`runs` without their first `held` rows."""
    for run in runs:
        rows = run.stop - run.start
        if held < rows:
            yield replace(run, start=run.start + held) if held else run
        held = max(0, held - rows)


def _scans(wanted: list[tuple[str, Run]]) -> Iterator[list[tuple[str, Run]]]:
    """Runs of one file, together where they share a row group or stand in neighbouring ones: each group is read once."""
    scan: list[tuple[str, Run]] = []
    reached = -1
    for symbol, run in sorted(wanted, key=lambda pair: pair[1].start):
        first, last = row_groups_of(run.part, run.start, run.stop)
        if scan and first > reached:
            yield scan
            scan = []
        scan.append((symbol, run))
        reached = max(reached, last)
    if scan:
        yield scan
