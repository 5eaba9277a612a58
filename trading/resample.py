"""Higher timeframes from lower ones, anchored at the session open, completed bars only.

An intraday bar covers (open + k * length, open + (k + 1) * length] of its session; the last one ends at the session's
close. 1d is the session, 1w the sessions of one ISO week and belongs to the week's last session. A bar is complete,
and therefore exists, once its nominal end is known to have passed. Missing source bars make no difference to the ends;
a bar without any source bar does not exist.

open, high, low, close are taken, never computed; volume is summed in order of time, so it is exact (and the way there
does not matter) as long as volumes are whole numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_date


def resample(bars: Bars, timeframe: Timeframe, calendar: Calendar, *, known_until: int | None = None) -> Bars:
    """Bars of `timeframe` made of `bars`, those complete at `known_until` (UTC us; default: the last close_time).

    Bars stamped later than `known_until` are not looked at. Raises ValueError when `timeframe` is not made of whole
    source bars, or a bar lies outside the session it claims to belong to.
    """
    if timeframe is bars.timeframe:
        return bars if known_until is None else bars.known_at(known_until)
    if timeframe.minutes <= bars.timeframe.minutes or (timeframe.intraday and timeframe.minutes % bars.timeframe.minutes):
        raise ValueError(f"{bars.symbol}: {timeframe} bars cannot be made of {bars.timeframe} bars")
    if known_until is None:
        known_until = int(bars.close_time[-1]) if len(bars) else 0
    bars = bars.known_at(known_until)
    n = len(bars)
    if n == 0:
        return Bars.empty(bars.symbol, timeframe)
    end_time, label = _frame(calendar, timeframe)
    width = timeframe.minutes * US_PER_MINUTE if timeframe.intraday else 0
    starts = np.empty(n, np.int64)
    ends = np.empty(n, np.int64)
    sessions = np.empty(n, np.int32)
    made, bad = _mark(
        bars.close_time, bars.session, calendar.number, calendar.open_time, calendar.close_time, end_time, label, width,
        known_until, starts, ends, sessions,
    )  # fmt: skip
    if bad >= 0:
        day = session_date(int(bars.session[bad]))
        raise ValueError(
            f"{bars.symbol} {bars.timeframe}: the bar closing {iso(int(bars.close_time[bad]))} is not inside "
            f"session {day} of {calendar.name}"
        )
    o, h, low, c, v = (np.empty(made, np.float64) for _ in range(5))
    _fold(bars.open, bars.high, bars.low, bars.close, bars.volume, starts, made, o, h, low, c, v)
    return Bars(bars.symbol, timeframe, ends[:made].copy(), sessions[:made].copy(), o, h, low, c, v)


@lru_cache(maxsize=64)
def _frame(calendar: Calendar, timeframe: Timeframe) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Per session of the calendar: end of the longest bar it can be in, session that bar belongs to."""
    if timeframe is not Timeframe.W1:
        return calendar.close_time, calendar.number
    last = last_of_week(calendar)
    return calendar.close_time[last], calendar.number[last]


def last_of_week(calendar: Calendar) -> NDArray[np.int64]:
    """Row of the last session of each session's ISO week, int64 (S,)."""
    week = (calendar.number.astype(np.int64) + 3) // 7  # 1970-01-01 was a Thursday
    return np.searchsorted(week, week, side="right") - 1


@numba.njit(cache=True)
def _mark(  # type: ignore[no-untyped-def]
    close_time, session, number, open_time, last_time, end_time, label, width, known_until, starts, ends, sessions
):
    """Write first source row (starts), close_time and session of every complete bar.

    Returns (bars made, -1), with starts[made] = first row after the last complete bar where there is one, or
    (0, row) of the first source bar outside its session. width 0: one bar up to end_time.
    """
    n = len(close_time)
    made = 0
    p = np.searchsorted(number, session[0])
    current = session[0] - 1
    session_end = np.int64(0)
    bar_end = np.int64(-1)
    complete = True
    for i in range(n):
        t = close_time[i]
        if session[i] != current:
            current = session[i]
            while p < len(number) and number[p] < current:
                p += 1
            if p == len(number) or number[p] != current or t <= open_time[p]:
                return 0, i
            session_end = last_time[p]
            if width != 0:
                bar_end = np.int64(-1)
        if t > session_end:
            return 0, i
        if t > bar_end:
            bar_end = end_time[p]
            if width != 0:
                bar_end = min(bar_end, open_time[p] + ((t - open_time[p] - 1) // width + 1) * width)
            if complete:
                starts[made] = i
                if bar_end > known_until:
                    # Ends ascend: nothing later is complete. The rest is only looked at for bars out of place.
                    complete = False
                else:
                    ends[made] = bar_end
                    sessions[made] = label[p]
                    made += 1
    if complete and made < n:
        starts[made] = n
    return made, -1


@numba.njit(cache=True)
def _fold(open_, high, low, close, volume, starts, made, o, h, l, c, v):  # type: ignore[no-untyped-def]  # noqa: E741
    n = len(open_)
    for k in range(made):
        a = starts[k]
        b = starts[k + 1] if k + 1 < len(starts) else n
        top = high[a]
        bottom = low[a]
        total = volume[a]
        for i in range(a + 1, b):
            # A NaN anywhere stays visible: a bad source bar must not be hidden by the bar made of it.
            if high[i] > top or high[i] != high[i]:
                top = high[i]
            if low[i] < bottom or low[i] != low[i]:
                bottom = low[i]
            total += volume[i]
        o[k] = open_[a]
        h[k] = top
        l[k] = bottom
        c[k] = close[b - 1]
        v[k] = total
