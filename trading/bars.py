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
OPTIONAL_COLUMNS: Final = ("turnover", "trades")
TURNOVER_QUANTUM: Final = 2.0**-10
"""Grid of turnover: about a tenth of a cent, exact in float64 up to 8.7e12 of quote currency."""


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """T bars of `symbol` in `timeframe`, ascending and unique by close_time.

    close_time: int64 (T,), UTC microseconds, the moment the bar is known.
    session: int32 (T,), session number (days since 1970-01-01) the bar belongs to.
    open, high, low, close: float64 (T,), raw prices in the instrument's currency.
    volume: float64 (T,), as the vendor counts it; 0 where the instrument has none.
    turnover: float64 (T,), sum of price x volume of the bar's trades in quote currency, or None when the source does not
    say; a whole number of TURNOVER_QUANTUM, so that sums of it are exact in any order.
    trades: float64 (T,), whole number of trades, or None when the source does not say.
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
    turnover: NDArray[np.float64] | None = None
    trades: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        n = len(self.close_time)
        for name in ("session", *PRICE_COLUMNS, "volume", *self.extras):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{self.symbol} {self.timeframe}: {name} has {len(getattr(self, name))} rows, expected {n}")

    def __len__(self) -> int:
        return len(self.close_time)

    @property
    def extras(self) -> tuple[str, ...]:
        """The optional columns these bars have."""
        return tuple(name for name in OPTIONAL_COLUMNS if getattr(self, name) is not None)

    @property
    def vwap(self) -> NDArray[np.float64]:
        """Volume-weighted average price, float64 (T,); NaN where it is not known or nothing was traded."""
        out = np.full(len(self), np.nan)
        if self.turnover is not None:
            np.divide(self.turnover, self.volume, out=out, where=self.volume > 0)
        return out

    def rows(self, index: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Bars:
        """The same bars at `index` (slice, mask or positions)."""
        return Bars(
            self.symbol, self.timeframe, self.close_time[index], self.session[index],
            self.open[index], self.high[index], self.low[index], self.close[index], self.volume[index],
            **{name: getattr(self, name)[index] for name in self.extras},
        )  # fmt: skip

    def known_at(self, time_us: int) -> Bars:
        """Bars with close_time <= `time_us`: what someone who asks at that time may see."""
        return self.rows(slice(0, int(np.searchsorted(self.close_time, time_us, side="right"))))

    def content_hash(self) -> str:
        """SHA-256 over symbol, timeframe and every value, little-endian: equal bars, equal hash, on any machine."""
        # Bars without optional columns keep the first form of the hash: decisions taken on them refer to it.
        form = "1" if not self.extras else "2:" + ",".join(self.extras)
        digest = hashlib.sha256(f"bars:{form}:{self.symbol}:{self.timeframe}:{len(self)}".encode())
        digest.update(np.ascontiguousarray(self.close_time, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.session, "<i4").tobytes())
        for name in (*PRICE_COLUMNS, "volume", *self.extras):
            digest.update(np.ascontiguousarray(getattr(self, name), "<f8").tobytes())
        return digest.hexdigest()

    @staticmethod
    def empty(symbol: str, timeframe: Timeframe) -> Bars:
        f = np.empty(0, np.float64)
        return Bars(symbol, timeframe, np.empty(0, np.int64), np.empty(0, np.int32), f, f, f, f, f)


def quantise_turnover(turnover: NDArray[np.float64]) -> NDArray[np.float64]:
    """`turnover` (price x volume, quote currency) on the grid of TURNOVER_QUANTUM, halves to even; NaN stays NaN."""
    return np.asarray(np.rint(np.asarray(turnover, np.float64) / TURNOVER_QUANTUM) * TURNOVER_QUANTUM, np.float64)


def concat(parts: list[Bars]) -> Bars:
    """Bars of one symbol and timeframe joined in order of close_time. Raises ValueError on overlap or mixed parts."""
    if not parts:
        raise ValueError("nothing to join")
    first = parts[0]
    if any(p.symbol != first.symbol or p.timeframe != first.timeframe for p in parts):
        raise ValueError("cannot join bars of different symbols or timeframes")
    parts = sorted((p for p in parts if len(p)), key=lambda p: int(p.close_time[0])) or [first]
    # A part that lacks an optional column makes it unknown for the whole: nothing is filled in.
    extras = [n for n in OPTIONAL_COLUMNS if all(getattr(p, n) is not None for p in parts)]
    names = ("close_time", "session", *PRICE_COLUMNS, "volume", *extras)
    columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
    if len(columns["close_time"]) > 1 and not bool(np.all(np.diff(columns["close_time"]) > 0)):
        raise ValueError(f"{first.symbol} {first.timeframe}: parts overlap in close_time")
    return Bars(first.symbol, first.timeframe, **columns)
