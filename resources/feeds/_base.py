"""What feeds that read files have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resources.feeds.protocol import BarClose, Capabilities, FeedError, SymbolNotFound
from trading.bars import PRICE_COLUMNS, Bars
from trading.instruments import Instrument
from trading.timeframes import Timeframe, session_number


class Columns(NamedTuple):
    """Bars of one symbol as read-only arrays of one length."""

    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A source record that became no bar, and why. where: file and line or row; reason: what was expected.

    close_time: when its bar would have closed (UTC us), where that is known: inside a session it is shown in quarantine.
    """

    symbol: str
    where: str
    reason: str
    close_time: int | None = None


class FileFeed:
    """A feed over files: history only. Subclasses set `_capabilities` and give `_symbols` and `_load`."""

    _capabilities: Capabilities

    def __init__(self) -> None:
        self.left_out: list[LeftOut] = []

    def capabilities(self) -> Capabilities:
        return self._capabilities

    def lookup(self, text: str) -> list[str]:
        """Feed symbols that match `text`, best first: equal, beginning with it, containing it, similar."""
        return rank(text, self._symbols())

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        """Raw bars with start <= session <= end. Raises SymbolNotFound, MalformedData, SourceMissing, FeedError."""
        self._check_timeframe(instrument, timeframe)
        if end < start:
            return Bars.empty(instrument.symbol, timeframe)
        got = self._load(instrument, timeframe, start, end)
        lo = int(np.searchsorted(got.session, session_number(start), side="left"))
        hi = int(np.searchsorted(got.session, session_number(end), side="right"))
        prices = (getattr(got, c)[lo:hi].copy() for c in (*PRICE_COLUMNS, "volume"))
        return Bars(instrument.symbol, timeframe, got.close_time[lo:hi].copy(), got.session[lo:hi].copy(), *prices)

    async def subscribe(self, instruments: Iterable[Instrument], timeframe: Timeframe) -> AsyncIterator[BarClose]:
        """Always raises FeedError: files hold no live data."""
        name = self._capabilities.name
        raise FeedError(f"feed {name} has no live data: it reads files; replay its history or use a live feed")
        yield  # makes this an async generator, as the protocol has it

    def _check_timeframe(self, instrument: Instrument, timeframe: Timeframe) -> None:
        if timeframe not in self._capabilities.timeframes:
            have = ", ".join(str(t) for t in Timeframe if t in self._capabilities.timeframes)
            raise FeedError(
                f"feed {self._capabilities.name} has no {timeframe} bars of {instrument.feed_symbol} (it has {have}); "
                "derive higher timeframes from these"
            )

    def _symbols(self) -> list[str]:
        raise NotImplementedError

    def _load(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Columns:
        """At least the bars of [start, end], ascending by close_time."""
        raise NotImplementedError

    def _unknown(self, symbol: str) -> SymbolNotFound:
        near = self.lookup(symbol)[:3]
        hint = f"; nearest: {', '.join(near)}" if near else ""
        return SymbolNotFound(f"feed {self._capabilities.name} has no symbol {symbol!r}{hint}")


def rank(text: str, symbols: list[str]) -> list[str]:
    """`symbols` that match `text`, best first, letter case aside."""
    wanted = text.strip().lower()
    if not wanted:
        return sorted(symbols)
    folded = {s.lower(): s for s in sorted(symbols)}
    tiers = [
        [s for low, s in folded.items() if low == wanted],
        [s for low, s in folded.items() if low.startswith(wanted) or low.rpartition("/")[2].startswith(wanted)],
        [s for low, s in folded.items() if wanted in low],
        [folded[low] for low in get_close_matches(wanted, list(folded), 5, 0.6)],
    ]
    return list(dict.fromkeys(s for tier in tiers for s in tier))


def columns(close_time: NDArray[Any], session: NDArray[Any], *values: NDArray[Any]) -> Columns:
    """One symbol's bars from arrays of any numeric type; read-only, so that a cache may keep them."""
    if len(values) != 5:
        raise ValueError(f"{len(values)} value columns, expected open, high, low, close, volume")
    o, h, low, c, v = (np.ascontiguousarray(x, np.float64) for x in values)
    out = Columns(np.ascontiguousarray(close_time, np.int64), np.ascontiguousarray(session, np.int32), o, h, low, c, v)
    for array in out:
        array.setflags(write=False)
    return out
