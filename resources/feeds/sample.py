"""Real market data that ships inside Python packages: the sample a newcomer sees without any account.

    sample_stocks   AAPL, FB, GOOG, IBM, MSFT daily, raw prices        bokeh-sampledata (BSD-3)
    sample_indices  SPX, COMP daily; VIX daily closes only             arch (NCSA)
    sample_forex    EURUSD hourly, ask side, 2017                      gym-anytrading (MIT)

The packages' files are found without importing the packages where importing is slow (arch: seconds).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._base import Columns, FileFeed, LeftOut, columns
from resources.feeds.protocol import Capabilities, Feed, MalformedData, SourceMissing
from resources.settings import Settings
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import US_PER_HOUR, Timeframe

MAX_LEFT_OUT_SHARE = 0.02
"""More records than this that fit no session mean a wrong calendar or a changed file, not a few odd rows."""

_Parsed = tuple[Columns, list[LeftOut]]


def package_file(package: str, *parts: str) -> Path:
    """A file inside an installed package, found without importing it. Raises SourceMissing."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        path = Path(folder).joinpath(*parts)
        if path.is_file():
            return path
    where = folders[0] if folders else "not installed"
    raise SourceMissing(f"{package} ({where}): no {'/'.join(parts)}; install the sample data with `make install`")


class SampleFeed(FileFeed):
    """One package's bars, one native timeframe, parsed once per process.

    left_out: records of the symbols read so far that fit no session of the instrument's calendar.
    """

    def __init__(
        self, name: str, timeframe: Timeframe, first: date, symbols: tuple[str, ...], load: Callable[[str, str], _Parsed]
    ) -> None:
        super().__init__()
        self._capabilities = Capabilities(name, frozenset({timeframe}), live=False, history_start=first)
        self._names = symbols
        self._parse = load

    def _symbols(self) -> list[str]:
        return list(self._names)

    def _load(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Columns:
        if instrument.feed_symbol not in self._names:
            raise self._unknown(instrument.feed_symbol)
        data, left_out = self._parse(instrument.feed_symbol, instrument.calendar)
        self.left_out = [x for x in self.left_out if x.symbol != instrument.feed_symbol] + left_out
        return data


def _daily(symbol: str, source: str, days: NDArray[Any], values: list[NDArray[Any]], calendar_name: str) -> _Parsed:
    """Daily rows by session date: known at the session's close. Rows of no session, or without a price, are left out."""
    venue = calendar(calendar_name)
    number = days.astype("datetime64[D]").astype(np.int64)
    row = np.minimum(np.searchsorted(venue.number, number), len(venue.number) - 1)
    in_session = venue.number[row] == number
    priced = np.logical_and.reduce([np.isfinite(v) for v in values])
    keep = in_session & priced
    left_out = [
        LeftOut(
            symbol,
            f"{source} {days[i].astype('datetime64[D]')}",
            "no price" if in_session[i] else f"{calendar_name} has no session on that day",
        )
        for i in np.flatnonzero(~keep)
    ]
    _check_share(symbol, source, int((~in_session & priced).sum()), len(days), calendar_name)
    _check_ascending(symbol, source, number[keep])
    return columns(venue.close_time[row[keep]], venue.number[row[keep]], *(v[keep] for v in values)), left_out


def _check_share(symbol: str, source: str, odd: int, rows: int, calendar_name: str) -> None:
    if odd > MAX_LEFT_OUT_SHARE * rows:
        raise MalformedData(
            f"{source}: {odd} of {rows} records of {symbol} lie in no session of {calendar_name}; is its calendar right?"
        )


def _check_ascending(symbol: str, source: str, stamps: NDArray[Any]) -> None:
    back = np.flatnonzero(np.diff(stamps) <= 0)
    if len(back):
        raise MalformedData(f"{source}: record {int(back[0]) + 1} of {symbol} is not later than the one before it")


@lru_cache(maxsize=32)
def _stocks(symbol: str, calendar_name: str) -> _Parsed:
    try:
        from bokeh_sampledata import stocks
    except ImportError as error:
        raise SourceMissing("bokeh-sampledata is not installed; run `make install`") from error
    data = getattr(stocks, symbol)
    try:
        days = np.array(data["date"], "datetime64[D]")
        values = [np.array(data[c], np.float64) for c in ("open", "high", "low", "close", "volume")]
    except (KeyError, ValueError) as error:
        expected = "date, open, high, low, close, volume"
        raise MalformedData(f"bokeh_sampledata.stocks {symbol}: {error}; expected {expected}") from error
    return _daily(symbol, "bokeh_sampledata.stocks", days, values, calendar_name)


_INDEX_FILES = {"SPX": "sp500", "COMP": "nasdaq", "VIX": "vix"}


@lru_cache(maxsize=32)
def _indices(symbol: str, calendar_name: str) -> _Parsed:
    import pyarrow.compute as pc

    folder = _INDEX_FILES[symbol]
    path = package_file("arch", "data", folder, f"{folder}.csv.gz")
    names = ("vix",) if symbol == "VIX" else ("Open", "High", "Low", "Close", "Volume")
    table = read_csv(path, dict.fromkeys(names, "double") | {"Date": "string"})
    stamps = pc.strptime(table.column("Date"), format="%m/%d/%Y", unit="s", error_is_null=True)
    _check_stamps(path, stamps, table.column("Date"), "month/day/year")
    days = stamps.to_numpy().astype("datetime64[D]")
    values = [table.column(n).to_numpy() for n in names]
    if symbol == "VIX":
        values = [values[0]] * 4 + [np.where(np.isfinite(values[0]), 0.0, np.nan)]
    return _daily(symbol, str(path), days, values, calendar_name)


@lru_cache(maxsize=8)
def _forex(symbol: str, calendar_name: str) -> _Parsed:
    import pyarrow.compute as pc

    path = package_file("gym_anytrading", "datasets", "data", f"FOREX_{symbol}_1H_ASK.csv")
    names = ("Open", "High", "Low", "Close", "Volume")
    table = read_csv(path, dict.fromkeys(names, "double") | {"Time": "string"})
    text = table.column("Time")
    whole = pc.if_else(pc.ends_with(text, ".000"), pc.utf8_slice_codeunits(text, 0, -4), "")
    stamps = pc.strptime(whole, format="%d.%m.%Y %H:%M:%S", unit="us", error_is_null=True)
    _check_stamps(path, stamps, text, "dd.mm.YYYY HH:MM:SS.000")
    # The stamp is the bar's start; nobody knows the bar before it has ended.
    close_time = stamps.to_numpy().astype("datetime64[us]").astype(np.int64) + US_PER_HOUR
    _check_ascending(symbol, str(path), close_time)
    values = [table.column(n).to_numpy() for n in names]
    session = calendar(calendar_name).session_of(close_time)
    keep = (session >= 0) & np.logical_and.reduce([np.isfinite(v) for v in values])
    left_out = [
        LeftOut(
            symbol,
            f"{path} line {i + 2}",
            f"outside every session of {calendar_name}" if session[i] < 0 else "no price",
            int(close_time[i]),
        )
        for i in np.flatnonzero(~keep)
    ]
    _check_share(symbol, str(path), int((session < 0).sum()), len(session), calendar_name)
    return columns(close_time[keep], session[keep], *(v[keep] for v in values)), left_out


def read_csv(path: Path, types: dict[str, str]) -> Any:
    """Columns of a CSV file (plain or .gz) as an Arrow table. Raises MalformedData naming file and row."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        return csv.read_csv(
            path,
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=["", "."]),
        ).combine_chunks()
    except (pa.ArrowException, KeyError, OSError, EOFError) as error:
        raise MalformedData(f"{path}: {error}; expected columns {', '.join(types)}") from error


def _check_stamps(path: Path, stamps: Any, text: Any, expected: str) -> None:
    if stamps.null_count:
        i = int(np.flatnonzero(stamps.is_null().to_numpy())[0])
        raise MalformedData(f"{path} line {i + 2}: time {text[i].as_py()!r}, expected {expected}")


def _sample_stocks(settings: Settings) -> Feed:
    return SampleFeed("sample_stocks", Timeframe.D1, date(2000, 3, 1), ("AAPL", "FB", "GOOG", "IBM", "MSFT"), _stocks)


def _sample_indices(settings: Settings) -> Feed:
    return SampleFeed("sample_indices", Timeframe.D1, date(1999, 1, 4), tuple(_INDEX_FILES), _indices)


def _sample_forex(settings: Settings) -> Feed:
    return SampleFeed("sample_forex", Timeframe.H1, date(2017, 1, 2), ("EURUSD",), _forex)


FEEDS = {"sample_stocks": _sample_stocks, "sample_indices": _sample_indices, "sample_forex": _sample_forex}
