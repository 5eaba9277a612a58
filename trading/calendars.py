"""Venue calendars: which sessions exist and when each opens and closes, in UTC microseconds.

XNYS, CMES, XBOM, XEUR and the like come from exchange-calendars. FX (17:00 to 17:00 New York, Sunday evening to
Friday) and 24/7 crypto weeks are ours, because that library knows no continuous venues of their kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from trading.timeframes import session_number, to_us

FIRST_DAY = date(1990, 1, 1)
LAST_DAY = date(2035, 12, 31)


class UnknownCalendar(ValueError):
    """No calendar of that name."""


@dataclass(frozen=True, slots=True, eq=False)
class Calendar:
    """S sessions of one venue, ascending.

    number: int32 (S,), session numbers. open_time, close_time: int64 (S,), UTC us. timezone: the venue's zone name,
    for display. early: bool (S,), the session closes before its usual wall-clock time.
    """

    name: str
    timezone: str
    number: NDArray[np.int32]
    open_time: NDArray[np.int64]
    close_time: NDArray[np.int64]
    early: NDArray[np.bool_]

    def sessions(self, start: date, end: date) -> list[date]:
        """Session dates in [start, end]."""
        lo = np.searchsorted(self.number, session_number(start), side="left")
        hi = np.searchsorted(self.number, session_number(end), side="right")
        return [date(1970, 1, 1) + timedelta(days=int(n)) for n in self.number[lo:hi]]

    def position(self, session: date | int) -> int:
        """Row of `session`. Raises KeyError when the venue has no such session."""
        number = session if isinstance(session, int) else session_number(session)
        i = int(np.searchsorted(self.number, number))
        if i == len(self.number) or int(self.number[i]) != number:
            raise KeyError(f"{self.name} has no session {session}")
        return i

    def bounds(self, session: date | int) -> tuple[int, int]:
        """(open, close) of `session` in UTC us. Raises KeyError when it is none."""
        i = self.position(session)
        return int(self.open_time[i]), int(self.close_time[i])

    def session_of(self, close_time: NDArray[np.int64]) -> NDArray[np.int32]:
        """Session number each bar close belongs to: the session with open < close_time <= close; -1 outside any.

        A close later than the session's close but before the next open (after-hours bars) is outside: -1.
        """
        i = np.searchsorted(self.close_time, close_time, side="left")
        inside = i < len(self.number)
        j = np.where(inside, i, 0)
        inside &= self.open_time[j] < close_time
        return np.where(inside, self.number[j], -1).astype(np.int32)

    def is_open(self, time_us: int) -> bool:
        """Is the venue in session at `time_us` (open <= t < close)?"""
        i = int(np.searchsorted(self.close_time, time_us, side="right"))
        return i < len(self.number) and int(self.open_time[i]) <= time_us


def _days(start: date, end: date) -> list[date]:
    return [start + timedelta(days=i) for i in range((end - start).days + 1)]


def _continuous(name: str, zone: str, cut: time, weekdays: range, closed: set[tuple[int, int]]) -> Calendar:
    tz = ZoneInfo(zone)
    numbers, opens, closes = [], [], []
    for day in _days(FIRST_DAY, LAST_DAY):
        if day.weekday() not in weekdays or (day.month, day.day) in closed:
            continue
        numbers.append(session_number(day))
        opens.append(to_us(datetime.combine(day - timedelta(days=1), cut, tz)))
        closes.append(to_us(datetime.combine(day, cut, tz)))
    n = np.array(numbers, np.int32)
    return Calendar(name, zone, n, np.array(opens, np.int64), np.array(closes, np.int64), np.zeros(len(n), bool))


def _crypto() -> Calendar:
    numbers = np.array([session_number(d) for d in _days(FIRST_DAY, LAST_DAY)], np.int32)
    opens = numbers.astype(np.int64) * 86_400_000_000
    return Calendar("CRYPTO", "UTC", numbers, opens, opens + 86_400_000_000, np.zeros(len(numbers), bool))


@lru_cache(maxsize=32)
def calendar(name: str) -> Calendar:
    """Calendar `name`: ``FX``, ``CRYPTO``, or an exchange-calendars code such as ``XNYS``. Cached per process.

    Raises UnknownCalendar.
    """
    if name == "FX":
        # Jan 1 and Dec 25 are sessions only in part, and vendors disagree on them: their bars count, but no bar is
        # missed when there is none. They stay sessions; the gap rule knows them as thin days.
        return _continuous("FX", "America/New_York", time(17), range(0, 5), set())
    if name == "CRYPTO":
        return _crypto()
    import exchange_calendars
    from exchange_calendars.errors import InvalidCalendarName

    try:
        cal = exchange_calendars.get_calendar(name, start=FIRST_DAY.isoformat())
    except InvalidCalendarName as error:
        raise UnknownCalendar(f"no calendar {name!r}: expected FX, CRYPTO or an exchange-calendars code") from error
    except ValueError:
        # Some venues' holidays are recorded only since later (XBOM: 1997): take what there is.
        bound = exchange_calendars.get_calendar(name).bound_min()
        if bound is None:
            raise
        cal = exchange_calendars.get_calendar(name, start=bound)
    schedule = cal.schedule
    days = schedule.index.to_numpy().astype("datetime64[D]").astype(np.int64).astype(np.int32)
    opens = schedule["open"].dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    closes = schedule["close"].dt.tz_convert(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    early_days = cal.early_closes.to_numpy().astype("datetime64[D]").astype(np.int64)
    return Calendar(name, str(cal.tz), days, opens, closes, np.isin(days, early_days))


FX_THIN_DAYS = frozenset({(12, 24), (12, 25), (12, 26), (12, 31), (1, 1), (1, 2)})
"""(month, day) of FX sessions around which vendors publish only part of the hours."""
