"""Row loops of the quality rules that look back: every window is computed afresh, so a row's verdict is the same
whether it is judged in a history of years or a moment after its close with just enough bars before it."""

from __future__ import annotations

import numba
import numpy as np

MIN_RETURNS = 20
"""Fewer trailing returns than this say nothing about volatility."""
START_JUMP = 0.30
"""Log return that is a jump while volatility is not known yet (a 4:3 split is 0.29, a 3:2 split 0.41)."""
MIN_VOLUMES = 5
LONGEST_REST = 5.0
"""Sessions of movement granted across any pause, however long."""


@numba.njit(cache=True)
def _stretch(time_a, time_b, place_a, place_b, width, bars_per_session):  # type: ignore[no-untyped-def]
    """How many bars' worth of movement lies between two closes. width 0: one bar a session."""
    if place_a == place_b and width > 0:
        return max(1.0, (time_b - time_a) / width)
    return max(1.0, min(LONGEST_REST, float(place_b - place_a))) * bars_per_session


@numba.njit(cache=True)
def jumps(  # type: ignore[no-untyped-def]
    open_, high, low, close, close_time, place, width, bars_per_session, window, sigmas, minimum, first, explained, out
):
    """Mark rows >= first of which any price is further from the last close than `sigmas` trailing volatilities.

    The volatility is the root mean square of the `window` log returns before, each brought to one bar's length by the
    square root of the time it spans; a move across a pause may be larger in the same proportion. A row in `explained`
    (bool) opens at another price level for a known reason: it is measured from its own open.
    """
    n = len(close)
    unit = np.full(n, np.nan)
    for k in range(max(1, first - window), n):
        a, b = (open_[k] if explained[k] else close[k - 1]), close[k]
        if a > 0.0 and b > 0.0 and np.isfinite(a) and np.isfinite(b):
            span = _stretch(close_time[k - 1], close_time[k], place[k - 1], place[k], width, bars_per_session)
            unit[k] = np.log(b / a) / np.sqrt(span)
    for i in range(max(first, 1), n):
        before = -1
        for k in range(i - 1, max(-1, i - window - 2), -1):
            if close[k] > 0.0 and np.isfinite(close[k]):
                before = k
                break
        if before < 0:
            continue
        count = 0
        total = 0.0
        for k in range(max(0, i - window), i):
            if unit[k] == unit[k]:
                total += unit[k] * unit[k]
                count += 1
        if count >= MIN_RETURNS:
            span = _stretch(close_time[before], close_time[i], place[before], place[i], width, bars_per_session)
            limit = max(minimum, sigmas * np.sqrt(total / count * span))
        else:
            limit = max(minimum, START_JUMP)
        last = open_[i] if explained[i] and open_[i] > 0.0 else close[before]
        for price in (open_[i], high[i], low[i], close[i]):
            if price > 0.0 and np.isfinite(price) and abs(np.log(price / last)) > limit:
                out[i] = True


@numba.njit(cache=True)
def stale(open_, high, low, close, repeats, first, out):  # type: ignore[no-untyped-def]
    """Mark rows >= first that are at least the `repeats`-th of a run of identical bars."""
    for i in range(first, len(close)):
        run = 1
        k = i
        while run < repeats and k > 0:
            same = open_[k] == open_[k - 1] and high[k] == high[k - 1] and low[k] == low[k - 1] and close[k] == close[k - 1]
            if not same:
                break
            run += 1
            k -= 1
        if run >= repeats:
            out[i] = True


@numba.njit(cache=True)
def loud(volume, window, ratio, first, out):  # type: ignore[no-untyped-def]
    """Mark rows >= first whose volume is above `ratio` times the median of the `window` volumes before."""
    for i in range(first, len(volume)):
        a = max(0, i - window)
        if i - a < MIN_VOLUMES:
            continue
        least = volume[a]
        for k in range(a + 1, i):
            least = min(least, volume[k])
        if volume[i] > ratio * least and volume[i] > ratio * np.median(volume[a:i]):
            out[i] = True
