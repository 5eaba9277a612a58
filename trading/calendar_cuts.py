"""A venue's calendar cut in another way, for bars that a source has cut in another way: ``XNYS@clock``, ``FX@UTC``,
``CMES@08:30-16:00``.

``VENUE@clock``: the venue's sessions as they are, bars cut at the full hours of its wall clock. New York's first hour is
9:30 to 10:00, the next one 10:00 to 11:00. In the calendar this is a break without length at the first full hour: a bar
ends there and the grid starts anew.

``VENUE@ZONE`` (a zone name, or an offset such as ``UTC-05``): the venue's trading cut at midnight of that zone. A session
is what is traded on one date there, Sunday evening a session of its own; the pause between two sessions of the venue that
falls inside a date (the daily rest, an early close with its reopening) is that session's break.

``VENUE@HH:MM-HH:MM``: only what is traded between two local times of the venue on one date (regular trading hours).

An instrument has one calendar, so its bars of every timeframe lie on one grid: bars cut in another way are never compared
with the venue's own, nor made into them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from trading.calendars import Calendar, UnknownCalendar, calendar
from trading.timeframes import US_PER_HOUR, session_date, session_number, to_us

CLOCK = "clock"
_HOURS = re.compile(r"(\d{2}):(\d{2})-(\d{2}):(\d{2})")
_DAY_MINUTES = 1440
_OFFSET = re.compile(r"UTC([+-])(\d{2}):?(\d{2})?")


def recut(base: Calendar, cut: str) -> Calendar:
    """`base` cut as `cut` says: ``clock``, ``08:30-16:00`` or a zone. Raises UnknownCalendar."""
    if cut == CLOCK:
        return _at_full_hours(base)
    if (hours := _HOURS.fullmatch(cut)) is not None:
        first, last = (int(hours[i]) * 60 + int(hours[i + 1]) for i in (1, 3))
        if not first < last <= _DAY_MINUTES or int(hours[2]) > 59 or int(hours[4]) > 59:
            raise UnknownCalendar(f"{base.name}@{cut}: expected two times of one day, the earlier first, such as 08:30-16:00")
        return _by_date(base, cut, zone_of(base.timezone), base.timezone, first, last)
    try:
        zone = zone_of(cut)
    except ValueError as error:
        raise UnknownCalendar(
            f"{base.name}@{cut}: {error}; {base.name}@{CLOCK} cuts at full hours, {base.name}@08:30-16:00 between two times"
        ) from None
    return _by_date(base, cut, zone, cut, 0, _DAY_MINUTES)


@lru_cache(maxsize=64)
def cut_at_full_hours(venue: Calendar, zone: str) -> bool:
    """Does every hour bar of `venue` lie within one hour of `zone`'s clock?"""
    where = zone_of(zone)
    for start, end in _stretches_of(venue):
        if _past_hour(start, where) and (_past_hour(end, where) or end - start > US_PER_HOUR):
            return False
    return True


@lru_cache(maxsize=64)
def trades_whole_dates(venue: Calendar, zone: str) -> bool:
    """Is each session of `venue` all that is traded between the midnights of its date in `zone`?"""
    try:
        whole = calendar(f"{venue.venue}@{zone}")
    except UnknownCalendar:
        return False
    return all(np.array_equal(getattr(venue, c), getattr(whole, c)) for c in ("number", "open_time", "close_time"))


@lru_cache(maxsize=64)
def trades_between(venue: Calendar, zone: str, first: int, last: int) -> bool:
    """Are the sessions of `venue` those of each date between the minutes `first` and `last` of `zone`'s clock? Half days
    end before."""
    where = zone_of(zone)
    opened, closed = [], []
    for number, start, end in zip(venue.number.tolist(), venue.open_time.tolist(), venue.close_time.tolist(), strict=True):
        day = session_date(number)
        opened.append(start - _moment(day, first, where))
        closed.append(_moment(day, last, where) - end)
    return min(opened) == 0 and min(closed) == 0 and float(np.median(opened)) == 0.0 and float(np.median(closed)) == 0.0


def between(venue: Calendar, zone: str, first: int, last: int) -> str:
    """Name of the calendar of what `venue` trades between two minutes of the day of `zone`."""
    day = session_date(int(venue.number[-1]))
    here = zone_of(venue.timezone)
    times = [_local(_moment(day, minute, zone_of(zone)), here) for minute in (first, last)]
    return f"{venue.name}@{times[0]:%H:%M}-{times[1]:%H:%M}"


def _moment(day: date, minute: int, zone: tzinfo) -> int:
    """UTC us of a minute of the local date; 1440 is its end."""
    whole, rest = divmod(minute, _DAY_MINUTES)
    return to_us(datetime.combine(day + timedelta(days=whole), time(rest // 60, rest % 60), zone))


def _past_hour(us: int, zone: tzinfo) -> int:
    """Seconds since the full hour before, by the clock of `zone`."""
    here = _local(us, zone)
    return here.minute * 60 + here.second


def zone_of(name: str) -> tzinfo:
    """The zone called `name`, or a fixed offset such as ``UTC-05``. Raises ValueError."""
    if (offset := _OFFSET.fullmatch(name)) is not None:
        span = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        return timezone(-span if offset[1] == "-" else span)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no time zone {name!r}; expected a name such as America/New_York or an offset such as UTC-05") from None


def _local(us: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(us // 1_000_000, UTC).astimezone(zone)


def _at_full_hours(base: Calendar) -> Calendar:
    zone = zone_of(base.timezone)
    first = np.zeros(len(base.number), np.int64)
    for i, opened in enumerate(base.open_time.tolist()):
        if late := _past_hour(opened, zone):
            first[i] = opened + US_PER_HOUR - late * 1_000_000
    first[first >= base.close_time] = 0
    broken = base.break_end != 0
    if np.any(broken & (first != 0)):
        raise UnknownCalendar(
            f"{base.name}@{CLOCK}: {base.name} opens between two full hours and has a lunch break; its bars cannot be cut at "
            "full hours, take finer bars and derive the hours"
        )
    start, end = np.where(broken, base.break_start, first), np.where(broken, base.break_end, first)
    return replace(base, name=f"{base.name}@{CLOCK}", break_start=start, break_end=end)


def _by_date(base: Calendar, cut: str, zone: tzinfo, zone_name: str, first: int, last: int) -> Calendar:
    """What `base` trades between the minutes `first` and `last` of each date of `zone`, as that date's session."""

    @lru_cache(maxsize=8)
    def hours_of(day: date) -> tuple[int, int]:
        return _moment(day, first, zone), _moment(day, last, zone)

    days: dict[int, list[list[int]]] = {}
    for start, end in _stretches_of(base):
        day = _local(start, zone).date()
        while (hours := hours_of(day))[0] < end:
            lo, hi = max(start, hours[0]), min(end, hours[1])
            if lo < hi:
                held = days.setdefault(session_number(day), [])
                if held and held[-1][1] == lo:
                    held[-1][1] = hi
                else:
                    held.append([lo, hi])
            day += timedelta(days=1)
    numbers = sorted(days)
    opens, closes, pauses = [], [], []
    for number in numbers:
        pieces = days[number]
        if len(pieces) > 2:
            raise UnknownCalendar(f"{base.name}@{cut}: trading pauses more than once on one date; cut it elsewhere")
        opens.append(pieces[0][0])
        closes.append(pieces[-1][1])
        pauses.append((pieces[0][1], pieces[1][0]) if len(pieces) == 2 else (0, 0))
    starts, ends = np.array(pauses, np.int64).reshape(-1, 2).T
    return Calendar(
        f"{base.name}@{cut}", zone_name, np.array(numbers, np.int32), np.array(opens, np.int64), np.array(closes, np.int64),
        _early(numbers, closes, zone), starts.copy(), ends.copy(),
    )  # fmt: skip


def _stretches_of(base: Calendar) -> list[tuple[int, int]]:
    """(from, to) that bars are counted over, ascending: sessions, and the parts a break divides them into."""
    found = []
    for opened, closed, pause, resumed in zip(
        base.open_time.tolist(), base.close_time.tolist(), base.break_start.tolist(), base.break_end.tolist(), strict=True
    ):
        found += [(opened, pause), (resumed, closed)] if resumed else [(opened, closed)]
    return found


def _early(numbers: list[int], closes: list[int], zone: tzinfo) -> NDArray[np.bool_]:
    """Does the session close before the wall-clock time at which its weekday's sessions mostly do?"""
    minutes = []
    for closed in closes:
        here = _local(closed - 1_000_000, zone)  # midnight is the end of the day
        minutes.append(here.hour * 60 + here.minute)
    weekdays = [(number + 3) % 7 for number in numbers]
    met: dict[int, Counter[int]] = {}
    for minute, day in zip(minutes, weekdays, strict=True):
        met.setdefault(day, Counter())[minute] += 1
    usual = {day: counted.most_common(1)[0][0] for day, counted in met.items()}
    return np.array([m < usual[d] for m, d in zip(minutes, weekdays, strict=True)], bool)
