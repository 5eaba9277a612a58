"""Gap detection against the calendar and the smallest backfill."""

from __future__ import annotations

from datetime import date
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.bars import Bars
from trading.calendars import calendar
from trading.gaps import Missing, missing_of, plan_backfill
from trading.session_grid import bar_end, due_times
from trading.timeframes import Timeframe, session_date, session_number

XNYS = calendar("XNYS")
FIRST, LAST = session_number(date(2015, 12, 21)), session_number(date(2015, 12, 31))


def full(name: str, first: int, last: int, timeframe: Timeframe = Timeframe.M30) -> Bars:
    """Every bar the calendar calls for."""
    venue = calendar(name)
    numbers = [int(n) for n in venue.number if first <= n <= last]
    times = [due_times(n, timeframe, venue) for n in numbers]
    t = np.concatenate(times) if times else np.empty(0, np.int64)
    s = np.concatenate([np.full(len(x), n, np.int32) for n, x in zip(numbers, times, strict=True)] or [np.empty(0, np.int32)])
    one = np.ones(len(t))
    return Bars("X", timeframe, t, s, one, one, one, one, one)


def missing(bars: Bars, name: str = "XNYS", **options: object) -> list[tuple[str, int, int]]:
    found = missing_of(bars, calendar(name), FIRST, LAST, known_until=None, **options)  # type: ignore[arg-type]
    return [(session_date(m.session).isoformat(), m.missing, m.expected) for m in found]


@pytest.mark.parametrize("name", ["XNYS", "FX", "CRYPTO", "XTKS", "XHKG", "CMES", "XBOM"])
@pytest.mark.parametrize("timeframe", [Timeframe.M30, Timeframe.H1, Timeframe.D1, Timeframe.W1])
def test_nothing_is_missing_of_what_the_calendar_calls_for(name: str, timeframe: Timeframe) -> None:
    assert missing(full(name, FIRST, LAST, timeframe), name) == []


def test_a_half_day_calls_for_half_the_bars() -> None:
    bars = full("XNYS", FIRST, LAST)
    christmas_eve = session_number(date(2015, 12, 24))
    assert int((bars.session == christmas_eve).sum()) == 7
    gone = bars.rows(bars.session != christmas_eve)
    assert missing(gone) == [("2015-12-24", 7, 7)]


def test_a_lunch_break_is_no_gap_and_a_bar_missing_beside_it_is_one() -> None:
    bars = full("XTKS", FIRST, LAST)
    day = session_number(date(2015, 12, 22))
    rows = np.flatnonzero(bars.session == day)
    assert missing(bars.rows(np.delete(np.arange(len(bars)), rows[4])), "XTKS") == [("2015-12-22", 1, len(rows))]


def test_thin_days_around_new_year_are_no_gap_in_currencies() -> None:
    bars = full("FX", FIRST, LAST)
    days = {d for d, _, _ in missing(bars.rows(bars.session < 0), "FX")}
    assert "2015-12-25" not in days
    assert "2015-12-28" in days


def test_what_is_not_due_yet_is_not_missing() -> None:
    noon = int(np.datetime64("2015-12-21T17:00", "us").astype(np.int64))
    bars = full("XNYS", FIRST, LAST).known_at(noon)
    assert missing_of(bars, XNYS, FIRST, LAST, known_until=noon) == []


def test_sessions_outside_the_listing_are_not_missing() -> None:
    nothing = full("XNYS", FIRST, LAST).rows(slice(0, 0))
    listed = {"listed_from": session_number(date(2015, 12, 29)), "listed_until": session_number(date(2015, 12, 30))}
    assert [d for d, _, _ in missing(nothing, **listed)] == ["2015-12-29", "2015-12-30"]


def test_missing_bars_within_the_tolerance_are_not_asked_for() -> None:
    bars = full("XNYS", FIRST, LAST)
    holed = bars.rows(np.delete(np.arange(len(bars)), [3]))
    assert missing(holed) == [("2015-12-21", 1, 13)]
    assert missing(holed, max_gap_share=0.1, max_gap_bars=1) == []


def plan(sessions: list[int], page: int | None, skip: dict[tuple[str, int], int] | None = None) -> list[tuple[int, int, int]]:
    found = plan_backfill(
        [Missing("X", s, 13, 2) for s in sessions], calendar_of=lambda _: XNYS, timeframe=Timeframe.M30, page_bars=page,
        known_empty=skip,
    )  # fmt: skip
    for request in found:
        assert request.bars <= (page or 10**9) or request.first == request.last
        assert request.missing == 2 * len(request.sessions)
    return [(r.first, r.last, len(r.sessions)) for r in found]


DAYS = [int(n) for n in XNYS.number if FIRST <= n <= session_number(date(2016, 1, 29))]


def test_without_a_page_limit_one_request_a_symbol_suffices() -> None:
    assert plan([DAYS[1], DAYS[5], DAYS[20]], None) == [(DAYS[1], DAYS[20], 3)]


def test_what_the_source_does_not_have_is_not_asked_for_again() -> None:
    assert plan([DAYS[1], DAYS[5]], None, {("X", DAYS[5]): 0}) == [(DAYS[1], DAYS[1], 1)]


def test_a_session_larger_than_a_page_is_a_request_of_its_own() -> None:
    assert plan([DAYS[4], DAYS[5]], 5) == [(DAYS[4], DAYS[4], 1), (DAYS[5], DAYS[5], 1)]


def fewest(positions: list[int], weights: list[int], page: int) -> int:
    """By trying every way to cut the sessions into ranges."""
    n = len(positions)

    def fits(a: int, b: int) -> bool:
        return a == b or sum(weights[positions[a] : positions[b] + 1]) <= page

    for cuts in range(n):
        for chosen in combinations(range(1, n), cuts):
            edges = [0, *chosen, n]
            if all(fits(a, b - 1) for a, b in pairwise(edges)):
                return cuts + 1
    raise AssertionError


@given(st.sets(st.integers(0, len(DAYS) - 1), min_size=1, max_size=9), st.integers(10, 80))
def test_no_plan_has_fewer_requests_and_every_session_is_covered_once(positions: set[int], page: int) -> None:
    ordered = sorted(positions)
    requests = plan([DAYS[p] for p in ordered], page)
    assert sum(r[2] for r in requests) == len(ordered)
    assert all(a[1] < b[0] for a, b in pairwise(requests))
    weights = [len(due_times(d, Timeframe.M30, XNYS)) for d in DAYS]
    assert len(requests) == fewest(ordered, weights, page)


def test_the_end_of_the_bar_a_minute_is_part_of() -> None:
    opens, closes = XNYS.bounds(date(2015, 12, 24))
    minute = opens + 61 * 60_000_000
    day = session_number(date(2015, 12, 24))
    assert bar_end(minute, day, Timeframe.M1, XNYS) == minute
    assert bar_end(minute, day, Timeframe.H1, XNYS) == opens + 2 * 3_600_000_000
    assert bar_end(closes, day, Timeframe.H4, XNYS) == closes
    assert bar_end(minute, day, Timeframe.D1, XNYS) == closes
    assert bar_end(closes + 1, day, Timeframe.D1, XNYS) is None
