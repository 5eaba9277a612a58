"""Calendars cut in another way: at full hours, at a zone's midnight, between two local times."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from trading.bars import Bars
from trading.calendar_cuts import cut_at_full_hours, trades_between, trades_whole_dates
from trading.calendars import UnknownCalendar, calendar
from trading.execution.window import window_of
from trading.resample import bar_ends, bars_in_session, resample, session_ends
from trading.session_grid import due_times, missing_bars
from trading.timeframes import US_PER_MINUTE, Timeframe, iso, session_number

M1, H1, H4, D1, W1 = Timeframe.M1, Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1


def ends(name: str, day: date, timeframe: Timeframe = H1) -> list[str]:
    venue = calendar(name)
    return [iso(int(t))[11:16] for t in session_ends(venue, venue.position(day), timeframe)]


def bounds(name: str, day: date) -> tuple[str, str]:
    opened, closed = calendar(name).bounds(day)
    return iso(opened), iso(closed)


class TestFullHours:
    def test_the_first_hour_of_new_york_is_half_an_hour_and_the_others_end_at_full_hours(self) -> None:
        assert ends("XNYS@clock", date(2014, 6, 6)) == ["14:00", "15:00", "16:00", "17:00", "18:00", "19:00", "20:00"]
        assert ends("XNYS@clock", date(2015, 12, 24)) == ["15:00", "16:00", "17:00", "18:00"]  # a half day
        assert ends("XNYS@clock", date(2014, 6, 6), H4) == ["14:00", "18:00", "20:00"]

    def test_a_full_hour_is_one_of_the_venues_own_clock(self) -> None:
        assert ends("XBOM@clock", date(2019, 7, 9))[:3] == ["04:30", "05:30", "06:30"]  # 10:00, 11:00, 12:00 in Mumbai

    def test_sessions_and_their_open_stay_those_of_the_venue(self) -> None:
        cut, venue = calendar("XNYS@clock"), calendar("XNYS")
        assert np.array_equal(cut.open_time, venue.open_time)
        assert np.array_equal(cut.close_time, venue.close_time)
        assert cut.is_open(cut.bounds(date(2014, 6, 6))[0] + 30 * US_PER_MINUTE)  # no break stops trading
        assert not cut.in_break(np.array([int(cut.open_time[0]) + 30 * US_PER_MINUTE]), cut.number[:1]).any()

    def test_an_execution_window_runs_across_the_hour(self) -> None:
        venue = calendar("XNYS@clock")
        start = venue.bounds(date(2014, 6, 6))[0] + 20 * US_PER_MINUTE
        assert window_of(venue, start, 30, 2**60) == (start, start + 30 * US_PER_MINUTE)

    def test_days_and_hours_made_of_minutes_lie_on_that_grid(self) -> None:
        venue = calendar("XNYS@clock")
        day = date(2014, 6, 6)
        opened, closed = venue.bounds(day)
        times = np.arange(opened + US_PER_MINUTE, closed + 1, US_PER_MINUTE)
        one = np.ones(len(times))
        minutes = Bars("X", M1, times, np.full(len(times), session_number(day), np.int32), one, one, one, one, one)
        hours = resample(minutes, H1, venue)
        assert hours.close_time.tolist() == session_ends(venue, venue.position(day), H1).tolist()
        assert hours.volume.tolist() == [30.0] + [60.0] * 6
        assert np.array_equal(bar_ends(times, minutes.session, H1, venue)[[0, 29, 30]], hours.close_time[[0, 0, 1]])
        assert resample(hours, D1, venue).volume.tolist() == [390.0]
        assert int(bars_in_session(venue, H1)[venue.position(day)]) == 7

    def test_a_missing_first_hour_is_missed_once(self) -> None:
        venue, day = calendar("XNYS@clock"), date(2014, 6, 6)
        due = due_times(session_number(day), H1, venue)
        one = np.ones(6)
        bars = Bars("X", H1, due[1:], np.full(6, session_number(day), np.int32), one, one, one, one, one)
        gap = missing_bars(bars, venue, None, [session_number(day)])[session_number(day)]
        assert (gap.missing, gap.expected, gap.first_time) == (1, 7, int(due[0]))

    def test_a_venue_with_a_lunch_break_between_full_hours_cannot_be_cut_so(self) -> None:
        with pytest.raises(UnknownCalendar, match="lunch break"):
            calendar("XHKG@clock")

    def test_who_is_cut_at_full_hours_and_who_is_not(self) -> None:
        assert not cut_at_full_hours(calendar("XNYS"), "America/New_York")
        assert cut_at_full_hours(calendar("XNYS@clock"), "America/New_York")
        assert cut_at_full_hours(calendar("XBOM@clock"), "Asia/Kolkata")
        assert not cut_at_full_hours(calendar("XBOM@clock"), "UTC")  # half past in London
        assert cut_at_full_hours(calendar("FX"), "UTC-05")


class TestMidnight:
    def test_a_session_is_what_is_traded_on_one_date(self) -> None:
        assert bounds("FX@UTC", date(2014, 6, 5)) == ("2014-06-05T00:00:00Z", "2014-06-06T00:00:00Z")
        assert bounds("FX@UTC-05", date(2014, 6, 5)) == ("2014-06-05T05:00:00Z", "2014-06-06T05:00:00Z")

    def test_sunday_evening_is_a_session_of_its_own_and_friday_ends_where_trading_does(self) -> None:
        assert bounds("FX@UTC", date(2014, 6, 8)) == ("2014-06-08T21:00:00Z", "2014-06-09T00:00:00Z")
        assert bounds("FX@UTC", date(2014, 6, 6)) == ("2014-06-06T00:00:00Z", "2014-06-06T21:00:00Z")
        with pytest.raises(KeyError):
            calendar("FX@UTC").bounds(date(2014, 6, 7))

    def test_a_day_is_as_long_as_the_zones_clock_makes_it(self) -> None:
        opened, closed = calendar("CRYPTO@America/New_York").bounds(date(2014, 3, 9))
        assert closed - opened == 23 * 60 * US_PER_MINUTE

    def test_an_early_close_that_reopens_is_a_break_thanksgiving_2013(self) -> None:
        pause = calendar("CMES@UTC").breaks(date(2013, 11, 28))
        assert pause is not None
        assert [iso(t) for t in pause] == ["2013-11-28T18:00:00Z", "2013-11-28T23:00:00Z"]

    def test_thin_days_of_forex_stay_thin(self) -> None:
        assert len(due_times(session_number(date(2014, 12, 25)), H1, calendar("FX@UTC"))) == 0

    def test_only_the_same_cut_is_whole_dates(self) -> None:
        assert trades_whole_dates(calendar("FX@UTC"), "UTC")
        assert not trades_whole_dates(calendar("FX@UTC"), "UTC-05")
        assert not trades_whole_dates(calendar("FX"), "UTC")
        assert not trades_whole_dates(calendar("FX@08:00-12:00"), "UTC")  # within the date, but not all of it
        assert trades_whole_dates(calendar("XNYS"), "America/New_York")
        assert trades_whole_dates(calendar("CRYPTO"), "UTC")


class TestHours:
    def test_only_what_is_traded_between_the_two_times(self) -> None:
        assert bounds("CMES@08:30-16:00", date(2013, 10, 7)) == ("2013-10-07T13:30:00Z", "2013-10-07T21:00:00Z")
        assert bounds("CMES@08:30-16:00", date(2013, 11, 28)) == ("2013-11-28T14:30:00Z", "2013-11-28T18:00:00Z")
        with pytest.raises(KeyError):
            calendar("CMES@08:30-16:00").bounds(date(2013, 10, 6))  # Sunday evening is outside

    def test_hours_are_compared_by_the_clock_of_any_zone(self) -> None:
        regular = calendar("CMES@08:30-16:00")
        assert trades_between(regular, "America/New_York", 9 * 60 + 30, 17 * 60)
        assert not trades_between(regular, "America/New_York", 9 * 60, 17 * 60)
        assert not trades_between(calendar("CMES"), "America/New_York", 9 * 60 + 30, 17 * 60)

    @pytest.mark.parametrize("cut", ["16:00-08:30", "08:00-24:30", "08:61-16:00"])
    def test_hours_that_are_none_are_refused(self, cut: str) -> None:
        with pytest.raises(UnknownCalendar, match=r"two times of one day"):
            calendar(f"CMES@{cut}")


def test_a_cut_nobody_knows_is_refused_with_those_there_are() -> None:
    with pytest.raises(UnknownCalendar, match=r"no time zone 'Mars'.*FX@clock.*FX@08:30-16:00"):
        calendar("FX@Mars")
    with pytest.raises(UnknownCalendar, match="no calendar 'NOWHERE'"):
        calendar("NOWHERE@UTC")
