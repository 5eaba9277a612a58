"""One walk over the closes says what two arrays of TA-Lib's averages would."""

from __future__ import annotations

import numpy as np
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from trading.averages import fast_above_slow

_WHOLE = st.lists(st.integers(1, 4), min_size=2, max_size=120)  # ties at every other row
_TICKS = st.lists(st.integers(9_900, 10_100).map(lambda ticks: ticks / 100), min_size=2, max_size=120)


@given(_WHOLE | _TICKS, st.integers(2, 20), st.integers(1, 40))
def test_it_is_the_comparison_of_the_two_averages_at_every_row(closes: list[float], fast: int, more: int) -> None:
    close, slow = np.array(closes, np.float64), fast + more
    np.testing.assert_array_equal(fast_above_slow(close, fast, slow), talib.SMA(close, fast) > talib.SMA(close, slow))


def test_a_tie_that_only_rounding_makes_is_decided_as_the_divisions_round() -> None:
    close = np.full(400, 100.1)  # running sums of it are not whole, their means differ in the last bit now and then
    expected = talib.SMA(close, 10) > talib.SMA(close, 30)
    assert 0 < expected.sum() < len(close), "the case says something"
    np.testing.assert_array_equal(fast_above_slow(close, 10, 30), expected)


def test_before_both_are_known_nothing_is_above() -> None:
    rising = np.arange(1.0, 40.0)
    assert np.flatnonzero(fast_above_slow(rising, 5, 20))[0] == 19


@pytest.mark.parametrize(("fast", "slow"), [(0, 5), (5, 5), (9, 3)])
def test_periods_in_the_wrong_order_are_refused(fast: int, slow: int) -> None:
    with pytest.raises(ValueError, match="expected 1 <= fast < slow"):
        fast_above_slow(np.ones(10), fast, slow)
