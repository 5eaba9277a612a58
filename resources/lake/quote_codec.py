"""Quote bars as Parquet columns: each side as bars are, a side nobody quoted as one mark in its open and its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.lake.codec import KEY_COMPRESSION, KEY_ENCODING, KEYS, Encoded, Rows, grids, run_hashes, ticks_of, whole, writable
from resources.lake.ticks import MISSING, from_ticks
from trading.instruments import Instrument
from trading.quotes import QUOTE_COLUMNS
from trading.timeframes import Timeframe

_SIDES = ("bid", "ask")
_PRICES = ("open", "high", "low", "close")
_TICKS = ("open", "high_above", "low_below", "close")


@dataclass(frozen=True, slots=True)
class QuoteCodec:
    """Codec of quote bars; kind: letters of bid prices, ask prices, bid size, ask size (i, l, f as for bars)."""

    timeframe: Timeframe
    instruments: dict[str, Instrument]

    @property
    def optional(self) -> tuple[str, ...]:
        return ()

    def encode(self, symbol: str, rows: Rows) -> Encoded:
        arrays = {name: rows[name] for name in KEYS}
        tried = grids(symbol, self.instruments)
        kind = ""
        meta: list[int] = []
        for side in _SIDES:
            letter, grid, columns = _encode_side([rows[f"{side}_{p}"] for p in _PRICES], tried)
            kind += letter
            meta += grid
            arrays.update({f"{side}_{name}": column for name, column in columns.items()})
        for side in _SIDES:
            letter, arrays[f"{side}_size"] = _encode_size(rows[f"{side}_size"])
            kind += letter
        return Encoded(kind, tuple(meta), (), arrays)

    def decode(self, columns: Rows, kind: str, meta: tuple[int, ...], names: tuple[str, ...]) -> Rows:
        rows: Rows = {name: writable(columns[name]) for name in KEYS}
        for i, side in enumerate(_SIDES):
            if kind[i] == "f":
                rows.update({f"{side}_{p}": writable(columns[f"{side}_{p}"]) for p in _PRICES})
            else:
                step, digits = meta[2 * i : 2 * i + 2]
                prices = np.empty((4, len(rows["session"])), np.float64)
                from_ticks(*(columns[f"{side}_{t}"] for t in _TICKS), step, 10.0**digits, prices)  # type: ignore[call-arg]
                prices[:, columns[f"{side}_open"] == MISSING] = np.nan
                rows.update({f"{side}_{p}": values for p, values in zip(_PRICES, prices, strict=True)})
            sizes = columns[f"{side}_size"]
            values = sizes.astype(np.float64)
            if kind[2 + i] != "f":
                values[sizes == MISSING] = np.nan
            rows[f"{side}_size"] = values
        return {name: rows[name] for name in (*KEYS, *QUOTE_COLUMNS)}

    def hashes(self, symbol: str, rows: Rows, starts: Sequence[int], tag: str) -> list[str]:
        """Equal to trading.quotes.QuoteBars.content_hash of each run; `rows` hold one bit pattern of NaN only."""
        columns = [np.ascontiguousarray(rows["close_time"], "<i8"), np.ascontiguousarray(rows["session"], "<i4")]
        columns += [np.ascontiguousarray(rows[name], "<f8") for name in QUOTE_COLUMNS]
        return run_hashes(f"quotes:1:{symbol}:{self.timeframe}:", columns, starts)

    def writer_options(self, kind: str, columns: tuple[str, ...]) -> dict[str, Any]:
        encoding, compression = dict(KEY_ENCODING), dict(KEY_COMPRESSION)
        for i, side in enumerate(_SIDES):
            ticks = kind[i] != "f"
            for name in _TICKS if ticks else _PRICES:
                encoding[f"{side}_{name}"] = "DELTA_BINARY_PACKED" if ticks else "BYTE_STREAM_SPLIT"
                compression[f"{side}_{name}"] = "lz4" if ticks else "zstd"
            encoding[f"{side}_size"] = "BYTE_STREAM_SPLIT"
            compression[f"{side}_size"] = "lz4"
        return {"column_encoding": encoding, "compression": compression}


def canonical(values: NDArray[Any]) -> NDArray[np.float64]:
    """float64 with one bit pattern for every NaN: all of them say that there is no quote."""
    out = np.array(values, np.float64)
    out[np.isnan(out)] = np.nan
    return out


def _encode_side(
    prices: list[NDArray[np.float64]], tried: Sequence[tuple[int, int]]
) -> tuple[str, tuple[int, int], dict[str, NDArray[Any]]]:
    prices = [np.ascontiguousarray(p, np.float64) for p in prices]
    gone = np.isnan(prices[0])
    if all(np.array_equal(gone, np.isnan(p)) for p in prices[1:]):
        filled = [np.where(gone, 0.0, p) for p in prices] if gone.any() else prices
        found = ticks_of(filled, tried)
        if found is not None:
            letter, grid, ticks = found
            if not (ticks[0] == MISSING).any():
                ticks[0][gone] = MISSING
                return letter, grid, dict(zip(_TICKS, ticks, strict=True))
    return "f", (0, 0), dict(zip(_PRICES, prices, strict=True))


def _encode_size(values: NDArray[np.float64]) -> tuple[str, NDArray[Any]]:
    values = np.ascontiguousarray(values, np.float64)
    gone = np.isnan(values)
    letter, stored = whole(np.where(gone, 0.0, values))
    if letter == "f" or bool((stored == MISSING).any()):
        return "f", values
    stored[gone] = MISSING
    return letter, stored
