"""Feature matrices: what a model sees, one row per bar close of one instrument.

A row at close_time t holds only what was known at t. Rows with a missing value (warm-up, gaps) stay in the matrix as
NaN; `complete` says which rows a model may be trained on or asked about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading import ids
from trading.timeframes import Timeframe


class MatrixError(ValueError):
    """Feature parts that cannot be one matrix. The message names the symbol and what differs."""


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePart:
    """Features of one instrument: close_time int64 (T,) UTC us ascending, session int32 (T,), values (T, F)."""

    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    values: NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class FeatureMatrix:
    """T rows of F features over several instruments, ordered by (close_time, symbol).

    symbol: int32 (T,), index into symbols. close_time: int64 (T,), UTC us. session: int32 (T,). values: float32 (T, F).
    features_version: hash of the features' definition. warm_up: bars an instrument needs before its rows are complete.
    """

    names: tuple[str, ...]
    symbols: tuple[str, ...]
    timeframe: Timeframe
    symbol: NDArray[np.int32]
    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    values: NDArray[np.float32]
    features_version: str
    warm_up: int

    def __post_init__(self) -> None:
        n = len(self.close_time)
        if self.values.shape != (n, len(self.names)):
            raise MatrixError(f"values have shape {self.values.shape}, expected ({n}, {len(self.names)})")
        if len(self.symbol) != n or len(self.session) != n:
            raise MatrixError(f"symbol and session have {len(self.symbol)} and {len(self.session)} rows, expected {n}")

    def __len__(self) -> int:
        return len(self.close_time)

    @property
    def schema_hash(self) -> str:
        """Hash of what the columns are: names in order, definition, timeframe. A model fits only its own schema."""
        return ids.content_hash([list(self.names), self.features_version, str(self.timeframe)])

    @property
    def complete(self) -> NDArray[np.bool_]:
        """bool (T,): every feature of the row is a finite number."""
        return np.asarray(np.isfinite(self.values).all(axis=1), np.bool_)

    def rows(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> FeatureMatrix:
        """The same matrix at `index` (mask or ascending positions)."""
        return FeatureMatrix(
            self.names, self.symbols, self.timeframe, self.symbol[index], self.close_time[index], self.session[index],
            self.values[index], self.features_version, self.warm_up,
        )  # fmt: skip

    def content_hash(self) -> str:
        """SHA-256 over schema, symbols and every value: equal matrices, equal hash, on any machine."""
        digest = hashlib.sha256(f"matrix:1:{self.schema_hash}:{','.join(self.symbols)}:{len(self)}".encode())
        digest.update(np.ascontiguousarray(self.symbol, "<i4").tobytes())
        digest.update(np.ascontiguousarray(self.close_time, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.session, "<i4").tobytes())
        values = np.ascontiguousarray(self.values, "<f4")
        digest.update(np.where(np.isnan(values), np.float32(np.nan), values).tobytes())  # one NaN, not 2**23 of them
        return digest.hexdigest()


def assemble(
    parts: Mapping[str, FeaturePart], names: Sequence[str], timeframe: Timeframe, features_version: str, warm_up: int
) -> FeatureMatrix:
    """One matrix of all instruments' features, ordered by (close_time, symbol).

    The order of `parts` does not matter. Raises MatrixError when a part has another width or unordered times.
    """
    symbols = tuple(sorted(parts))
    for symbol in symbols:
        part = parts[symbol]
        if part.values.ndim != 2 or part.values.shape != (len(part.close_time), len(names)):
            raise MatrixError(
                f"{symbol}: features have shape {part.values.shape}, expected ({len(part.close_time)}, {len(names)})"
            )
        if len(part.close_time) > 1 and not bool(np.all(np.diff(part.close_time) > 0)):
            raise MatrixError(f"{symbol}: close times are not ascending and unique")
    if not symbols:
        return FeatureMatrix(
            tuple(names), (), timeframe, np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int32),
            np.empty((0, len(names)), np.float32), features_version, warm_up,
        )  # fmt: skip
    code = np.concatenate([np.full(len(parts[s].close_time), i, np.int32) for i, s in enumerate(symbols)])
    time = np.concatenate([parts[s].close_time for s in symbols])
    session = np.concatenate([parts[s].session for s in symbols]).astype(np.int32)
    values = np.concatenate([np.asarray(parts[s].values, np.float32) for s in symbols])
    order = np.lexsort((code, time))
    return FeatureMatrix(
        tuple(names), symbols, timeframe, code[order], time[order], session[order], values[order], features_version, warm_up
    )
