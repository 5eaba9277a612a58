"""How rows become Parquet columns and back, bit for bit.

Bars whose prices lie on a decimal grid are stored as whole ticks: ``open`` and ``close`` as such, ``high`` and ``low``
as their distance from the body (``high_above = high - max(open, close)``, ``low_below = min(open, close) - low``),
which halves their bits. What no grid holds exactly is stored as float64. price = ticks * step / 10**digits, one
correctly rounded division, so the decimal the vendor wrote gives the same float again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resources.lake.ticks import from_ticks, to_ticks
from trading.instruments import Instrument
from trading.timeframes import Timeframe

Rows = dict[str, NDArray[Any]]
"""Columns by name, all of one length: close_time (int64, UTC us), session (int32) and the values."""

BAR_VALUES = ("open", "high", "low", "close", "volume")
_FALLBACK_DIGITS = (2, 4, 6, 8)
_INT32_MAX = 2**31 - 1
_TICK_COLUMNS = ("open", "high_above", "low_below", "close")
_VOLUME_TYPES: dict[str, type] = {"i": np.int32, "l": np.int64, "f": np.float64}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as they are stored. kind: layout; meta: numbers needed to decode; columns: value columns where they vary."""

    kind: str
    meta: tuple[int, ...]
    columns: tuple[str, ...]
    arrays: dict[str, NDArray[Any]]


class Codec(Protocol):
    """One way of storing the rows of a dataset."""

    def encode(self, symbol: str, rows: Rows) -> Encoded: ...

    def decode(self, table: pa.Table, kind: str, meta: tuple[int, ...], columns: tuple[str, ...]) -> Rows: ...

    def hashes(self, symbol: str, rows: Rows, starts: Sequence[int], tag: str) -> list[str]:
        """Content hash of each run rows[starts[i]:starts[i+1]]."""
        ...

    def writer_options(self, kind: str, columns: tuple[str, ...]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class BarCodec:
    """Codec of bars of `timeframe`; `instruments` give the first grid to try for each symbol."""

    timeframe: Timeframe
    instruments: dict[str, Instrument]

    def encode(self, symbol: str, rows: Rows) -> Encoded:
        arrays: dict[str, NDArray[Any]] = {"close_time": rows["close_time"], "session": rows["session"]}
        volume = _whole(rows["volume"])
        prices = [np.ascontiguousarray(rows[name], np.float64) for name in BAR_VALUES[:4]]
        ticks = np.empty((4, len(prices[0])), np.int64)
        kind = "f"
        meta: tuple[int, ...] = ()
        for step, digits in self._grids(symbol):
            widest = int(to_ticks(*prices, step, 10.0**digits, ticks))  # type: ignore[call-arg]
            if widest >= 0:
                kind, meta = ("i" if widest <= _INT32_MAX else "l"), (step, digits)
                break
        if kind == "f":
            arrays.update(zip(BAR_VALUES[:4], prices, strict=True))
        else:
            dtype = np.int32 if kind == "i" else np.int64
            arrays.update(zip(_TICK_COLUMNS, (row.astype(dtype) for row in ticks), strict=True))
        arrays["volume"] = rows["volume"].astype(_VOLUME_TYPES[volume])
        return Encoded(kind + volume, meta, (), arrays)

    def _grids(self, symbol: str) -> list[tuple[int, int]]:
        grids = []
        if symbol in self.instruments:
            _, digits, exponent = self.instruments[symbol].tick_size.normalize().as_tuple()
            step = int("".join(map(str, digits)))
            exponent = int(exponent)
            grids.append((step * 10 ** max(0, exponent), max(0, -exponent)))
        return grids + [(1, d) for d in _FALLBACK_DIGITS if (1, d) not in grids]

    def decode(self, table: pa.Table, kind: str, meta: tuple[int, ...], columns: tuple[str, ...]) -> Rows:
        get = {name: _numpy(table.column(name)) for name in table.column_names}
        rows: Rows = {"close_time": get["close_time"], "session": get["session"]}
        if kind[0] == "f":
            rows.update({name: get[name] for name in BAR_VALUES[:4]})
        else:
            step, digits = meta
            prices = np.empty((4, len(table)), np.float64)
            from_ticks(*(get[name] for name in _TICK_COLUMNS), step, 10.0**digits, prices)  # type: ignore[call-arg]
            rows.update(zip(BAR_VALUES[:4], prices, strict=True))
        rows["volume"] = get["volume"].astype(np.float64)
        return rows

    def hashes(self, symbol: str, rows: Rows, starts: Sequence[int], tag: str) -> list[str]:
        """Equal to trading.bars.Bars.content_hash of each run."""
        columns = [np.ascontiguousarray(rows["close_time"], "<i8"), np.ascontiguousarray(rows["session"], "<i4")]
        columns += [np.ascontiguousarray(rows[name], "<f8") for name in BAR_VALUES]
        return run_hashes(f"bars:1:{symbol}:{self.timeframe}:", columns, starts)

    def writer_options(self, kind: str, columns: tuple[str, ...]) -> dict[str, Any]:
        off_grid = kind[0] == "f"
        encoding = {"close_time": "DELTA_BINARY_PACKED", "session": "DELTA_BINARY_PACKED", "volume": "BYTE_STREAM_SPLIT"}
        compression = {"close_time": "lz4", "session": "lz4", "volume": "lz4", "symbol": "none"}
        for name in BAR_VALUES[:4] if off_grid else _TICK_COLUMNS:
            encoding[name] = "BYTE_STREAM_SPLIT" if off_grid else "DELTA_BINARY_PACKED"
            compression[name] = "zstd" if off_grid else "none"
        return {"column_encoding": encoding, "compression": compression}


@dataclass(frozen=True, slots=True)
class FeatureCodec:
    """Codec of feature values: float64 columns named by the feature."""

    timeframe: Timeframe

    def encode(self, symbol: str, rows: Rows) -> Encoded:
        columns = tuple(name for name in rows if name not in ("close_time", "session"))
        kind = "x" + hashlib.sha256("\0".join(columns).encode()).hexdigest()[:12]
        return Encoded(kind, (), columns, {name: rows[name] for name in ("close_time", "session", *columns)})

    def decode(self, table: pa.Table, kind: str, meta: tuple[int, ...], columns: tuple[str, ...]) -> Rows:
        return {name: _numpy(table.column(name)) for name in ("close_time", "session", *columns)}

    def hashes(self, symbol: str, rows: Rows, starts: Sequence[int], tag: str) -> list[str]:
        names = [name for name in rows if name not in ("close_time", "session")]
        columns = [np.ascontiguousarray(rows["close_time"], "<i8"), np.ascontiguousarray(rows["session"], "<i4")]
        columns += [np.ascontiguousarray(rows[name], "<f8") for name in names]
        return run_hashes(f"features:1:{symbol}:{self.timeframe}:{tag}:{','.join(names)}:", columns, starts)

    def writer_options(self, kind: str, columns: tuple[str, ...]) -> dict[str, Any]:
        encoding = dict.fromkeys(columns, "BYTE_STREAM_SPLIT")
        compression = dict.fromkeys(columns, "zstd")
        encoding |= {"close_time": "DELTA_BINARY_PACKED", "session": "DELTA_BINARY_PACKED"}
        compression |= {"close_time": "lz4", "session": "lz4", "symbol": "none"}
        return {"column_encoding": encoding, "compression": compression}


def run_hashes(prefix: str, columns: list[NDArray[Any]], starts: Sequence[int]) -> list[str]:
    """SHA-256 hex digest of ``prefix + row count`` and the columns' bytes, one per run of rows."""
    counts = np.diff(starts)
    if len(counts) and counts.min() == counts.max() == 1:
        # One row a session (daily bars): the bytes of all columns of a row side by side, one digest call per row.
        packed = np.empty(len(columns[0]), np.dtype([(str(i), c.dtype) for i, c in enumerate(columns)]))
        for i, column in enumerate(columns):
            packed[str(i)] = column
        head, raw, width = hashlib.sha256(f"{prefix}1".encode()), packed.tobytes(), packed.dtype.itemsize
        out = []
        for i in range(starts[0], starts[-1]):
            digest = head.copy()
            digest.update(raw[i * width : (i + 1) * width])
            out.append(digest.hexdigest())
        return out
    out = []
    for a, b in pairwise(starts):
        digest = hashlib.sha256(f"{prefix}{b - a}".encode())
        for column in columns:
            digest.update(column[a:b].data)
        out.append(digest.hexdigest())
    return out


def _whole(volume: NDArray[np.float64]) -> str:
    """The narrowest of int32 (i), int64 (l) and float64 (f) that holds `volume` exactly."""
    for code in "il":
        with np.errstate(invalid="ignore"):
            whole: NDArray[Any] = volume.astype(_VOLUME_TYPES[code])
        if _same_bits(whole.astype(np.float64), volume):
            return code
    return "f"


def _same_bits(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Equal as bit patterns: -0.0 is not 0.0, and a NaN equals itself."""
    return bool(np.array_equal(np.ascontiguousarray(a).view(np.int64), np.ascontiguousarray(b, np.float64).view(np.int64)))


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    out: NDArray[Any] = column.to_numpy()
    return out if out.flags.writeable else out.copy()
