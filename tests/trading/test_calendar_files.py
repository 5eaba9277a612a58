"""Calendars people write, lunch breaks, overnight sessions, and clock changes on either side of the Atlantic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tests.paths import lean_data
from tests.trading.samples import CONFIG
from trading.calendar_files import describe_calendar, parse_calendar
from trading.calendars import Calendar, UnknownCalendar, calendar, define, defined
from trading.config_text import Problem
from trading.timeframes import US_PER_HOUR, US_PER_MINUTE, to_us


def utc(*parts: int) -> int:
    return to_us(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]


def made(text: str) -> Calendar:
    got, problems = parse_calendar(text, "x.yaml")
    assert got is not None, problems
    return got


def only(text: str) -> Problem:
    got, problems = parse_calendar(text, "x.yaml")
    assert got is None
    (problem,) = problems
    return problem


@pytest.fixture
def clean() -> Iterator[None]:
    yield
    define([])


# ---- venues -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("venue", "day", "opened", "closed"),
    [
        ("CMES", date(2013, 10, 7), (2013, 10, 6, 22), (2013, 10, 7, 22)),  # Sunday evening trades for Monday
        ("CMES", date(2013, 11, 4), (2013, 11, 3, 23), (2013, 11, 4, 23)),  # the Monday after Chicago's clocks went back
        ("XBOM", date(2019, 7, 9), (2019, 7, 9, 3, 45), (2019, 7, 9, 10)),
        ("XEUR", date(2011, 10, 28), (2011, 10, 28, 6), (2011, 10, 28, 20)),
        ("XEUR", date(2011, 10, 31), (2011, 10, 31, 7), (2011, 10, 31, 21)),  # Europe is back, New York is not
        ("XNYS", date(2011, 10, 31), (2011, 10, 31, 13, 30), (2011, 10, 31, 20)),
        ("XNYS", date(2011, 11, 7), (2011, 11, 7, 14, 30), (2011, 11, 7, 21)),
        ("FX", date(2011, 10, 31), (2011, 10, 30, 21), (2011, 10, 31, 21)),
        ("XTKS", date(2021, 1, 14), (2021, 1, 14, 0), (2021, 1, 14, 6)),
        ("XHKG", date(2015, 12, 24), (2015, 12, 24, 1, 30), (2015, 12, 24, 4)),  # half day
    ],
)
def test_sessions_are_those_of_the_venues(venue: str, day: date, opened: tuple[int, ...], closed: tuple[int, ...]) -> None:
    assert calendar(venue).bounds(day) == (utc(*opened), utc(*closed))


@pytest.mark.parametrize(
    ("venue", "day", "shut"),
    [
        ("XNYS", date(2012, 10, 29), True), ("XBOM", date(2019, 8, 15), True), ("XTKS", date(2021, 1, 11), True),
        ("CMES", date(2013, 12, 25), True), ("CMES", date(2013, 12, 24), False),
    ],
    ids=["Sandy", "Independence Day", "Coming of Age", "Christmas", "Christmas Eve"],
)  # fmt: skip
def test_holidays_have_no_session(venue: str, day: date, shut: bool) -> None:
    assert (calendar(venue).sessions(day, day) == []) is shut


def test_a_bar_in_the_evening_belongs_to_the_session_it_trades_for() -> None:
    cme = calendar("CMES")
    evening = np.array([utc(2013, 10, 6, 22, 1), utc(2013, 10, 7, 22), utc(2013, 10, 7, 22, 1)], np.int64)
    days = [cme.number[cme.position(date(2013, 10, d))] for d in (7, 7, 8)]
    assert cme.session_of(evening).tolist() == days


# ---- lunch --------------------------------------------------------------------------------------------------------


def test_tokyo_and_hong_kong_have_a_lunch_break_and_new_york_none() -> None:
    day = date(2021, 1, 14)
    assert calendar("XTKS").breaks(day) == (utc(2021, 1, 14, 2, 30), utc(2021, 1, 14, 3, 30))
    assert calendar("XHKG").breaks(day) == (utc(2021, 1, 14, 4), utc(2021, 1, 14, 5))
    assert calendar("XNYS").breaks(day) is None
    assert (calendar("XTKS").has_breaks, calendar("XNYS").has_breaks) == (True, False)
    assert calendar("XHKG").breaks(date(2015, 12, 24)) is None  # a half day ends before lunch


def test_bars_that_would_close_at_lunch_are_expected_by_nobody() -> None:
    tokyo, start = calendar("XTKS"), utc(2021, 1, 14, 2, 30)
    times = np.array(
        [start - US_PER_MINUTE, start, start + US_PER_MINUTE, start + US_PER_HOUR, start + US_PER_HOUR + US_PER_MINUTE]
    )
    session = tokyo.session_of(times)
    assert tokyo.in_break(times, session).tolist() == [False, False, True, True, False]
    assert len(set(session.tolist())) == 1  # one session, on both sides


def test_nobody_trades_at_lunch() -> None:
    tokyo = calendar("XTKS")
    assert [tokyo.is_open(utc(2021, 1, 14, h, m)) for h, m in ((2, 29), (2, 30), (3, 29), (3, 30))] == [True, False, False, True]


# ---- from files ---------------------------------------------------------------------------------------------------


def test_every_calendar_file_of_the_project_parses() -> None:
    for path in sorted((CONFIG / "calendars").glob("*.yaml")):
        assert made(path.read_text()).name == path.stem


def test_other_hours_keep_the_days_and_early_closes_of_the_base() -> None:
    globex = made((CONFIG / "calendars" / "GLOBEX.yaml").read_text())
    assert globex.bounds(date(2020, 3, 9)) == (utc(2020, 3, 8, 22), utc(2020, 3, 9, 21))
    assert globex.bounds(date(2020, 3, 6)) == (utc(2020, 3, 5, 23), utc(2020, 3, 6, 22))  # before the clock change
    assert globex.bounds(date(2015, 11, 26))[1] == utc(2015, 11, 26, 18)  # Thanksgiving still closes at noon
    assert not globex.is_open(utc(2020, 3, 9, 21, 30))  # the hour's rest


@pytest.mark.parametrize(
    ("day", "opened", "closed", "pause"),
    [
        (date(2012, 11, 12), (11, 23, 0), (12, 21, 15), None),  # a Monday of the hours before November 2012
        (date(2012, 11, 13), (12, 21, 30), (13, 21, 15), ((12, 22, 30), (12, 23, 0))),
        (date(2012, 11, 19), (18, 23, 0), (19, 22, 15), ((19, 21, 15), (19, 21, 30))),  # the day of the change
        (date(2015, 9, 18), (17, 22, 0), (18, 21, 15), ((18, 20, 15), (18, 20, 30))),
        (date(2015, 9, 21), (20, 22, 0), (21, 21, 0), ((21, 20, 15), (21, 20, 30))),
        (date(2021, 6, 25), (24, 22, 0), (25, 21, 0), ((25, 20, 15), (25, 20, 30))),
        (date(2021, 6, 28), (27, 22, 0), (28, 21, 0), None),  # no pause since
        (date(2013, 11, 29), (28, 23, 0), (29, 18, 15), None),  # a half day ends before the pause
    ],
)
def test_a_venue_has_the_hours_it_had_on_the_day(
    day: date, opened: tuple[int, ...], closed: tuple[int, ...], pause: tuple[tuple[int, ...], tuple[int, ...]] | None
) -> None:
    globex = made((CONFIG / "calendars" / "GLOBEX.yaml").read_text())

    def at(parts: tuple[int, ...]) -> int:
        return utc(day.year, day.month, *parts)

    assert globex.bounds(day) == (at(opened), at(closed))
    assert globex.breaks(day) == (None if pause is None else (at(pause[0]), at(pause[1])))


def test_the_early_closes_of_the_index_futures_are_those_another_data_base_has() -> None:
    """LEAN's market hours of ES, 2009 to 2026, New York times; the five it gives at the usual close are none."""
    hours = json.loads((lean_data() / "market-hours" / "market-hours-database.json").read_text())["entries"]["Future-cme-ES"]
    globex = made((CONFIG / "calendars" / "GLOBEX.yaml").read_text())
    checked = 0
    for text, clock in hours["earlyCloses"].items():
        month, of_month, year = map(int, text.split("/"))
        day = date(year, month, of_month)
        if day.year > 2026 or clock == "17:00:00":
            continue
        there = datetime.combine(day, time.fromisoformat(clock), ZoneInfo("America/New_York"))
        assert globex.bounds(day)[1] == to_us(there), day
        assert globex.early[globex.position(day)], day
        checked += 1
    assert checked == 154


WEEKLY = """\
name: FAIR
timezone: Europe/Berlin
weekly:
  sat: {open: "10:00", close: "16:00", break: ["12:00", "13:00"]}
  mon: {open: "22:00", close: "02:00"}
holidays: [2024-12-28]
special:
  - {date: 2024-12-24, open: "10:00", close: "13:00", early: true}
"""


def test_weekly_hours_from_scratch_follow_the_wall_clock() -> None:
    fair = made(WEEKLY)
    assert fair.bounds(date(2024, 3, 30)) == (utc(2024, 3, 30, 9), utc(2024, 3, 30, 15))  # CET, the day before the change
    assert fair.bounds(date(2024, 4, 6)) == (utc(2024, 4, 6, 8), utc(2024, 4, 6, 14))
    assert fair.breaks(date(2024, 4, 6)) == (utc(2024, 4, 6, 10), utc(2024, 4, 6, 11))
    assert fair.bounds(date(2024, 4, 8)) == (utc(2024, 4, 8, 20), utc(2024, 4, 9, 0))  # past midnight
    assert fair.sessions(date(2024, 12, 28), date(2024, 12, 28)) == []
    assert bool(fair.early[fair.position(date(2024, 12, 24))])
    assert np.all(fair.close_time[:-1] <= fair.open_time[1:])


def test_weekly_hours_had_others_before_and_single_early_closes() -> None:
    former = WEEKLY + 'former_hours:\n  - {until: 2024-04-05, weekdays: [sat], open: "09:00", close: "12:00"}\n'
    fair = made(former + 'early_closes: {"11:00": [2024-04-13], "23:00": [2024-04-15]}\n')
    assert fair.bounds(date(2024, 3, 30)) == (utc(2024, 3, 30, 8), utc(2024, 3, 30, 11))
    assert fair.breaks(date(2024, 3, 30)) is None
    assert fair.bounds(date(2024, 4, 1)) == (utc(2024, 4, 1, 20), utc(2024, 4, 2, 0))  # Mondays were as they are
    assert fair.bounds(date(2024, 4, 6)) == (utc(2024, 4, 6, 8), utc(2024, 4, 6, 14))
    assert (fair.bounds(date(2024, 4, 13))[1], fair.breaks(date(2024, 4, 13))) == (utc(2024, 4, 13, 9), None)
    assert fair.bounds(date(2024, 4, 15))[1] == utc(2024, 4, 15, 21)


def test_a_defined_calendar_is_found_by_name_and_goes_when_it_is_no_longer_defined(clean: None) -> None:
    define([made(WEEKLY)])
    assert calendar("FAIR").name == "FAIR"
    assert defined() == ["FAIR"]
    define([])
    with pytest.raises(UnknownCalendar, match="FAIR"):
        calendar("FAIR")


def test_a_described_calendar_is_built_when_it_is_asked_for(clean: None) -> None:
    described, problems = describe_calendar(WEEKLY, "x.yaml")
    assert described is not None, problems
    define([described])
    assert calendar("FAIR") is calendar("FAIR")
    assert calendar("FAIR").breaks(date(2024, 4, 6)) is not None


def test_one_that_takes_a_name_of_the_library_or_cannot_be_built_fails_whoever_asks_for_it(clean: None) -> None:
    for name, base in (("XNYS", "XBOM"), ("OWN", "XNYZ")):
        described, _ = describe_calendar(f"name: {name}\nbased_on: {base}\n", "x.yaml")
        assert described is not None
        define([described])
        with pytest.raises(UnknownCalendar, match=r"x\.yaml"):
            calendar(name)


@pytest.mark.parametrize(
    ("change", "line", "key", "near"),
    [
        (("name: FAIR", "name: XNYS"), 1, "name", ""),
        (("name: FAIR", "name: fair"), 1, "name", ""),
        (("Europe/Berlin", "Europe/Berlln"), 2, "timezone", "Europe/Berlin"),
        (("  sat:", "  sta:"), 3, "weekly", "sat"),
        (('open: "10:00", close: "16:00"', 'open: "1000", close: "16:00"'), 4, "weekly.sat.open", ""),
        (('break: ["12:00", "13:00"]', 'break: ["17:00", "18:00"]'), 4, "weekly.sat", ""),
        (('break: ["12:00", "13:00"]', 'pause: 3'), 4, "weekly.sat.pause", ""),
        (("holidays: [2024-12-28]", "holidays: [2024-12-24]"), 1, "", ""),
        (("timezone: Europe/Berlin\n", ""), 1, "", ""),
        (('mon: {open: "22:00", close: "02:00"}', 'fri: {open: "22:00", close: "11:00"}'), 1, "", ""),
    ],
)  # fmt: skip
def test_each_mistake_is_named_at_its_line(change: tuple[str, str], line: int, key: str, near: str) -> None:
    problem = only(WEEKLY.replace(*change))
    assert (problem.file, problem.line, problem.key, problem.nearest) == ("x.yaml", line, key, near)
    assert problem.message


def test_a_calendar_is_based_on_one_that_exists_or_has_weekly_hours() -> None:
    assert only("name: X\nbased_on: XNYZ\n").key == "based_on"
    assert "either" in only("name: X\n").message


OLD = "{until: 2014-01-02, open: '09:00', close: '10:00'}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"based_on: CMES\nformer_hours: [{OLD}]\n", "today's beside"),
        (
            f"based_on: CMES\nhours: {{open: '09:00', close: '10:00'}}\nformer_hours: [{OLD.replace('2014', '2015')}, {OLD}]\n",
            "not in order",
        ),
        ("based_on: XNYS\nearly_closes: {'13:00': [2024-12-25]}\n", "2024-12-25 is no session"),
        ("based_on: XNYS\nearly_closes: {'09:00': [2024-12-24]}\n", "before it opens"),
        ("based_on: XNYS\nholidays: [2024-12-24]\nearly_closes: {'13:00': [2024-12-24]}\n", "given twice"),
    ],
)
def test_former_hours_and_early_closes_that_cannot_be_are_named(text: str, said: str) -> None:
    assert said in only(f"name: X\n{text}").message
