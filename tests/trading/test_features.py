"""Features are point-in-time: no row knows a later bar, and research computes what live computes, bit for bit."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading.samples import eurusd, eurusd_4h, spx
from trading import features
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.features import FEATURES, FEATURES_VERSION, NAMES, WARM_UP, compute, compute_anchored, definitions, warm_up_of
from trading.windows import window_start

SOURCES: dict[str, tuple[Any, str]] = {"1h": (eurusd, "FX"), "4h": (eurusd_4h, "FX"), "1d": (spx, "XNYS")}


def source(name: str) -> tuple[Bars, Calendar]:
    load, venue = SOURCES[name]
    return load(), calendar(venue)


@lru_cache(maxsize=4)
def anchored(name: str) -> np.ndarray:
    return compute_anchored(*source(name))[1]


def test_the_set_holds_what_the_catalogue_promises() -> None:
    assert len(NAMES) == len(set(NAMES)) == 33
    assert sum(n.startswith("candle_") for n in NAMES) == 10
    names, values = compute(spx())
    assert names == list(NAMES)
    assert values.shape == (len(spx()), len(NAMES))
    assert [d["name"] for d in definitions()] == list(NAMES)
    assert all(d["description"] and d["unit"] for d in definitions())


def test_the_numbers_are_talibs() -> None:
    _, values = compute(spx())
    column = {n: values[WARM_UP:, i] for i, n in enumerate(NAMES)}
    bars, rows = spx(), slice(WARM_UP, None)
    np.testing.assert_array_equal(column["sma_20"], talib.SMA(bars.close, 20)[rows])
    np.testing.assert_array_equal(column["rsi_14"], talib.RSI(bars.close, 14)[rows])
    np.testing.assert_array_equal(column["macd_histogram"], talib.MACD(bars.close, 12, 26, 9)[2][rows])
    np.testing.assert_array_equal(
        column["stochastic_d"], talib.STOCH(bars.high, bars.low, bars.close, 14, slowk_period=3, slowd_period=3)[1][rows]
    )
    np.testing.assert_array_equal(
        column["candle_engulfing"], talib.CDLENGULFING(bars.open, bars.high, bars.low, bars.close)[rows]
    )
    np.testing.assert_allclose(column["return_5"], (bars.close[5:] / bars.close[:-5] - 1)[WARM_UP - 5 :], rtol=1e-12)
    expected = np.std(np.diff(np.log(bars.close))[-20:])
    np.testing.assert_allclose(column["volatility_20"][-1], expected, rtol=1e-6)
    upper, middle, lower = talib.BBANDS(bars.close, 20, 2, 2)
    np.testing.assert_allclose(column["bollinger_width"], ((upper - lower) / middle)[rows], rtol=1e-12)


def test_before_its_warm_up_a_feature_is_unknown_and_after_it_known() -> None:
    _, values = compute(spx())
    for at, feature in enumerate(FEATURES):
        first = warm_up_of(feature) - 1
        assert np.isnan(values[:first, at]).all(), feature.name
        assert np.isfinite(values[first:, at]).all(), feature.name


@pytest.mark.parametrize("name", SOURCES)
def test_recomputing_on_bars_cut_at_a_time_gives_the_same_rows(name: str) -> None:
    bars, _ = source(name)
    _, whole = compute(bars)
    for cut in range(1, len(bars), max(1, len(bars) // 12)):
        assert whole[:cut].tobytes() == compute(bars.rows(slice(0, cut)))[1].tobytes(), cut


@pytest.mark.parametrize("name", SOURCES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_the_anchored_history_equals_a_live_computation_bit_for_bit(name: str, data: st.DataObject) -> None:
    bars, venue = source(name)
    row = data.draw(st.integers(0, len(bars) - 1))
    first = int(np.searchsorted(bars.session, window_start(int(bars.session[row]), bars.timeframe, WARM_UP, venue)))
    _, live = compute(bars.rows(slice(first, row + 1)))
    assert anchored(name)[row].tobytes() == live[-1].tobytes()


def test_the_anchored_history_is_complete_once_warmed_up() -> None:
    assert np.isfinite(anchored("1h")[WARM_UP:]).all()
    assert np.isfinite(anchored("1d")[WARM_UP:]).all()


def test_the_version_is_the_hash_of_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert features._version() == FEATURES_VERSION
    assert len(FEATURES_VERSION) == 12
    told = (dataclasses.replace(FEATURES[0], description="other words"), *FEATURES[1:])
    monkeypatch.setattr(features, "FEATURES", told)
    assert features._version() == FEATURES_VERSION, "words do not change numbers"
    for changed in (
        (dataclasses.replace(FEATURES[0], params={"period": 11}), *FEATURES[1:]),
        FEATURES[1:],
        (FEATURES[1], FEATURES[0], *FEATURES[2:]),
    ):
        monkeypatch.setattr(features, "FEATURES", changed)
        assert features._version() != FEATURES_VERSION


@pytest.mark.parametrize("rows", [0, 1, 2, 30])
def test_few_bars_give_unknown_not_an_error(rows: int) -> None:
    _, values = compute(spx().rows(slice(0, rows)))
    assert values.shape == (rows, len(NAMES))
    assert compute_anchored(spx().rows(slice(0, rows)), calendar("XNYS"))[1].tobytes() == values.tobytes()


def test_closes_only_and_no_volume_still_give_features() -> None:
    bars = spx().rows(slice(0, 400))
    flat = Bars(
        "VIX", bars.timeframe, bars.close_time, bars.session, bars.close, bars.close, bars.close, bars.close, bars.close * 0
    )
    _, values = compute(flat)
    known = {n for i, n in enumerate(NAMES) if np.isfinite(values[-1, i])}
    assert set(NAMES) - known == {"obv_change_20"}, "a share of no volume is not a number"
