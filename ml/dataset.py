"""A training set: labelled rows of a feature matrix, kept as one self-describing Parquet file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.labels import BarrierRule, Labels, forward_direction, forward_returns, triple_barrier
from ml.matrix import FeatureMatrix, MatrixError
from trading import ids
from trading.bars import Bars
from trading.timeframes import Timeframe, iso

_FORMAT = "tapeline-training-set-2"


class DatasetError(ValueError):
    """A training-set file that is missing or is not one. The message names the file and what to do."""


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """The partitions of one symbol a set was computed from: how many, from when to when, one hash over all of theirs."""

    dataset: str
    symbol: str
    first_session: str
    last_session: str
    partitions: int
    content_hash: str

    @staticmethod
    def of(dataset: str, symbol: str, partitions: Sequence[tuple[str, str]]) -> SourceSpan:
        """Span of (ISO session, content hash) pairs, in any order. Raises ValueError when there is none."""
        ordered = sorted(partitions)
        if not ordered:
            raise ValueError(f"{dataset} {symbol}: no partitions")
        return SourceSpan(
            dataset, symbol, ordered[0][0], ordered[-1][0], len(ordered), ids.content_hash([list(p) for p in ordered])
        )


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """Complete, labelled rows ordered by (close_time, symbol).

    direction: int8 (N,). forward_return: float64 (N,), fraction, over `horizon` bars. event_end: int64 (N,), UTC us: when
    the last of a row's labels is known. horizon: bars. sources: the lake's partitions the rows were computed from.
    horizons, returns: further horizons and their forward returns, float64 (N, H). barrier: int8 (N,), the triple barrier
    touched first (ml.labels). synthetic: how the market was made up; empty for a real one.
    """

    matrix: FeatureMatrix
    direction: NDArray[np.int8]
    forward_return: NDArray[np.float64]
    event_end: NDArray[np.int64]
    horizon: int
    universe: str
    sources: tuple[SourceSpan, ...]
    horizons: tuple[int, ...] = ()
    returns: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    barrier: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    synthetic: str = ""

    def __len__(self) -> int:
        return len(self.matrix)

    @property
    def event_start(self) -> NDArray[np.int64]:
        return self.matrix.close_time

    @property
    def events(self) -> NDArray[np.int64]:
        """int64 (N, 2), UTC us: when a row is decided and when the last of its labels is known; splits purge by it."""
        return np.stack([self.event_start, self.event_end], axis=1)

    @property
    def prior(self) -> float:
        """Share of rows with a positive forward return."""
        return float(self.direction.mean()) if len(self) else float("nan")

    def sources_hash(self) -> str:
        """One hash over every partition's content hash: names the market data."""
        return ids.content_hash(sorted([s.dataset, s.symbol, s.content_hash] for s in self.sources))

    def content_hash(self) -> str:
        """SHA-256 over features, labels and horizon: equal sets train equal models."""
        digest = hashlib.sha256(f"{_FORMAT}:{self.horizon}:{self.matrix.content_hash()}".encode())
        digest.update(np.ascontiguousarray(self.direction, "i1").tobytes())
        digest.update(np.ascontiguousarray(self.forward_return, "<f8").tobytes())
        digest.update(np.ascontiguousarray(self.event_end, "<i8").tobytes())
        digest.update(f"{list(self.horizons)}:{self.synthetic}".encode())
        digest.update(np.ascontiguousarray(self.returns, "<f8").tobytes())
        digest.update(np.ascontiguousarray(self.barrier, "i1").tobytes())
        return digest.hexdigest()

    def span(self) -> str:
        """``first close .. last close`` for people."""
        if not len(self):
            return "no rows"
        return f"{iso(int(self.matrix.close_time[0]))} .. {iso(int(self.matrix.close_time[-1]))}"


def label_matrix(
    matrix: FeatureMatrix,
    bars: Mapping[str, Bars],
    horizon: int,
    universe: str,
    sources: Sequence[SourceSpan],
    *,
    horizons: Sequence[int] = (),
    barrier: BarrierRule | None = None,
    synthetic: str = "",
) -> TrainingSet:
    """The complete rows of `matrix` whose labels are all known, with labels of `bars` (symbol -> its bars, same timeframe).

    horizons, barrier: further labels. Raises MatrixError when a feature row has no bar of its close time: features and bars
    are then not of one lake state.
    """
    n = len(matrix)
    direction, touched = np.zeros(n, np.int8), np.zeros(n, np.int8)
    forward, returns = np.full(n, np.nan), np.full((n, len(horizons)), np.nan)
    end = np.zeros(n, np.int64)
    valid = np.zeros(n, bool)
    for code, symbol in enumerate(matrix.symbols):
        rows = np.flatnonzero(matrix.symbol == code)
        own = bars.get(symbol)
        if own is None or own.timeframe is not matrix.timeframe:
            raise MatrixError(f"{symbol}: no {matrix.timeframe} bars for its features")
        labels: Labels = forward_direction(own, horizon)
        at = np.searchsorted(own.close_time, matrix.close_time[rows])
        if len(rows) and (at[-1] >= len(own) or not bool(np.all(own.close_time[at] == matrix.close_time[rows]))):
            raise MatrixError(f"{symbol}: features have close times without a bar; materialise features again")
        direction[rows], forward[rows], end[rows], valid[rows] = (
            labels.direction[at], labels.forward_return[at], labels.event_end[at], labels.valid[at],
        )  # fmt: skip
        if horizons:
            more, ends = forward_returns(own, horizons)
            returns[rows] = more[at]
            end[rows] = np.maximum(end[rows], ends[at].max(axis=1))
            valid[rows] &= np.isfinite(more[at]).all(axis=1)
        if barrier is not None:
            reached = triple_barrier(own, barrier)
            touched[rows] = reached.touched[at]
            end[rows] = np.maximum(end[rows], reached.events[at, 1])
            valid[rows] &= reached.valid[at]
    keep = np.flatnonzero(valid & matrix.complete)
    ordered = sorted(sources, key=lambda s: (s.dataset, s.symbol))
    return TrainingSet(
        matrix.rows(keep), direction[keep], forward[keep], end[keep], horizon, universe, tuple(ordered), tuple(horizons),
        returns[keep], touched[keep] if barrier is not None else np.empty(0, np.int8), synthetic,
    )  # fmt: skip


def save(training_set: TrainingSet, path: Path) -> None:
    """Write atomically (temporary file, fsync, rename); a reader sees the old file or the new one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    m = training_set.matrix
    columns: dict[str, object] = {
        "close_time": pa.array(m.close_time).cast(pa.timestamp("us", "UTC")),
        "session": m.session,
        "symbol": pa.array(np.array(m.symbols, object)[m.symbol] if len(m) else [], pa.string()),
        "event_end": pa.array(training_set.event_end).cast(pa.timestamp("us", "UTC")),
        "forward_return": training_set.forward_return,
        "direction": training_set.direction,
    }
    columns.update({f"forward_return_{h}": training_set.returns[:, i] for i, h in enumerate(training_set.horizons)})
    if len(training_set.barrier) == len(m):
        columns["barrier"] = training_set.barrier
    columns.update({f"f_{name}": m.values[:, i] for i, name in enumerate(m.names)})
    header = {
        "format": _FORMAT,
        "names": list(m.names),
        "symbols": list(m.symbols),
        "timeframe": str(m.timeframe),
        "features_version": m.features_version,
        "warm_up": m.warm_up,
        "horizon": training_set.horizon,
        "horizons": list(training_set.horizons),
        "synthetic": training_set.synthetic,
        "universe": training_set.universe,
        "sources": [asdict(source) for source in training_set.sources],
        "content_hash": training_set.content_hash(),
    }
    table = pa.table(columns).replace_schema_metadata({b"tapeline": json.dumps(header, sort_keys=True).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: Path) -> TrainingSet:
    """Inverse of save. Raises DatasetError when the file is missing, unreadable or its content hash does not match."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DatasetError(f"no training set at {path}: materialise training_set first")
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[b"tapeline"])
        symbols = tuple(header["symbols"])
        code = {s: i for i, s in enumerate(symbols)}
        names = tuple(header["names"])
        values = np.empty((table.num_rows, len(names)), np.float32)
        for i, name in enumerate(names):
            values[:, i] = table.column(f"f_{name}").to_numpy()
        matrix = FeatureMatrix(
            names, symbols, Timeframe(header["timeframe"]),
            np.array([code[s] for s in table.column("symbol").to_pylist()], np.int32),
            table.column("close_time").cast(pa.int64()).to_numpy(), table.column("session").to_numpy(),
            values, header["features_version"], header["warm_up"],
        )  # fmt: skip
        horizons = tuple(header["horizons"])
        returns = np.full((table.num_rows, len(horizons)), np.nan)
        for i, h in enumerate(horizons):
            returns[:, i] = table.column(f"forward_return_{h}").to_numpy()
        held = "barrier" in table.column_names
        training_set = TrainingSet(
            matrix, table.column("direction").to_numpy(), table.column("forward_return").to_numpy(),
            table.column("event_end").cast(pa.int64()).to_numpy(), header["horizon"], header["universe"],
            tuple(SourceSpan(**s) for s in header["sources"]), horizons, returns,
            table.column("barrier").to_numpy() if held else np.empty(0, np.int8), header["synthetic"],
        )  # fmt: skip
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{path} is not a training set ({type(error).__name__}: {error}): materialise it again") from error
    if training_set.content_hash() != header["content_hash"]:
        raise DatasetError(f"{path}: content hash does not match its rows: materialise training_set again")
    return training_set
