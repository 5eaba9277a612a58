"""Financial Modeling Prep: intraday and daily history, last prices and instrument lookup of its `stable` API.

    historical-chart/1min?symbol=AAPL&from=2026-03-02&to=2026-03-04     newest first, New York wall time, the bar's start
    historical-price-eod/full?symbol=AAPL&from=...&to=...               one row a day
    quote?symbol=AAPL      search-symbol?query=AAP

One answer holds few days, fewer than asked for where the plan says so: a range is asked window by window, and each window
backwards until it is whole. Every request counts in the plan's budget. The provider's prices are adjusted for splits up to
the day they are asked for.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from resources.feeds._base import LeftOut, rank
from resources.feeds._fmp_http import FmpClient
from resources.feeds._fmp_rows import ZONE, bars_of_rows, rows_of
from resources.feeds.budget import Budget, budget_of
from resources.feeds.protocol import Capabilities, Feed, FeedError, LiveEvent, MalformedData, Quote, SymbolNotFound
from resources.settings import Settings
from trading.bars import Bars, concat
from trading.calendars import Calendar, calendar
from trading.instruments import Instrument
from trading.timeframes import Timeframe, from_us, session_number, to_us

_CHARTS: Final = {
    Timeframe.M1: "1min", Timeframe.M5: "5min", Timeframe.M15: "15min", Timeframe.M30: "30min", Timeframe.H1: "1hour",
    Timeframe.H4: "4hour",
}  # fmt: skip
_WINDOW_DAYS: Final = {
    Timeframe.M1: 3, Timeframe.M5: 7, Timeframe.M15: 14, Timeframe.M30: 28, Timeframe.H1: 60, Timeframe.H4: 120,
    Timeframe.D1: 1800,
}  # fmt: skip
"""Calendar days asked for at once. The provider gives about as many; where it gives less, it is asked again for the rest."""


class FmpFeed:
    """The provider as a feed. budget: tests bring their own; default: the one in the installation's ledger.

    left_out: rows of the symbols read last that became no bar, and why.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        budget: Budget | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._settings, self._budget, self._now = settings, budget, now
        self._client = FmpClient(
            settings.fmp_url, settings.fmp_api_key, self._counted, timeout_seconds=settings.fmp_timeout_seconds,
            max_wait_seconds=settings.fmp_max_wait_seconds, sleep=sleep,
        )  # fmt: skip
        self._known: set[str] = set()
        self._short_answers: set[Timeframe] = set()
        """Timeframes of which an answer was seen to hold less than it was asked for."""
        self._lock = threading.Lock()
        self.left_out: list[LeftOut] = []

    def capabilities(self) -> Capabilities:
        own = self._settings
        return Capabilities(
            "fmp", frozenset({*_CHARTS, Timeframe.D1}), live=False, quotes=True,
            requests_per_minute=own.fmp_requests_per_minute or None, requests_per_day=own.fmp_requests_per_day or None,
            budget_zone=ZONE,
        )  # fmt: skip

    def lookup(self, text: str) -> list[str]:
        """Symbols the provider finds, best first. Raises FeedError."""
        if not text.strip():
            return []
        rows = rows_of(self._client.get("search-symbol", query=text.strip()), f"fmp search-symbol?query={text.strip()}")
        found = [str(row["symbol"]) for row in rows if isinstance(row.get("symbol"), str)]
        best = rank(text, found)
        return [*best, *(symbol for symbol in dict.fromkeys(found) if symbol not in best)]

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        """Raw answer as bars of sessions [start, end] closed by now. Raises FeedError and its kinds."""
        if timeframe not in self.capabilities().timeframes:
            raise FeedError(
                f"feed fmp has no {timeframe} bars of {instrument.feed_symbol}: it has 1m, 5m, 15m, 30m, 1h, 4h and 1d; "
                "derive others from these"
            )
        venue = calendar(instrument.calendar)
        last = min(end, from_us(self._now()).date() + timedelta(days=1))
        windows = list(_windows(start, last, _WINDOW_DAYS[timeframe], venue))
        parts: list[Bars] = []
        left_out: list[LeftOut] = []
        for lo, hi in windows:
            rows = self._window(instrument.feed_symbol, timeframe, lo, hi, venue)
            where = f"fmp {instrument.feed_symbol} {timeframe} {lo} to {hi}"
            bars, odd = bars_of_rows(instrument.symbol, timeframe, rows, venue, self._now(), where)
            inside = (bars.session >= session_number(lo)) & (bars.session <= session_number(hi))
            parts.append(bars.rows(inside))
            left_out += odd
        with self._lock:
            self.left_out = [x for x in self.left_out if x.symbol != instrument.symbol] + left_out
        if not any(len(part) for part in parts) and windows:
            self._check_known(instrument.feed_symbol)
        return concat(parts) if parts else Bars.empty(instrument.symbol, timeframe)

    def quote(self, instruments: Sequence[Instrument]) -> list[Quote]:
        """The last price of each instrument; the provider's stable `quote` has no bid and ask. Raises FeedError."""
        found = []
        for instrument in instruments:
            where = f"fmp quote?symbol={instrument.feed_symbol}"
            for row in rows_of(self._client.get("quote", symbol=instrument.feed_symbol), where)[:1]:
                price, at = row.get("price"), row.get("timestamp")
                if not isinstance(price, (int, float)) or not isinstance(at, (int, float)):
                    raise MalformedData(f"{where}: price {price!r} at {at!r}, expected numbers")
                found.append(Quote(instrument.symbol, int(at * 1_000_000), math.nan, 0.0, math.nan, 0.0, float(price)))
        return found

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[LiveEvent]:
        """Always raises FeedError: the feed asks for history only."""
        raise FeedError("feed fmp has no live data: it is asked for history; use a live feed for the live day")
        yield  # makes this an async generator, as the protocol has it

    # -- within --------------------------------------------------------------------------------------------------------

    def _window(self, symbol: str, timeframe: Timeframe, lo: date, hi: date, venue: Calendar) -> list[Mapping[str, Any]]:
        """All rows of [lo, hi], asked backwards: an answer may begin later than it was asked to, and in mid-day."""
        rows: list[Mapping[str, Any]] = []
        sessions = venue.sessions(lo, hi)
        while sessions:
            page = self._page(symbol, timeframe, lo, sessions[-1])  # a day with data: of a Sunday alone there is none
            if not page:
                if timeframe not in self._short_answers:
                    break  # nothing in the whole window
                sessions.pop()  # answers hold few days here: only this one is known to be empty
                continue
            if rows:
                self._short_answers.add(timeframe)
            rows += page
            oldest = min(str(row.get("date")) for row in page)
            day = _day(oldest, symbol)
            if timeframe.intraday and not _begins(oldest, day, venue):  # cut in mid-day, or a day that begins late
                alone = self._page(symbol, timeframe, day, day)
                rows += alone
                if alone and min(str(row.get("date")) for row in alone) > oldest:
                    raise FeedError(
                        f"fmp {symbol}: an answer for {day} alone begins later than one for more days, so answers of {timeframe} "
                        "bars hold less than a day: ask for a longer timeframe"
                    )
            sessions = [s for s in sessions if s < min(day, sessions[-1])]
        return rows

    def _page(self, symbol: str, timeframe: Timeframe, lo: date, hi: date) -> list[Mapping[str, Any]]:
        """One answer. Raises FeedError."""
        path = f"historical-chart/{_CHARTS[timeframe]}" if timeframe.intraday else "historical-price-eod/full"
        query = {"symbol": symbol, "from": lo.isoformat(), "to": hi.isoformat()}
        return rows_of(self._client.get(path, **query), self._client.where(path, query))

    def _check_known(self, symbol: str) -> None:
        """Raises SymbolNotFound: an unknown symbol's history is an empty array like that of a quiet one."""
        if symbol in self._known:
            return
        found = self.lookup(symbol)
        if symbol not in found:
            near = f"; nearest: {', '.join(found[:3])}" if found else ""
            raise SymbolNotFound(f"feed fmp has no symbol {symbol!r}{near}")
        self._known.add(symbol)

    def _counted(self) -> Budget | None:
        if self._budget is None:
            self._budget = budget_of(self.capabilities(), self._settings)
        return self._budget


def _windows(start: date, end: date, days: int, venue: Calendar) -> Iterable[tuple[date, date]]:
    """[start, end] in windows of at most `days` days that have a session, oldest first."""
    lo = start
    while lo <= end:
        hi = min(end, lo + timedelta(days=days - 1))
        if venue.sessions(lo, hi):
            yield lo, hi
        lo = hi + timedelta(days=1)


def _day(text: str, symbol: str) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise MalformedData(f"fmp {symbol}: date {text!r}, expected YYYY-MM-DD") from None


def _begins(stamp: str, day: date, venue: Calendar) -> bool:
    """Is `stamp` (New York wall time) at or before the open of the session of `day`? Then the day is whole."""
    try:
        begin = to_us(datetime.fromisoformat(stamp).replace(tzinfo=ZoneInfo(ZONE)))
        return begin <= venue.bounds(day)[0]
    except (ValueError, KeyError):
        return False


def _fmp(settings: Settings) -> Feed:
    return FmpFeed(settings)


FEEDS = {"fmp": _fmp}
