"""The LEAN `Data` folder, as QuantConnect lays it out: equities, indices, futures, options, forex, crypto.

    equity/usa/minute/aapl/20140606_trade.zip   one zip a day, CSV: ms since local midnight, o, h, l, c, volume
    forex/oanda/minute/eurusd/..._quote.zip     ms, bid o, h, l, c, size, ask o, h, l, c, size
    crypto/coinbase/hour/btcusd_trade.zip       one zip, CSV: YYYYMMDD HH:MM, o, h, l, c, volume
    future/cme/minute/es/20131220_trade.zip     one member a contract: 20131220_es_minute_trade_201312.csv
    option/usa/minute/goog/20151224_quote_american.zip   ..._call_7500000_20160617.csv

Stamps are bar starts in the market's data time zone. Equity and option prices are x10000; equities are unadjusted, under
the tickers their map file names (resources/feeds/_lean_symbols.py says how symbols are written). Forex bars are the mid of
bid and ask, without volume. The bars of a continuous future are those of its front contract, as they were traded.
Hour bars are cut at full hours, daily bars at midnight of the data's zone, those of futures are of the market hours in the
folder's database. An instrument takes them on a calendar that is cut there too (``XNYS@clock``, ``FX@UTC``,
``CMES@08:30-16:00``; trading/calendar_cuts.py), so that they are never taken for bars of the venue's session.
Rows outside the instrument's sessions (before the open, after the close) are left out and told in `left_out`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from resources.feeds import _lean_maps
from resources.feeds._base import Columns, FileFeed, LeftOut, columns, rank
from resources.feeds._lean_cut import check_cut, check_days
from resources.feeds._lean_files import COLUMNS, OPEN_INTEREST, QUOTE, TRADE, bars_of
from resources.feeds._lean_folder import FOLDERS, Answer, LeanFolder, lines_told
from resources.feeds._lean_futures import rolls_of
from resources.feeds._lean_symbols import LeanSymbol, parse, parse_text
from resources.feeds.protocol import Capabilities, Feed, FeedError, SourceMissing
from resources.settings import Settings
from trading.calendars import Calendar, calendar
from trading.corporate_actions import CorporateAction
from trading.instruments import FutureTerms, Instrument
from trading.quotes import QuoteBars
from trading.rolls import NoExpiryRule, RollTable
from trading.timeframes import Timeframe, session_date, session_number

_SCANNED = 2_000
"""Contracts' zips a lookup opens when the text names no root; beyond that only the roots are found."""


@runtime_checkable
class QuoteHistory(Protocol):
    """A feed that has quote bars of the past."""

    def quotes(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> QuoteBars:
        """Quote bars with start <= session <= end, ascending. Raises FeedError."""
        ...


class LeanFeed(FileFeed):
    """Bars of a LEAN Data folder: minute, hour and daily, the last two where the instrument's calendar is cut as they are."""

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        self._capabilities = Capabilities("lean", frozenset(FOLDERS), live=False, history_start=date(1998, 1, 2))
        self._folder = folder
        self._opened: LeanFolder | None = None

    @property
    def folder(self) -> Path:
        """The Data folder. Raises SourceMissing."""
        if self._folder is None:
            raise SourceMissing("feed lean needs a LEAN Data folder: set TAPELINE_LEAN_DATA to it")
        if not self._folder.is_dir():
            raise SourceMissing(f"{self._folder}: no such folder; set TAPELINE_LEAN_DATA to a LEAN Data folder")
        return self._folder

    @property
    def _data(self) -> LeanFolder:
        if self._opened is None:
            self._opened = LeanFolder(self.folder)
        return self._opened

    # -- lookup --------------------------------------------------------------------------------------------------------

    def lookup(self, text: str) -> list[str]:
        """Feed symbols that match `text`, best first; contracts by their root, expiry or strike."""
        wanted = text.strip().lower()
        found = rank(text, self._symbols())
        roots = [r for r in self._data.roots() if wanted.startswith(str(r)) or str(r).startswith(wanted) or r.ticker == wanted]
        if not roots and wanted and sum(1 for r in self._data.roots()) <= _SCANNED:
            roots = self._data.roots()
        contracts = [str(c) for root in roots for c in self._data.contracts(root)]
        spelt = parse_text(wanted)
        if spelt is not None and spelt.month and str(spelt) in contracts:
            contracts.insert(0, wanted)  # a future may be named by its expiry as well
        exact = [c for c in contracts if c == wanted]
        last = [c for c in contracts if any(part.startswith(wanted) for part in c.split("/")[2:])]
        inside = [c for c in contracts if wanted in c]
        if found and found[0].lower() == wanted:
            return list(dict.fromkeys([*found[:1], *exact, *found, *last, *inside]))
        return list(dict.fromkeys([*exact, *found, *last, *inside]))

    def chain(self, underlying: str, day: date) -> list[LeanSymbol]:
        """Option contracts of ``option/market/ticker`` with data on `day`, by expiry, right and strike."""
        pieces = underlying.lower().split("/")
        if len(pieces) != 3 or pieces[0] not in ("option", "future"):
            raise FeedError(f"{underlying!r}: expected option/market/ticker or future/market/root")
        return self._data.contracts(LeanSymbol(pieces[0], pieces[1], pieces[2]), day)

    def _symbols(self) -> list[str]:
        return self._data.symbols()

    # -- history -------------------------------------------------------------------------------------------------------

    def _load(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Columns:
        symbol, venue = parse(instrument), calendar(instrument.calendar)
        folder = self.folder
        check_cut(folder, symbol, timeframe, venue)
        if symbol.continuous:
            table = self._roll_table(instrument, symbol, venue)
            spans = table.segments(session_number(start), session_number(end))
            parts = [
                self._bars(LeanSymbol("future", symbol.market, symbol.ticker, month=code), timeframe, venue, lo, hi)
                for code, lo, hi in spans
            ]
            if not parts and not self._data.contracts(symbol):
                raise self._unknown_file(symbol, folder / "future" / symbol.market, timeframe)
        else:
            parts = [self._bars(symbol, timeframe, venue, session_number(start), session_number(end))]
        joined = [np.concatenate([p[i] for p in parts]) for i in range(7)] if parts else [np.empty(0)] * 7
        return columns(joined[0], joined[1], *joined[2:])

    def quotes(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> QuoteBars:
        """Quote bars with start <= session <= end, ascending; empty where the folder has none. Raises FeedError."""
        self._check_timeframe(instrument, timeframe)
        symbol, venue = parse(instrument), calendar(instrument.calendar)
        check_cut(self.folder, symbol, timeframe, venue)
        lo, hi = session_number(start), session_number(end)
        spans = [(symbol, lo, hi)]
        if symbol.continuous:
            table = self._roll_table(instrument, symbol, venue)
            spans = [(LeanSymbol("future", symbol.market, symbol.ticker, month=c), a, b) for c, a, b in table.segments(lo, hi)]
        times, sessions, values = [], [], []
        for one, first, last in spans if end >= start else []:
            answer = self._answer(one, QUOTE, timeframe, venue, first, last)
            for piece in answer.pieces:
                times.append(piece.close_time)
                sessions.append(piece.session)
                values.append([piece.table.columns[name][piece.rows] for name in COLUMNS[QUOTE]])
        if not times:
            return QuoteBars.empty(instrument.symbol, timeframe)
        joined = [np.concatenate([v[i] for v in values]) for i in range(len(COLUMNS[QUOTE]))]
        for price, size in ((3, 4), (8, 9)):  # no quote has no size
            joined[size] = np.where(np.isnan(joined[price]), np.nan, np.nan_to_num(joined[size]))
        return QuoteBars(instrument.symbol, timeframe, np.concatenate(times), np.concatenate(sessions), *joined)

    def open_interest(self, instrument: Instrument, start: date, end: date) -> dict[date, float]:
        """Last open interest told in each session of a contract; the figure counts what was held after the session before."""
        symbol, venue = parse(instrument), calendar(instrument.calendar)
        answer = self._answer(symbol, OPEN_INTEREST, Timeframe.M1, venue, session_number(start), session_number(end))
        found: dict[date, float] = {}
        for piece in answer.pieces:
            for session, value in zip(piece.session, piece.table.columns["open_interest"][piece.rows], strict=True):
                found[session_date(int(session))] = float(value)
        return found

    def _bars(self, symbol: LeanSymbol, timeframe: Timeframe, venue: Calendar, lo: int, hi: int) -> list[np.ndarray]:
        answer = self._answer(symbol, TRADE, timeframe, venue, lo, hi)
        self.left_out = [x for x in self.left_out if x.symbol != str(symbol)] + answer.left_out
        for piece in answer.pieces:
            keep = bars_of(piece.table, symbol)[0]
            self.left_out += _one_sided(symbol, piece.table.where, piece.rows[~keep[piece.rows]] + 1)
        found = self._columns(answer, symbol)
        if timeframe is Timeframe.D1 and symbol.kind == "future":
            self._check_against_minutes(symbol, venue, found)
        return found

    @staticmethod
    def _columns(answer: Answer, symbol: LeanSymbol) -> list[np.ndarray]:
        """close_time, session, open, high, low, close, volume of the rows that are bars."""
        parts: list[list[np.ndarray]] = []
        for piece in answer.pieces:
            keep, values = bars_of(piece.table, symbol)
            rows = np.flatnonzero(keep[piece.rows])
            chosen = piece.rows[rows]
            parts.append([piece.close_time[rows], piece.session[rows], *(v[chosen] for v in values)])
        return [np.concatenate([p[i] for p in parts]) for i in range(7)] if parts else [np.empty(0)] * 7

    def _answer(self, symbol: LeanSymbol, what: str, timeframe: Timeframe, venue: Calendar, lo: int, hi: int) -> Answer:
        answer = self._data.rows(symbol, what, timeframe, venue, session_date(lo), session_date(hi))
        if not answer.pieces and not self._known(symbol, what, timeframe, answer):
            where = self.folder / symbol.kind / symbol.market / FOLDERS[timeframe] / symbol.ticker
            raise self._unknown_file(symbol, where, timeframe)
        return answer

    def _known(self, symbol: LeanSymbol, what: str, timeframe: Timeframe, answer: Answer) -> bool:
        """Is an empty answer right: the folder has files of the symbol in this resolution, but none of these sessions?"""
        if symbol.member_end:
            return symbol in self._data.contracts(symbol.root)
        if answer.read or what != TRADE:
            return True
        owned = _lean_maps.identity(self.folder, symbol.market, symbol.ticker) if symbol.kind == "equity" else None
        tickers = {s.ticker for s in owned.spans} if owned is not None else {symbol.ticker}
        folder = self.folder / symbol.kind / symbol.market / FOLDERS[timeframe]
        return any((folder / t).is_dir() or (folder / f"{t}.zip").is_file() for t in tickers)

    def _unknown_file(self, symbol: LeanSymbol, path: Path, timeframe: Timeframe) -> FeedError:
        if str(symbol) in self._symbols():
            return SourceMissing(f"{path}: {symbol} is in this LEAN folder, but not in this resolution ({FOLDERS[timeframe]})")
        return self._unknown(str(symbol))

    def _check_against_minutes(self, symbol: LeanSymbol, venue: Calendar, days: list[np.ndarray]) -> None:
        """Daily files of futures are cut in more than one way; where the folder has the minutes, they say in which."""

        def minutes(session: int) -> list[np.ndarray]:
            answer = self._data.rows(symbol, TRADE, Timeframe.M1, venue, session_date(session), session_date(session))
            return self._columns(answer, symbol)

        check_days(symbol, venue, days, self._data.minute_days(symbol), minutes)

    # -- actions and rolls ---------------------------------------------------------------------------------------------

    def actions(self, instrument: Instrument) -> list[CorporateAction]:
        """Splits, dividends, symbol changes and delistings the factor and map files tell. Raises MalformedData."""
        symbol = parse(instrument)
        if symbol.kind != "equity":
            return []
        return _lean_maps.actions(self.folder, symbol.market, symbol.ticker, instrument.symbol, calendar(instrument.calendar))

    def roll_table(self, instrument: Instrument) -> RollTable:
        """The roll table of a continuous future. Raises FeedError when the instrument is none."""
        symbol = parse(instrument)
        if not symbol.continuous:
            raise FeedError(f"{instrument.symbol}: {symbol} is no continuous future (future/market/root)")
        return self._roll_table(instrument, symbol, calendar(instrument.calendar))

    def _roll_table(self, instrument: Instrument, symbol: LeanSymbol, venue: Calendar) -> RollTable:
        terms = instrument.future or FutureTerms(symbol.ticker.upper())
        try:
            return rolls_of(self._data, symbol, terms, venue)
        except NoExpiryRule as error:
            raise FeedError(f"{instrument.symbol}: {error}") from error


def _one_sided(symbol: LeanSymbol, where: str, lines: np.ndarray) -> list[LeftOut]:
    if not len(lines):
        return []
    return [LeftOut(str(symbol), f"{where} {lines_told(lines)}", "a quote with one side has no middle")]


def _lean(settings: Settings) -> Feed:
    return LeanFeed(settings.lean_data)


FEEDS = {"lean": _lean}
