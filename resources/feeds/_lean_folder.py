"""A LEAN Data folder: which files hold a symbol's rows of some sessions, and those rows with UTC close times.

Rows outside the instrument's sessions, on a day without a session or of another company under the same ticker become no
bar; they are told in `left_out`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resources.feeds import _lean_maps as maps
from resources.feeds._base import LeftOut
from resources.feeds._lean_files import QUOTE, TRADE, Table, members, read_day, read_long
from resources.feeds._lean_symbols import CLASSES, LeanSymbol
from resources.feeds._lean_time import data_zone, local_to_utc
from resources.feeds.protocol import MalformedData, SourceMissing
from trading.calendars import Calendar
from trading.timeframes import US_PER_DAY, US_PER_HOUR, US_PER_MINUTE, Timeframe, from_us, session_date, session_number

FOLDERS = {Timeframe.M1: "minute", Timeframe.H1: "hour", Timeframe.D1: "daily"}
_READERS = 4
_MINUTE_FILE = re.compile(r"(\d{8})_(trade|quote|openinterest)(?:_[a-z]+)?\.zip")
_LONG_SUFFIX = re.compile(r"(?:_\d{4})?(?:_(?:trade|quote|openinterest))?(?:_(?:american|european))?$")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one member that are bars: their close times (UTC us), sessions and positions in the table."""

    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    rows: NDArray[np.int64]
    table: Table


@dataclass(slots=True)
class Answer:
    """What a question found. read: files there were, empty ones included."""

    pieces: list[Piece] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    read: int = 0


@lru_cache(maxsize=256)
def _minute_files(folder: Path, changed: int) -> dict[tuple[str, str], Path]:
    """Minute files by (date, what)."""
    found = {}
    for path in folder.iterdir():
        if (match := _MINUTE_FILE.fullmatch(path.name)) is not None:
            found[match[1], match[2]] = path
    return found


class LeanFolder:
    """The Data folder at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # -- what there is -------------------------------------------------------------------------------------------------

    def symbols(self) -> list[str]:
        """Symbols without contracts: ``class/market/ticker``, the roots of futures among them."""
        found: set[str] = set()
        for kind in CLASSES:
            if kind == "option":
                continue
            for market in children(self.root / kind):
                for path in children(market / "minute"):
                    found.add(f"{kind}/{market.name}/{path.name}")
                for name in ("hour", "daily"):
                    for path in children(market / name):
                        if path.suffix == ".zip":
                            found.add(f"{kind}/{market.name}/{_LONG_SUFFIX.sub('', path.stem)}")
                if kind == "equity":
                    held = {s.rpartition("/")[2] for s in found if s.startswith(f"equity/{market.name}/")}
                    for owner, tickers in maps.mapped_symbols(self.root, market.name).items():
                        if held & set(tickers):
                            found.add(f"equity/{market.name}/{owner}")
        return sorted(found)

    def roots(self) -> list[LeanSymbol]:
        """Products and underlyings that have contracts here."""
        found = set()
        for kind in ("future", "option"):
            for market in children(self.root / kind):
                for path in children(market / "minute"):
                    found.add(LeanSymbol(kind, market.name, path.name))
                for name in ("hour", "daily"):
                    for path in children(market / name):
                        if path.suffix == ".zip":
                            found.add(LeanSymbol(kind, market.name, _LONG_SUFFIX.sub("", path.stem)))
        return sorted(found, key=str)

    def contracts(self, root: LeanSymbol, day: date | None = None) -> list[LeanSymbol]:
        """Contracts of a future's root or an option's underlying, of one day or all, ordered as they are written."""
        folder = self.root / root.kind / root.market
        paths: list[Path] = []
        minute = self._minute_folder(root)
        if minute.is_dir():
            stamp = day.strftime("%Y%m%d") if day is not None else ""
            held = _minute_files(minute, minute.stat().st_mtime_ns)
            paths += [p for (d, _), p in sorted(held.items()) if not stamp or d == stamp]
        if day is None:
            for name in ("hour", "daily"):
                paths += [p for p in children(folder / name) if p.suffix == ".zip" and _root_of(p) == root.ticker]
        found: set[LeanSymbol] = set()
        for path in paths:
            found |= _contracts_in(path, path.stat().st_mtime_ns, root)
        return sorted(found, key=lambda s: (s.month, s.expiry, s.right, s.strike))

    # -- rows ----------------------------------------------------------------------------------------------------------

    def rows(self, symbol: LeanSymbol, what: str, timeframe: Timeframe, venue: Calendar, start: date, end: date) -> Answer:
        """Rows of the sessions [start, end], ascending. Raises MalformedData, SourceMissing, FeedError.

        SourceMissing without a path in its text never comes from here: `read` 0 says that there is no file at all.
        """
        if symbol.kind == "forex":
            what = QUOTE
        zone = data_zone(self.root, symbol.kind, symbol.market, symbol.ticker)
        spans = list(self._spans(symbol, venue, start, end))
        if timeframe is Timeframe.M1:
            return self._minutes(symbol, what, venue, zone, spans)
        return self._long(symbol, what, timeframe, venue, zone, spans)

    def _spans(self, symbol: LeanSymbol, venue: Calendar, start: date, end: date) -> Iterator[tuple[str, int, int]]:
        """(ticker, first, last session number) that make up the symbol's history in [start, end]."""
        lo, hi = session_number(start), session_number(end)
        known = maps.identity(self.root, symbol.market, symbol.ticker) if symbol.kind == "equity" else None
        if known is None:
            yield symbol.ticker, lo, hi
            return
        for span in known.spans:
            if span.first <= hi and span.last >= lo:
                yield span.ticker, max(lo, span.first), min(hi, span.last)

    def _minute_folder(self, symbol: LeanSymbol, ticker: str = "") -> Path:
        return self.root / symbol.kind / symbol.market / "minute" / (ticker or symbol.ticker)

    def minute_days(self, symbol: LeanSymbol) -> set[int]:
        """Dates (session numbers) there are minute trade files of."""
        folder = self._minute_folder(symbol)
        if not folder.is_dir():
            return set()
        held = _minute_files(folder, folder.stat().st_mtime_ns)
        return {session_number(date.fromisoformat(day)) for day, what in held if what == TRADE}

    def _minutes(
        self, symbol: LeanSymbol, what: str, venue: Calendar, zone: str, spans: Sequence[tuple[str, int, int]]
    ) -> Answer:
        answer = Answer()
        if symbol.kind == "equity" and not spans:
            answer.read = int(any(self._minute_folder(symbol, t).is_dir() for t in self._tickers(symbol)))
        wanted: list[tuple[LeanSymbol, date, Path, int, int]] = []
        for ticker, lo, hi in spans:
            folder = self._minute_folder(symbol, ticker)
            if not folder.is_dir():
                continue
            answer.read += 1
            held = _minute_files(folder, folder.stat().st_mtime_ns)
            for day in data_days(venue, zone, session_date(lo), session_date(hi)):
                path = held.get((day.strftime("%Y%m%d"), what))
                if path is not None:
                    wanted.append((replace(symbol, ticker=ticker), day, path, lo, hi))

        def one(item: tuple[LeanSymbol, date, Path, int, int]) -> tuple[Piece, list[LeftOut]] | None:
            named, day, path, lo, hi = item
            table = read_day(path, named, day, what)
            if table is None:
                return None
            close_time = local_to_utc(table.start, zone) + US_PER_MINUTE
            return _piece(table, close_time, venue, lo, hi, str(symbol))

        if len(wanted) > 8:
            with ThreadPoolExecutor(_READERS) as pool:
                parts = list(pool.map(one, wanted))
        else:
            parts = [one(item) for item in wanted]
        for part in parts:
            if part is not None:
                answer.pieces.append(part[0])
                answer.left_out += part[1]
        _check_order(answer.pieces)
        return answer

    def _long(
        self,
        symbol: LeanSymbol,
        what: str,
        timeframe: Timeframe,
        venue: Calendar,
        zone: str,
        spans: Sequence[tuple[str, int, int]],
    ) -> Answer:
        answer = Answer()
        folder = self.root / symbol.kind / symbol.market / FOLDERS[timeframe]
        for ticker, lo, hi in spans:
            for path in _long_files(folder, symbol, ticker, what, lo, hi):
                answer.read += 1
                table = read_long(path, replace(symbol, ticker=ticker), what)
                if table is None:
                    continue
                if timeframe is Timeframe.H1:
                    piece, left = _piece(table, local_to_utc(table.start, zone) + US_PER_HOUR, venue, lo, hi, str(symbol))
                else:
                    piece, left = _daily(table, venue, lo, hi, str(symbol))
                answer.pieces.append(piece)
                answer.left_out += left
        if symbol.kind == "equity":
            for ticker in self._tickers(symbol):
                answer.left_out += self._foreign(folder, symbol, ticker, what)
        _check_order(answer.pieces)
        return answer

    def _tickers(self, symbol: LeanSymbol) -> list[str]:
        """Every ticker the equity has had."""
        known = maps.identity(self.root, symbol.market, symbol.ticker)
        return sorted({s.ticker for s in known.spans}) if known is not None else [symbol.ticker]

    def _foreign(self, folder: Path, symbol: LeanSymbol, ticker: str, what: str) -> list[LeftOut]:
        """Rows of `ticker`'s file that the map file gives to no span of the symbol: they are another company's."""
        known = maps.identity(self.root, symbol.market, symbol.ticker)
        path = folder / f"{ticker}.zip"
        if known is None or not path.is_file():
            return []
        table = read_long(path, replace(symbol, ticker=ticker), what)
        if table is None:
            return []
        days = (table.start // US_PER_DAY).astype(np.int32)
        rows = np.flatnonzero(~known.within(days, ticker))
        if not len(rows):
            return []
        first, last = session_date(int(days[rows[0]])), session_date(int(days[rows[-1]]))
        where = f"{table.where} {lines_told(table.line[rows])}"
        owner = maps.claimed_by(self.root, symbol.market, ticker, int(days[rows[0]]))
        whose = f"that of {owner.upper()}" if owner else "another company's"
        reason = f"{first} to {last}: the ticker {ticker.upper()} was {whose} then, says the map file"
        return [LeftOut(str(symbol), where, reason)]


def lines_told(lines: NDArray[np.int64]) -> str:
    """Where a run of rows stands in its file: `line 7`, `lines 7 to 9 (3 rows)`."""
    return f"line {int(lines[0])}" if len(lines) == 1 else f"lines {int(lines[0])} to {int(lines[-1])} ({len(lines)} rows)"


def children(folder: Path) -> Iterable[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else ()


def _root_of(path: Path) -> str:
    return _LONG_SUFFIX.sub("", path.stem)


@lru_cache(maxsize=512)
def _contracts_in(path: Path, changed: int, root: LeanSymbol) -> frozenset[LeanSymbol]:
    return frozenset(c for name in members(path) if (c := root.contract(name)) is not None)


def _long_files(folder: Path, symbol: LeanSymbol, ticker: str, what: str, lo: int, hi: int) -> list[Path]:
    """The hour or daily zips of a ticker: one, or one a year for options."""
    if symbol.kind == "option":
        years = range(session_date(lo).year, session_date(hi).year + 1)
        return [p for year in years for p in sorted(folder.glob(f"{ticker}_{year}_{what}_*.zip"))]
    plain = symbol.kind in ("equity", "index")
    names = [f"{ticker}.zip"] if plain else [f"{ticker}_{what}.zip", f"{ticker}.zip"]
    return [p for p in (folder / name for name in names) if p.is_file()][:1]


def data_days(venue: Calendar, zone: str, start: date, end: date) -> list[date]:
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


def _piece(
    table: Table, close_time: NDArray[np.int64], venue: Calendar, lo: int, hi: int, symbol: str
) -> tuple[Piece, list[LeftOut]]:
    """Rows that close inside a session of [lo, hi]; those beside these sessions, told by run."""
    session = venue.session_of(close_time)
    inside = session >= 0
    rows = np.flatnonzero(inside & (session >= lo) & (session <= hi))
    out = np.flatnonzero(~inside)
    out = out[_beside(venue, np.searchsorted(venue.close_time, close_time[out]), lo, hi)]
    return Piece(close_time[rows], session[rows], rows, table), _outside(table, close_time, out, venue, symbol)


def _beside(venue: Calendar, later: NDArray[np.intp], lo: int, hi: int) -> NDArray[np.bool_]:
    """Whether the session before or after a row that lies between sessions is one of [lo, hi]. later: place of the one after."""
    number, last = venue.number, len(venue.number) - 1
    before, after = number[np.clip(later - 1, 0, last)], number[np.clip(later, 0, last)]
    return ((before >= lo) & (before <= hi)) | ((after >= lo) & (after <= hi))


def _outside(table: Table, close_time: NDArray[np.int64], out: NDArray[np.intp], venue: Calendar, symbol: str) -> list[LeftOut]:
    """One line for each run of rows between sessions (pre-open and after-hours bars). out: these rows."""
    if not len(out):
        return []
    found = []
    for run in np.split(out, np.flatnonzero(np.diff(out) > 1) + 1):
        first, last = int(run[0]), int(run[-1])
        begin, end = from_us(int(close_time[first])), from_us(int(close_time[last]))
        span = f"{begin:%Y-%m-%d %H:%M}" + (f" to {end:%H:%M}" if end > begin else "")
        if end.date() > begin.date():
            span = f"{begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}"
        where = f"{table.where} {lines_told(table.line[run])}"
        found.append(LeftOut(symbol, where, f"closing {span} UTC, outside the sessions of {venue.name}"))
    return found


def _daily(table: Table, venue: Calendar, lo: int, hi: int, symbol: str) -> tuple[Piece, list[LeftOut]]:
    number = table.start // US_PER_DAY
    row = np.minimum(np.searchsorted(venue.number, number), len(venue.number) - 1)
    known = venue.number[row] == number
    keep = np.flatnonzero(known & (number >= lo) & (number <= hi))
    left = [
        LeftOut(symbol, f"{table.where} line {int(table.line[i])}", f"{venue.name} has no session on that day")
        for i in np.flatnonzero(~known)[_beside(venue, np.searchsorted(venue.number, number[~known]), lo, hi)]
    ]
    return Piece(venue.close_time[row[keep]], venue.number[row[keep]], keep, table), left


def _check_order(pieces: list[Piece]) -> None:
    last: Piece | None = None
    for piece in pieces:
        if not len(piece.rows):
            continue
        if last is not None and piece.close_time[0] <= last.close_time[-1]:
            raise MalformedData(
                f"{last.table.where} and {piece.table.where}: both hold the bar closing {from_us(int(piece.close_time[0]))}"
            )
        last = piece


__all__ = ["FOLDERS", "Answer", "LeanFolder", "Piece", "SourceMissing", "children", "data_days"]
