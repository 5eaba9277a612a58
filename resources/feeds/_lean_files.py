"""LEAN's zips of headerless CSV: which members a zip holds, and one member as columns.

A chain's zip holds thousands of members: its directory is read once per change of the file, a member straight from its
offset.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._lean_symbols import LeanSymbol
from resources.feeds.protocol import MalformedData, SourceMissing
from trading.quotes import QUOTE_COLUMNS
from trading.timeframes import US_PER_DAY, session_number

TRADE, QUOTE, OPEN_INTEREST = "trade", "quote", "openinterest"
COLUMNS: dict[str, tuple[str, ...]] = {
    TRADE: ("open", "high", "low", "close", "volume"),
    QUOTE: QUOTE_COLUMNS,
    OPEN_INTEREST: ("open_interest",),
}
_MID_DIGITS = 8
_MS_PER_DAY = 86_400_000
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one member. start: int64 (T,), bar starts as local us since 1970; columns: float64 (T,) by name, prices in
    the quote currency, NaN where the file has nothing; line: 1-based line of each row; where: file and member."""

    start: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    line: NDArray[np.int64]
    where: str


@lru_cache(maxsize=512)
def _directory(path: Path, changed: int) -> dict[str, zipfile.ZipInfo]:
    """Members by lower-case name. changed: the file's mtime, so that a new file is read anew."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename.lower(): info for info in archive.infolist()}


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Members of a zip by lower-case name. Raises SourceMissing, MalformedData."""
    try:
        return _directory(path, path.stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise SourceMissing(f"{path}: no such file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise MalformedData(f"{path}: not a whole zip file ({error}); fetch it again") from error


def member_bytes(path: Path, info: zipfile.ZipInfo) -> bytes:
    """The unpacked content of one member, its checksum verified. Raises MalformedData."""
    try:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            magic, _, flags, method, *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            if magic != b"PK\x03\x04" or flags & _ENCRYPTED:
                raise zipfile.BadZipFile("no plain member at its place")
            file.seek(name_length + extra_length, 1)
            packed = file.read(info.compress_size)
        if method == zipfile.ZIP_STORED:
            data = packed
        elif method == zipfile.ZIP_DEFLATED:
            data = zlib.decompress(packed, -15)
        else:
            raise zipfile.BadZipFile(f"compression method {method}")
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile(f"bad checksum of {info.filename}")
    except FileNotFoundError as error:
        raise SourceMissing(f"{path}: no such file") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError) as error:
        raise MalformedData(f"{path}: not a whole zip file ({error}); fetch it again") from error
    return data


def find_member(path: Path, wanted: Callable[[str], bool], expected: str) -> zipfile.ZipInfo:
    """The one member `wanted` accepts. Raises MalformedData when there is none or more than one."""
    held = members(path)
    found = [info for name, info in held.items() if wanted(name)]
    if len(found) != 1:
        shown = list(held)[:8]
        raise MalformedData(f"{path}: holds {shown}{'...' if len(held) > 8 else ''}, expected one member {expected}")
    return found[0]


def read_day(path: Path, symbol: LeanSymbol, day: date, what: str = TRADE) -> Table | None:
    """Rows of the minute file of `day`; of a contract None when the zip has no member of it.

    A zip may hold other days as well; they are not this day's. Raises MalformedData naming file, member and line.
    """
    stamp = day.strftime("%Y%m%d")
    end = symbol.member_end
    if end:
        named = [info for name, info in members(path).items() if name.startswith(f"{stamp}_") and name.endswith(end)]
        if not named:
            return None
        if len(named) > 1:
            raise MalformedData(f"{path}: two members of {symbol}: {[i.filename for i in named]}")
        info = named[0]
    else:
        info = find_member(path, lambda name: name.startswith(f"{stamp}_"), f"{stamp}_*.csv")
    table, where = _csv(path, info, COLUMNS[what], "int64")
    ms = table.column("time").to_numpy()
    wrong = np.flatnonzero((ms < 0) | (ms >= _MS_PER_DAY))
    if len(wrong):
        raise MalformedData(f"{where} line {int(wrong[0]) + 1}: time {int(ms[wrong[0]])}, expected ms since midnight")
    _check_ascending(where, ms)
    return _table(session_number(day) * US_PER_DAY + ms * 1000, table, symbol, what, where)


def read_long(path: Path, symbol: LeanSymbol, what: str = TRADE) -> Table | None:
    """Rows of an hour or daily file; of a contract None when the zip has no member of it. Raises MalformedData."""
    return _long(path, symbol, what, path.stat().st_mtime_ns)


@lru_cache(maxsize=128)
def _long(path: Path, symbol: LeanSymbol, what: str, changed: int) -> Table | None:
    import pyarrow.compute as pc

    if symbol.member_end:
        named = [info for name, info in members(path).items() if name.endswith(symbol.member_end)]
        if not named:
            return None
        info = named[0]
    else:
        info = find_member(path, lambda name: name == f"{symbol.ticker}.csv", f"{symbol.ticker}.csv")
    table, where = _csv(path, info, COLUMNS[what], "string")
    text = table.column("time")
    stamps = pc.strptime(text, format="%Y%m%d %H:%M", unit="us", error_is_null=True)
    if stamps.null_count:
        i = int(np.flatnonzero(stamps.is_null().to_numpy())[0])
        raise MalformedData(f"{where} line {i + 1}: time {text[i].as_py()!r}, expected YYYYMMDD HH:MM")
    local = stamps.to_numpy().astype("datetime64[us]").astype(np.int64)
    _check_ascending(where, local)
    return _table(local, table, symbol, what, where)


def bars_of(table: Table, symbol: LeanSymbol) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """(rows that have a price, [open, high, low, close, volume] of all rows) of a trade or, for forex, a quote table."""
    if not symbol.quotes:
        return np.ones(len(table.start), bool), [table.columns[c] for c in COLUMNS[TRADE]]
    # One-sided quotes have no mid; such a minute has no bar.
    mids = [np.round((table.columns[f"bid_{c}"] + table.columns[f"ask_{c}"]) / 2, _MID_DIGITS) for c in COLUMNS[TRADE][:4]]
    return np.logical_and.reduce([np.isfinite(m) for m in mids]), [*mids, np.zeros(len(table.start))]


def _csv(path: Path, info: zipfile.ZipInfo, names: tuple[str, ...], time_type: str) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow import csv

    where = f"{path}#{info.filename}"
    data = member_bytes(path, info)
    if not data.strip():
        raise MalformedData(f"{where}: empty, expected lines of {', '.join(('time', *names))}")
    types = dict.fromkeys(names, "double") | {"time": time_type}
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(column_names=["time", *names], use_threads=False),
            convert_options=csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
            parse_options=csv.ParseOptions(ignore_empty_lines=False),
        ).combine_chunks()
    except pa.ArrowException as error:
        raise MalformedData(f"{where}: {error}; expected {', '.join(('time', *names))}") from error
    if table.column("time").null_count:
        row = int(np.flatnonzero(table.column("time").is_null().to_numpy())[0])
        raise MalformedData(f"{where} line {row + 1}: no time")
    return table, where


def _table(start: NDArray[np.int64], table: Any, symbol: LeanSymbol, what: str, where: str) -> Table:
    columns = {name: table.column(name).to_numpy().astype(np.float64) for name in COLUMNS[what]}
    for name in columns:
        if symbol.scale != 1.0 and name not in ("volume", "bid_size", "ask_size", "open_interest"):
            columns[name] = columns[name] / symbol.scale
    if what == TRADE:
        bad = ~np.logical_and.reduce([np.isfinite(v) for v in columns.values()])
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise MalformedData(f"{where} line {row + 1}: a value is missing, expected {', '.join(COLUMNS[TRADE])}")
    return Table(start, columns, np.arange(1, len(start) + 1), where)


def _check_ascending(where: str, stamps: NDArray[np.int64]) -> None:
    back = np.flatnonzero(np.diff(stamps) <= 0)
    if len(back):
        raise MalformedData(f"{where} line {int(back[0]) + 2}: not later than the line before")
