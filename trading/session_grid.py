"""Which bars the sessions of a venue call for: how many, when each is due, and which of them are missing.

Half days, clock changes, overnight sessions and lunch breaks come with the calendar. A bar that closes inside a break is
not expected. FX sessions around the turn of the year are thin: their bars count, none of them is missed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import FX_THIN_DAYS, Calendar
from trading.resample import bar_ends, last_of_week, session_ends
from trading.timeframes import US_PER_MINUTE, Timeframe, session_date


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing bars of one session.

    rows: rows (of the whole array) that come right after some. missing of expected bars, longest run of them;
    first_time: when the first missing one was due (UTC us).
    """

    rows: tuple[int, ...]
    missing: int
    expected: int
    longest: int
    first_time: int


def sessions_of(
    sessions: NDArray[np.int32], calendar: Calendar
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Calendar row (the nearest where there is none), whether the session exists, its open and close."""
    row = np.minimum(np.searchsorted(calendar.number, sessions), len(calendar.number) - 1).astype(np.int64)
    return row, calendar.number[row] == sessions, calendar.open_time[row], calendar.close_time[row]


def on_grid(bars: Bars, calendar: Calendar) -> tuple[NDArray[np.int64], NDArray[np.bool_], int, float]:
    """(place of each row's session among the sessions, is its close a bar end of it, bar length or 0, bars a session)."""
    row, exists, _, closes = sessions_of(bars.session, calendar)
    t = bars.close_time
    if bars.timeframe.intraday:
        width = bars.timeframe.minutes * US_PER_MINUTE
        good = exists & (t == bar_ends(t, bars.session, bars.timeframe, calendar))
        length = float(np.median(calendar.close_time - calendar.open_time)) if len(calendar.number) else 0.0
        return row, good, width, max(1.0, np.ceil(length / width))
    good = exists & (t == closes)
    if bars.timeframe is Timeframe.W1:
        last = last_of_week(calendar)
        good &= last[row] == row
        row = (calendar.number[row].astype(np.int64) + 3) // 7
    return row, good, 0, 1.0


def due_times(session: int, timeframe: Timeframe, calendar: Calendar, known_until: int | None = None) -> NDArray[np.int64]:
    """Closes of the bars `session` calls for, due by `known_until` (None: all), int64 (n,), UTC us.

    Empty when the venue has no such session or, for 1w, when it is not the last of its week. Thin days call for none.
    """
    try:
        at = calendar.position(int(session))
    except KeyError:
        return np.empty(0, np.int64)
    closes = int(calendar.close_time[at])
    if is_thin(session, calendar):
        return np.empty(0, np.int64)
    if timeframe.intraday:
        ends = session_ends(calendar, at, timeframe)
    elif timeframe is Timeframe.W1 and int(last_of_week(calendar)[at]) != at:
        return np.empty(0, np.int64)
    else:
        ends = np.array([closes], np.int64)
    return ends if known_until is None else ends[ends <= known_until]


def is_thin(session: int, calendar: Calendar) -> bool:
    """Is no bar of the session missed when there is none?"""
    if calendar.venue != "FX":
        return False
    day = session_date(int(session))
    return (day.month, day.day) in FX_THIN_DAYS


def missing_bars(bars: Bars, calendar: Calendar, known_until: int | None, sessions: list[int]) -> dict[int, Gap]:
    """Sessions of `sessions` with missing bars. known_until: only bars due by then are missed (UTC us; None: all)."""
    intraday = bars.timeframe.intraday
    if intraday and calendar.has_breaks:
        gaps = {s: _against_due(s, bars, calendar, known_until) for s in sorted(sessions)}
        return {s: gap for s, gap in gaps.items() if gap is not None}
    wanted = np.array(sorted(sessions), np.int32)
    _, exists, opens, closes = sessions_of(wanted, calendar)
    length = closes - opens
    width = np.full(len(wanted), bars.timeframe.minutes * US_PER_MINUTE) if intraday else np.maximum(length, 1)
    total = -(-length // width)
    if known_until is None:
        due = total
    else:
        due = np.where(known_until >= closes, total, np.clip((known_until - opens) // width, 0, total))
    if calendar.venue == "FX":
        exists = exists & ~np.array([is_thin(int(n), calendar) for n in wanted], bool)
    # Which bar of its session each row is, for the rows whose session is asked about and exists.
    where = np.searchsorted(wanted, bars.session)
    where = np.minimum(where, max(0, len(wanted) - 1))
    mine = (wanted[where] == bars.session) & exists[where] if len(wanted) else np.zeros(len(bars), bool)
    rows = np.flatnonzero(mine)
    at = where[rows]
    index = np.clip(-(-(bars.close_time[rows] - opens[at]) // width[at]) - 1, -1, total[at])
    return _count(wanted, exists, due, opens, closes, width, rows, at, index)


def _against_due(session: int, bars: Bars, calendar: Calendar, known_until: int | None) -> Gap | None:
    """The gaps of a session with a break, whose bars lie on two grids, counted on the bars that are due one by one."""
    due = due_times(session, bars.timeframe, calendar, known_until)
    rows = np.arange(np.searchsorted(bars.session, session), np.searchsorted(bars.session, session, side="right"))
    held = bars.close_time[rows]
    absent = ~np.isin(due, held)
    if not absent.any():
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[0], absent.astype(np.int8), [0]])))
    after = rows[np.isin(held, due[np.minimum(edges[1::2], len(due) - 1)])]
    tail = rows[-1:] if absent[-1] and len(rows) else rows[:0]
    return Gap(
        tuple(sorted({int(r) for r in (*after, *tail)})),
        int(absent.sum()),
        len(due),
        int((edges[1::2] - edges[::2]).max()),
        int(due[absent][0]),
    )


def _count(
    wanted: NDArray[np.int32],
    exists: NDArray[np.bool_],
    due: NDArray[np.int64],
    opens: NDArray[np.int64],
    closes: NDArray[np.int64],
    width: NDArray[np.int64],
    rows: NDArray[np.int64],
    at: NDArray[np.int64],
    index: NDArray[np.int64],
) -> dict[int, Gap]:
    order = np.lexsort((index, at))
    rows, at, index = rows[order], at[order], index[order]
    starts_session = np.ones(len(rows), bool)
    starts_session[1:] = at[1:] != at[:-1]
    previous = np.empty(len(rows), np.int64)
    previous[1:] = index[:-1]
    previous[starts_session] = -1
    skipped = np.maximum(index - previous - 1, 0)
    last_index = np.full(len(wanted), -1, np.int64)
    last_row = np.full(len(wanted), -1, np.int64)
    last_index[at] = index  # ascending: the last assignment stands
    last_row[at] = rows
    tail = np.maximum(due - 1 - last_index, 0)
    found: dict[int, list[tuple[int, int, int]]] = {}
    for i in np.flatnonzero(skipped):
        found.setdefault(int(at[i]), []).append((int(rows[i]), int(skipped[i]), int(previous[i]) + 1))
    for late in np.flatnonzero(exists & (tail > 0)):
        found.setdefault(int(late), []).append((int(last_row[late]), int(tail[late]), int(last_index[late]) + 1))
    out = {}
    for k, gaps in found.items():
        first_time = min(int(opens[k]) + (gaps[0][2] + 1) * int(width[k]), int(closes[k]))
        out[int(wanted[k])] = Gap(
            tuple(sorted({g[0] for g in gaps if g[0] >= 0})),
            sum(g[1] for g in gaps),
            int(due[k]),
            max(g[1] for g in gaps),
            first_time,
        )
    return out


def bar_end(close_time: int, session: int, timeframe: Timeframe, calendar: Calendar) -> int | None:
    """Close of the bar of `timeframe` that a bar closing at `close_time` is part of; None outside the session."""
    try:
        at = calendar.position(int(session))
    except KeyError:
        return None
    opens, closes = int(calendar.open_time[at]), int(calendar.close_time[at])
    if not opens < close_time <= closes:
        return None
    if timeframe is Timeframe.W1:
        return int(calendar.close_time[last_of_week(calendar)[at]])
    if not timeframe.intraday:
        return closes
    width = timeframe.minutes * US_PER_MINUTE
    return min(opens + -(-(close_time - opens) // width) * width, closes)
