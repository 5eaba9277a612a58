"""The lake: bars and features in Parquet, replaced atomically, with a content hash per (session, symbol).

Layout: ``<root>/<dataset>/<period>/manifest.json`` and the part files it names; the session being traded of small
timeframes under ``<root>/<dataset>/hot/<session>/`` overrides its month until final bars are written. Readers take no
lock: they read a manifest, which names files that never change. Writers of a period hold its lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.lake import periods
from resources.lake.codec import BAR_VALUES, BarCodec, Codec, FeatureCodec, Rows
from resources.lake.commit import SymbolRows, commit
from resources.lake.errors import CorruptPartition, LakeError, LakeWriteFailed, PartitionMissing
from resources.lake.files import fsync_dir, writer_lock
from resources.lake.manifest import REPAIR, Manifest, ManifestCache
from resources.lake.model import FeatureFrame, Partition
from resources.lake.parts import PartReader
from resources.lake.periods import DatasetName, parse_dataset
from resources.lake.rows import bar_rows, feature_rows, merge_closes, replaced_rows
from resources.lake.select import consecutive, partition_of, within
from trading.bars import Bars
from trading.instruments import Instrument
from trading.timeframes import session_date, session_number

_WRITERS = min(4, os.cpu_count() or 1)
_ATTEMPTS = 10


class Lake:
    """The bars and features below `root`. One object may be shared by threads; any number of processes may open it."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._manifests = ManifestCache()
        self._reader = PartReader()
        self._hot: dict[tuple[str, int], tuple[Manifest, dict[str, Rows]]] = {}

    # ---- reading -------------------------------------------------------------------------------------------------

    def datasets(self) -> list[str]:
        """Names of the datasets that hold anything."""
        if not self.root.is_dir():
            return []
        found = []
        for path in sorted(self.root.iterdir()):
            with suppress(LakeError):
                parse_dataset(path.name)
                if self._periods(path) or self._periods(path / periods.HOT_FOLDER):
                    found.append(path.name)
        return found

    def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Bars:
        """Bars of `symbol` with start <= session <= end (None: no bound), bit for bit as written; empty when none.

        Raises CorruptPartition naming the file that cannot be read.
        """
        name = _of_content(dataset, "bars")
        got = self._read(name, symbol, start, end)
        if got is None:
            return Bars.empty(symbol, name.timeframe)
        rows, _ = got
        return Bars(symbol, name.timeframe, rows["close_time"], rows["session"], *(rows[c] for c in BAR_VALUES))

    def read_features(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> FeatureFrame:
        """Features of `symbol` with start <= session <= end; no names and rows when there are none.

        Raises LakeError when the range holds rows of different feature versions: they must not be mixed.
        """
        name = _of_content(dataset, "features")
        got = self._read(name, symbol, start, end)
        if got is None:
            return FeatureFrame(symbol, (), np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, 0)), "")
        rows, versions = got
        if len(versions) > 1:
            raise LakeError(f"{dataset} {symbol}: rows of feature versions {sorted(versions)}; materialise the range again")
        names = tuple(c for c in rows if c not in ("close_time", "session"))
        values = np.column_stack([rows[c] for c in names]) if names else np.empty((len(rows["close_time"]), 0))
        return FeatureFrame(symbol, names, rows["close_time"], rows["session"], values, versions.pop())

    def partitions(
        self, dataset: str, start: date | None = None, end: date | None = None, symbols: Iterable[str] | None = None
    ) -> list[Partition]:
        """What is held of sessions in [start, end], ordered by session and symbol."""
        name = parse_dataset(dataset)
        wanted = None if symbols is None else set(symbols)
        found: dict[tuple[int, str], Partition] = {}
        for manifest in self._manifests_in(name, start, end):
            for symbol, entry in manifest.symbols.items():
                if wanted is not None and symbol not in wanted:
                    continue
                for i in within(entry, start, end):
                    found.setdefault((entry.sessions[i], symbol), partition_of(dataset, symbol, manifest, entry, i))
        return [found[key] for key in sorted(found) if found[key].rows]

    def partition(self, dataset: str, session: date, symbol: str) -> Partition:
        """The partition of `symbol` in `session`. Raises PartitionMissing."""
        found = self.partitions(dataset, session, session, [symbol])
        if not found:
            raise PartitionMissing(f"{dataset}/{session}/{symbol}: not in the lake at {self.root}; materialise it")
        return found[0]

    def verify(self, dataset: str, start: date | None = None, end: date | None = None) -> list[str]:
        """Recompute every content hash of the range from the files; one line per partition that differs or fails."""
        name = parse_dataset(dataset)
        problems = []
        for partition in self.partitions(dataset, start, end):
            try:
                got = self._read(name, partition.symbol, partition.session, partition.session)
            except CorruptPartition as error:
                problems.append(str(error))
                continue
            rows = got[0] if got else {}
            codec = _codec(name, {})
            tag = partition.source if name.content == "features" else ""
            actual = codec.hashes(partition.symbol, rows, [0, partition.rows], tag)[0] if rows else ""
            if actual != partition.content_hash:
                problems.append(
                    f"{dataset}/{partition.session}/{partition.symbol}: content hash differs from the manifest; {REPAIR}"
                )
        return problems

    def clear_cache(self) -> None:
        """Forget manifests and footers read so far (benchmarks of cold reads)."""
        self._manifests.clear()
        self._reader = PartReader()

    # ---- writing -------------------------------------------------------------------------------------------------

    def write_bars(
        self,
        dataset: str,
        bars: Mapping[str, Bars],
        *,
        start: date,
        end: date,
        source: str,
        instruments: Mapping[str, Instrument],
    ) -> list[Partition]:
        """Replace the rows of these symbols in sessions [start, end]; returns what the range then holds of them.

        Atomic per period file (month or year). Equal content writes nothing. Raises LakeError on bars that do not fit
        the dataset or the range, LakeWriteFailed when the disk refuses.
        """
        name = _of_content(dataset, "bars")
        data = {symbol: bar_rows(name, symbol, b, start, end) for symbol, b in bars.items()}
        self._write(name, data, start, end, source, _codec(name, instruments), "")
        return self.partitions(dataset, start, end, bars)

    def append_hot(
        self, dataset: str, session: date, bars: Sequence[Bars], *, source: str, instruments: Mapping[str, Instrument]
    ) -> list[Partition]:
        """Add just-closed bars of `session` to what is held of it; returns these symbols' partitions.

        A bar already held with the same values is no change. Raises HotConflict when it is held with other values;
        nothing is written then.
        """
        name = _of_content(dataset, "bars")
        number = session_number(session)
        period = periods.period_of(number, name.yearly)
        with self._writing(name, period):
            held = self._held(name, number, {b.symbol for b in bars})
            merged: dict[str, Rows] = {}
            for new in bars:
                rows = bar_rows(name, new.symbol, new, session, session)
                known = held.get(new.symbol)
                joined = rows if known is None else merge_closes(name, new.symbol, known, rows)
                if joined is not None and len(joined["close_time"]):
                    merged[new.symbol] = held[new.symbol] = joined
            if merged:
                wall = _now_wall()
                codec = _codec(name, instruments)
                if name.hot:
                    self._commit_hot(name, number, merged, held, source, wall, codec)
                else:
                    self._replace(name, period, merged, number, number, source, wall, codec, "")
        return self.partitions(dataset, session, session, {b.symbol for b in bars})

    def write_features(
        self,
        dataset: str,
        symbol: str,
        names: Sequence[str],
        close_time: NDArray[np.int64],
        session: NDArray[np.int32],
        values: NDArray[np.float64],
        *,
        start: date,
        end: date,
        version: str,
    ) -> list[Partition]:
        """Replace the features of `symbol` in sessions [start, end] by `values` (T, F) of feature `version`."""
        frame = FeatureFrame(symbol, tuple(names), close_time, session, values, version)
        return self.write_feature_frames(dataset, [frame], start=start, end=end)

    def write_feature_frames(self, dataset: str, frames: Sequence[FeatureFrame], *, start: date, end: date) -> list[Partition]:
        """write_features of several symbols, one version, with one commit per period."""
        name = _of_content(dataset, "features")
        versions = {f.version for f in frames}
        if len(versions) > 1:
            raise LakeError(f"{dataset}: frames of versions {sorted(versions)} in one write")
        data = {f.symbol: feature_rows(name, f, start, end) for f in frames}
        version = versions.pop() if versions else ""
        self._write(name, data, start, end, version, _codec(name, {}), version)
        return self.partitions(dataset, start, end, data)

    # ---- within --------------------------------------------------------------------------------------------------

    def _folder(self, name: DatasetName, period: str, *, hot: bool = False) -> Path:
        return self.root / name.name / periods.HOT_FOLDER / period if hot else self.root / name.name / period

    @contextmanager
    def _writing(self, name: DatasetName, period: str) -> Iterator[None]:
        """The only writer of `period`. What the system refuses becomes LakeWriteFailed."""
        try:
            with writer_lock(self.root / name.name / ".locks" / period):
                yield
        except OSError as error:
            raise LakeWriteFailed(f"{self.root / name.name}: period {period} cannot be written ({error})") from error

    @staticmethod
    def _periods(folder: Path) -> list[str]:
        try:
            return sorted(f.name for f in os.scandir(folder) if f.name[:1].isdigit() and f.is_dir())
        except FileNotFoundError:
            return []

    def _manifests_in(self, name: DatasetName, start: date | None, end: date | None) -> list[Manifest]:
        """Manifests of the range, hot ones first: they override. In this order because a writer that folds a hot
        session commits the month before it drops the hot entry, so a reader never misses both."""
        found = []
        for hot in (True, False) if name.hot else (False,):
            top = self._folder(name, "", hot=hot)
            for period in self._periods(top):
                if periods.in_range(period, start, end):
                    manifest = self._manifests.load(top / period)
                    if manifest is not None:
                        found.append(manifest)
        return found

    def _read(self, name: DatasetName, symbol: str, start: date | None, end: date | None) -> tuple[Rows, set[str]] | None:
        for attempt in range(_ATTEMPTS):
            try:
                return self._read_once(name, symbol, start, end)
            except FileNotFoundError as error:
                # A writer may have collected the version this reader held: look at the manifest again.
                if attempt == _ATTEMPTS - 1:
                    raise CorruptPartition(f"{error.filename}: named by its manifest but not there; {REPAIR}") from error
        raise AssertionError("unreachable")

    def _read_once(self, name: DatasetName, symbol: str, start: date | None, end: date | None) -> tuple[Rows, set[str]] | None:
        pieces: list[tuple[int, Rows]] = []
        versions: set[str] = set()
        overridden: set[int] = set()
        codec = _codec(name, {})
        for manifest in self._manifests_in(name, start, end):
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
                path = self._folder(name, manifest.period, hot=is_hot) / part.file
                table = self._reader.read(path, part, entry.offset + starts[lo], entry.offset + starts[hi])
                rows = codec.decode(table, part.kind, entry.meta, part.columns)
                pieces.append((entry.sessions[lo], rows))
                versions.update(manifest.writes[entry.write[i]][0] for i in range(lo, hi))
        if not pieces:
            return None
        pieces.sort(key=lambda piece: piece[0])
        if len({tuple(rows) for _, rows in pieces}) > 1:
            raise LakeError(f"{name.name} {symbol}: the range mixes rows of different columns; materialise the range again")
        if len(pieces) == 1:
            return pieces[0][1], versions
        return {c: np.concatenate([rows[c] for _, rows in pieces]) for c in pieces[0][1]}, versions

    def _held(self, name: DatasetName, session: int, symbols: set[str]) -> dict[str, Rows]:
        """Rows of `symbols` in `session`. What this process wrote last is remembered as long as it is what counts."""
        day = session_date(session)
        manifest = self._manifests.load(self._folder(name, periods.hot_period(session), hot=True)) if name.hot else None
        remembered = self._hot.get((name.name, session))
        out = dict(remembered[1]) if remembered is not None and remembered[0] is manifest else {}
        for symbol in symbols - set(out):
            got = self._read(name, symbol, day, day)
            if got is not None:
                out[symbol] = got[0]
        return out

    def _write(
        self, name: DatasetName, data: Mapping[str, Rows], start: date, end: date, source: str, codec: Codec, tag: str
    ) -> None:
        lo, hi, wall = session_number(start), session_number(end), _now_wall()
        by_period: dict[str, dict[str, Rows]] = {}
        for symbol, rows in data.items():
            for period, piece in periods.split(rows, name.yearly).items() if len(rows["close_time"]) else ():
                by_period.setdefault(period, {})[symbol] = piece
        held = set(self._periods(self._folder(name, "")))
        if name.hot:
            held |= {p[:7] for p in self._periods(self._folder(name, "", hot=True))}
        for period in held:
            if periods.in_range(period, start, end):
                by_period.setdefault(period, {})
        empty = {symbol: {c: v[:0] for c, v in rows.items()} for symbol, rows in data.items()}

        def one(period: str) -> None:
            with self._writing(name, period):
                self._replace(name, period, {**empty, **by_period[period]}, lo, hi, source, wall, codec, tag)

        _run_all(one, sorted(by_period))

    def _replace(
        self,
        name: DatasetName,
        period: str,
        data: Mapping[str, Rows],
        lo: int,
        hi: int,
        source: str,
        wall: int,
        codec: Codec,
        tag: str,
    ) -> None:
        """Make `data` the rows of its symbols in sessions [lo, hi] of `period`. The caller holds the lock."""
        folder = self._folder(name, period)
        old = self._manifests.load(folder)
        changed: dict[str, SymbolRows] = {}
        for symbol, rows in data.items():
            new = replaced_rows(self._reader, folder, old, symbol, rows, lo, hi, (source, wall), codec, tag)
            if new is not None:
                changed[symbol] = new
        if changed:
            commit(folder, name.name, period, old, changed, codec, self._reader)
        if name.hot:
            self._drop_hot(name, period, set(data), lo, hi, codec)

    def _commit_hot(
        self,
        name: DatasetName,
        session: int,
        data: Mapping[str, Rows],
        held: dict[str, Rows],
        source: str,
        wall: int,
        codec: Codec,
    ) -> None:
        period = periods.hot_period(session)
        folder = self._folder(name, period, hot=True)
        changed = {}
        for symbol, rows in data.items():
            starts = [0, len(rows["close_time"])]
            changed[symbol] = SymbolRows(rows, [session], starts[1:], codec.hashes(symbol, rows, starts, ""), [(source, wall)])
        old = self._manifests.load(folder)
        self._hot.pop((name.name, session), None)
        commit(folder, name.name, period, old, changed, codec, self._reader)
        written = self._manifests.load(folder)
        if written is not None:
            for other in [key for key in self._hot if key[0] == name.name and key[1] < session]:
                del self._hot[other]
            self._hot[(name.name, session)] = (written, {s: rows for s, rows in held.items() if s in written.symbols})

    def _drop_hot(self, name: DatasetName, period: str, symbols: set[str], lo: int, hi: int, codec: Codec) -> None:
        """Remove the hot entries the month now holds for good. The caller holds the month's lock."""
        top = self._folder(name, "", hot=True)
        for hot in self._periods(top):
            if hot[:7] != period or not lo <= session_number(date.fromisoformat(hot)) <= hi:
                continue
            old = self._manifests.load(top / hot)
            if old is None:
                continue
            gone = symbols & set(old.symbols)
            if gone == set(old.symbols):
                # The manifest goes first: from then on the month counts; files without one are nobody's.
                os.unlink(top / hot / "manifest.json")
                fsync_dir(top / hot)
                for file in os.scandir(top / hot):
                    os.unlink(file.path)
                os.rmdir(top / hot)
            elif gone:
                nothing = SymbolRows({}, [], [], [], [])
                commit(top / hot, name.name, hot, old, dict.fromkeys(gone, nothing), codec, self._reader)


def _run_all(work: Callable[[str], None], items: Sequence[str]) -> None:
    """Run `work` on every item, a few at a time; the first error is raised after all have ended."""
    if len(items) <= 1:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(_WRITERS) as pool:
        futures = [pool.submit(work, item) for item in items]
    for future in futures:
        future.result()


def _now_wall() -> int:
    return time.time_ns() // 1000


def _of_content(dataset: str, content: str) -> DatasetName:
    name = parse_dataset(dataset)
    if name.content != content:
        raise LakeError(f"{dataset} does not hold {content}")
    return name


def _codec(name: DatasetName, instruments: Mapping[str, Instrument]) -> Codec:
    return BarCodec(name.timeframe, dict(instruments)) if name.content == "bars" else FeatureCodec(name.timeframe)
