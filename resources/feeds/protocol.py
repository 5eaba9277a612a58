"""What every source of market data is to the rest of Tapeline: the Feed protocol."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol, runtime_checkable

from trading.bars import Bars
from trading.instruments import Instrument
from trading.timeframes import Timeframe, iso


class FeedError(Exception):
    """A feed could not answer. The message names the source, the file or record, what was expected, what to do."""


class SymbolNotFound(FeedError):
    """The feed does not know the symbol."""


class MalformedData(FeedError):
    """The source answered with something that is not what its format promises (file, line, column named)."""


class SourceMissing(FeedError):
    """The folder, file or server the feed reads from is not there."""


class AccessDenied(FeedError):
    """The source refuses this account: no key, a wrong key, or a plan that does not cover what was asked."""


class RateLimited(FeedError):
    """The request budget is used up. retry_wall: real time, UTC us, from which on it may be asked again."""

    def __init__(self, message: str, retry_wall: int) -> None:
        super().__init__(f"{message}; it may be asked again from {iso(retry_wall)} on")
        self.retry_wall = retry_wall


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a feed can do. simulated marks data that is not from a market.

    live: subscribe() gives bars as they close. quotes: it has bid and ask. history_start, history_days: how far back
    history goes, as a date or in days before now (None: not known). requests_per_minute, requests_per_day: the plan's
    limits (None: no limit); a day begins at midnight in budget_zone. page_size: most bars in one answer of the source,
    longer ranges take several requests (None: no such limit). heartbeat_seconds: a live subscription says something at
    least this often (None: it promises nothing).
    """

    name: str
    timeframes: frozenset[Timeframe]
    live: bool
    history_start: date | None = None
    requests_per_minute: int | None = None
    simulated: bool = False
    quotes: bool = False
    history_days: int | None = None
    requests_per_day: int | None = None
    page_size: int | None = None
    heartbeat_seconds: float | None = None
    budget_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class BarClose:
    """One closed bar as a live feed emits it. Times UTC us; prices raw.

    turnover, trades: as in Bars, None when the source does not say. late: it came after a newer bar of its symbol had
    been passed on (set by resources.feeds.live, never by a feed).
    """

    symbol: str
    timeframe: Timeframe
    close_time: int
    session: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float | None = None
    trades: float | None = None
    late: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A live subscription says that it is alive. time: the source's clock, UTC us."""

    time: int


LiveEvent = BarClose | Heartbeat


@dataclass(frozen=True, slots=True)
class Quote:
    """Best bid and ask of one instrument, and its last price where the source says it. time: UTC us; a side that is not
    quoted is NaN with size 0."""

    symbol: str
    time: int
    bid: float
    bid_size: float
    ask: float
    ask_size: float
    last: float = math.nan


@runtime_checkable
class Feed(Protocol):
    """One source of bars.

    history gives raw bars ascending and unique by close_time with start <= session <= end, stamped with UTC close
    times and session numbers of the instrument's calendar; bars outside any session are left out. An empty range is
    an empty Bars, an unknown symbol raises SymbolNotFound, an unreadable source MalformedData or SourceMissing. A feed
    with a budget waits a little or raises RateLimited; it never asks its source more often than the plan allows.
    """

    def capabilities(self) -> Capabilities: ...

    def lookup(self, text: str) -> list[str]:
        """Feed symbols that match `text`, best first."""
        ...

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars: ...

    def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[LiveEvent]:
        """Closed bars as they become known, in order of close_time per symbol, and heartbeats where the feed has them.

        It begins at the moment it is asked: what closed before comes from history. A broken connection ends it or
        raises FeedError, ConnectionError or OSError; asking again is how to go on (resources.feeds.live does it).
        Raises FeedError when the feed is not live.
        """
        ...


@runtime_checkable
class QuoteFeed(Protocol):
    """A feed with quotes (Capabilities.quotes)."""

    def quote(self, instruments: Sequence[Instrument]) -> list[Quote]:
        """Best bid and ask now, one for each instrument that is quoted. Raises FeedError."""
        ...


@runtime_checkable
class MarketClock(Protocol):
    """A feed whose market does not run in real time."""

    def market_time(self) -> int:
        """Where its market stands, UTC us: never going back, never ahead of real time."""
        ...

    def market_speed(self) -> float:
        """Market seconds per real second now."""
        ...
