"""What depends on a changed session: every row that saw it, and no row that did not."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.calendars import calendar
from trading.dependents import dependents, derived_session, derives, feature_range, merge
from trading.timeframes import Timeframe, session_date, session_number
from trading.windows import window_start

T = Timeframe
ALL = tuple(Timeframe)


@settings(max_examples=60, deadline=None)
@given(
    day=st.dates(date(2013, 1, 1), date(2018, 6, 30)),
    timeframe=st.sampled_from(ALL),
    warm_up=st.sampled_from([1, 60, 250, 1200]),
    name=st.sampled_from(["XNYS", "FX", "XHKG"]),
    probe=st.dates(date(2013, 1, 1), date(2030, 12, 31)),
)
def test_a_row_is_in_the_range_exactly_when_its_window_contains_the_session(
    day: date, timeframe: Timeframe, warm_up: int, name: str, probe: date
) -> None:
    cal = calendar(name)
    changed = int(cal.number[np.searchsorted(cal.number, session_number(day))])
    first, last = feature_range(changed, timeframe, warm_up, cal)
    assert first == changed
    at = min(int(np.searchsorted(cal.number, session_number(probe))), len(cal.number) - 1)
    for place in (at, int(np.searchsorted(cal.number, last)), int(np.searchsorted(cal.number, last)) + 1):
        if place < len(cal.number):
            row = int(cal.number[place])
            saw = row >= changed and window_start(row, timeframe, warm_up, cal) <= changed
            assert (first <= row <= last) == saw, session_date(row)


def test_a_week_belongs_to_its_last_session_and_the_others_to_their_own() -> None:
    cal = calendar("XNYS")
    tuesday = session_number(date(2014, 4, 15))  # Good Friday: the week ends on Thursday
    assert session_date(derived_session(tuesday, T.W1, cal)) == date(2014, 4, 17)
    assert all(derived_session(tuesday, t, cal) == tuesday for t in ALL if t is not T.W1)
    with pytest.raises(KeyError):
        derived_session(session_number(date(2014, 4, 18)), T.W1, cal)


def test_only_native_bars_reach_other_timeframes() -> None:
    cal, number = calendar("XNYS"), [session_number(date(2014, 6, 26))]

    def of(dataset: str, native: Timeframe) -> set[str]:
        return set(
            dependents(
                dataset, number, native=native, calendar=cal, timeframes=ALL, feature_timeframes=(T.H1, T.D1), warm_up_bars=60
            )
        )

    assert of("bars_1m", T.M1) == {f"bars_{t}" for t in ALL if t is not T.M1} | {"features_1h", "features_1d"}
    assert of("bars_3m", T.M3) == {f"bars_{t}" for t in (T.M15, T.M30, T.H1, T.H4, T.D1, T.W1)} | {"features_1h", "features_1d"}
    assert of("bars_1h", T.M1) == {"features_1h"}
    assert of("bars_5m", T.M1) == set()
    assert of("features_1h", T.M1) == set()
    assert of("ticks", T.M1) == set()


def test_derivation_follows_whole_bars() -> None:
    assert derives(T.M3, T.M15)
    assert not derives(T.M3, T.M5)
    assert not derives(T.M5, T.M5)
    assert derives(T.H4, T.D1)


def test_ranges_are_merged() -> None:
    assert merge([(5, 7), (1, 2), (3, 3), (6, 9), (12, 12)]) == [(1, 3), (5, 9), (12, 12)]
    assert merge([]) == []
