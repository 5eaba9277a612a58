"""Feature values as Parquet columns: float64, byte planes compressed one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resources.lake.codec import KEY_COMPRESSION, KEY_ENCODING, KEYS, Encoded, Rows, run_hashes, writable
from trading.timeframes import Timeframe


@dataclass(frozen=True, slots=True)
class FeatureCodec:
    """Codec of feature values: float64 columns named by the feature."""

    timeframe: Timeframe

    @property
    def optional(self) -> tuple[str, ...]:
        return ()

    def encode(self, symbol: str, rows: Rows) -> Encoded:
        columns = tuple(name for name in rows if name not in KEYS)
        kind = "x" + hashlib.sha256("\0".join(columns).encode()).hexdigest()[:12]
        return Encoded(kind, (), columns, {name: rows[name] for name in (*KEYS, *columns)})

    def decode(self, columns: Rows, kind: str, meta: tuple[int, ...], names: tuple[str, ...]) -> Rows:
        return {name: columns[name] if name in names else writable(columns[name]) for name in (*KEYS, *names)}

    def hashes(self, symbol: str, rows: Rows, starts: Sequence[int], tag: str) -> list[str]:
        names = [name for name in rows if name not in KEYS]
        columns = [np.ascontiguousarray(rows["close_time"], "<i8"), np.ascontiguousarray(rows["session"], "<i4")]
        columns += [np.ascontiguousarray(rows[name], "<f8") for name in names]
        return run_hashes(f"features:1:{symbol}:{self.timeframe}:{tag}:{','.join(names)}:", columns, starts)

    def writer_options(self, kind: str, columns: tuple[str, ...]) -> dict[str, Any]:
        encoding = dict.fromkeys(columns, "BYTE_STREAM_SPLIT") | KEY_ENCODING
        compression = dict.fromkeys(columns, "lz4") | KEY_COMPRESSION
        return {"column_encoding": encoding, "compression": compression}
