"""Unusual volume and volatility, measured against the same time of day in the sessions before.

For each bar, x is the logarithm of its volume, or of its range (high less low, relative to the low, at least one tick). Its
robust z-score is (x - median) / max(1.4826 * MAD, FLOOR), with median and median absolute deviation (MAD) over the bars of
the same time-of-day bucket in the `anomaly_sessions` sessions before it (Iglewicz and Hoaglin, 1993; 1.4826 makes the MAD
of a normal distribution its standard deviation). Only upward deviations are anomalies: what is missing is the gap rule's.

The bars of a session are never measured against each other, so a verdict on a bar depends on finished sessions only:
recomputing on data cut at any time gives the same scores up to there.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar
from trading.session_grid import on_grid, sessions_of
from trading.timeframes import US_PER_MINUTE

BUCKET_MINUTES: Final = 30
FLOOR: Final = 0.5
"""Least spread, in units of x: where most bars span one tick the MAD is 0, and a range of some ticks is nothing unusual."""
MIN_SAMPLES: Final = 10
"""Fewer bars to compare with than this say nothing."""
MIN_SESSIONS: Final = 5
"""Fewer sessions to compare with than this say nothing: one quiet day is no measure for the next."""
MAD_TO_SIGMA: Final = 1.4826
_BUCKETS: Final = 64


def scores(
    bars: Bars, place: NDArray[np.int64], open_time: NDArray[np.int64], sessions: int, tick_size: float, first: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(z of volume, z of volatility) of the rows from `first` on, float64 (T,); NaN where it cannot be said.

    place: ordinal of each row's session (week for 1w), ascending. open_time: its session's open (UTC us). sessions: how
    many places back to look. Rows without volume have no score of it.
    """
    bucket = _buckets(bars, open_time)
    out = []
    for x in _quantities(bars, tick_size):
        z = np.full(len(bars), np.nan)
        _scores(x, place, bucket, sessions, first, z)
        out.append(z)
    return out[0], out[1]


def session_scores(
    trailing: Bars, bars: Bars, calendar: Calendar, sessions: int, tick_size: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`scores` of the rows of one session after `trailing`, to the bit, remembering what the sessions before say.

    A session is judged again at each of its closes; what it is measured against does not change meanwhile.
    """
    row, _, opens, _ = sessions_of(bars.session, calendar)
    if len(bars) == 0 or int(row[0]) != int(row[-1]) or (len(trailing) and int(trailing.session[-1]) >= int(bars.session[0])):
        both = _joined(trailing, bars)
        places, both_opens = on_grid(both, calendar)[0], sessions_of(both.session, calendar)[2]
        volume, volatility = scores(both, places, both_opens, sessions, tick_size, len(trailing))
        return volume[len(trailing) :], volatility[len(trailing) :]
    key = (
        bars.symbol, str(bars.timeframe), calendar.name, int(bars.session[0]), sessions, tick_size,
        *(hash(np.ascontiguousarray(getattr(trailing, n)).tobytes()) for n in ("close_time", "session", "high", "low", "volume")),
    )  # fmt: skip
    known = _remembered.get(key)
    if known is None:
        place = on_grid(trailing, calendar)[0]
        mine = int(on_grid(bars.rows(slice(0, 1)), calendar)[0][0])
        start = int(np.searchsorted(place, mine - sessions, side="left"))
        bucket = _buckets(trailing, sessions_of(trailing.session, calendar)[2])
        known = tuple(_baseline(x, place, bucket, start, len(trailing)) for x in _quantities(trailing, tick_size))
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[key] = known
    bucket = _buckets(bars, opens)
    volume, volatility = (
        (x - middle[bucket]) / spread[bucket]
        for x, (middle, spread) in zip(_quantities(bars, tick_size), known, strict=True)
    )  # fmt: skip
    return volume, volatility


_remembered: dict[Any, Any] = {}
_MOST_REMEMBERED: Final = 1024


def _joined(before: Bars, bars: Bars) -> Bars:
    names = ("close_time", "session", "open", "high", "low", "close", "volume")
    return Bars(bars.symbol, bars.timeframe, *(np.concatenate([getattr(before, n), getattr(bars, n)]) for n in names))


def _buckets(bars: Bars, open_time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Time-of-day bucket of each row."""
    if not bars.timeframe.intraday:
        return np.zeros(len(bars), np.int64)
    return np.clip((bars.close_time - 1 - open_time) // (BUCKET_MINUTES * US_PER_MINUTE), 0, _BUCKETS - 1)


def _quantities(bars: Bars, tick_size: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x of volume and of volatility; NaN where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        volume = np.where(bars.volume > 0, np.log(bars.volume), np.nan)
        spread = np.maximum(bars.high - bars.low, tick_size)
        volatility = np.where((bars.low > 0) & (bars.high >= bars.low), np.log(spread / bars.low), np.nan)
    return np.where(np.isfinite(volume), volume, np.nan), np.where(np.isfinite(volatility), volatility, np.nan)


@numba.njit(cache=True)
def _baseline(x, place, bucket, start, begin):  # type: ignore[no-untyped-def]
    """(median, spread) of each bucket over rows [start, begin); NaN where too few."""
    middle = np.full(_BUCKETS, np.nan)
    spread = np.full(_BUCKETS, np.nan)
    seen = 0
    ends = np.zeros(_BUCKETS + 1, np.int64)
    for k in range(start, begin):
        if k == start or place[k] != place[k - 1]:
            seen += 1
        if x[k] == x[k]:
            ends[bucket[k] + 1] += 1
    if seen < MIN_SESSIONS:
        return middle, spread
    ends = np.cumsum(ends)
    filled = ends.copy()
    by_bucket = np.empty(ends[_BUCKETS], np.float64)
    for k in range(start, begin):
        if x[k] == x[k]:
            by_bucket[filled[bucket[k]]] = x[k]
            filled[bucket[k]] += 1
    for b in range(_BUCKETS):
        found = by_bucket[ends[b] : ends[b + 1]]
        if len(found) >= MIN_SAMPLES:
            middle[b] = np.median(found)
            spread[b] = max(MAD_TO_SIGMA * np.median(np.abs(found - middle[b])), FLOOR)
    return middle, spread


@numba.njit(cache=True)
def _scores(x, place, bucket, sessions, first, out):  # type: ignore[no-untyped-def]
    n = len(x)
    middle = np.full(_BUCKETS, np.nan)
    spread = np.full(_BUCKETS, np.nan)
    judged = np.int64(-(2**62))
    start = 0
    for i in range(first, n):
        if place[i] != judged:
            # One baseline per session and bucket, from the rows of the sessions before it.
            judged = place[i]
            begin = i
            while begin > 0 and place[begin - 1] == judged:
                begin -= 1
            while start < begin and place[start] < judged - sessions:
                start += 1
            middle, spread = _baseline(x, place, bucket, start, begin)
        b = bucket[i]
        out[i] = (x[i] - middle[b]) / spread[b]
