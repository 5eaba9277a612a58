"""Venue calendars: which sessions exist and when each opens and closes, in UTC microseconds.

XNYS, CMES, XBOM, XEUR and the like come from exchange-calendars. FX (17:00 to 17:00 New York, Sunday evening to
Friday) and 24/7 crypto weeks are ours, because that library knows no continuous venues of their kind. Others are what
data/config/calendars says (trading/calendar_files.py); `define` makes them known to this process. Any of them can be cut in
another way (trading/calendar_cuts.py).

A session belongs to the day it trades for: the CME's Monday opens on Sunday evening. A lunch break (Tokyo, Hong Kong) is
no gap: whoever counts missing bars leaves out those that would close inside it (`Calendar.in_break`), and whoever cuts
bars at the session open ends one when the break begins and starts the grid anew when it ends (trading/resample.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from trading.timeframes import session_number, to_us

FIRST_DAY = date(1990, 1, 1)
LAST_DAY = date(2035, 12, 31)


def _no_breaks() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


class UnknownCalendar(ValueError):
    """No calendar of that name."""


@dataclass(frozen=True, slots=True, eq=False)
class Calendar:
    """S sessions of one venue, ascending.

    number: int32 (S,), session numbers. open_time, close_time: int64 (S,), UTC us. timezone: the venue's zone name,
    for display. early: bool (S,), the session closes before its usual wall-clock time. break_start, break_end: int64 (S,),
    UTC us, nobody trades from break_start until break_end; both 0 where the session has no break.
    """

    name: str
    timezone: str
    number: NDArray[np.int32]
    open_time: NDArray[np.int64]
    close_time: NDArray[np.int64]
    early: NDArray[np.bool_]
    break_start: NDArray[np.int64] = field(default_factory=_no_breaks)
    break_end: NDArray[np.int64] = field(default_factory=_no_breaks)

    def __post_init__(self) -> None:
        for name in ("break_start", "break_end"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.zeros(len(self.number), np.int64))

    @property
    def venue(self) -> str:
        """The name without the way its sessions are cut: ``FX`` of ``FX@UTC``."""
        return self.name.partition("@")[0]

    @property
    def has_breaks(self) -> bool:
        return bool(self.break_end.any())

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

    def breaks(self, session: date | int) -> tuple[int, int] | None:
        """(start, end) in UTC us of the lunch break of `session`, None without one. Raises KeyError when it is none."""
        i = self.position(session)
        return (int(self.break_start[i]), int(self.break_end[i])) if self.break_end[i] else None

    def in_break(self, close_time: NDArray[np.int64], session: NDArray[np.int32]) -> NDArray[np.bool_]:
        """bool (T,): the bar closes inside its session's break (start < close_time <= end), so nobody expects it.

        A bar that closes right at the start of the break is the last one before it. Sessions must be of this calendar.
        """
        row = np.minimum(np.searchsorted(self.number, session), max(0, len(self.number) - 1))
        return np.asarray((self.break_start[row] < close_time) & (close_time <= self.break_end[row]), np.bool_)

    def is_open(self, time_us: int) -> bool:
        """Is the venue trading at `time_us` (open <= t < close, outside the break)?"""
        i = int(np.searchsorted(self.close_time, time_us, side="right"))
        if i >= len(self.number) or int(self.open_time[i]) > time_us:
            return False
        return not int(self.break_start[i]) <= time_us < int(self.break_end[i])


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


@dataclass(frozen=True, slots=True)
class Described:
    """A calendar that is built when somebody asks for it. build raises ValueError with what is wrong."""

    name: str
    build: Callable[[], Calendar]


_defined: dict[str, Calendar | Described] = {}


def define(calendars: Iterable[Calendar | Described]) -> None:
    """Make `calendars` known to this process, instead of those defined before."""
    found = {c.name: c for c in calendars}
    _defined.update(found)  # never empty in between: other threads ask meanwhile
    for name in _defined.keys() - found.keys():
        del _defined[name]


def defined() -> list[str]:
    """Names of the calendars that `define` made known."""
    return sorted(_defined)


def calendar(name: str) -> Calendar:
    """Calendar `name`: ``FX``, ``CRYPTO``, an exchange-calendars code such as ``XNYS``, or one of data/config/calendars; any
    of them cut in another way: ``XNYS@clock``, ``FX@UTC`` (trading/calendar_cuts.py).

    Built once per process. Raises UnknownCalendar.
    """
    own = _defined.get(name)
    if own is None:
        venue, at, cut = name.partition("@")
        return _recut(calendar(venue), cut) if at else _built_in(name)
    if isinstance(own, Calendar):
        return own
    try:
        made = own.build()
    except ValueError as error:
        raise UnknownCalendar(f"calendar {name} cannot be used: {error}") from error
    if _defined.get(name) is own:
        _defined[name] = made
    return made


def is_built_in(name: str) -> bool:
    """Is `name` one of ours or of exchange-calendars (aliases included)?"""
    import exchange_calendars

    return name in ("FX", "CRYPTO") or name in exchange_calendars.get_calendar_names(include_aliases=True)


@lru_cache(maxsize=32)
def _recut(base: Calendar, cut: str) -> Calendar:
    from trading.calendar_cuts import recut

    return recut(base, cut)


@lru_cache(maxsize=32)
def _built_in(name: str) -> Calendar:
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
        raise UnknownCalendar(
            f"no calendar {name!r}: expected FX, CRYPTO, an exchange-calendars code or one of data/config/calendars"
        ) from error
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
    pauses = []
    for column in ("break_start", "break_end"):
        times = schedule[column].dt.tz_convert(None).to_numpy().astype("datetime64[us]")
        pauses.append(np.where(np.isnat(times), 0, times.astype(np.int64)))
    early_days = cal.early_closes.to_numpy().astype("datetime64[D]").astype(np.int64)
    return Calendar(name, str(cal.tz), days, opens, closes, np.isin(days, early_days), *pauses)


FX_THIN_DAYS = frozenset({(12, 24), (12, 25), (12, 26), (12, 31), (1, 1), (1, 2)})
"""(month, day) of FX sessions around which vendors publish only part of the hours."""
