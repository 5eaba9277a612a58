"""Higher timeframes from lower ones, anchored at the session open, completed bars only.

An intraday bar covers (open + k * length, open + (k + 1) * length] of its session; the last one ends at the session's
close. Where the session has a lunch break, the last bar before it ends when the break begins, and the grid starts again
when it ends; what was printed inside the break counts to the first bar after it, so that nothing is lost and no bar knows
more than its close_time. 1d is the session, 1w the sessions of one ISO week and belongs to the week's last session. A bar
is complete, and therefore exists, once its nominal end is known to have passed. Missing source bars make no difference to
the ends; a bar without any source bar does not exist.

open, high, low, close are taken, never computed. Sums are exact, so that the way there and the order do not matter:
turnover is a whole number of its quantum, trade counts and most volumes are whole numbers; volumes with decimals (crypto,
forex) are summed as integers of VOLUME_STEP and given back as the float nearest to that decimal number. This holds for
whole volumes up to 2**53 and for fractional ones as long as a sum has at most 15 digits, before and after the point: a
float64 carries no more. Where sums grow beyond, the way there could show in the last bit, and derived bars are therefore
always made of the native ones, never of each other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_date

VOLUME_STEPS: Final = 100_000_000
"""Steps in a unit of volume: sums of fractional volumes are exact in eight decimals, the finest any venue counts in."""
VOLUME_STEP: Final = 1.0 / VOLUME_STEPS

_NEVER: Final = 2**62


def resample(bars: Bars, timeframe: Timeframe, calendar: Calendar, *, known_until: int | None = None) -> Bars:
    """Bars of `timeframe` made of `bars`, those complete at `known_until` (UTC us; default: the last close_time).

    Bars stamped later than `known_until` are not looked at. The result has the optional columns the source has. Raises
    ValueError when `timeframe` is not made of whole source bars, or a bar lies outside the session it claims to belong to.
    """
    if timeframe is bars.timeframe:
        return bars if known_until is None else bars.known_at(known_until)
    if known_until is None:
        known_until = int(bars.close_time[-1]) if len(bars) else 0
    return _fold_into(bars.known_at(known_until), timeframe, calendar, known_until)


def forming_bar(bars: Bars, timeframe: Timeframe, calendar: Calendar, *, known_until: int) -> Bars | None:
    """The bar of `timeframe` that is not complete at `known_until`, as far as it is known then: one row whose close_time,
    later than `known_until`, says when it will be. None when nothing of it has closed yet. Only for code that asks for
    forming bars: its values still change. Raises as resample."""
    known = bars.known_at(known_until)
    if len(known) == 0 or timeframe is bars.timeframe:
        return None
    # Only the newest session (week) can hold it.
    start = int(known.session[-1])
    if timeframe is Timeframe.W1:
        start -= session_date(start).weekday()
    known = known.rows(slice(int(np.searchsorted(known.session, start)), None))
    made = _fold_into(known, timeframe, calendar, _NEVER)
    return made.rows(slice(len(made) - 1, None)) if int(made.close_time[-1]) > known_until else None


def session_ends(calendar: Calendar, position: int, timeframe: Timeframe) -> NDArray[np.int64]:
    """Closes of all intraday bars of the session at `position` of the calendar, int64 (n,), UTC us, ascending."""
    width = timeframe.minutes * US_PER_MINUTE
    parts = []
    for opened, closed in _stretches(calendar, position):
        ends = np.arange(opened + width, closed + width, width, dtype=np.int64)
        parts.append(np.minimum(ends, closed))
    return np.concatenate(parts)


def _stretches(calendar: Calendar, position: int) -> list[tuple[int, int]]:
    """(from, to) of uninterrupted trading."""
    opened, closed = int(calendar.open_time[position]), int(calendar.close_time[position])
    pause, resumed = int(calendar.break_start[position]), int(calendar.break_end[position])
    return [(opened, pause), (resumed, closed)] if resumed else [(opened, closed)]


def bar_ends(
    close_time: NDArray[np.int64], session: NDArray[np.int32], timeframe: Timeframe, calendar: Calendar
) -> NDArray[np.int64]:
    """End of the bar of `timeframe` each source bar counts to, int64 (T,), UTC us; -1 for one outside its session."""
    end_time, _ = _frame(calendar, timeframe)
    width = timeframe.minutes * US_PER_MINUTE if timeframe.intraday else 0
    row = np.minimum(np.searchsorted(calendar.number, session), max(0, len(calendar.number) - 1))
    inside = (calendar.number[row] == session) & (close_time > calendar.open_time[row]) & (close_time <= calendar.close_time[row])
    if width == 0:
        return np.where(inside, end_time[row], -1)
    opened, closed = calendar.open_time[row], calendar.close_time[row]
    pause, resumed = calendar.break_start[row], calendar.break_end[row]
    broken = resumed != 0
    later = broken & (close_time > pause)
    base = np.where(later, resumed, opened)
    limit = np.where(later | ~broken, closed, pause)
    steps = np.maximum((close_time - base - 1) // width + 1, 1)
    return np.where(inside, np.minimum(limit, base + steps * width), -1)


def bars_in_session(calendar: Calendar, timeframe: Timeframe) -> NDArray[np.int64]:
    """How many bars of the intraday `timeframe` each session of the calendar has, int64 (S,)."""
    width = timeframe.minutes * US_PER_MINUTE
    broken = calendar.break_end != 0
    first = np.where(broken, calendar.break_start, calendar.close_time) - calendar.open_time
    second = np.where(broken, calendar.close_time - calendar.break_end, 0)
    return np.asarray(-(-first // width) + -(-second // width), np.int64)


def _fold_into(bars: Bars, timeframe: Timeframe, calendar: Calendar, known_until: int) -> Bars:
    if timeframe.minutes <= bars.timeframe.minutes or (timeframe.intraday and timeframe.minutes % bars.timeframe.minutes):
        raise ValueError(f"{bars.symbol}: {timeframe} bars cannot be made of {bars.timeframe} bars")
    n = len(bars)
    if n == 0:
        return Bars.empty(bars.symbol, timeframe)
    end_time, label = _frame(calendar, timeframe)
    width = timeframe.minutes * US_PER_MINUTE if timeframe.intraday else 0
    starts = np.empty(n, np.int64)
    ends = np.empty(n, np.int64)
    sessions = np.empty(n, np.int32)
    made, bad = _mark(
        bars.close_time, bars.session, calendar.number, calendar.open_time, calendar.close_time, calendar.break_start,
        calendar.break_end, end_time, label, width, known_until, starts, ends, sessions,
    )  # fmt: skip
    if bad >= 0:
        day = session_date(int(bars.session[bad]))
        raise ValueError(
            f"{bars.symbol} {bars.timeframe}: the bar closing {iso(int(bars.close_time[bad]))} is not inside "
            f"session {day} of {calendar.name}"
        )
    o, h, low, c, v = (np.empty(made, np.float64) for _ in range(5))
    fractional = _fold(bars.open, bars.high, bars.low, bars.close, bars.volume, starts, made, o, h, low, c, v)
    if fractional:
        _sum_steps(bars.volume, starts, made, VOLUME_STEPS, v)
    extras = {name: np.empty(made, np.float64) for name in bars.extras}
    for name, total in extras.items():
        _sum(getattr(bars, name), starts, made, total)
    return Bars(bars.symbol, timeframe, ends[:made].copy(), sessions[:made].copy(), o, h, low, c, v, **extras)


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
    close_time, session, number, open_time, last_time, break_start, break_end, end_time, label, width, known_until, starts,
    ends, sessions,
):  # fmt: skip
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
                base = open_time[p]
                if break_end[p] != 0:
                    if t > break_start[p]:
                        base = break_end[p]
                    else:
                        bar_end = break_start[p]
                bar_end = min(bar_end, base + max((t - base - 1) // width + 1, 1) * width)
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
    """Fill the columns of the bars made; returns whether a volume is not a whole number (their sums then are not exact)."""
    n = len(open_)
    fractional = False
    for k in range(made):
        a = starts[k]
        b = starts[k + 1] if k + 1 < len(starts) else n
        top = high[a]
        bottom = low[a]
        total = volume[a]
        if total != np.floor(total):
            fractional = True
        for i in range(a + 1, b):
            # A NaN anywhere stays visible: a bad source bar must not be hidden by the bar made of it.
            if high[i] > top or high[i] != high[i]:
                top = high[i]
            if low[i] < bottom or low[i] != low[i]:
                bottom = low[i]
            size = volume[i]
            if size != np.floor(size):
                fractional = True
            total += size
        o[k] = open_[a]
        h[k] = top
        l[k] = bottom
        c[k] = close[b - 1]
        v[k] = total
    return fractional


@numba.njit(cache=True)
def _sum(column, starts, made, out):  # type: ignore[no-untyped-def]
    n = len(column)
    for k in range(made):
        b = starts[k + 1] if k + 1 < len(starts) else n
        total = column[starts[k]]
        for i in range(starts[k] + 1, b):
            total += column[i]
        out[k] = total


@numba.njit(cache=True)
def _sum_steps(column, starts, made, steps, out):  # type: ignore[no-untyped-def]
    """Sums in whole units and whole steps of a unit: no addition rounds, whatever its order."""
    n = len(column)
    for k in range(made):
        b = starts[k + 1] if k + 1 < len(starts) else n
        units = np.int64(0)
        parts = np.int64(0)
        plain = 0.0
        exact = True
        for i in range(starts[k], b):
            x = column[i]
            plain += x
            if not abs(x) < 2.0**53:  # not a number, infinite, or without decimals anyway
                exact = False
                continue
            whole = np.floor(x)
            grain = 1.0  # a float64 carries 15 digits for sure: what it says beyond them was never written
            limit = 1e7
            while abs(whole) >= limit:
                grain *= 10.0
                limit *= 10.0
            units += np.int64(whole)
            parts += np.int64(np.rint((x - whole) * steps / grain) * grain)
        if not exact:
            out[k] = plain
            continue
        units += parts // steps
        parts = parts % steps
        scale = np.int64(steps)
        while scale > 1 and parts % 10 == 0:
            parts //= 10
            scale //= 10
        if abs(units) < 2**53 // scale:
            out[k] = np.float64(units * scale + parts) / np.float64(scale)
        else:
            out[k] = np.float64(units) + np.float64(parts) / np.float64(scale)
