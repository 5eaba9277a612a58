"""The news calendar: events people write in data/config/news/*.yaml, and the windows around them in which nothing enters.

A file says from which day to which day it knows every event. Outside of that nobody knows whether there is one: a gate that
asks is refused, because a calendar that has run out must not read as a quiet market.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from trading.config_text import ConfigModel, IsoDate, Name, Problem, Text, Whole, custom_error, load_yaml, validate
from trading.gates.settings import Impact
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, session_number, to_us

_LONGEST_MINUTES: Final = 7 * 1440


class EventFile(ConfigModel):
    """One event."""

    event: Text = Field(min_length=1, max_length=80)
    time: Text = Field(description="2026-12-09T19:00Z, or without offset in the file's timezone")
    currencies: list[Text] = Field(default_factory=list, description="ISO codes: every instrument that has one of them")
    symbols: list[Text] = Field(default_factory=list, description="instruments of the universe")
    impact: Impact = "high"
    minutes_before: Whole | None = Field(None, ge=0, le=_LONGEST_MINUTES, description="default: the file's")
    minutes_after: Whole | None = Field(None, ge=0, le=_LONGEST_MINUTES, description="default: the file's")

    @model_validator(mode="after")
    def _of_something(self) -> EventFile:
        if not self.currencies and not self.symbols:
            raise custom_error("concerns nothing", "currencies, symbols or both")
        if any(len(c) != 3 or not c.isupper() for c in self.currencies):
            raise custom_error(f"currencies {self.currencies}", "ISO codes such as USD")
        return self


class NewsFile(ConfigModel):
    """A file of events."""

    name: Name
    description: Text = ""
    from_: IsoDate = Field(alias="from", description="first day (UTC) of which it knows every event")
    until: IsoDate = Field(description="last day (UTC) of which it knows every event; after it the gate refuses")
    timezone: Text | None = Field(None, description="of times without an offset, such as America/New_York")
    minutes_before: Whole = Field(30, ge=0, le=_LONGEST_MINUTES)
    minutes_after: Whole = Field(30, ge=0, le=_LONGEST_MINUTES)
    events: list[EventFile] = Field(default_factory=list)

    @model_validator(mode="after")
    def _span(self) -> NewsFile:
        if self.until < self.from_:
            raise custom_error(f"until {self.until} lies before from {self.from_}", f"a date from {self.from_} on")
        return self


@dataclass(frozen=True, slots=True)
class NewsEvent:
    """An event at `time` (UTC us) whose window is [time - before, time + after] minutes."""

    event: str
    time: int
    currencies: tuple[str, ...]
    symbols: tuple[str, ...]
    impact: str
    minutes_before: int
    minutes_after: int

    @property
    def begins(self) -> int:
        return self.time - self.minutes_before * US_PER_MINUTE

    @property
    def ends(self) -> int:
        return self.time + self.minutes_after * US_PER_MINUTE

    def concerns(self, instrument: Instrument) -> bool:
        """Is the instrument named, or one of its currencies?"""
        return instrument.symbol in self.symbols or bool(set(self.currencies) & currencies_of(instrument))

    def plain(self) -> dict[str, Any]:
        return {
            "event": self.event, "time": self.time, "impact": self.impact, "minutes_before": self.minutes_before,
            "minutes_after": self.minutes_after,
        }  # fmt: skip


def currencies_of(instrument: Instrument) -> set[str]:
    """The quote currency; of a currency pair the base one, too."""
    pair = instrument.symbol.replace("/", "").replace(".", "")[:6]
    found = {instrument.currency}
    if instrument.asset_class is AssetClass.FOREX and len(pair) == 6 and pair.isalpha():
        found |= {pair[:3].upper(), pair[3:].upper()}
    return found


@dataclass(frozen=True, slots=True)
class NewsCalendar:
    """Events ascending by time, and the span [known_from, known_until) (UTC us) of which every event is known."""

    events: tuple[NewsEvent, ...]
    known_from: int
    known_until: int
    revision: str = ""

    def about(self, instrument: Instrument, impacts: Sequence[str], times: Sequence[int]) -> dict[str, Any]:
        """What a snapshot carries: the span, and the events of the instrument whose window holds one of `times` (UTC us)."""
        near = [
            e for e in self.events
            if e.impact in impacts and e.concerns(instrument) and any(e.begins <= t <= e.ends for t in times)
        ]  # fmt: skip
        return {"known_from": self.known_from, "known_until": self.known_until, "events": [e.plain() for e in near]}

    def clear(self, instrument: Instrument, impacts: Sequence[str], times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool (T,): times that are known and lie in no window. For whole histories; `about` says why."""
        out = (times >= self.known_from) & (times < self.known_until)
        for event in self.events:
            if event.impact in impacts and event.concerns(instrument):
                lo, hi = np.searchsorted(times, event.begins, side="left"), np.searchsorted(times, event.ends, side="right")
                out[lo:hi] = False
        return out


def parse_news(text: str, file: str) -> tuple[NewsCalendar | None, list[Problem]]:
    """Calendar of the file's text, or None and every problem it has."""
    document = load_yaml(text, file)
    parsed, problems = validate(NewsFile, document)
    if parsed is None:
        return None, problems
    zone = None
    if parsed.timezone is not None:
        try:
            zone = ZoneInfo(parsed.timezone)
        except (KeyError, ValueError, OSError):
            return None, [document.problem(("timezone",), f"no time zone {parsed.timezone!r}", "a name like America/New_York")]
    first, after = session_number(parsed.from_) * US_PER_DAY, (session_number(parsed.until) + 1) * US_PER_DAY
    events: list[NewsEvent] = []
    for at, one in enumerate(parsed.events):
        time = _time(one.time, zone)
        if time is None:
            expected = "a time like 2026-12-09T19:00Z" + ("" if zone else ", or timezone: of the file")
            problems.append(document.problem(("events", at, "time"), f"is {one.time!r}", expected))
        elif not first <= time < after:
            said = f"{one.time} lies outside {parsed.from_} to {parsed.until}"
            problems.append(document.problem(("events", at, "time"), said, "a time within from and until"))
        else:
            before = parsed.minutes_before if one.minutes_before is None else one.minutes_before
            later = parsed.minutes_after if one.minutes_after is None else one.minutes_after
            events.append(NewsEvent(one.event, time, tuple(one.currencies), tuple(one.symbols), one.impact, before, later))
    if problems:
        return None, sorted(problems, key=lambda p: p.line)
    return NewsCalendar(tuple(sorted(events, key=lambda e: (e.time, e.event))), first, after), []


def joined(calendars: Sequence[NewsCalendar], revision: str = "") -> NewsCalendar | None:
    """One calendar of several files; it knows the days all of them know. None of none."""
    if not calendars:
        return None
    events = sorted((e for c in calendars for e in c.events), key=lambda e: (e.time, e.event))
    first, until = max(c.known_from for c in calendars), min(c.known_until for c in calendars)
    return NewsCalendar(tuple(events), first, until, revision)


def unknown_names(calendar: NewsCalendar, symbols: Mapping[str, Any]) -> list[str]:
    """Symbols that events name and the universe does not have."""
    return sorted({s for e in calendar.events for s in e.symbols if s not in symbols})


def _time(text: str, zone: ZoneInfo | None) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if "T" not in text and " " not in text:
        return None
    if moment.tzinfo is None:
        if zone is None:
            return None
        moment = moment.replace(tzinfo=zone)
    return to_us(moment)
