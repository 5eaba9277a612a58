"""What a live subscription knows of each symbol: what was passed on, what is missing, whether it is fresh."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds.protocol import BarClose
from trading.calendars import Calendar, calendar
from trading.instruments import Instrument
from trading.resample import session_ends
from trading.timeframes import Timeframe, iso, session_date

REMEMBERED = 5_000
"""Bars of a symbol whose values are kept, to tell a repetition from a correction."""


def expected_closes(venue: Calendar, timeframe: Timeframe, after: int, until: int) -> NDArray[np.int64]:
    """Closes of the bars that are due in (after, until], int64, UTC us, ascending. Holidays, breaks and half days count."""
    lo = int(np.searchsorted(venue.close_time, after, side="right"))
    hi = int(np.searchsorted(venue.open_time, until, side="left"))
    if hi <= lo:
        return np.empty(0, np.int64)
    if not timeframe.intraday:
        ends = venue.close_time[lo:hi]
    else:
        ends = np.concatenate([session_ends(venue, row, timeframe) for row in range(lo, hi)])
    return np.asarray(ends[(ends > after) & (ends <= until)], np.int64)


@dataclass(slots=True)
class Gap:
    """Bars that are due in (after, until) and could not be had yet. why: what history said."""

    after: int
    until: int
    why: str


@dataclass(slots=True)
class SymbolState:
    """One symbol of a subscription. start: nothing at or before it is passed on (UTC us). tolerated: bars in a row that
    may be missing without being a fault (an instrument nobody trades every minute)."""

    instrument: Instrument
    timeframe: Timeframe
    start: int
    tolerated: int = 0
    last: int = 0
    received_wall: int = 0
    bars: int = 0
    duplicates: int = 0
    late: int = 0
    corrected: int = 0
    repaired: int = 0
    malformed: int = 0
    gap: Gap | None = None
    _seen: OrderedDict[int, tuple[float, ...]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.last = self.last or self.start

    @property
    def venue(self) -> Calendar:
        return calendar(self.instrument.calendar)

    def fault(self, bar: BarClose, now: int) -> str:
        """Why `bar` cannot be what the venue's calendar and any price can be; empty when it can. now: market time, UTC us."""
        values = (bar.open, bar.high, bar.low, bar.close, bar.volume)
        if bar.timeframe is not self.timeframe:
            return f"timeframe {bar.timeframe}, expected {self.timeframe}"
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in values):
            return f"values {values}, expected finite numbers"
        if bar.close_time > now:
            return f"closes at {iso(bar.close_time)}, and it is {iso(now)}"
        venue = self.venue
        session = int(venue.session_of(np.array([bar.close_time], np.int64))[0])
        if session != bar.session:
            found = "no session" if session < 0 else f"session {session_date(session)}"
            return f"closes at {iso(bar.close_time)}, which is {found} of {venue.name}"
        if not len(expected_closes(venue, self.timeframe, bar.close_time - 1, bar.close_time)):
            return f"closes at {iso(bar.close_time)}, which is no {self.timeframe} bar end of {venue.name}"
        return ""

    def known(self, bar: BarClose) -> bool | None:
        """True: the same bar was passed on. None: one of that time with other values. False: there was none."""
        if bar.close_time <= self.start:
            return True
        seen = self._seen.get(bar.close_time)
        if seen is None:
            return False
        return True if seen == _values(bar) else None

    def take(self, bar: BarClose, wall: int) -> bool:
        """Note that `bar` is passed on now. True when a newer one was before it."""
        late = bar.close_time <= self.last
        self.last = max(self.last, bar.close_time)
        self.received_wall = wall
        self.bars += 1
        self.late += late
        self._seen[bar.close_time] = _values(bar)
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return late

    def missing(self, until: int) -> int:
        """How many bars are due after the last one and before `until` (UTC us)."""
        return len(expected_closes(self.venue, self.timeframe, self.last, until - 1))

    def overdue(self, now: int, tolerance: int) -> str:
        """Why this symbol is stale at market time `now`; empty when it is fresh. tolerance: us a bar may take to arrive."""
        due = expected_closes(self.venue, self.timeframe, self.last, now - tolerance)
        if len(due) <= self.tolerated:
            return ""
        since = "nothing yet" if self.last == self.start else f"the last bar closed at {iso(self.last)}"
        return f"{len(due)} bar(s) overdue, the first since {iso(int(due[0]))}; {since}"

    def status(self, now: int) -> dict[str, Any]:
        """Plain values for people. now: market time, UTC us."""
        counts = {n: getattr(self, n) for n in ("bars", "repaired", "late", "duplicates", "corrected", "malformed")}
        heard = self.last > self.start
        return {
            "timeframe": str(self.timeframe),
            "last_close": iso(self.last) if heard else None,
            "last_bar_age_seconds": round((now - self.last) / 1e6, 1) if heard else None,
            "gap": None if self.gap is None else f"{iso(self.gap.after)} to {iso(self.gap.until)}: {self.gap.why}",
            **counts,
        }


def _values(bar: BarClose) -> tuple[float, ...]:
    return (bar.open, bar.high, bar.low, bar.close, bar.volume)
