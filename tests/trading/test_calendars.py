"""Venue calendars against facts one can look up."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest

from trading.calendars import Calendar, UnknownCalendar, calendar
from trading.timeframes import to_us


def utc(*parts: int) -> int:
    return to_us(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]


def test_new_york_closes_early_on_christmas_eve() -> None:
    cal = calendar("XNYS")
    assert cal.bounds(date(2015, 12, 24)) == (utc(2015, 12, 24, 14, 30), utc(2015, 12, 24, 18))
    assert bool(cal.early[cal.position(date(2015, 12, 24))])
    with pytest.raises(KeyError, match="2015-12-25"):
        cal.bounds(date(2015, 12, 25))


def test_new_york_opens_an_hour_earlier_in_utc_after_the_clock_change() -> None:
    cal = calendar("XNYS")
    assert cal.bounds(date(2008, 3, 7))[0] == utc(2008, 3, 7, 14, 30)
    assert cal.bounds(date(2008, 3, 10))[0] == utc(2008, 3, 10, 13, 30)


def test_the_exchange_was_shut_after_september_eleventh() -> None:
    days = calendar("XNYS").sessions(date(2001, 9, 10), date(2001, 9, 18))
    assert days == [date(2001, 9, 10), date(2001, 9, 17), date(2001, 9, 18)]


def test_a_forex_session_runs_from_five_to_five_in_new_york() -> None:
    cal = calendar("FX")
    assert cal.bounds(date(2017, 1, 2)) == (utc(2017, 1, 1, 22), utc(2017, 1, 2, 22))
    assert cal.bounds(date(2017, 7, 3)) == (utc(2017, 7, 2, 21), utc(2017, 7, 3, 21))
    # The clocks change inside the weekend: Monday's session is a whole one.
    opens, closes = cal.bounds(date(2017, 3, 13))
    assert (opens, closes - opens) == (utc(2017, 3, 12, 21), 24 * 3_600_000_000)
    assert all(d.weekday() < 5 for d in cal.sessions(date(2017, 1, 1), date(2017, 12, 31)))


def test_crypto_never_closes() -> None:
    cal = calendar("CRYPTO")
    assert len(cal.sessions(date(2016, 2, 1), date(2016, 2, 29))) == 29
    assert cal.is_open(utc(2016, 2, 29, 23, 59))


def test_a_close_belongs_to_the_session_it_ends_in() -> None:
    cal = calendar("XNYS")
    opens, closes = cal.bounds(date(2014, 6, 6))
    number = int(cal.number[cal.position(date(2014, 6, 6))])
    times = np.array([opens, opens + 1, closes, closes + 1], np.int64)
    assert cal.session_of(times).tolist() == [-1, number, number, -1]
    assert (cal.is_open(opens), cal.is_open(closes)) == (True, False)


def test_an_unknown_calendar_is_named() -> None:
    with pytest.raises(UnknownCalendar, match="XNYZ"):
        calendar("XNYZ")


@pytest.mark.parametrize("name", ["XNYS", "FX", "CRYPTO", "CMES", "XBOM"])
def test_sessions_ascend_and_never_overlap(name: str) -> None:
    cal: Calendar = calendar(name)
    assert np.all(np.diff(cal.number) > 0)
    assert np.all(cal.open_time < cal.close_time)
    assert np.all(cal.close_time[:-1] <= cal.open_time[1:])
