"""What research sees across splits and spin-offs: each row the prices of its own moment, never those of a later one."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.strategies import parsed, stock
from trading.audit import audit_evaluable
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction, UnknownFactor, adjust
from trading.costs import Costs
from trading.features import compute_anchored
from trading.instruments import AssetClass, Instrument
from trading.price_view import adjusted_rows, epochs, features_as_of, point_in_time, seen_like
from trading.strategy import Strategy, evaluate_anchored
from trading.timeframes import Timeframe, session_number

XNYS = calendar("XNYS")
AAPL = Instrument("AAPL", AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "x", "x", Timeframe.D1)
D1 = Timeframe.D1
RULES = """\
name: probe
description: Probe.
symbols: [AAPL]
timeframe: 1d
entry:
  long: {long}
exits:
  stop: {{kind: percent, percent: 2.0}}
sizing: {{kind: fixed, quantity: 10}}
"""


def probe(condition: str) -> Strategy:
    return parsed(RULES.format(long=condition))


def split(bars: Bars, row: int, factor: float, kind: ActionKind = ActionKind.SPLIT, **changes: Any) -> CorporateAction:
    ex = int(bars.session[row])
    return CorporateAction(bars.symbol, kind, ex, XNYS.bounds(ex)[0], factor, **changes)


def raw_of(smooth: Bars, actions: list[CorporateAction]) -> Bars:
    """`smooth` as it would have been traded: higher by every factor still to come."""
    price, units = np.ones(len(smooth)), np.ones(len(smooth))
    for a in actions:
        price[smooth.session < a.ex_session] *= a.factor
        if a.kind is ActionKind.SPLIT:
            units[smooth.session < a.ex_session] *= a.factor
    columns = {n: getattr(smooth, n) * price for n in ("open", "high", "low", "close")}
    return replace(smooth, **columns, volume=smooth.volume / units)


SMOOTH = stock("AAPL", 1500)
CROSS = probe("{cross_above: [{indicator: sma, params: {period: 5}}, {indicator: sma, params: {period: 20}}]}")


class TestTheTrap:
    """Back-adjusting with what is known today asks a rule about prices that nobody saw."""

    def test_a_rule_about_a_price_sees_the_price_of_its_day_and_not_one_divided_by_later_splits(self) -> None:
        later = [split(SMOOTH, 1400, 4.0)]
        raw = raw_of(SMOOTH, later)
        level = float(np.median(raw.close[200:1400])) - 0.005
        rule = probe(f"{{'>': [close, {level}]}}")
        true = raw.close > level
        seen = evaluate_anchored(point_in_time(rule, {"AAPL": later}), {D1: raw}, AAPL, XNYS)
        np.testing.assert_array_equal(seen.enter_long[seen.ready], true[seen.ready])
        today = adjust(raw, later, as_of=2**62)
        trapped = evaluate_anchored(rule, {D1: today}, AAPL, XNYS)
        assert (trapped.enter_long != seen.enter_long)[200:1400].mean() > 0.3

    def test_nothing_before_a_split_depends_on_it(self) -> None:
        actions = [split(SMOOTH, 900, 7.0), split(SMOOTH, 1200, 0.05)]
        raw = raw_of(SMOOTH, actions)
        whole = evaluate_anchored(point_in_time(CROSS, {"AAPL": actions}), {D1: raw}, AAPL, XNYS)
        for until, known in ((900, []), (1200, actions[:1])):
            cut = evaluate_anchored(point_in_time(CROSS, {"AAPL": known}), {D1: raw.rows(slice(0, until))}, AAPL, XNYS)
            np.testing.assert_array_equal(whole.enter_long[:until], cut.enter_long)
            np.testing.assert_array_equal(whole.stop_long[:until], cut.stop_long)

    def test_the_audit_for_look_ahead_finds_none(self) -> None:
        actions = [split(SMOOTH, 900, 7.0)]
        verdict = audit_evaluable(point_in_time(CROSS, {"AAPL": actions}), {D1: raw_of(SMOOTH, actions)}, AAPL)
        assert verdict.passed, verdict


class TestWindows:
    def test_a_cross_of_averages_does_not_notice_a_split_and_its_stop_is_in_the_bars_own_prices(self) -> None:
        actions = [split(SMOOTH, 900, 4.0)]
        raw = raw_of(SMOOTH, actions)
        seen = evaluate_anchored(point_in_time(CROSS, {"AAPL": actions}), {D1: raw}, AAPL, XNYS)
        plain = evaluate_anchored(CROSS, {D1: SMOOTH}, AAPL, XNYS)
        np.testing.assert_array_equal(seen.enter_long, plain.enter_long)
        np.testing.assert_allclose(seen.stop_long[seen.enter_long], raw.close[seen.enter_long] * 0.98, atol=0.006)
        blind = evaluate_anchored(CROSS, {D1: raw}, AAPL, XNYS)
        assert not np.array_equal(blind.enter_long, plain.enter_long)  # the step itself makes a cross

    def test_a_spin_off_moves_prices_and_leaves_volumes(self) -> None:
        gone = [split(SMOOTH, 900, 1.25, ActionKind.SPIN_OFF)]
        raw = raw_of(SMOOTH, gone)
        level = adjusted_rows(raw, gone)
        np.testing.assert_allclose(level.close, SMOOTH.close)
        np.testing.assert_array_equal(level.volume, raw.volume)

    def test_a_spin_off_told_by_its_value_is_measured_by_the_close_before(self) -> None:
        value = float(SMOOTH.close[899]) / 5
        told = [split(SMOOTH, 900, math.nan, ActionKind.SPIN_OFF, amount=value)]
        assert adjusted_rows(SMOOTH, told).close[0] == pytest.approx(SMOOTH.close[0] * 0.8)
        assert adjust(SMOOTH, told, as_of=2**62).close[0] == pytest.approx(SMOOTH.close[0] * 0.8)

    def test_an_action_that_became_known_late_adjusts_from_then_on(self) -> None:
        late = [replace(split(SMOOTH, 900, 4.0), known_time=int(SMOOTH.close_time[903]))]
        assert [(e.first, e.after, len(e.actions)) for e in epochs(SMOOTH, late)] == [(0, 903, 0), (903, 1500, 1)]

    def test_a_factor_nobody_knows_is_an_error_that_names_the_day(self) -> None:
        with pytest.raises(UnknownFactor, match="actions confirm"):
            evaluate_anchored(point_in_time(CROSS, {"AAPL": [split(SMOOTH, 900, math.nan)]}), {D1: SMOOTH}, AAPL, XNYS)

    def test_without_an_action_it_is_the_strategy_itself(self) -> None:
        assert point_in_time(CROSS, {"AAPL": [split(SMOOTH, 9, 1.02, ActionKind.DIVIDEND)]}) is CROSS

    @given(
        st.lists(st.tuples(st.integers(300, 1499), st.sampled_from([7.0, 2.0, 0.05, 1.5])), max_size=3, unique_by=lambda x: x[0])
    )
    def test_any_splits_leave_the_signals_of_a_scale_free_rule_where_they_were(self, made: list[tuple[int, float]]) -> None:
        actions = [split(SMOOTH, row, factor) for row, factor in made]
        seen = point_in_time(CROSS, {"AAPL": actions}).evaluate({D1: raw_of(SMOOTH, actions)}, AAPL)
        plain = CROSS.evaluate({D1: SMOOTH}, AAPL)
        assert (seen.enter_long != plain.enter_long).sum() <= 2  # averages that touch may part by the last bit


def test_the_backtest_carries_a_position_across_the_split_its_signals_do_not_notice() -> None:
    actions = [split(SMOOTH, 900, 4.0)]
    raw = raw_of(SMOOTH, actions)
    known = {"AAPL": actions}
    always = probe("{'>': [close, 0]}")
    seen = evaluate_anchored(point_in_time(always, known), {D1: raw}, AAPL, XNYS)
    free = {
        "cash": 1e6,
        "sizing": {"kind": "fixed", "quantity": 10},
        "costs": Costs(),
        "strategy": "probe",
        "require_stop": False,
    }
    stopless = replace(seen, stop_long=np.full(len(raw), np.nan), stop_short=np.full(len(raw), np.nan))
    carried = backtest([stopless], [raw], [AAPL], actions=known, **free)  # type: ignore[arg-type]
    assert carried.equity[905] - carried.equity[895] == pytest.approx(40 * (SMOOTH.close[905] - SMOOTH.close[895]), rel=1e-6)
    blind = backtest([stopless], [raw], [AAPL], **free)  # type: ignore[arg-type]
    assert blind.equity[905] < carried.equity[905] - 10 * 2 * float(SMOOTH.close[900])


def test_a_variant_of_a_strategy_is_evaluated_on_the_prices_of_the_strategy() -> None:
    known = {"AAPL": [split(SMOOTH, 900, 4.0)]}
    model = point_in_time(CROSS, known)
    other = probe("{cross_above: [{indicator: sma, params: {period: 6}}, {indicator: sma, params: {period: 25}}]}")
    raw = raw_of(SMOOTH, known["AAPL"])
    seen = evaluate_anchored(seen_like(model, other), {D1: raw}, AAPL, XNYS)
    np.testing.assert_array_equal(seen.enter_long, evaluate_anchored(other, {D1: SMOOTH}, AAPL, XNYS).enter_long)
    assert seen_like(CROSS, other) is other


class TestFeatures:
    def test_no_row_mixes_two_price_levels(self) -> None:
        actions = [split(SMOOTH, 900, 4.0)]
        _, plain = compute_anchored(SMOOTH, XNYS)
        names, seen = features_as_of(raw_of(SMOOTH, actions), XNYS, actions)
        after, before = slice(900, None), slice(0, 900)
        np.testing.assert_allclose(seen[after], plain[after], rtol=1e-6, atol=1e-9)
        rsi = names.index("rsi_14")
        np.testing.assert_allclose(seen[before, rsi], plain[before, rsi], rtol=1e-6)
        sma = names.index("sma_20")
        np.testing.assert_allclose(seen[before, sma], 4 * plain[before, sma], rtol=1e-9)  # in prices of their own day

    def test_without_an_action_inside_they_are_the_numbers_of_the_raw_bars_bit_for_bit(self) -> None:
        outside = replace(split(SMOOTH, 900, 4.0), ex_session=session_number(date(1990, 1, 2)))
        np.testing.assert_array_equal(features_as_of(SMOOTH, XNYS, [outside])[1], compute_anchored(SMOOTH, XNYS)[1])
