"""Anchored windows: all rows of a block share one start, early enough for the warm-up, the same for batch and live."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.calendars import Calendar, calendar
from trading.timeframes import Timeframe, iso, session_date, session_number
from trading.windows import block_bounds, blocks, close_after, window_start

NYSE, FX = calendar("XNYS"), calendar("FX")
DAYS = st.dates(date(1995, 1, 1), date(2033, 12, 31))


@pytest.mark.parametrize(
    ("timeframe", "session", "start"),
    [
        (Timeframe.M1, date(2017, 12, 28), date(2017, 11, 1)),
        (Timeframe.M30, date(2017, 1, 3), date(2016, 12, 1)),
        (Timeframe.H1, date(2017, 12, 28), date(2017, 4, 3)),
        (Timeframe.H4, date(2017, 1, 3), date(2016, 7, 1)),
        (Timeframe.D1, date(2017, 12, 28), date(2014, 1, 2)),
        (Timeframe.W1, date(2017, 12, 28), date(2007, 1, 3)),
    ],
)
def test_a_window_starts_at_its_anchor(timeframe: Timeframe, session: date, start: date) -> None:
    assert session_date(window_start(session_number(session), timeframe, 100, NYSE)) == start


def test_a_long_warm_up_moves_the_anchor_back_by_whole_blocks() -> None:
    session = session_number(date(2017, 12, 28))
    assert session_date(window_start(session, Timeframe.D1, 3 * 252, NYSE)) == date(2014, 1, 2)
    assert session_date(window_start(session, Timeframe.D1, 3 * 252 + 1, NYSE)) == date(2013, 1, 2)
    assert session_date(window_start(session, Timeframe.D1, 1500, NYSE)) == date(2011, 1, 3)
    assert window_start(session, Timeframe.D1, 1_000_000, NYSE) == int(NYSE.number[0])


@given(DAYS, st.sampled_from(list(Timeframe)), st.integers(0, 3000), st.sampled_from([NYSE, FX]))
def test_every_session_of_a_block_has_the_same_start_before_it(
    day: date, timeframe: Timeframe, bars: int, venue: Calendar
) -> None:
    session = session_number(day)
    first, after = block_bounds(session, timeframe)
    assert first <= session < after
    start = window_start(session, timeframe, bars, venue)
    assert start == window_start(first, timeframe, bars, venue)
    assert start == window_start(after - 1, timeframe, bars, venue)
    assert start <= first or start == int(venue.number[0])


@given(st.lists(DAYS, min_size=0, max_size=60), st.sampled_from(list(Timeframe)))
def test_blocks_cover_every_row_once_with_its_own_window(days: list[date], timeframe: Timeframe) -> None:
    sessions = np.array(sorted(session_number(d) for d in days), np.int32)
    covered = 0
    for start, lo, hi in blocks(sessions, timeframe, 50, FX):
        assert lo == covered
        assert start <= lo < hi
        covered = hi
        for row in range(lo, hi):
            first = window_start(int(sessions[row]), timeframe, 50, FX)
            assert start == int(np.searchsorted(sessions, first))
    assert covered == len(sessions)


def us(text: str) -> int:
    return int(np.datetime64(text, "us").astype(np.int64))


@pytest.mark.parametrize(
    ("close_time", "timeframe", "bars", "venue", "expected"),
    [
        ("2017-12-28T10:00", Timeframe.H1, 1, FX, "2017-12-28T11:00:00Z"),
        ("2017-12-22T22:00", Timeframe.H1, 1, FX, "2017-12-24T23:00:00Z"),  # over the weekend
        ("2017-12-22T21:00", Timeframe.H1, 2, FX, "2017-12-24T23:00:00Z"),
        ("2017-12-28T21:00", Timeframe.D1, 1, NYSE, "2017-12-29T21:00:00Z"),
        ("2017-12-29T21:00", Timeframe.D1, 1, NYSE, "2018-01-02T21:00:00Z"),  # over New Year
        ("2017-12-29T21:00", Timeframe.W1, 1, NYSE, "2018-01-05T21:00:00Z"),
        ("2017-11-22T21:00", Timeframe.H1, 7, NYSE, "2017-11-27T17:30:00Z"),  # Thanksgiving, half a day, then Monday
        ("2017-11-22T21:00", Timeframe.H1, 4, NYSE, "2017-11-24T18:00:00Z"),
        ("2017-12-28T20:30", Timeframe.H1, 1, NYSE, "2017-12-28T21:00:00Z"),  # the last bar ends at the close
        ("2017-12-28T21:00", Timeframe.M5, 1, NYSE, "2017-12-29T14:35:00Z"),
    ],
)
def test_bars_after_a_close_are_counted_in_trading_time(
    close_time: str, timeframe: Timeframe, bars: int, venue: Calendar, expected: str
) -> None:
    assert iso(close_after(us(close_time), timeframe, bars, venue)) == expected


def test_beyond_the_calendar_is_an_error_not_a_guess() -> None:
    with pytest.raises(ValueError, match="no session after"):
        close_after(int(FX.close_time[-1]), Timeframe.D1, 1, FX)
    with pytest.raises(ValueError, match="at least 1"):
        close_after(0, Timeframe.D1, 0, FX)
