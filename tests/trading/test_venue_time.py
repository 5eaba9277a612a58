"""Venue wall clocks over arrays agree with the zone database, at the very second of a change."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.timeframes import US_PER_SECOND, from_us, to_us
from trading.venue_time import _transitions, minute_of_day, weekday

ZONES = ["America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Sydney", "UTC"]


@pytest.mark.parametrize("zone", ZONES)
@given(second=st.integers(640_000_000, 2_000_000_000))
def test_minutes_of_the_day_are_the_zones(zone: str, second: int) -> None:
    local = from_us(second * US_PER_SECOND).astimezone(ZoneInfo(zone))
    assert minute_of_day(np.array([second * US_PER_SECOND]), zone)[0] == local.hour * 60 + local.minute


@pytest.mark.parametrize("zone", ZONES[:4])
def test_a_change_takes_effect_at_its_second(zone: str) -> None:
    for change in _transitions(zone)[0][1:]:
        for us in (int(change) - US_PER_SECOND, int(change)):
            local = from_us(us).astimezone(ZoneInfo(zone))
            assert minute_of_day(np.array([us]), zone)[0] == local.hour * 60 + local.minute


def test_weekdays_of_sessions() -> None:
    sessions = np.array([17528, 17529, 17530], np.int32)  # 2017-12-28 was a Thursday
    assert weekday(sessions).tolist() == [3, 4, 5]
    assert from_us(17528 * 86_400 * US_PER_SECOND).weekday() == 3
    assert to_us(from_us(5)) == 5
