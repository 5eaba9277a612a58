"""How rows become Parquet columns and back, bit for bit: what every codec is, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resources.lake.digest import run_digests
from resources.lake.ticks import to_narrow_ticks, to_ticks, to_whole
from trading.instruments import Instrument

Rows = dict[str, NDArray[Any]]
"""Columns by name, all of one length: close_time (int64, UTC us), session (int32) and the values."""

KEYS = ("close_time", "session")
KEY_ENCODING = {"close_time": "DELTA_BINARY_PACKED", "session": "PLAIN"}
KEY_COMPRESSION = {"close_time": "lz4", "session": "lz4", "symbol": "none"}
"""A session repeats for hundreds of rows: packed as it is it costs less to write than its differences or byte planes, and no
more room."""
_FALLBACK_DIGITS = (2, 4, 6, 8)
TICK_TYPES: dict[str, type] = {"i": np.int32, "l": np.int64}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows as they are stored. kind: layout; meta: numbers needed to decode; columns: value columns where they vary."""

    kind: str
    meta: tuple[int, ...]
    columns: tuple[str, ...]
    arrays: dict[str, NDArray[Any]]


class Codec(Protocol):
    """One way of storing the rows of a dataset. optional: value columns a session may have or not."""

    @property
    def optional(self) -> tuple[str, ...]: ...

    def encode(self, symbol: str, rows: Rows) -> Encoded: ...

    def decode(self, columns: Rows, kind: str, meta: tuple[int, ...], names: tuple[str, ...]) -> Rows:
        """Rows of stored `columns`; `names` as Encoded.columns."""
        ...

    def hashes(self, symbol: str, rows: Rows, starts: Sequence[int], tag: str) -> list[str]:
        """Content hash of each run rows[starts[i]:starts[i+1]]."""
        ...

    def writer_options(self, kind: str, columns: tuple[str, ...]) -> dict[str, Any]: ...


def grids(symbol: str, instruments: dict[str, Instrument]) -> Sequence[tuple[int, int]]:
    """(step, digits) of the price grids to try: tick = step / 10**digits, the instrument's own first."""
    return _grids_from(instruments[symbol].tick_size if symbol in instruments else None)


@lru_cache(maxsize=256)
def _grids_from(tick_size: Decimal | None) -> tuple[tuple[int, int], ...]:
    found = []
    if tick_size is not None:
        _, digits, exponent = tick_size.normalize().as_tuple()
        step = int("".join(map(str, digits)))
        exponent = int(exponent)
        found.append((step * 10 ** max(0, exponent), max(0, -exponent)))
    return (*found, *((1, d) for d in _FALLBACK_DIGITS if (1, d) not in found))


def ticks_of(
    prices: Sequence[NDArray[np.float64]], tried: Sequence[tuple[int, int]]
) -> tuple[str, tuple[int, int], NDArray[Any]] | None:
    """(``i`` or ``l``, grid, ticks (4, T)) on the first grid that holds open, high, low, close exactly; None: no grid does."""
    narrow = np.empty((4, len(prices[0])), np.int32)
    for step, digits in tried:
        if to_narrow_ticks(*prices, float(step), 10.0**digits, narrow):  # type: ignore[call-arg]
            return "i", (step, digits), narrow
    wide = np.empty(narrow.shape, np.int64)
    for step, digits in tried:
        if to_ticks(*prices, step, 10.0**digits, wide):  # type: ignore[call-arg]
            return "l", (step, digits), wide
    return None


def whole(values: NDArray[np.float64], scale: float = 1.0) -> tuple[str, NDArray[Any]]:
    """`values` x `scale` (a power of two) as the narrowest of int32 (i) and int64 (l), or as they are (f), exactly."""
    values = np.ascontiguousarray(values, np.float64)
    narrow = np.empty(len(values), np.int32)
    if to_whole(values, scale, narrow):  # type: ignore[call-arg]
        return "i", narrow
    with np.errstate(invalid="ignore", over="ignore"):
        wide = (values * scale).astype(np.int64)
        back = wide.astype(np.float64) / scale
    return ("l", wide) if same_bits(back, values) else ("f", values)


def run_hashes(prefix: str, columns: list[NDArray[Any]], starts: Sequence[int]) -> list[str]:
    """SHA-256 hex digest of ``prefix + row count`` and the columns' bytes, one per run of rows."""
    return run_digests(prefix.encode(), columns, starts)


def same_bits(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    """Equal as bit patterns: -0.0 is not 0.0, and a NaN equals itself."""
    return bool(np.array_equal(np.ascontiguousarray(a).view(np.int64), np.ascontiguousarray(b, np.float64).view(np.int64)))


def writable(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.flags.writeable else values.copy()
