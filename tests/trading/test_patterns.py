"""Price action: every pattern on bars made by hand, and on real ones: nothing looks ahead, no scale matters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading.samples import eurusd, spx
from trading.bars import Bars
from trading.patterns import get, patterns
from trading.timeframes import Timeframe

NAMES = sorted(patterns())


def made(rows: list[tuple[float, float, float, float]], volume: float = 100.0) -> Bars:
    """Bars of (open, high, low, close)."""
    n = len(rows)
    columns = np.array(rows, np.float64).T
    times = np.arange(1, n + 1, dtype=np.int64) * 3_600_000_000
    return Bars("X", Timeframe.H1, times, np.zeros(n, np.int32), *columns, np.full(n, volume))


def ranges(*rows: tuple[float, float]) -> Bars:
    """Bars of (high, low), opened and closed in the middle."""
    return made([((h + low) / 2, h, low, (h + low) / 2) for h, low in rows])


def signal(name: str, bars: Bars, **params: float) -> list[float]:
    return [0.0 if np.isnan(v) else v for v in get(name).compute(bars, params)[0]]


def output(name: str, which: str, bars: Bars, **params: float) -> np.ndarray:
    definition = get(name)
    return definition.compute(bars, params)[definition.outputs.index(which)]


class TestStrat:
    def test_the_four_types(self) -> None:
        bars = ranges((10, 8), (10, 8), (11, 9), (10.5, 8.5), (11.5, 8.4), (11.4, 8.6))
        kinds = output("strat_candle", "type", bars)
        assert np.isnan(kinds[0])
        assert kinds[1:].tolist() == [1, 2, -2, 3, 1], "equal extremes are inside"

    def test_212_up_names_its_trigger_and_its_stop(self) -> None:
        bars = ranges((10, 8), (11, 9), (10.5, 9.5), (10.8, 9.6))
        assert signal("strat_212", bars) == [0, 0, 0, 1]
        assert signal("strat_212_continuation", bars) == [0, 0, 0, 1]
        assert signal("strat_212_reversal", bars) == [0, 0, 0, 0]
        assert output("strat_212", "trigger", bars)[3] == 10.5
        assert output("strat_212", "stop", bars)[3] == 9.5

    def test_212_reversal_goes_against_its_first_bar(self) -> None:
        bars = ranges((10, 8), (11, 9), (10.5, 9.5), (10.4, 9.3))
        assert signal("strat_212_reversal", bars) == [0, 0, 0, -1]
        assert signal("strat_212_continuation", bars) == [0, 0, 0, 0]

    def test_other_setups(self) -> None:
        outside = ranges((10, 8), (11, 7), (10, 8), (10.5, 8.5))
        assert signal("strat_312", outside) == [0, 0, 0, 1]
        turned = ranges((10, 8), (9.5, 7.5), (10, 8))
        assert signal("strat_22_reversal", turned) == [0, 0, 1]
        rev = ranges((10, 8), (9.5, 8.5), (9.4, 8.0), (9.6, 8.1))
        assert signal("strat_122", rev) == [0, 0, 0, 1]


PEAK = [(5, 4), (6, 5), (9, 8), (7, 6), (6, 5), (7, 6), (8, 7)]


class TestSwings:
    def test_a_swing_is_known_only_after_the_bars_that_confirm_it(self) -> None:
        bars = ranges(*PEAK)
        assert signal("swing", bars, left=2, right=2) == [0, 0, 0, 0, -1, 0, 1]
        tops = output("swing", "high", bars, left=2, right=2)
        assert np.isnan(tops[:4]).all()
        assert tops[4:].tolist() == [9, 9, 9]
        assert output("swing", "high_age", bars, left=2, right=2)[4:].tolist() == [2, 3, 4]
        assert output("swing", "low", bars, left=2, right=2)[6] == 5

    def test_of_equal_tops_side_by_side_the_first_is_it(self) -> None:
        bars = ranges((5, 4), (6, 5), (9, 8), (9, 8), (6, 5), (5, 4))
        assert signal("swing", bars, left=2, right=2) == [0, 0, 0, 0, -1, 0]


def closes(*rows: tuple[float, float, float]) -> Bars:
    """Bars of (high, low, close), opened at the close."""
    return made([(c, h, low, c) for h, low, c in rows])


# a swing high at 9 (row 2), confirmed at row 4, a swing low at 5 (row 4), confirmed at row 6
BASE = [(5, 4, 4.5), (6, 5, 5.5), (9, 8, 8.5), (7, 6, 6.5), (6, 5, 5.5), (7, 6, 6.5), (8, 7, 7.5)]


class TestStructure:
    def test_the_first_break_sets_the_trend_the_next_with_it_is_a_break_of_structure(self) -> None:
        rows = [*BASE, (9.5, 8, 9.2), (9.4, 8.6, 8.8), (8.7, 8, 8.2), (8.9, 8.1, 8.5), (9.8, 8.9, 9.7)]
        bars = closes(*rows)
        bos = signal("break_of_structure", bars, left=2, right=2)
        assert bos == [0] * 11 + [1]
        assert output("break_of_structure", "level", bars, left=2, right=2)[11] == 9.5
        assert output("break_of_structure", "trend", bars, left=2, right=2)[7:].tolist() == [1, 1, 1, 1, 1]

    def test_a_break_against_the_trend_changes_the_character(self) -> None:
        bars = closes(*BASE, (9.5, 8, 9.2), (8, 4.4, 4.6))
        assert signal("change_of_character", bars, left=2, right=2) == [0] * 8 + [-1]
        assert signal("break_of_structure", bars, left=2, right=2) == [0] * 9
        assert output("change_of_character", "level", bars, left=2, right=2)[8] == 5

    def test_a_wick_alone_breaks_nothing(self) -> None:
        bars = closes(*BASE, (9.5, 8, 8.9), (8, 4.4, 5.2))
        assert not any(output("break_of_structure", "trend", bars, left=2, right=2)[6:])


class TestFairValueGap:
    def test_a_gap_is_formed_by_the_third_bar(self) -> None:
        bars = ranges((10, 9), (12, 10), (13, 11))
        assert signal("fair_value_gap", bars) == [0, 0, 1]
        assert (output("fair_value_gap", "upper", bars)[2], output("fair_value_gap", "lower", bars)[2]) == (11, 10)
        assert signal("fair_value_gap", bars, minimum=0.6) == [0, 0, 0], "1 point is half the middle bar's range"
        assert signal("fair_value_gap", ranges((10, 9), (9, 7), (8, 6))) == [0, 0, -1]
        assert signal("fair_value_gap", ranges((10, 9), (12, 10), (13, 10))) == [0, 0, 0], "touching edges are no gap"

    def test_it_is_mitigated_once_when_price_comes_back(self) -> None:
        bars = ranges((10, 9), (12, 10), (13, 11), (14, 12), (13, 10.9), (13, 10.5), (13, 10.2))
        assert signal("fair_value_gap_mitigated", bars) == [0, 0, 0, 0, 1, 0, 0]
        assert output("fair_value_gap_mitigated", "upper", bars)[4] == 11
        assert signal("fair_value_gap_mitigated", bars, depth=0.5) == [0, 0, 0, 0, 0, 1, 0]
        assert signal("fair_value_gap_mitigated", bars, depth=1.0) == [0] * 7
        assert signal("fair_value_gap_mitigated", bars, max_age=1) == [0] * 7


class TestLiquidity:
    def test_through_the_high_and_back_is_a_sweep_down(self) -> None:
        bars = closes(*BASE, (9.3, 8, 8.8), (9.6, 8.5, 8.7))
        assert signal("liquidity_sweep", bars, left=2, right=2) == [0] * 7 + [-1, 0], "a swing is swept once"
        assert output("liquidity_sweep", "level", bars, left=2, right=2)[7] == 9

    def test_a_close_beyond_is_a_break_not_a_sweep(self) -> None:
        bars = closes(*BASE, (9.3, 8, 9.1), (9.3, 8, 8.8))
        assert signal("liquidity_sweep", bars, left=2, right=2) == [0] * 9

    def test_through_the_low_and_back_is_a_sweep_up(self) -> None:
        bars = closes(*BASE, (7, 4.7, 5.5))
        assert signal("liquidity_sweep", bars, left=2, right=2) == [0] * 7 + [1]


def test_displacement_is_a_large_body_that_fills_its_range() -> None:
    small = [(10, 10.2, 9.9, 10.1)] * 5
    assert signal("displacement", made([*small, (10, 11, 9.9, 10.9)]), period=5)[-1] == 1
    assert signal("displacement", made([*small, (10, 10.1, 8, 8.1)]), period=5)[-1] == -1
    assert signal("displacement", made([*small, (10, 12, 8, 10.9)]), period=5)[-1] == 0, "most of it is wick"
    assert signal("displacement", made([*small, (10, 10.2, 9.9, 10.15)]), period=5)[-1] == 0, "not larger than usual"
    assert output("displacement", "size", made([*small, (10, 11, 9.9, 10.9)]), period=5)[-1] == pytest.approx(9)


def test_support_is_where_several_swing_lows_met() -> None:
    wave = [(11, 10), (12, 11), (13, 12), (12, 11), (11, 10.02), (12, 11), (13.02, 12), (12, 11), (11, 10.04), (12, 11), (13, 12),
            (12, 11), (11.5, 10.5), (12, 11), (12.2, 11.1), (12.3, 11.2)]  # fmt: skip
    bars = ranges(*wave)
    kept = {"left": 2, "right": 2, "tolerance": 0.2}
    support = output("support_resistance", "support", bars, **kept)
    assert support[14] == pytest.approx((10.02 + 10.04) / 2)
    assert output("support_resistance", "support_touches", bars, **kept)[14] == 2
    assert output("support_resistance", "resistance", bars, **kept)[14] == pytest.approx((13 + 13.02 + 13) / 3)
    assert np.isnan(output("support_resistance", "support", bars, **kept, touches=5)[14])


def test_the_volume_profile_finds_where_most_was_traded() -> None:
    rows = [(10.0, 10.25, 10.0, 10.1)] * 8 + [(11.0, 12.0, 11.0, 11.5)] * 2
    bars = made(rows)
    kept = {"period": 10, "bins": 8}
    # a bin is 0.25 wide; 800 of 1,000 lie in the lowest, which is more than 70 percent
    assert np.isnan(output("volume_profile", "poc", bars, **kept)[-1]), "the first value comes after a whole period and one"
    longer = made([*rows, (11.5, 12.0, 10.0, 11.8)])
    assert output("volume_profile", "poc", longer, period=10, bins=8)[-1] == pytest.approx(10.125)
    assert output("volume_profile", "value_low", longer, period=10, bins=8)[-1] == pytest.approx(10.0)
    silent = made(rows, volume=0.0)
    assert np.isnan(output("volume_profile", "poc", silent, **kept)).all()


# --- every registered pattern --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_states_its_rule_its_source_and_its_warm_up(name: str) -> None:
    definition = get(name)
    assert len(definition.definition) > 40
    assert definition.reference
    assert definition.warm_up({}) > definition.lookback({})
    assert definition.outputs[0] == "signal"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bars", [eurusd(), spx()], ids=["EURUSD", "SPX"])
def test_on_real_bars_it_occurs_in_both_directions_and_is_not_everywhere(name: str, bars: Bars) -> None:
    found = get(name).compute(bars)[0]
    known = found[get(name).lookback({}) :]
    assert np.isin(known, (-1.0, 0.0, 1.0)).all()
    assert 0.003 < (known > 0).mean() < 0.5
    assert 0.003 < (known < 0).mean() < 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bars", [eurusd().rows(slice(0, 1500)), spx().rows(slice(0, 1500))], ids=["EURUSD", "SPX"])
def test_a_row_depends_on_no_later_bar(name: str, bars: Bars) -> None:
    whole = get(name).compute(bars)
    for cut in (1, 2, 3, 40, 500, 777, 1499):
        for full, prefix in zip(whole, get(name).compute(bars.rows(slice(0, cut))), strict=True):
            assert full[:cut].tobytes() == prefix.tobytes()


prices = st.lists(st.integers(80, 120), min_size=4, max_size=4)


@st.composite
def walks(draw: st.DrawFn) -> Bars:
    rows = draw(st.lists(prices, min_size=5, max_size=90))
    return made([(float(r[0]), float(max(r)), float(min(r)), float(r[1])) for r in rows])


@given(walks(), st.integers(-8, 8), st.sampled_from(NAMES), st.data())
@settings(max_examples=150, deadline=None)
def test_a_price_scale_changes_no_signal_and_scales_every_level(bars: Bars, power: int, name: str, data: st.DataObject) -> None:
    factor = 2.0**power  # exact in floating point
    scaled = Bars(
        bars.symbol, bars.timeframe, bars.close_time, bars.session, bars.open * factor, bars.high * factor, bars.low * factor,
        bars.close * factor, bars.volume,
    )  # fmt: skip
    definition = get(name)
    plain = {"type", "size", "trend", "high_age", "low_age", "support_touches", "resistance_touches", "signal"}
    for output_name, a, b in zip(definition.outputs, definition.compute(bars), definition.compute(scaled), strict=True):
        np.testing.assert_array_equal(a if output_name in plain else a * factor, b)
    cut = data.draw(st.integers(0, len(bars)))
    for a, b in zip(definition.compute(bars), definition.compute(bars.rows(slice(0, cut))), strict=True):
        np.testing.assert_array_equal(a[:cut], b)
