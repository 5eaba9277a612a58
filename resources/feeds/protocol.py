"""What every source of market data is to the rest of Tapeline: the Feed protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Protocol, runtime_checkable

from trading.bars import Bars
from trading.instruments import Instrument
from trading.timeframes import Timeframe


class FeedError(Exception):
    """A feed could not answer. The message names the source, the file or record, what was expected, what to do."""


class SymbolNotFound(FeedError):
    """The feed does not know the symbol."""


class MalformedData(FeedError):
    """The source answered with something that is not what its format promises (file, line, column named)."""


class SourceMissing(FeedError):
    """The folder, file or server the feed reads from is not there."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a feed can do. simulated marks data that is not from a market."""

    name: str
    timeframes: frozenset[Timeframe]
    live: bool
    history_start: date | None = None
    requests_per_minute: int | None = None
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class BarClose:
    """One closed bar as a live feed emits it. Times UTC us; prices raw."""

    symbol: str
    timeframe: Timeframe
    close_time: int
    session: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@runtime_checkable
class Feed(Protocol):
    """One source of bars.

    history gives raw bars ascending and unique by close_time with start <= session <= end, stamped with UTC close
    times and session numbers of the instrument's calendar; bars outside any session are left out. An empty range is
    an empty Bars, an unknown symbol raises SymbolNotFound, an unreadable source MalformedData or SourceMissing.
    """

    def capabilities(self) -> Capabilities: ...

    def lookup(self, text: str) -> list[str]:
        """Feed symbols that match `text`, best first."""
        ...

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars: ...

    def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[BarClose]:
        """Closed bars as they become known, in order of close_time. Raises FeedError when the feed is not live."""
        ...
