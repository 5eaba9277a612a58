"""Which bars are missing, and the fewest requests that bring them.

A session needs asking for when more bars are missing than the thresholds allow (what a venue's quiet minutes leave out is no
gap), it lies inside the instrument's listing, and the source has not said lately that it has no more. The calendar says
which bars there should be: half days, breaks and thin days included.

Requests are planned per symbol: a source answers one range of sessions at a time, at most `page_bars` bars of it. With
sessions in order and w(s) bars expected of each, the fewest ranges that cover every session to ask for, each within a page,
come from taking them from the left: begin at the first session not covered, reach as far as the page allows, end at the last
session to ask for within reach. (Any plan needs a range that begins at or before the first uncovered session; none reaches
further than this one. Hence no plan has fewer.) A session that alone is larger than a page is a range of its own, which the
source pages through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar
from trading.resample import last_of_week
from trading.session_grid import due_times, missing_bars
from trading.timeframes import Timeframe, session_date


@dataclass(frozen=True, slots=True)
class Missing:
    """One session of one symbol with missing bars. session: number; expected: bars due; missing: of those, not held."""

    symbol: str
    session: int
    expected: int
    missing: int


@dataclass(frozen=True, slots=True)
class Request:
    """One request: sessions [first, last] (numbers) of `symbol`. sessions: those with missing bars, ascending.

    bars: expected in the range, what the source will send; missing: of those, not held.
    """

    symbol: str
    timeframe: Timeframe
    first: int
    last: int
    sessions: tuple[int, ...]
    bars: int
    missing: int

    def __str__(self) -> str:
        span = f"{session_date(self.first)}" + (f" to {session_date(self.last)}" if self.last > self.first else "")
        return f"{self.symbol} {self.timeframe} {span}: {self.missing} bars missing in {len(self.sessions)} session(s)"


def missing_of(
    held: Bars,
    calendar: Calendar,
    first: int,
    last: int,
    *,
    known_until: int | None,
    max_gap_share: float = 0.0,
    max_gap_bars: int = 0,
    listed_from: int | None = None,
    listed_until: int | None = None,
) -> list[Missing]:
    """Sessions in [first, last] (numbers) whose missing bars are more than allowed, ascending.

    held: the symbol's bars of that span, in any order of completeness; known_until: bars due later are not missing (UTC us;
    None: all are due). listed_from, listed_until: first and last session the instrument existed, None: not known.
    """
    lo = max(first, listed_from) if listed_from is not None else first
    hi = min(last, listed_until) if listed_until is not None else last
    numbers = calendar.number[(calendar.number >= lo) & (calendar.number <= hi)]
    if held.timeframe is Timeframe.W1:
        rows = np.unique(last_of_week(calendar))
        numbers = numbers[np.isin(numbers, calendar.number[rows])]
    if known_until is not None:
        opens = calendar.open_time[np.searchsorted(calendar.number, numbers)]
        numbers = numbers[opens < known_until]
    gaps = missing_bars(held, calendar, known_until, [int(n) for n in numbers])
    found = [
        Missing(held.symbol, session, gap.expected, gap.missing)
        for session, gap in sorted(gaps.items())
        if gap.missing > max_gap_share * gap.expected or gap.longest > max_gap_bars
    ]
    return [m for m in found if m.missing]


def plan_backfill(
    missing: Iterable[Missing],
    *,
    calendar_of: Callable[[str], Calendar],
    timeframe: Timeframe,
    page_bars: int | None,
    known_empty: Mapping[tuple[str, int], int] | None = None,
) -> list[Request]:
    """The fewest requests for `missing`, by symbol and time. page_bars: most bars of one answer (None: no limit).

    known_empty: (symbol, session) -> bars the source had when it was asked, of sessions not to be asked again yet.
    """
    skip = known_empty or {}
    by_symbol: dict[str, dict[int, Missing]] = {}
    for item in missing:
        if (item.symbol, item.session) not in skip:
            by_symbol.setdefault(item.symbol, {})[item.session] = item
    plan: list[Request] = []
    for symbol, sessions in sorted(by_symbol.items()):
        plan += _cover(symbol, sessions, calendar_of(symbol), timeframe, page_bars)
    return plan


def _cover(
    symbol: str, wanted: Mapping[int, Missing], calendar: Calendar, timeframe: Timeframe, page_bars: int | None
) -> list[Request]:
    ordered = sorted(wanted)
    weights = _weights(ordered[0], ordered[-1], calendar, timeframe)
    numbers = np.array([n for n, _ in weights], np.int64)
    total = np.concatenate([[0], np.cumsum([w for _, w in weights])])
    out: list[Request] = []
    at = 0
    while at < len(ordered):
        start = int(np.searchsorted(numbers, ordered[at]))
        end = at
        while end + 1 < len(ordered):
            reach = int(np.searchsorted(numbers, ordered[end + 1]))
            if page_bars is not None and int(total[reach + 1] - total[start]) > page_bars:
                break
            end += 1
        stop = int(np.searchsorted(numbers, ordered[end]))
        covered = tuple(ordered[at : end + 1])
        out.append(
            Request(
                symbol, timeframe, ordered[at], ordered[end], covered, int(total[stop + 1] - total[start]),
                sum(wanted[s].missing for s in covered),
            )
        )  # fmt: skip
        at = end + 1
    return out


def _weights(first: int, last: int, calendar: Calendar, timeframe: Timeframe) -> Sequence[tuple[int, int]]:
    """Bars a source may send of each session in [first, last], thin days as if they were full."""
    picked: NDArray[np.int64] = np.flatnonzero((calendar.number >= first) & (calendar.number <= last))
    if not timeframe.intraday:
        return [(int(calendar.number[i]), 1) for i in picked]
    width = timeframe.minutes * 60_000_000
    out = []
    for i in picked.tolist():
        number = int(calendar.number[i])
        full = -(-int(calendar.close_time[i] - calendar.open_time[i]) // width)
        out.append((number, len(due_times(number, timeframe, calendar)) or full))
    return out
