"""Live bars into bar closes: everything that closes at one moment is one close, in order of time.

A close waits for the bars that are still expected at its moment, never longer than the grace. Who comes later is late: his
bar is kept and judged, and nothing is matched or decided on it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from desk.replay import CloseGroup
from resources.feeds.protocol import BarClose
from trading.calendars import Calendar


@dataclass(slots=True)
class _Pending:
    """A close that waits. since: seconds of the loop's clock."""

    session: int
    since: float
    bars: dict[str, BarClose] = field(default_factory=dict)


class CloseGroups:
    """Collects bars and gives closes that are ready.

    done_until: newest close that was processed, UTC us. expected(close_time): symbols whose bar of that moment is due and
    may still come. venues: calendars whose session closes are closes even without a bar.
    """

    def __init__(
        self, done_until: int, expected: Callable[[int], set[str]], venues: Iterable[Calendar], grace_seconds: float
    ) -> None:
        self.done_until = done_until
        self._expected = expected
        self._venues = list(venues)
        self._grace = grace_seconds
        self._pending: dict[int, _Pending] = {}
        self._venue_closes_until = done_until
        self.late: list[BarClose] = []
        """Bars of closes that are done: for the caller to take away."""

    def add(self, bar: BarClose, now: float) -> None:
        """Take one bar. now: seconds of the loop's clock."""
        if bar.late or bar.close_time <= self.done_until:
            self.late.append(bar)
            return
        pending = self._pending.setdefault(bar.close_time, _Pending(bar.session, now))
        pending.session = max(pending.session, bar.session)
        pending.bars[bar.symbol] = bar

    def ready(self, now: float, market_time: int) -> list[CloseGroup]:
        """The closes to process now, ascending. A close is given once; none before an older one that still waits."""
        self._note_venue_closes(now, market_time)
        out: list[CloseGroup] = []
        for close_time in sorted(self._pending):
            pending = self._pending[close_time]
            if now - pending.since < self._grace and not self._expected(close_time) <= set(pending.bars):
                break
            bars = tuple(pending.bars[symbol] for symbol in sorted(pending.bars))
            out.append(CloseGroup(close_time, pending.session, bars))
        return out

    def done(self, group: CloseGroup) -> None:
        """`group` was processed: what else belongs to its moment or before is late from now on."""
        taken = self._pending.pop(group.close_time, None)
        self.done_until = max(self.done_until, group.close_time)
        if taken is not None:  # bars that came while it was being processed
            given = {bar.symbol for bar in group.bars}
            self.late += [bar for symbol, bar in taken.bars.items() if symbol not in given]

    @property
    def waiting(self) -> int:
        """Closes that wait."""
        return len(self._pending)

    def _note_venue_closes(self, now: float, market_time: int) -> None:
        for venue in self._venues:
            lo = int(np.searchsorted(venue.close_time, self._venue_closes_until, side="right"))
            hi = int(np.searchsorted(venue.close_time, market_time, side="right"))
            for row in range(lo, hi):
                session = int(venue.number[row])
                pending = self._pending.setdefault(int(venue.close_time[row]), _Pending(session, now))
                pending.session = max(pending.session, session)
        self._venue_closes_until = max(self._venue_closes_until, market_time)
