"""Quote bars of one instrument and timeframe as arrays: how the best bid and the best ask moved within the bar.

Known only at or after its close_time, like any bar. A side nobody quoted is NaN, never a copy of the other side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trading.timeframes import Timeframe

BID_COLUMNS: Final = ("bid_open", "bid_high", "bid_low", "bid_close", "bid_size")
ASK_COLUMNS: Final = ("ask_open", "ask_high", "ask_low", "ask_close", "ask_size")
QUOTE_COLUMNS: Final = (*BID_COLUMNS, *ASK_COLUMNS)
QUOTE_PRICES: Final = (*BID_COLUMNS[:4], *ASK_COLUMNS[:4])


@dataclass(frozen=True, slots=True, eq=False)
class QuoteBars:
    """T quote bars of `symbol` in `timeframe`, ascending and unique by close_time.

    close_time: int64 (T,), UTC microseconds. session: int32 (T,), session number.
    bid_open .. bid_close, ask_open .. ask_close: float64 (T,), raw prices; NaN: no quote on that side.
    bid_size, ask_size: float64 (T,), size at the best price when the bar closed; NaN where the side has no quote, 0 where
    the source does not say.
    """

    symbol: str
    timeframe: Timeframe
    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    bid_open: NDArray[np.float64]
    bid_high: NDArray[np.float64]
    bid_low: NDArray[np.float64]
    bid_close: NDArray[np.float64]
    bid_size: NDArray[np.float64]
    ask_open: NDArray[np.float64]
    ask_high: NDArray[np.float64]
    ask_low: NDArray[np.float64]
    ask_close: NDArray[np.float64]
    ask_size: NDArray[np.float64]

    def __post_init__(self) -> None:
        n = len(self.close_time)
        for name in ("session", *QUOTE_COLUMNS):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{self.symbol} {self.timeframe}: {name} has {len(getattr(self, name))} rows, expected {n}")

    def __len__(self) -> int:
        return len(self.close_time)

    @property
    def mid(self) -> NDArray[np.float64]:
        """Middle of the closing bid and ask, float64 (T,); NaN when a side is missing: a one-sided quote has no mid."""
        return (self.bid_close + self.ask_close) / 2.0

    @property
    def spread(self) -> NDArray[np.float64]:
        """Closing ask less closing bid, float64 (T,); NaN when a side is missing, negative when the quote is crossed."""
        return self.ask_close - self.bid_close

    @property
    def crossed(self) -> NDArray[np.bool_]:
        """bool (T,): the closing bid is above the closing ask. False when a side is missing."""
        return np.asarray(self.bid_close > self.ask_close, np.bool_)

    def rows(self, index: slice | NDArray[np.bool_] | NDArray[np.int64]) -> QuoteBars:
        """The same quotes at `index` (slice, mask or positions)."""
        columns = {name: getattr(self, name)[index] for name in ("close_time", "session", *QUOTE_COLUMNS)}
        return QuoteBars(self.symbol, self.timeframe, **columns)

    def known_at(self, time_us: int) -> QuoteBars:
        """Quotes with close_time <= `time_us`: what someone who asks at that time may see."""
        return self.rows(slice(0, int(np.searchsorted(self.close_time, time_us, side="right"))))

    def content_hash(self) -> str:
        """SHA-256 over symbol, timeframe and every value, little-endian; every NaN is the same missing quote."""
        digest = hashlib.sha256(f"quotes:1:{self.symbol}:{self.timeframe}:{len(self)}".encode())
        digest.update(np.ascontiguousarray(self.close_time, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.session, "<i4").tobytes())
        for name in QUOTE_COLUMNS:
            values = np.array(getattr(self, name), "<f8")
            values[np.isnan(values)] = np.nan  # one bit pattern
            digest.update(values.tobytes())
        return digest.hexdigest()

    @staticmethod
    def empty(symbol: str, timeframe: Timeframe) -> QuoteBars:
        f = np.empty(0, np.float64)
        return QuoteBars(symbol, timeframe, np.empty(0, np.int64), np.empty(0, np.int32), *(f for _ in QUOTE_COLUMNS))


def concat(parts: list[QuoteBars]) -> QuoteBars:
    """Quotes of one symbol and timeframe joined in order. Raises ValueError on overlap or mixed parts."""
    if not parts:
        raise ValueError("nothing to join")
    first = parts[0]
    if any(p.symbol != first.symbol or p.timeframe != first.timeframe for p in parts):
        raise ValueError("cannot join quotes of different symbols or timeframes")
    parts = sorted((p for p in parts if len(p)), key=lambda p: int(p.close_time[0])) or [first]
    columns = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("close_time", "session", *QUOTE_COLUMNS)}
    if len(columns["close_time"]) > 1 and not bool(np.all(np.diff(columns["close_time"]) > 0)):
        raise ValueError(f"{first.symbol} {first.timeframe}: quotes overlap in close_time")
    return QuoteBars(first.symbol, first.timeframe, **columns)
