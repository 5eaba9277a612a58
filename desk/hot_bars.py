"""The desk's view of bars: history from the lake, extended in memory by every bar as it closes.

Exits must be fast and must go on when the lake cannot be written, so what has closed is kept here whether or not it
could be stored. A new session drops the view: the vendor's final bars may have replaced the traded-on ones meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final, Protocol

import numpy as np

from resources.feeds.protocol import BarClose
from trading.bars import OPTIONAL_COLUMNS, Bars, concat
from trading.timeframes import Timeframe, session_date

DERIVED: Final = tuple(Timeframe)
"""All timeframes, ascending: those above an instrument's native one are derived from it."""

_JOIN_AT = 64


class BarsReader(Protocol):
    """The part of the lake that is read here."""

    def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Bars: ...


@dataclass(slots=True)
class _View:
    """Bars of one symbol and timeframe from session `start` on; start None: only what closed while the desk ran."""

    start: int | None
    bars: Bars
    newer: list[Bars] = field(default_factory=list)
    """Closed since, not yet joined to `bars`: a symbol that nobody reads costs next to nothing at a close."""

    def joined(self) -> Bars:
        """Everything there is, as one."""
        for newer in self.newer:
            self.bars = _append(self.bars, newer)
        self.newer.clear()
        return self.bars


class BarCache:
    """Bars per (symbol, timeframe), read from the lake once and extended by closes. Used by one thread only."""

    def __init__(self, lake: BarsReader) -> None:
        self._lake = lake
        self._views: dict[tuple[str, Timeframe], _View] = {}

    def bars(self, symbol: str, timeframe: Timeframe, start_session: int, until: int) -> Bars:
        """Bars with session >= `start_session` and close_time <= `until`. Raises the lake's LakeError."""
        key = (symbol, timeframe)
        view = self._views.get(key)
        if view is None or view.start is None or view.start > start_session:
            stored = self._lake.read_bars(f"bars_{timeframe}", symbol, session_date(start_session), None)
            hot = view.joined() if view is not None else Bars.empty(symbol, timeframe)
            view = self._views[key] = _View(start_session, _append(stored, hot))
        known = view.joined().known_at(until)
        return known.rows(slice(int(np.searchsorted(known.session, start_session, side="left")), len(known)))

    def extend(self, bars: Bars) -> None:
        """Take over newly closed bars; those already known are ignored."""
        key = (bars.symbol, bars.timeframe)
        view = self._views.get(key)
        if view is None:
            self._views[key] = _View(None, bars)
        else:
            view.newer.append(bars)
            if len(view.newer) >= _JOIN_AT:
                view.joined()

    def forget(self) -> None:
        """Read everything from the lake again at the next use."""
        self._views.clear()


def _append(bars: Bars, newer: Bars) -> Bars:
    last = int(bars.close_time[-1]) if len(bars) else -(2**62)
    fresh = newer.rows(slice(int(np.searchsorted(newer.close_time, last, side="right")), len(newer)))
    return bars if len(fresh) == 0 else fresh if len(bars) == 0 else concat([bars, fresh])


def to_bars(closes: Sequence[BarClose]) -> list[Bars]:
    """Bars per (symbol, timeframe) of bar closes as a feed emits them, ascending by close_time."""
    groups: dict[tuple[str, Timeframe], list[BarClose]] = {}
    for close in sorted(closes, key=lambda c: c.close_time):
        groups.setdefault((close.symbol, close.timeframe), []).append(close)
    return [
        Bars(
            symbol,
            timeframe,
            np.array([c.close_time for c in rows], np.int64),
            np.array([c.session for c in rows], np.int32),
            *(np.array([getattr(c, column) for c in rows], np.float64) for column in ("open", "high", "low", "close", "volume")),
            **{
                column: np.array([getattr(c, column) for c in rows], np.float64)
                for column in OPTIONAL_COLUMNS
                if all(getattr(c, column) is not None for c in rows)
            },
        )
        for (symbol, timeframe), rows in groups.items()
    ]


def derived_timeframes(native: Timeframe) -> tuple[Timeframe, ...]:
    """Timeframes above `native`, ascending. A timeframe that is no whole multiple of the native one is left out."""
    return tuple(t for t in DERIVED if t.minutes > native.minutes and t.minutes % native.minutes == 0)


def period_start(session: int, timeframe: Timeframe) -> int:
    """First session number that a bar of `timeframe` in `session` may be made of: the session, or its week's Monday."""
    return session - session_date(session).weekday() if timeframe is Timeframe.W1 else session


def by_session(bars: Bars) -> dict[int, Bars]:
    """`bars` cut into their sessions."""
    return {int(number): bars.rows(bars.session == number) for number in np.unique(bars.session)}


def closed_at(bars: Mapping[str, Mapping[Timeframe, Bars]], close_time: int) -> dict[str, list[str]]:
    """``{"1h": ["EURUSD"], ...}``: which symbols closed a bar of which timeframe exactly at `close_time`."""
    answer: dict[str, list[str]] = {}
    for symbol in sorted(bars):
        for timeframe in Timeframe:
            rows = bars[symbol].get(timeframe)
            if rows is not None and len(rows) and int(rows.close_time[-1]) == close_time:
                answer.setdefault(str(timeframe), []).append(symbol)
    return answer
