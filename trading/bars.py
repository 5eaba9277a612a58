"""Bars of one instrument and timeframe as arrays.

A bar is known only at or after its close_time. Missing bars are missing rows, never filled ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trading.timeframes import Timeframe

PRICE_COLUMNS: Final = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """T bars of `symbol` in `timeframe`, ascending and unique by close_time.

    close_time: int64 (T,), UTC microseconds, the moment the bar is known.
    session: int32 (T,), session number (days since 1970-01-01) the bar belongs to.
    open, high, low, close: float64 (T,), raw prices in the instrument's currency.
    volume: float64 (T,), as the vendor counts it; 0 where the instrument has none.
    """

    symbol: str
    timeframe: Timeframe
    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.close_time)
        for name in ("session", "open", "high", "low", "close", "volume"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{self.symbol} {self.timeframe}: {name} has {len(getattr(self, name))} rows, expected {n}")

    def __len__(self) -> int:
        return len(self.close_time)

    def rows(self, index: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Bars:
        """The same bars at `index` (slice, mask or positions)."""
        return Bars(
            self.symbol, self.timeframe, self.close_time[index], self.session[index],
            self.open[index], self.high[index], self.low[index], self.close[index], self.volume[index],
        )  # fmt: skip

    def known_at(self, time_us: int) -> Bars:
        """Bars with close_time <= `time_us`: what someone who asks at that time may see."""
        return self.rows(slice(0, int(np.searchsorted(self.close_time, time_us, side="right"))))

    def content_hash(self) -> str:
        """SHA-256 over symbol, timeframe and every value, little-endian: equal bars, equal hash, on any machine."""
        digest = hashlib.sha256(f"bars:1:{self.symbol}:{self.timeframe}:{len(self)}".encode())
        digest.update(np.ascontiguousarray(self.close_time, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.session, "<i4").tobytes())
        for name in (*PRICE_COLUMNS, "volume"):
            digest.update(np.ascontiguousarray(getattr(self, name), "<f8").tobytes())
        return digest.hexdigest()

    @staticmethod
    def empty(symbol: str, timeframe: Timeframe) -> Bars:
        f = np.empty(0, np.float64)
        return Bars(symbol, timeframe, np.empty(0, np.int64), np.empty(0, np.int32), f, f, f, f, f)


def concat(parts: list[Bars]) -> Bars:
    """Bars of one symbol and timeframe joined in order of close_time. Raises ValueError on overlap or mixed parts."""
    if not parts:
        raise ValueError("nothing to join")
    first = parts[0]
    if any(p.symbol != first.symbol or p.timeframe != first.timeframe for p in parts):
        raise ValueError("cannot join bars of different symbols or timeframes")
    parts = sorted((p for p in parts if len(p)), key=lambda p: int(p.close_time[0])) or [first]
    columns = [np.concatenate([getattr(p, n) for p in parts]) for n in ("close_time", "session", *PRICE_COLUMNS, "volume")]
    if len(columns[0]) > 1 and not bool(np.all(np.diff(columns[0]) > 0)):
        raise ValueError(f"{first.symbol} {first.timeframe}: parts overlap in close_time")
    return Bars(first.symbol, first.timeframe, *columns)
