"""The LEAN `Data` folder: US equities, forex and crypto, as QuantConnect lays them out.

    equity/usa/minute/aapl/20140606_trade.zip   one zip a day, CSV: ms since local midnight, o, h, l, c, volume
    forex/oanda/minute/eurusd/..._quote.zip     ms, bid o, h, l, c, size, ask o, h, l, c, size
    crypto/coinbase/hour/btcusd_trade.zip       one zip, CSV: YYYYMMDD HH:MM, o, h, l, c, volume

Stamps are bar starts in the market's data time zone. Equity prices are x10000 and unadjusted. Forex bars are the mid of
bid and ask, without volume. Rows outside the instrument's sessions (before the open, after the close) are left out.
A feed symbol is ``class/market/ticker``; a bare ticker of an equity means ``equity/usa``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._base import Columns, FileFeed, LeftOut, columns
from resources.feeds._lean_time import data_zone, local_to_utc
from resources.feeds.protocol import Capabilities, Feed, FeedError, MalformedData, SourceMissing, SymbolNotFound
from resources.settings import Settings
from trading.calendars import Calendar, calendar
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, Timeframe, from_us, session_number

_FOLDERS = {Timeframe.M1: "minute", Timeframe.H1: "hour", Timeframe.D1: "daily"}
_CLASSES = ("equity", "forex", "crypto")
_TRADE = ("open", "high", "low", "close", "volume")
_QUOTE = ("bid_open", "bid_high", "bid_low", "bid_close", "bid_size", "ask_open", "ask_high", "ask_low", "ask_close", "ask_size")
_EQUITY_SCALE = 10_000.0
_MID_DIGITS = 8
_MS_PER_DAY = 86_400_000
_READERS = 4


@dataclass(frozen=True, slots=True)
class LeanSymbol:
    """``equity/usa/aapl`` taken apart."""

    kind: str
    market: str
    ticker: str

    @property
    def quotes(self) -> bool:
        return self.kind == "forex"

    def __str__(self) -> str:
        return f"{self.kind}/{self.market}/{self.ticker}"


class LeanFeed(FileFeed):
    """Bars of a LEAN Data folder: minute, and daily or hour where their bars are whole sessions' or session hours."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self._capabilities = Capabilities("lean", frozenset(_FOLDERS), live=False, history_start=date(1998, 1, 2))
        self._folder = folder

    @property
    def folder(self) -> Path:
        """The Data folder. Raises SourceMissing."""
        if self._folder is None:
            raise SourceMissing("feed lean needs a LEAN Data folder: set TAPELINE_LEAN_DATA to it")
        if not self._folder.is_dir():
            raise SourceMissing(f"{self._folder}: no such folder; set TAPELINE_LEAN_DATA to a LEAN Data folder")
        return self._folder

    def _symbols(self) -> list[str]:
        found: set[str] = set()
        for kind in _CLASSES:
            for market in _children(self.folder / kind):
                for path in _children(market / "minute"):
                    found.add(f"{kind}/{market.name}/{path.name}")
                for name in ("hour", "daily"):
                    for path in _children(market / name):
                        if path.suffix == ".zip":
                            found.add(f"{kind}/{market.name}/{path.stem.removesuffix('_trade').removesuffix('_quote')}")
        return sorted(found)

    def _symbol(self, instrument: Instrument) -> LeanSymbol:
        text = instrument.feed_symbol.lower()
        if "/" not in text and instrument.asset_class is AssetClass.EQUITY:
            text = f"equity/usa/{text}"
        pieces = text.split("/")
        if len(pieces) != 3 or pieces[0] not in _CLASSES or not all(p and p not in (".", "..") for p in pieces):
            raise SymbolNotFound(
                f"feed lean: feed_symbol {instrument.feed_symbol!r} of {instrument.symbol}, expected class/market/ticker "
                f"such as equity/usa/aapl (classes: {', '.join(_CLASSES)})"
            )
        return LeanSymbol(*pieces)

    def _load(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Columns:
        symbol = self._symbol(instrument)
        venue = calendar(instrument.calendar)
        folder = self.folder / symbol.kind / symbol.market / _FOLDERS[timeframe]
        zone = data_zone(self.folder, symbol.kind, symbol.market, symbol.ticker)
        if timeframe is Timeframe.M1:
            return self._minutes(folder / symbol.ticker, symbol, venue, zone, start, end)
        _check_anchor(symbol, timeframe, instrument, venue)
        suffix = "" if symbol.kind == "equity" else ("_quote" if symbol.quotes else "_trade")
        candidates = [folder / f"{symbol.ticker}{suffix}.zip", folder / f"{symbol.ticker}.zip"]
        path = next((p for p in candidates if p.is_file()), None)
        if path is None:
            raise self._unknown_file(symbol, candidates[0])
        stamps, values = _read_long(path, symbol, path.stat().st_mtime_ns)
        if timeframe is Timeframe.H1:
            close_time = local_to_utc(stamps, zone) + US_PER_HOUR
            return _sessions_only(venue, close_time, values)
        number = stamps // US_PER_DAY
        row = np.minimum(np.searchsorted(venue.number, number), len(venue.number) - 1)
        keep = venue.number[row] == number
        self.left_out = [x for x in self.left_out if x.symbol != str(symbol)] + [
            LeftOut(str(symbol), f"{path} line {i + 1}", f"{venue.name} has no session on that day")
            for i in np.flatnonzero(~keep)
        ]
        return columns(venue.close_time[row[keep]], venue.number[row[keep]], *(v[keep] for v in values))

    def _minutes(self, folder: Path, symbol: LeanSymbol, venue: Calendar, zone: str, start: date, end: date) -> Columns:
        if not folder.is_dir():
            raise self._unknown_file(symbol, folder)
        suffix = "_quote.zip" if symbol.quotes else "_trade.zip"
        there = {p.name[:8]: p for p in folder.iterdir() if p.name.endswith(suffix)}
        days = [d for d in _data_days(venue, zone, start, end) if d.strftime("%Y%m%d") in there]

        def one(day: date) -> Columns:
            stamps, values = read_minutes(there[day.strftime("%Y%m%d")], symbol, day)
            return _sessions_only(venue, local_to_utc(stamps, zone) + US_PER_MINUTE, values)

        if len(days) > 8:
            with ThreadPoolExecutor(_READERS) as pool:
                parts = list(pool.map(one, days))
        else:
            parts = [one(day) for day in days]
        if not parts:
            return columns(np.empty(0), np.empty(0), *(np.empty(0) for _ in range(5)))
        joined = [np.concatenate([p[i] for p in parts]) for i in range(7)]
        back = np.flatnonzero(np.diff(joined[0]) <= 0)
        if len(back):
            raise MalformedData(f"{folder}: two files hold the bar closing {from_us(int(joined[0][back[0] + 1]))}")
        return columns(joined[0], joined[1], *joined[2:])

    def _unknown_file(self, symbol: LeanSymbol, path: Path) -> FeedError:
        if str(symbol) in self._symbols():
            return SourceMissing(f"{path}: {symbol} is in this LEAN folder, but not in this resolution")
        return self._unknown(str(symbol))


def _children(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _check_anchor(symbol: LeanSymbol, timeframe: Timeframe, instrument: Instrument, venue: Calendar) -> None:
    """LEAN's hour and daily bars follow the clock and the calendar day; ours follow the session."""
    if timeframe is Timeframe.H1 and np.any(venue.open_time % US_PER_HOUR):
        raise FeedError(
            f"{symbol}: LEAN's hour bars are cut at full hours, the sessions of {venue.name} do not open on one; "
            "take 1m bars and derive 1h"
        )
    if timeframe is Timeframe.D1 and instrument.asset_class is not AssetClass.EQUITY and venue.name != "CRYPTO":
        raise FeedError(
            f"{symbol}: LEAN's daily bars run from midnight to midnight, the sessions of {venue.name} do not; "
            "take 1m or 1h bars and derive 1d"
        )


def _data_days(venue: Calendar, zone: str, start: date, end: date) -> list[date]:
    """Local dates of the data zone on which a bar of the sessions [start, end] can begin."""
    lo = int(np.searchsorted(venue.number, session_number(start), side="left"))
    hi = int(np.searchsorted(venue.number, session_number(end), side="right"))
    days: set[date] = set()
    for i in range(lo, hi):
        day = (datetime.fromtimestamp(int(venue.open_time[i]) / 1e6, UTC) - timedelta(days=1)).date()
        last = (datetime.fromtimestamp(int(venue.close_time[i]) / 1e6, UTC) + timedelta(days=1)).date()
        while day <= last:
            midnight = np.array([session_number(day) * US_PER_DAY], np.int64)
            begin = int(local_to_utc(midnight, zone)[0])
            if begin < int(venue.close_time[i]) and begin + 25 * US_PER_HOUR > int(venue.open_time[i]):
                days.add(day)
            day += timedelta(days=1)
    return sorted(days)


def _sessions_only(venue: Calendar, close_time: NDArray[np.int64], values: list[NDArray[np.float64]]) -> Columns:
    session = venue.session_of(close_time)
    keep = session >= 0
    return columns(close_time[keep], session[keep], *(v[keep] for v in values))


def read_minutes(path: Path, symbol: LeanSymbol, day: date) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """(bar starts as local us since 1970, [o, h, l, c, v]) of the member of `path` that is of `day`.

    A zip may hold other days as well; they are not this day's. Raises MalformedData naming file, member and line.
    """
    stamp = day.strftime("%Y%m%d")
    table, where = _read_member(path, lambda name: name.startswith(f"{stamp}_"), f"{stamp}_*.csv", symbol, "int64")
    ms = table.column("time").to_numpy()
    wrong = np.flatnonzero((ms < 0) | (ms >= _MS_PER_DAY))
    if len(wrong):
        raise MalformedData(f"{where} line {int(wrong[0]) + 1}: time {int(ms[wrong[0]])}, expected ms since midnight")
    _check_ascending(where, ms)
    keep, values = _values(table, symbol)
    return (session_number(day) * US_PER_DAY + ms * 1000)[keep], values


@lru_cache(maxsize=64)
def _read_long(path: Path, symbol: LeanSymbol, changed: int) -> tuple[NDArray[np.int64], list[NDArray[np.float64]]]:
    """read_minutes of an hour or daily file. changed: the file's mtime, so that a new file is read anew."""
    import pyarrow.compute as pc

    table, where = _read_member(path, lambda name: name == f"{symbol.ticker}.csv", f"{symbol.ticker}.csv", symbol, "string")
    text = table.column("time")
    stamps = pc.strptime(text, format="%Y%m%d %H:%M", unit="us", error_is_null=True)
    if stamps.null_count:
        i = int(np.flatnonzero(stamps.is_null().to_numpy())[0])
        raise MalformedData(f"{where} line {i + 1}: time {text[i].as_py()!r}, expected YYYYMMDD HH:MM")
    local = stamps.to_numpy().astype("datetime64[us]").astype(np.int64)
    _check_ascending(where, local)
    keep, values = _values(table, symbol)
    return local[keep], values


def _read_member(path: Path, wanted: Any, expected: str, symbol: LeanSymbol, time_type: str) -> tuple[Any, str]:
    import pyarrow as pa
    from pyarrow import csv

    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if wanted(name.lower())]
            if len(members) != 1:
                raise MalformedData(f"{path}: holds {archive.namelist()}, expected one member {expected}")
            data = archive.read(members[0])
    except FileNotFoundError as error:
        raise SourceMissing(f"{path}: no such file") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise MalformedData(f"{path}: not a whole zip file ({error}); fetch it again") from error
    where = f"{path}#{members[0]}"
    names = ("time", *(_QUOTE if symbol.quotes else _TRADE))
    if not data.strip():
        raise MalformedData(f"{where}: empty, expected lines of {', '.join(names)}")
    types = dict.fromkeys(names, "double") | {"time": time_type}
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            read_options=csv.ReadOptions(column_names=list(names), use_threads=False),
            convert_options=csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True),
            parse_options=csv.ParseOptions(ignore_empty_lines=False),
        ).combine_chunks()
    except pa.ArrowException as error:
        raise MalformedData(f"{where}: {error}; expected {', '.join(names)}") from error
    return table, where


def _check_ascending(where: str, stamps: NDArray[np.int64]) -> None:
    back = np.flatnonzero(np.diff(stamps) <= 0)
    if len(back):
        raise MalformedData(f"{where} line {int(back[0]) + 2}: not later than the line before")


def _values(table: Any, symbol: LeanSymbol) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """(rows that have a price, [open, high, low, close, volume] of those rows)."""
    get = {name: table.column(name).to_numpy() for name in table.column_names if name != "time"}
    if symbol.quotes:
        # One-sided quotes have no mid; such a minute has no bar.
        mids = [(get[f"bid_{c}"] + get[f"ask_{c}"]) / 2 for c in _TRADE[:4]]
        keep = np.logical_and.reduce([np.isfinite(m) for m in mids])
        return keep, [*(np.round(m[keep], _MID_DIGITS) for m in mids), np.zeros(int(keep.sum()))]
    values = [get[c] for c in _TRADE]
    if symbol.kind == "equity":
        values = [v / _EQUITY_SCALE for v in values[:4]] + values[4:]
    keep = np.ones(len(table), bool)
    return keep, values


def _lean(settings: Settings) -> Feed:
    return LeanFeed(settings.lean_data)


FEEDS = {"lean": _lean}
