"""Indicators of our own: what each says, seen by a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trading.samples import eurusd
from trading.bars import Bars
from trading.indicators import get


@pytest.fixture(scope="module")
def bars() -> Bars:
    return eurusd().rows(slice(0, 400))


def sessions(bars: Bars) -> list[np.ndarray]:
    return [np.flatnonzero(bars.session == s) for s in np.unique(bars.session)]


def test_a_zscore_is_the_distance_to_the_mean_in_sample_deviations(bars: Bars) -> None:
    (found,) = get("zscore").compute(bars, {"period": 20})
    for row in (19, 200, 399):
        window = bars.close[row - 19 : row + 1]
        assert found[row] == pytest.approx((bars.close[row] - window.mean()) / window.std(ddof=1), rel=1e-9)
    flat = Bars(bars.symbol, bars.timeframe, bars.close_time, bars.session, *(np.ones(400) for _ in range(5)))
    assert (get("zscore").compute(flat, {"period": 20})[0][19:] == 0).all()


def test_the_session_vwap_starts_anew_with_each_session(bars: Bars) -> None:
    value, upper, lower = get("session_vwap").compute(bars, {"deviations": 2.0})
    typical = (bars.high + bars.low + bars.close) / 3
    for rows in sessions(bars)[1:10]:
        for end in (1, len(rows) // 2, len(rows)):
            part, volume = typical[rows[:end]], bars.volume[rows[:end]]
            mean = np.sum(part * volume) / volume.sum()
            spread = np.sqrt(np.sum(volume * (part - mean) ** 2) / volume.sum())
            assert value[rows[end - 1]] == pytest.approx(mean, rel=1e-12)
            assert upper[rows[end - 1]] == pytest.approx(mean + 2 * spread, abs=1e-9)
            assert lower[rows[end - 1]] == pytest.approx(mean - 2 * spread, abs=1e-9)


def test_the_session_so_far_and_the_one_before(bars: Bars) -> None:
    names = get("session").outputs
    found = dict(zip(names, get("session").compute(bars), strict=True))
    whole = sessions(bars)
    for before, rows in zip(whole[:8], whole[1:9], strict=True):  # noqa: RUF007
        row = rows[len(rows) // 2]
        so_far = rows[rows <= row]
        assert found["open"][row] == bars.open[rows[0]]
        assert found["high"][row] == bars.high[so_far].max()
        assert found["low"][row] == bars.low[so_far].min()
        assert found["previous_high"][row] == bars.high[before].max()
        assert found["previous_low"][row] == bars.low[before].min()
        assert found["previous_close"][row] == bars.close[before[-1]]
        assert found["gap"][row] == pytest.approx((bars.open[rows[0]] / bars.close[before[-1]] - 1) * 100)
        assert found["bars"][row] == len(so_far)
    assert np.isnan(found["previous_close"][whole[0]]).all()


def test_the_opening_range_is_known_after_its_last_bar_and_holds_for_the_session(bars: Bars) -> None:
    top, bottom = get("opening_range").compute(bars, {"bars": 4})
    for rows in sessions(bars)[1:8]:
        assert np.isnan(top[rows[:3]]).all()
        assert (top[rows[3:]] == bars.high[rows[:4]].max()).all()
        assert (bottom[rows[3:]] == bars.low[rows[:4]].min()).all()
    assert np.isnan(top[sessions(bars)[0]]).all(), "the first session may have begun before the window"
