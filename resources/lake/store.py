"""The lake: bars, quotes and features in Parquet, replaced atomically, with a content hash per (session, symbol).

Layout: ``<root>/<dataset>/<period>/manifest.json`` and the part files it names; the session being traded of small
timeframes under ``<dataset>/hot/<session>/`` overrides its month until final bars are written or it is folded; replaced
versions under ``<dataset>/superseded/<period>/``. Readers take no lock: they read a manifest, which names files that never
change. Writers of a period hold its lock. The root is a folder or an object store's URL (resources.lake.storage).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resources.lake import superseded
from resources.lake.bar_codec import BAR_VALUES
from resources.lake.codec import KEYS, Rows
from resources.lake.errors import CorruptPartition, LakeError, PartitionMissing
from resources.lake.manifest import REPAIR
from resources.lake.model import FeatureFrame, Partition, Root
from resources.lake.periods import DatasetName, parse_dataset, period_of
from resources.lake.reading import LakeReader
from resources.lake.rows import bar_rows, feature_rows, quote_rows
from resources.lake.storage import open_storage
from resources.lake.superseded import Kept
from resources.lake.together import SeriesMemory
from resources.lake.writing import LakeWriter
from trading.bars import OPTIONAL_COLUMNS, Bars
from trading.bars import concat as concat_bars
from trading.instruments import Instrument
from trading.quotes import QUOTE_COLUMNS, QuoteBars
from trading.timeframes import session_number

if TYPE_CHECKING:
    from resources.lake.maintenance import Compacted, Size
    from resources.lake.object_store import Credentials

_ATTEMPTS = 10


class Lake:
    """The datasets below `root`. One object may be shared by threads; any number of processes may open it."""

    def __init__(self, root: Path | str, credentials: Credentials | None = None) -> None:
        """root: a folder, or ``s3://bucket/prefix?endpoint_override=host:port&scheme=http&region=name``; credentials: of an
        object store, None: found in the environment. Raises LakeError for a URL that is none of these."""
        self.location = root
        self.storage = open_storage(root, credentials)
        self.root: Path | Root = Path(root) if self.storage.durable_delete else Root(self.storage.url)
        self._reader = LakeReader(self.storage)
        self._writer = LakeWriter(self._reader)
        self._memory = SeriesMemory(self._reader)

    # ---- reading -------------------------------------------------------------------------------------------------

    def datasets(self) -> list[str]:
        """Names of the datasets that hold anything."""
        found = []
        for folder in self.storage.folders(""):
            with suppress(LakeError):
                name = parse_dataset(folder)
                held = self._reader.periods(name) or self._reader.periods(name, hot=True)
                if held or superseded.periods(self._reader.place(name)):
                    found.append(folder)
        return found

    def read_bars(
        self, dataset: str, symbol: str, start: date | None = None, end: date | None = None, *, known: int | None = None
    ) -> Bars:
        """Bars of `symbol` with start <= session <= end (None: no bound), bit for bit as written; empty when none.

        An optional column that a session of the range lacks is left out. known: the versions that counted at that wall time
        (UTC us), as far as they are kept; sessions written later are left out. Raises CorruptPartition naming the file that
        cannot be read.
        """
        name = _of_content(dataset, "bars")
        if known is not None:
            return self._bars_known(name, symbol, start, end, known)
        got = self._reader.read(name, symbol, start, end)
        return _bars(name, symbol, got[0]) if got else Bars.empty(symbol, name.timeframe)

    def read_bars_of(self, dataset: str, starts: Mapping[str, date | None], end: date | None = None) -> dict[str, Bars]:
        """`read_bars` of many symbols at once, each from its own first session on: files are opened once for all, and what
        was read before is not read again unless its content changed. The arrays are shared: not to be written to.

        Raises CorruptPartition naming the file that cannot be read.
        """
        name = _of_content(dataset, "bars")
        rows = self._memory.read(name, starts, end)
        empty = lambda symbol: Bars.empty(symbol, name.timeframe)  # noqa: E731
        return {symbol: _bars(name, symbol, rows[symbol]) if symbol in rows else empty(symbol) for symbol in starts}

    def read_quotes(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> QuoteBars:
        """Quote bars of `symbol` with start <= session <= end; empty when none. Raises CorruptPartition."""
        name = _of_content(dataset, "quotes")
        got = self._reader.read(name, symbol, start, end)
        if got is None:
            return QuoteBars.empty(symbol, name.timeframe)
        return QuoteBars(symbol, name.timeframe, **{c: got[0][c] for c in (*KEYS, *QUOTE_COLUMNS)})

    def read_features(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> FeatureFrame:
        """Features of `symbol` with start <= session <= end; no names and rows when there are none.

        Raises LakeError when the range holds rows of different feature versions: they must not be mixed.
        """
        name = _of_content(dataset, "features")
        got = self._reader.pieces(name, symbol, start, end)
        if got is None:
            return FeatureFrame(symbol, (), np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, 0)), "")
        pieces, versions = got
        if len(versions) > 1:
            raise LakeError(f"{dataset} {symbol}: rows of feature versions {sorted(versions)}; materialise the range again")
        names = tuple(c for c in pieces[0] if c not in KEYS)
        times, sessions = (np.concatenate([piece[key] for piece in pieces]) for key in KEYS)
        values = np.empty((len(names), len(times)))  # by column, as they are stored
        row = 0
        for piece in pieces:
            count = len(piece["close_time"])
            for i, column in enumerate(names):
                values[i, row : row + count] = piece[column]
            row += count
        return FeatureFrame(symbol, names, times, sessions, values.T, versions.pop())

    def partitions(
        self,
        dataset: str,
        start: date | None = None,
        end: date | None = None,
        symbols: Iterable[str] | None = None,
        *,
        known: int | None = None,
    ) -> list[Partition]:
        """What is held of sessions in [start, end], ordered by session and symbol; known: what counted at that wall time."""
        return self._reader.partitions(parse_dataset(dataset), start, end, symbols, known)

    def partition(self, dataset: str, session: date, symbol: str) -> Partition:
        """The partition of `symbol` in `session`. Raises PartitionMissing."""
        found = self.partitions(dataset, session, session, [symbol])
        if not found:
            raise PartitionMissing(f"{dataset}/{session}/{symbol}: not in the lake at {self.storage.url}; materialise it")
        return found[0]

    def hot_sessions(self, dataset: str) -> list[date]:
        """Sessions still being added to (or not folded yet): their last bar need not be the session's last."""
        name = parse_dataset(dataset)
        found = []
        for period in self._reader.periods(name, hot=True) if name.hot else ():
            manifest = self._reader.manifests.load(self._reader.folder(name, period, hot=True))
            if manifest is not None and manifest.symbols:
                found.append(date.fromisoformat(period))
        return found

    # ---- time travel ---------------------------------------------------------------------------------------------

    def versions(self, dataset: str, symbol: str, session: date) -> list[Partition]:
        """Every version of a partition that can still be read, newest first; superseded_wall 0: the one that counts.

        Minutes that only had others added behind them are not listed one by one: read_version finds each by its hash.
        """
        name = parse_dataset(dataset)
        now = self.partitions(dataset, session, session, [symbol])
        return now + [k.partition for k in self._kept(name, symbol, session)]

    def read_version(self, dataset: str, symbol: str, session: date, content_hash: str) -> Bars:
        """The bars that had `content_hash`, whether they count today, were replaced, or are how a version began.

        Raises PartitionMissing when they are not kept, CorruptPartition when a file cannot be read.
        """
        name = _of_content(dataset, "bars")
        for attempt in range(_ATTEMPTS):
            try:
                found = self._find_version(name, symbol, session, content_hash)
                break
            except FileNotFoundError:  # merged into another file between listing and reading
                if attempt == _ATTEMPTS - 1:
                    raise CorruptPartition(f"{dataset}/{session}/{symbol}: replaced versions vanish while read") from None
        if found is None:
            raise PartitionMissing(
                f"{dataset}/{session}/{symbol}: no version {content_hash[:16]} in the lake at {self.storage.url}; "
                "it was never here, or its retention has ended"
            )
        return found

    def _find_version(self, name: DatasetName, symbol: str, session: date, content_hash: str) -> Bars | None:
        kept = self._kept(name, symbol, session)
        for one in kept:
            if one.partition.content_hash == content_hash:
                return self._bars_of(name, one)
        now = self.read_bars(name.name, symbol, session, session)
        for bars in (now, *(self._bars_of(name, k) for k in kept)):
            for rows in range(len(bars), 0, -1):
                begun = bars.rows(slice(0, rows))
                if begun.content_hash() == content_hash:
                    return begun
        return None

    def _kept(self, name: DatasetName, symbol: str, session: date) -> list[Kept]:
        return self._reader.kept(name, session, session, {symbol})

    def _bars_of(self, name: DatasetName, one: Kept) -> Bars:
        return _bars(name, one.partition.symbol, superseded.rows_of(self._reader.place(name), one))

    def _bars_known(self, name: DatasetName, symbol: str, start: date | None, end: date | None, known: int) -> Bars:
        """The range as it was at `known`: sessions whose version still counts are read together, the others one by one."""
        then = self._reader.partitions(name, start, end, [symbol], known)
        if not then:
            return Bars.empty(symbol, name.timeframe)
        replaced = {p.session: p for p in then if p.superseded_wall}
        now = self.read_bars(name.name, symbol, start, end)
        standing = [session_number(p.session) for p in then if not p.superseded_wall]
        parts = [now.rows(np.isin(now.session, standing))] if standing else []
        for kept in self._reader.kept(name, start, end, {symbol}) if replaced else ():
            if kept.partition == replaced.get(kept.partition.session):
                parts.append(self._bars_of(name, kept))
        by_session: list[Bars] = []
        for part in parts:  # joined in order: a replaced session may lie in the middle of those that stand
            cuts = [0, *(np.flatnonzero(part.session[1:] != part.session[:-1]) + 1).tolist(), len(part)]
            by_session += [part.rows(slice(a, b)) for a, b in pairwise(cuts) if b > a]
        return concat_bars(by_session) if by_session else Bars.empty(symbol, name.timeframe)

    # ---- checking ------------------------------------------------------------------------------------------------

    def verify(self, dataset: str, start: date | None = None, end: date | None = None) -> list[str]:
        """Recompute every content hash of the range from the files, replaced versions too; one line per fault."""
        name = parse_dataset(dataset)
        place = self._reader.place(name)
        problems = []

        def check(partition: Partition, rows: Rows | None, what: str) -> None:
            tag = partition.source if name.content == "features" else ""
            actual = place.codec.hashes(partition.symbol, rows, [0, partition.rows], tag)[0] if rows else ""
            if actual != partition.content_hash:
                label = f"{dataset}/{partition.session}/{partition.symbol}"
                problems.append(f"{label}: content hash differs from {what}")

        for partition in self.partitions(dataset, start, end):
            try:
                got = self._reader.read(name, partition.symbol, partition.session, partition.session)
                check(partition, got[0] if got else None, f"the manifest; {REPAIR}")
            except CorruptPartition as error:
                problems.append(str(error))
        try:
            for kept in self._reader.kept(name, start, end, None):
                check(kept.partition, superseded.rows_of(place, kept), f"what {self.storage.where(kept.path)} says of it")
        except (CorruptPartition, FileNotFoundError) as error:
            problems.append(str(error))
        return problems

    def clear_cache(self) -> None:
        """Forget manifests, footers and rows read so far (benchmarks of cold reads)."""
        self._reader.forget()
        self._memory.forget()

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

        Atomic per period file (month or year); what is replaced is kept aside. Equal content writes nothing. Raises
        LakeError on bars that do not fit the dataset or the range, LakeWriteFailed when the storage refuses.
        """
        name = _of_content(dataset, "bars")
        data = {symbol: bar_rows(name, symbol, b, start, end) for symbol, b in bars.items()}
        return self._writer.write(name, data, start, end, source, instruments)

    def write_quotes(
        self,
        dataset: str,
        quotes: Mapping[str, QuoteBars],
        *,
        start: date,
        end: date,
        source: str,
        instruments: Mapping[str, Instrument],
    ) -> list[Partition]:
        """write_bars for quote bars."""
        name = _of_content(dataset, "quotes")
        data = {symbol: quote_rows(name, symbol, q, start, end) for symbol, q in quotes.items()}
        return self._writer.write(name, data, start, end, source, instruments)

    def append_hot(
        self, dataset: str, session: date, bars: Sequence[Bars], *, source: str, instruments: Mapping[str, Instrument]
    ) -> list[Partition]:
        """Add just-closed bars of `session` to what is held of it; returns these symbols' partitions.

        A bar already held with the same values is no change. Raises HotConflict when it is held with other values;
        nothing is written then.
        """
        name = _of_content(dataset, "bars")
        new = {b.symbol: bar_rows(name, b.symbol, b, session, session) for b in bars}
        self._writer.append(name, session_number(session), new, source, instruments)
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
        return self._writer.write(name, data, start, end, version, {}, version)

    # ---- keeping it small ----------------------------------------------------------------------------------------

    def compact(self, dataset: str, before: date | None = None) -> list[Compacted]:
        """Fold hot sessions before `before` into their month (None: all but the newest), merge replaced versions that lie
        in many files, sweep leftovers. Content and hashes stay as they are."""
        from resources.lake.maintenance import compact

        return list(compact(self._reader, self._writer, parse_dataset(dataset), before))

    def size(self, dataset: str) -> Size:
        """What the dataset takes, by kind of file."""
        from resources.lake.maintenance import sizes

        return sizes(self._reader, parse_dataset(dataset))

    def superseded(self, dataset: str) -> list[Partition]:
        """Every replaced version that is kept, newest first."""
        return [k.partition for k in self._reader.kept(parse_dataset(dataset), None, None, None)]

    def remove(self, dataset: str, doomed: Mapping[str, Collection[date]]) -> None:
        """Take sessions of symbols away for good; retention asks the ledger first (resources.lake.retention)."""
        self._writer.remove(parse_dataset(dataset), {s: {session_number(d) for d in days} for s, days in doomed.items()})

    def remove_superseded(self, dataset: str, doomed: Collection[Partition]) -> int:
        """Take replaced versions away for good; how many went."""
        name = parse_dataset(dataset)
        gone = {(p.symbol, p.session, p.content_hash, p.written_wall) for p in doomed}

        def stays(one: Kept) -> bool:
            p = one.partition
            return (p.symbol, p.session, p.content_hash, p.written_wall) not in gone

        periods = {period_of(session_number(p.session), name.yearly) for p in doomed}
        return sum(self._writer.rewrite_superseded(name, period, stays)[1] for period in sorted(periods))


def _of_content(dataset: str, content: str) -> DatasetName:
    name = parse_dataset(dataset)
    if name.content != content:
        raise LakeError(f"{dataset} does not hold {content}")
    return name


def _bars(name: DatasetName, symbol: str, rows: Rows) -> Bars:
    extras = {c: rows[c] for c in OPTIONAL_COLUMNS if c in rows}
    return Bars(symbol, name.timeframe, rows["close_time"], rows["session"], *(rows[c] for c in BAR_VALUES), **extras)
