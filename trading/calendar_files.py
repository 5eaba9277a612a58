"""Calendars as people write them: derived from an exchange-calendars one, or weekly hours from scratch.

    name: MCX                       name: GLOBEX_EQUITY
    based_on: XBOM                  based_on: CMES
    hours: {open: "09:00",          hours: {open: "17:00", close: "16:00", opens_day_before: true}
            close: "23:30"}

    name: SATURDAY_FAIR
    timezone: Europe/Berlin
    weekly:
      sat: {open: "10:00", close: "16:00", break: ["12:00", "13:00"]}
    holidays: [2024-12-28]
    special:
      - {date: 2024-12-24, open: "10:00", close: "13:00", early: true}

Hours that a venue had in former years stand beside today's: ``former_hours``, each until its last day, and early closes whose
time is not the base's in ``early_closes``:

    hours: {open: "17:00", close: "16:00", opens_day_before: true}
    former_hours:
      - {until: 2021-06-25, open: "17:00", close: "16:00", opens_day_before: true, break: ["15:15", "15:30"]}
    early_closes: {"12:15": [2013-11-29, 2013-12-24]}

Local times of the zone; the day a session belongs to is the day it trades for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
from pydantic import Field, field_validator, model_validator

from trading.calendars import FIRST_DAY, LAST_DAY, Calendar, Described, UnknownCalendar, calendar, is_built_in
from trading.config_text import ConfigModel, IsoDate, Problem, Text, custom_error, load_yaml, nearest, validate
from trading.timeframes import session_date, session_number, to_us

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _clock(value: str) -> time:
    parts = value.split(":")
    try:
        if len(parts) != 2 or not all(p.isdigit() and len(p) == 2 for p in parts):
            raise ValueError
        return time(int(parts[0]), int(parts[1]))
    except ValueError:
        raise custom_error(f"is {value!r}", 'a local time such as "09:30" (in quotes)') from None


class HoursFile(ConfigModel):
    """Opening hours of a session in local time. close at or before open: it closes on the following day."""

    open: Text
    close: Text
    opens_day_before: bool = Field(False, description="the session opens on the evening before the day it trades for")
    pause: list[Text] | None = Field(None, alias="break", min_length=2, max_length=2, description="lunch break [start, end]")

    @field_validator("open", "close")
    @classmethod
    def _is_clock(cls, value: str) -> str:
        _clock(value)
        return value

    @field_validator("pause")
    @classmethod
    def _are_clocks(cls, value: list[str] | None) -> list[str] | None:
        for part in value or ():
            _clock(part)
        return value

    @model_validator(mode="after")
    def _in_order(self) -> HoursFile:
        day = date(2001, 1, 2)
        opened, closed, pause = _times(self, day)
        if closed <= opened or closed - opened > timedelta(days=1):
            raise custom_error(
                f"{self.open} to {self.close} is no session", "open before close (opens_day_before: true for an evening open)"
            )
        if pause is not None and not opened < pause[0] < pause[1] < closed:
            raise custom_error(f"the break {pause[0]:%H:%M} to {pause[1]:%H:%M} lies outside the session", "inside the hours")
        return self


class FormerHoursFile(HoursFile):
    """Hours a venue had until a day."""

    until: IsoDate = Field(description="last session with these hours")
    weekdays: list[Text] | None = Field(None, min_length=1, description="only on these: mon .. sun")

    @field_validator("weekdays")
    @classmethod
    def _are_days(cls, value: list[str] | None) -> list[str] | None:
        return _known_days(value)


class SpecialFile(HoursFile):
    """A session with hours of its own: instead of the usual one, or on a day that has none."""

    date: IsoDate
    early: bool = Field(False, description="it closes before the usual time")


class CalendarFile(ConfigModel):
    """A venue's calendar as people write it."""

    name: Text = Field(pattern=r"^[A-Z][A-Z0-9_]*$", description="capital letters, digits, _")
    description: Text = ""
    based_on: Text | None = Field(None, description="exchange-calendars code (or FX, CRYPTO) whose days it has")
    timezone: Text | None = Field(None, description="zone name of the local times; default: the one it is based on")
    hours: HoursFile | None = Field(None, description="with based_on: other hours on every day; its early closes stay")
    former_hours: list[FormerHoursFile] = Field(
        default_factory=list, description="with hours or weekly: the hours of former years, the earliest first"
    )
    early_closes: dict[Text, list[IsoDate]] = Field(
        default_factory=dict, description="sessions that close early, by the local time at which they do"
    )
    weekly: dict[Text, HoursFile] | None = Field(None, description="without based_on: hours by weekday, mon .. sun")
    holidays: list[IsoDate] = Field(default_factory=list, description="days without a session")
    special: list[SpecialFile] = Field(default_factory=list, description="sessions with hours of their own")
    since: IsoDate | None = Field(None, description="first day of the venue")

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str | None) -> str | None:
        if value is not None and value not in available_timezones():
            near = nearest(value, sorted(available_timezones()))
            raise custom_error(f"no time zone {value!r}", "a zone name such as Europe/Berlin", near)
        return value

    @field_validator("weekly")
    @classmethod
    def _days(cls, value: dict[str, HoursFile] | None) -> dict[str, HoursFile] | None:
        _known_days(value)
        return value

    @field_validator("early_closes")
    @classmethod
    def _are_clocks(cls, value: dict[str, list[date]]) -> dict[str, list[date]]:
        for clock in value:
            _clock(clock)
        return value

    @model_validator(mode="after")
    def _whole(self) -> CalendarFile:
        if (self.based_on is None) == (self.weekly is None):
            raise custom_error("needs either based_on or weekly", "based_on: XNYS, or weekly: {mon: {open: ..., close: ...}}")
        if self.weekly is not None and (self.timezone is None or self.hours is not None or not self.weekly):
            raise custom_error("weekly hours need a timezone and at least one day, and no hours", "timezone: Europe/Berlin")
        if self.former_hours and self.hours is None and self.weekly is None:
            raise custom_error("former_hours need today's beside them", "hours: {open: ..., close: ...}")
        ends = [f.until for f in self.former_hours]
        if ends != sorted(ends):
            raise custom_error("former_hours are not in order", "the earliest `until` first")
        days = [s.date for s in self.special] + [d for dates in self.early_closes.values() for d in dates]
        twice = next((d for d in days if days.count(d) > 1 or d in self.holidays), None)
        if twice is not None:
            raise custom_error(f"{twice} is given twice", "each day once, as a holiday, a special session or an early close")
        return self


def _known_days(value: Iterable[str] | None) -> Any:
    for day in value or ():
        if day not in _DAYS:
            raise custom_error(f"no weekday {day!r}", "one of " + ", ".join(_DAYS), nearest(day, _DAYS))
    return value


@dataclass(frozen=True, slots=True)
class _Session:
    number: int
    open_time: int
    close_time: int
    early: bool
    pause: tuple[int, int] = (0, 0)


def _times(hours: HoursFile, day: date) -> tuple[datetime, datetime, tuple[datetime, datetime] | None]:
    """Naive local (open, close, break) of the session of `day`."""
    opened = datetime.combine(day - timedelta(days=int(hours.opens_day_before)), _clock(hours.open))

    def after(text: str, moment: datetime) -> datetime:
        at = datetime.combine(moment.date(), _clock(text))
        return at if at > moment else at + timedelta(days=1)

    closed = after(hours.close, opened)
    if hours.opens_day_before and closed.date() != day:  # opened and closed within the evening before: not a session of day
        closed = datetime.combine(day, _clock(hours.close))
    pause = None
    if hours.pause:
        start = after(hours.pause[0], opened)
        pause = (start, after(hours.pause[1], start))
    return opened, closed, pause


def _session(day: date, hours: HoursFile, zone: ZoneInfo, early: bool) -> _Session:
    opened, closed, pause = _times(hours, day)

    def utc(moment: datetime) -> int:
        return to_us(moment.replace(tzinfo=zone))

    return _Session(
        session_number(day), utc(opened), utc(closed), early, (utc(pause[0]), utc(pause[1])) if pause is not None else (0, 0)
    )


def parse_calendar(text: str, file: str) -> tuple[Calendar | None, list[Problem]]:
    """Calendar of the file's text, or None and every problem it has."""
    document = load_yaml(text, file)
    parsed, problems = validate(CalendarFile, document)
    if parsed is None:
        return None, problems
    if is_built_in(parsed.name):
        return None, [document.problem(("name",), f"calendar {parsed.name} exists already", "a name of your own")]
    try:
        return _build(parsed), []
    except UnknownCalendar as error:
        from trading.universe import KNOWN_CALENDARS

        near = nearest(parsed.based_on or "", KNOWN_CALENDARS)
        return None, [document.problem(("based_on",), str(error), "FX, CRYPTO or an exchange-calendars code", near)]
    except ValueError as error:
        return None, [document.problem((), str(error), "sessions that do not overlap")]


def describe_calendar(text: str, file: str) -> tuple[Described | None, list[Problem]]:
    """The file's calendar, to be built when it is asked for; its keys and values are checked now.

    Building takes a second for a calendar of the library: whoever reads the configuration need not wait for those that
    the universe does not use.
    """
    parsed, problems = validate(CalendarFile, load_yaml(text, file))
    if parsed is None:
        return None, problems

    def build() -> Calendar:
        made, wrong = _parsed(text, file)
        if made is None:
            raise ValueError("; ".join(str(p) for p in wrong))
        return made

    return Described(parsed.name, build), []


@lru_cache(maxsize=64)
def _parsed(text: str, file: str) -> tuple[Calendar | None, list[Problem]]:
    return parse_calendar(text, file)


def _build(spec: CalendarFile) -> Calendar:
    if spec.based_on is not None and not is_built_in(spec.based_on):
        raise UnknownCalendar(f"no calendar {spec.based_on!r} to start from")
    base = calendar(spec.based_on) if spec.based_on is not None else None
    zone_name = spec.timezone or (base.timezone if base is not None else "")
    zone = ZoneInfo(zone_name)
    closed = {session_number(d) for d in spec.holidays} | {session_number(s.date) for s in spec.special}
    first = session_number(spec.since) if spec.since is not None else session_number(FIRST_DAY)
    found: list[_Session] = []
    if base is not None:
        for i, n in enumerate(base.number.tolist()):
            if n in closed or n < first:
                continue
            kept = _Session(
                n, int(base.open_time[i]), int(base.close_time[i]), bool(base.early[i]),
                (int(base.break_start[i]), int(base.break_end[i])),
            )  # fmt: skip
            hours = _hours_on(spec, session_date(n)) or spec.hours
            found.append(kept if hours is None else _rehoured(kept, hours, zone))
    else:
        weekly = {_DAYS.index(day): hours for day, hours in (spec.weekly or {}).items()}
        for n in range(first, session_number(LAST_DAY) + 1):
            day = session_date(n)
            if n not in closed and day.weekday() in weekly:
                found.append(_session(day, _hours_on(spec, day) or weekly[day.weekday()], zone, False))
    found = _closed_early(found, spec.early_closes, zone)
    found += [_session(s.date, s, zone, s.early) for s in spec.special]
    found.sort(key=lambda s: s.number)
    for one, two in pairwise(found):
        if two.open_time < one.close_time:
            raise ValueError(f"the session of {session_date(two.number)} opens before that of {session_date(one.number)} closes")
    if not found:
        raise ValueError("no session at all")
    column = {name: np.array([getattr(s, name) for s in found], np.int64) for name in ("open_time", "close_time")} | {
        "break_start": np.array([s.pause[0] for s in found], np.int64),
        "break_end": np.array([s.pause[1] for s in found], np.int64),
    }
    numbers = np.array([s.number for s in found], np.int32)
    early = np.array([s.early for s in found], bool)
    return Calendar(spec.name, zone_name, numbers, early=early, **column)


def _hours_on(spec: CalendarFile, day: date) -> HoursFile | None:
    """The former hours that held on `day`; None: today's do."""
    name = _DAYS[day.weekday()]
    return next((f for f in spec.former_hours if day <= f.until and (f.weekdays is None or name in f.weekdays)), None)


def _closed_early(found: list[_Session], closes: dict[str, list[date]], zone: ZoneInfo) -> list[_Session]:
    """The sessions, those named in `closes` ended at that local time of their day."""
    at = {session_number(day): clock for clock, days in closes.items() for day in days}
    gone = sorted(at.keys() - {s.number for s in found})
    if gone:
        raise ValueError(f"early_closes: {session_date(gone[0])} is no session")
    out = []
    for one in found:
        if one.number in at:
            day = session_date(one.number)
            closed = to_us(datetime.combine(day, _clock(at[one.number]), zone))
            if closed <= one.open_time:
                raise ValueError(f"early_closes: the session of {day} would close at {at[one.number]}, before it opens")
            one = replace(one, close_time=closed, early=True, pause=one.pause if one.pause[1] < closed else (0, 0))
        out.append(one)
    return out


def _rehoured(kept: _Session, hours: HoursFile, zone: ZoneInfo) -> _Session:
    """The base's session with other hours; where the base closes early and before the new close, it still does."""
    fresh = _session(session_date(kept.number), hours, zone, False)
    if kept.early and fresh.open_time < kept.close_time < fresh.close_time:
        pause = fresh.pause if fresh.pause[1] < kept.close_time else (0, 0)
        return _Session(fresh.number, fresh.open_time, kept.close_time, True, pause)
    return fresh
