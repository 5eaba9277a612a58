"""Where a computation starts: anchored windows, so that research and live agree bit for bit.

Recursive indicators (EMA, RSI, ATR), and running sums too, depend on their first bar. Every row therefore belongs to a
block, and every row of a block is computed from the same anchored first session, whether it is computed in a batch over
years or alone a moment after its bar closed:

    timeframe  block    window starts at the first session of
    1m to 30m  month    the month before
    1h, 4h     quarter  the quarter before the previous quarter
    1d         year     three years before
    1w         year     ten years before

When a window holds fewer bars than the warm-up, it is extended by whole blocks until they fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar
from trading.resample import bars_in_session, session_ends
from trading.timeframes import Timeframe, session_date, session_number


def _block_months(timeframe: Timeframe) -> int:
    """Length of a block in months."""
    if timeframe.minutes < 60:
        return 1
    return 3 if timeframe.intraday else 12


def _blocks_back(timeframe: Timeframe) -> int:
    """How many blocks before its own a row's window starts."""
    if timeframe.minutes < 60:
        return 1
    if timeframe.intraday:
        return 2
    return 3 if timeframe is Timeframe.D1 else 10


def block_bounds(session: int, timeframe: Timeframe) -> tuple[int, int]:
    """[first, after) session numbers of the calendar block `session` lies in."""
    months = _block_months(timeframe)
    day = session_date(session)
    index = (day.year * 12 + day.month - 1) // months
    return _first_day(index, months), _first_day(index + 1, months)


def _first_day(index: int, months: int) -> int:
    total = max(index * months, 12)
    return session_number(date(total // 12, total % 12 + 1, 1))


@lru_cache(maxsize=4096)
def window_start(session: int, timeframe: Timeframe, warm_up_bars: int, calendar: Calendar) -> int:
    """Session number of the first session whose bars a row of `session` is computed from.

    warm_up_bars: bars the computation needs, counted by the calendar's full sessions. The start is the same for every
    session of a block. Where the calendar begins too late, its first session is the answer.
    """
    months = _block_months(timeframe)
    first, _ = block_bounds(session, timeframe)
    index = _index_of(first, months)
    index -= _blocks_back(timeframe)
    while True:
        at = int(np.searchsorted(calendar.number, _first_day(index, months)))
        if at == 0:
            return int(calendar.number[0])
        if _bars_between(at, int(np.searchsorted(calendar.number, first)), timeframe, calendar) >= warm_up_bars:
            break
        index -= 1
    return int(calendar.number[min(at, len(calendar.number) - 1)])


def _index_of(session: int, months: int) -> int:
    day = session_date(session)
    return (day.year * 12 + day.month - 1) // months


def _bars_between(lo: int, hi: int, timeframe: Timeframe, calendar: Calendar) -> int:
    """Bars that full sessions lo..hi-1 (positions in the calendar) have."""
    if hi <= lo:
        return 0
    if timeframe is Timeframe.D1:
        return hi - lo
    if timeframe is Timeframe.W1:
        return len(np.unique((calendar.number[lo:hi].astype(np.int64) + 3) // 7))
    return int(np.sum(_session_bars(timeframe, calendar)[lo:hi]))


@lru_cache(maxsize=64)
def _session_bars(timeframe: Timeframe, calendar: Calendar) -> NDArray[np.int64]:
    return bars_in_session(calendar, timeframe)


def blocks(
    sessions: NDArray[np.int32], timeframe: Timeframe, warm_up_bars: int, calendar: Calendar
) -> Iterator[tuple[int, int, int]]:
    """Blocks of rows that share one window: (window_from_row, row_lo, row_hi), covering every row once, ascending.

    sessions: int32 (T,), the session number of each row, ascending. A batch that computes rows window_from_row..row_hi
    and keeps row_lo..row_hi gives what a live computation of each of those rows gives.
    """
    lo, n = 0, len(sessions)
    while lo < n:
        session = int(sessions[lo])
        _, after = block_bounds(session, timeframe)
        hi = int(np.searchsorted(sessions, after, side="left"))
        start = window_start(session, timeframe, warm_up_bars, calendar)
        yield int(np.searchsorted(sessions, start, side="left")), lo, hi
        lo = hi


def window_starts(session: int, warm_up: Mapping[Timeframe, int], calendar: Calendar) -> dict[Timeframe, int]:
    """First session of the window of every timeframe of a strategy, for a row of `session`.

    warm_up: bars needed per timeframe (an evaluable's ``warm_up``). What a live caller reads: bars of each timeframe
    from that session on, known at the row's close.
    """
    return {timeframe: window_start(session, timeframe, bars, calendar) for timeframe, bars in warm_up.items()}


def slices(
    bars: Mapping[Timeframe, Bars], primary: Timeframe, warm_up: Mapping[Timeframe, int], calendar: Calendar
) -> Iterator[tuple[dict[Timeframe, Bars], int, int, int]]:
    """(bars per timeframe, offset, row_lo, row_hi): windows of several timeframes for blocks of primary rows.

    offset is the primary row that is row 0 of the window. The blocks are those of the shortest timeframe, whose anchor
    moves first.
    """
    finest = min(warm_up, key=lambda t: t.minutes)
    sessions = bars[primary].session
    for _, lo, hi in blocks(sessions, finest, warm_up[finest], calendar):
        starts = window_starts(int(sessions[lo]), warm_up, calendar)
        until = int(bars[primary].close_time[hi - 1])
        window = {}
        for timeframe, start in starts.items():
            part = bars[timeframe]
            first = int(np.searchsorted(part.session, start, side="left"))
            last = int(np.searchsorted(part.close_time, until, side="right"))
            window[timeframe] = part.rows(slice(first, max(first, last)))
        yield window, int(np.searchsorted(sessions, starts[primary], side="left")), lo, hi


def close_after(close_time: int, timeframe: Timeframe, bars: int, calendar: Calendar) -> int:
    """When the bar `bars` bars after the one closing at `close_time` closes, by the calendar, in UTC us.

    Counts trading time only: nights, weekends and holidays are skipped. Raises ValueError beyond the calendar's end.
    """
    if bars < 1:
        raise ValueError(f"bars is {bars}, expected at least 1")
    at = int(np.searchsorted(calendar.close_time, close_time, side="right"))
    if timeframe is Timeframe.D1:
        return _close(at + bars - 1, calendar)
    if timeframe is Timeframe.W1:
        week = (session_of_week(calendar, at - 1) if at else 0) + bars
        last = int(np.searchsorted((calendar.number.astype(np.int64) + 3) // 7, week, side="right")) - 1
        return _close(max(last, at), calendar)
    left = bars
    while True:
        end = _close(at, calendar)
        ends = session_ends(calendar, at, timeframe)
        to_come = ends[np.searchsorted(ends, close_time, side="right") :]
        if left <= len(to_come):
            return int(min(to_come[left - 1], end))
        left -= len(to_come)
        at += 1


def session_of_week(calendar: Calendar, position: int) -> int:
    """Week number (Monday to Sunday) of the session at `position`."""
    return int((int(calendar.number[position]) + 3) // 7)


def _close(position: int, calendar: Calendar) -> int:
    if position >= len(calendar.number):
        raise ValueError(f"{calendar.name}: no session after {session_date(int(calendar.number[-1]))} in the calendar")
    return int(calendar.close_time[position])
