"""Finding and reading rows: manifests first, then the row groups that hold what is asked. Readers take no lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple, TypeVar

import numpy as np

from resources.lake import periods, superseded
from resources.lake.codec import Rows
from resources.lake.codecs import codec_of
from resources.lake.commit import Place
from resources.lake.errors import CorruptPartition, LakeError
from resources.lake.manifest import REPAIR, Manifest, ManifestCache, Part
from resources.lake.model import Partition
from resources.lake.parts import PartReader
from resources.lake.periods import DatasetName
from resources.lake.rows import with_mask
from resources.lake.select import consecutive, held_of, in_order, within
from resources.lake.storage import Storage
from trading.instruments import Instrument
from trading.timeframes import session_number

S = TypeVar("S")
T = TypeVar("T")
_ATTEMPTS = 10
_REMOTE_READS = 8


class Mark(NamedTuple):
    """What a session of one symbol holds. mask: the optional columns it has."""

    session: int
    rows: int
    content_hash: str
    mask: int


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive sessions of one symbol in one part. marks: of each of them."""

    session: int
    path: str
    part: Part
    start: int
    stop: int
    meta: tuple[int, ...]
    mask: int
    versions: frozenset[str]
    marks: tuple[Mark, ...]


class LakeReader:
    """Reads what a storage holds."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.manifests = ManifestCache(storage)
        self.parts = PartReader(storage)
        # An object store answers in tens of milliseconds: ask for several files at once.
        self._pool = None if storage.durable_delete else ThreadPoolExecutor(_REMOTE_READS, "lake-read")

    def forget(self) -> None:
        """Forget manifests and footers read so far."""
        self.manifests.clear()
        self.parts = PartReader(self.storage)

    def place(self, name: DatasetName, instruments: Mapping[str, Instrument] | None = None) -> Place:
        return Place(self.storage, self.parts, name.name, codec_of(name, instruments))

    @staticmethod
    def folder(name: DatasetName, period: str, *, hot: bool = False) -> str:
        return f"{name.name}/{periods.HOT_FOLDER}/{period}" if hot else f"{name.name}/{period}"

    def periods(self, name: DatasetName, *, hot: bool = False) -> list[str]:
        """Names of the periods that have a folder."""
        folder = f"{name.name}/{periods.HOT_FOLDER}" if hot else name.name
        return [f for f in self.storage.folders(folder) if f[:1].isdigit()]

    def manifests_in(self, name: DatasetName, start: date | None, end: date | None) -> list[Manifest]:
        """Manifests of the range, hot ones first: they override. In this order because a writer that folds a hot
        session commits the month before it drops the hot entry, so a reader never misses both."""
        found = []
        for hot in (True, False) if name.hot else (False,):
            wanted = [self.folder(name, p, hot=hot) for p in self.periods(name, hot=hot) if periods.in_range(p, start, end)]
            found += [m for m in self.each(self.manifests.load, wanted) if m is not None]
        return found

    def each(self, work: Callable[[S], T], items: list[S]) -> list[T]:
        """work of every item, in order; several at once where the storage is far away."""
        return list(self._pool.map(work, items)) if self._pool and len(items) > 1 else [work(item) for item in items]

    def read(self, name: DatasetName, symbol: str, start: date | None, end: date | None) -> tuple[Rows, set[str]] | None:
        """(rows of `symbol`, the sources they came from); None when there are none. Raises CorruptPartition, LakeError."""
        got = self.pieces(name, symbol, start, end)
        if got is None:
            return None
        pieces, sources = got
        if len(pieces) == 1:
            return pieces[0], sources
        return {c: np.concatenate([piece[c] for piece in pieces]) for c in pieces[0]}, sources

    def pieces(self, name: DatasetName, symbol: str, start: date | None, end: date | None) -> tuple[list[Rows], set[str]] | None:
        """read before the rows are joined: in order, all with the same columns."""
        return self.while_files_go(lambda: self._read_once(name, symbol, start, end))

    @staticmethod
    def while_files_go(work: Callable[[], T]) -> T:
        """work, again when a file it was sent to is gone: a writer may have collected the version it held. Raises
        CorruptPartition when it stays away."""
        for attempt in range(_ATTEMPTS):
            try:
                return work()
            except FileNotFoundError as error:  # look at the manifest again
                if attempt == _ATTEMPTS - 1:
                    raise CorruptPartition(f"{error.filename}: named by its manifest but not there; {REPAIR}") from error
        raise AssertionError("unreachable")

    def runs(
        self, name: DatasetName, symbol: str, start: date | None, end: date | None, manifests: list[Manifest] | None = None
    ) -> list[Run]:
        """Where the rows of `symbol` are, by session. manifests: of the range or a wider one, as `manifests_in` gave them."""
        runs: list[Run] = []
        overridden: set[int] = set()
        for manifest in self.manifests_in(name, start, end) if manifests is None else manifests:
            entry = manifest.symbols.get(symbol)
            if entry is None:
                continue
            is_hot = len(manifest.period) == 10
            picked = [i for i in within(entry, start, end) if entry.sessions[i] not in overridden]
            if is_hot:
                overridden.update(entry.sessions[i] for i in picked)
            starts = entry.starts()
            for lo, hi in consecutive(picked):
                if starts[hi] == starts[lo]:
                    continue
                part = manifest.parts[entry.part]
                mask = -1
                for i in range(lo, hi) if entry.masks else ():
                    mask &= entry.masks[i]
                sources = frozenset(manifest.writes[w][0] for w in set(entry.write[lo:hi]))
                path = f"{self.folder(name, manifest.period, hot=is_hot)}/{part.file}"
                first, last = entry.offset + starts[lo], entry.offset + starts[hi]
                marks = tuple(
                    Mark(entry.sessions[i], entry.rows[i], entry.hashes[i], entry.mask(i)) for i in range(lo, hi) if entry.rows[i]
                )
                runs.append(
                    Run(entry.sessions[lo], path, part, first, last, entry.meta, mask if entry.masks else 0, sources, marks)
                )
        runs.sort(key=lambda run: run.session)
        return runs

    def _read_once(
        self, name: DatasetName, symbol: str, start: date | None, end: date | None
    ) -> tuple[list[Rows], set[str]] | None:
        runs = self.runs(name, symbol, start, end)
        if not runs:
            return None
        codec = codec_of(name)

        def one(run: Run) -> Rows:
            columns = self.parts.read(run.path, run.part, run.start, run.stop)
            return codec.decode(columns, run.part.kind, run.meta, run.part.columns)

        pieces = list(self._pool.map(one, runs)) if self._pool and len(runs) > 1 else [one(run) for run in runs]
        # An optional column that a session of the range lacks is unknown for the whole: nothing is filled in.
        mask = -1
        for run in runs:
            mask &= run.mask
        pieces = [with_mask(codec.optional, piece, mask) for piece in pieces]
        if len({tuple(piece) for piece in pieces}) > 1:
            raise LakeError(f"{name.name} {symbol}: the range mixes rows of different columns; materialise the range again")
        sources = {source for run in runs for source in run.versions}
        return pieces, sources

    def partitions(
        self, name: DatasetName, start: date | None, end: date | None, symbols: Iterable[str] | None, known: int | None = None
    ) -> list[Partition]:
        """What is held of sessions in [start, end], ordered by session and symbol; known: what was held at that wall time,
        as far as it is kept."""
        wanted = None if symbols is None else set(symbols)
        # What is hot comes last and overrides.
        found = held_of(reversed(self.manifests_in(name, start, end)), wanted, start, end)
        if known is not None:
            found = {n: {s: p for s, p in held.items() if p.written_wall <= known} for n, held in found.items()}
            for kept in self.kept(name, start, end, wanted):
                p = kept.partition
                if p.written_wall <= known < p.superseded_wall:
                    found.setdefault(session_number(p.session), {})[p.symbol] = p
        return in_order(found)

    def kept(self, name: DatasetName, start: date | None, end: date | None, symbols: set[str] | None) -> list[superseded.Kept]:
        """Replaced versions of the range that are still there, newest first. Raises CorruptPartition."""
        if not name.history:
            return []
        lo = session_number(start) if start else -(2**31)
        hi = session_number(end) if end else 2**31
        place = self.place(name)
        found: list[superseded.Kept] = []
        for period in superseded.periods(place):
            if periods.in_range(period, start, end):
                found += superseded.kept(place, period, lambda s, n: lo <= n <= hi and (symbols is None or s in symbols))
        return found
