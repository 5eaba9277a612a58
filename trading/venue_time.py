"""Wall clocks of venues over arrays of UTC times, without Python per bar."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from trading.calendars import FIRST_DAY, LAST_DAY
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, US_PER_SECOND, from_us, session_number


def _offset(zone: ZoneInfo, second: int) -> int:
    """UTC offset of `zone` at `second` since 1970, in us."""
    return (from_us(second * US_PER_SECOND).astimezone(zone).utcoffset() or timedelta(0)) // timedelta(microseconds=1)


@lru_cache(maxsize=16)
def _transitions(name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(UTC us from which it holds, offset in us) of the zone, over the years calendars cover."""
    zone = ZoneInfo(name)
    start, end, week = session_number(FIRST_DAY) * 86_400, session_number(LAST_DAY) * 86_400, 7 * 86_400
    times, offsets = [np.iinfo(np.int64).min], [_offset(zone, start)]
    for after in range(start + week, end, week):  # no zone in use changes twice within a week
        offset = _offset(zone, after)
        if offset == offsets[-1]:
            continue
        lo, hi = after - week, after
        while hi - lo > 1:
            middle = (lo + hi) // 2
            lo, hi = (middle, hi) if _offset(zone, middle) == offsets[-1] else (lo, middle)
        times.append(hi * US_PER_SECOND)
        offsets.append(offset)
    return np.array(times, np.int64), np.array(offsets, np.int64)


def minute_of_day(time_us: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """int64 (T,): minutes since local midnight in `zone`, of UTC us."""
    times, offsets = _transitions(zone)
    local = time_us + offsets[np.searchsorted(times, time_us, side="right") - 1]
    return (local % US_PER_DAY) // US_PER_MINUTE


def weekday(session: NDArray[np.int32]) -> NDArray[np.int64]:
    """int64 (T,): 0 = Monday .. 6 = Sunday of session numbers (1970-01-01 was a Thursday)."""
    return (session.astype(np.int64) + 3) % 7
