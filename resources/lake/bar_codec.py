"""Bars as Parquet columns.

Prices that lie on a decimal grid are stored as whole ticks: ``open`` and ``close`` as such, ``high`` and ``low`` as their
distance from the body (``high_above = high - max(open, close)``, ``low_below = min(open, close) - low``), which halves
their bits. What no grid holds exactly is stored as float64. price = ticks * step / 10**digits, one correctly rounded
division, so the decimal the vendor wrote gives the same float again. Turnover is stored in its quanta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resources.lake.codec import (
    KEY_COMPRESSION,
    KEY_ENCODING,
    TICK_TYPES,
    Encoded,
    Rows,
    grids,
    run_hashes,
    ticks_of,
    whole,
    writable,
)
from resources.lake.ticks import from_ticks
from trading.bars import OPTIONAL_COLUMNS, PRICE_COLUMNS, TURNOVER_QUANTUM
from trading.instruments import Instrument
from trading.timeframes import Timeframe

BAR_VALUES = (*PRICE_COLUMNS, "volume")
_TICK_COLUMNS = ("open", "high_above", "low_below", "close")
_SCALES = {"turnover": 1.0 / TURNOVER_QUANTUM, "trades": 1.0}


@dataclass(frozen=True, slots=True)
class BarCodec:
    """Codec of bars of `timeframe`; `instruments` give the first grid to try for each symbol.

    kind: a letter each for prices, volume and the optional columns there are: i int32, l int64, f float64.
    """

    timeframe: Timeframe
    instruments: dict[str, Instrument]

    @property
    def optional(self) -> tuple[str, ...]:
        return OPTIONAL_COLUMNS

    def encode(self, symbol: str, rows: Rows) -> Encoded:
        arrays = {"close_time": rows["close_time"], "session": rows["session"]}
        prices = [np.ascontiguousarray(rows[name], np.float64) for name in PRICE_COLUMNS]
        found = ticks_of(prices, grids(symbol, self.instruments))
        if found is None:
            kind, meta = "f", ()
            arrays.update(zip(PRICE_COLUMNS, prices, strict=True))
        else:
            kind, meta, ticks = found  # type: ignore[assignment]
            arrays.update(zip(_TICK_COLUMNS, ticks, strict=True))
        letter, arrays["volume"] = whole(rows["volume"])
        kind += letter
        extras = tuple(name for name in OPTIONAL_COLUMNS if name in rows)
        for name in extras:
            letter, arrays[name] = whole(rows[name], _SCALES[name])
            kind += letter
        return Encoded(kind, meta, extras, arrays)

    def decode(self, columns: Rows, kind: str, meta: tuple[int, ...], names: tuple[str, ...]) -> Rows:
        rows: Rows = {"close_time": writable(columns["close_time"]), "session": writable(columns["session"])}
        if kind[0] == "f":
            rows.update({name: writable(columns[name]) for name in PRICE_COLUMNS})
        else:
            step, digits = meta
            prices = np.empty((4, len(rows["session"])), np.float64)
            from_ticks(*(columns[name] for name in _TICK_COLUMNS), step, 10.0**digits, prices)  # type: ignore[call-arg]
            rows.update(zip(PRICE_COLUMNS, prices, strict=True))
        rows["volume"] = columns["volume"].astype(np.float64)
        for letter, name in zip(kind[2:], names, strict=True):
            values = columns[name].astype(np.float64)
            rows[name] = values if letter == "f" or _SCALES[name] == 1.0 else values / _SCALES[name]
        return rows

    def hashes(self, symbol: str, rows: Rows, starts: Sequence[int], tag: str) -> list[str]:
        """Equal to trading.bars.Bars.content_hash of each run."""
        extras = [name for name in OPTIONAL_COLUMNS if name in rows]
        form = "1" if not extras else "2:" + ",".join(extras)
        columns = [np.ascontiguousarray(rows["close_time"], "<i8"), np.ascontiguousarray(rows["session"], "<i4")]
        columns += [np.ascontiguousarray(rows[name], "<f8") for name in (*BAR_VALUES, *extras)]
        return run_hashes(f"bars:{form}:{symbol}:{self.timeframe}:", columns, starts)

    def writer_options(self, kind: str, columns: tuple[str, ...]) -> dict[str, Any]:
        ticks = kind[0] in TICK_TYPES
        encoding, compression = dict(KEY_ENCODING), dict(KEY_COMPRESSION)
        for name in _TICK_COLUMNS if ticks else PRICE_COLUMNS:
            encoding[name] = "DELTA_BINARY_PACKED" if ticks else "BYTE_STREAM_SPLIT"
            compression[name] = "none" if ticks else "zstd"
        for letter, name in zip(kind[1:], ("volume", *columns), strict=True):
            encoding[name] = "BYTE_STREAM_SPLIT"
            compression[name] = "zstd" if letter == "f" else "lz4"
        return {"column_encoding": encoding, "compression": compression}
