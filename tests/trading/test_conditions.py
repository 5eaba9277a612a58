"""The grammar of rules: what each word means over bars, seen by plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.trading.samples import eurusd, eurusd_4h, spx
from trading.bars import Bars
from trading.conditions import Condition, context, evaluate, scores, value_of, warm_up
from trading.frame import BarWindow, Frame, SeriesCache
from trading.operands import Operand
from trading.timeframes import Timeframe


def frame(rows: int = 600) -> Frame:
    own = eurusd().rows(slice(0, rows))
    return Frame({Timeframe.H1: own, Timeframe.H4: eurusd_4h().known_at(int(own.close_time[-1]))}, Timeframe.H1)


def holds(rule: dict[str, Any], over: Frame | None = None) -> np.ndarray:
    return evaluate(Condition.model_validate(rule), over or frame())


def values(operand: Any, over: Frame | None = None) -> np.ndarray:
    return value_of(Operand.model_validate(operand), over or frame())


class TestOperands:
    @pytest.mark.parametrize(("word", "function"), [("highest", np.max), ("lowest", np.min), ("mean", np.mean)])
    def test_highest_lowest_and_mean_look_back_over_n_values_of_their_own_timeframe(self, word: str, function: Any) -> None:
        high = eurusd().high
        found = values({"price": "high", word: 20, "lookback": 1})
        for row in (20, 99, 400):
            assert found[row] == pytest.approx(function(high[row - 20 : row]), rel=1e-12)
        assert np.isnan(found[:20]).all()

    def test_a_missing_value_makes_only_the_windows_unknown_that_hold_it(self) -> None:
        bars = eurusd().rows(slice(0, 60))
        high = bars.high.copy()
        high[30] = np.nan
        broken = Bars("EURUSD", Timeframe.H1, bars.close_time, bars.session, bars.open, high, bars.low, bars.close, bars.volume)
        found = values({"price": "high", "highest": 5}, Frame({Timeframe.H1: broken}, Timeframe.H1))
        assert np.flatnonzero(np.isnan(found)).tolist() == [0, 1, 2, 3, 30, 31, 32, 33, 34]

    def test_times_and_plus_build_a_band_around_an_average(self) -> None:
        band = values(
            {"indicator": "sma", "params": {"period": 5}, "plus": {"indicator": "atr", "params": {"period": 5}, "times": -2}}
        )
        over = frame()
        expected = over.indicator("sma", {"period": 5}) - 2 * over.indicator("atr", {"period": 5})
        np.testing.assert_array_equal(band, expected)

    def test_a_pattern_gives_its_levels(self) -> None:
        found = values({"pattern": "swing", "output": "high", "params": {"left": 2, "right": 2}})
        assert np.nanmax(found) <= eurusd().high[:600].max()

    @pytest.mark.parametrize(
        ("operand", "words"),
        [
            ({"price": "close", "highest": 3, "lowest": 3}, "more than one of highest"),
            ({"number": 3, "times": 2}, "a number has no"),
            ({"price": "close", "pattern": "swing"}, "price and pattern"),
            ({"price": "close", "output": "x"}, "belong to an indicator or a pattern"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, operand: dict[str, Any], words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            Operand.model_validate(operand)


class TestOtherInstruments:
    def daily(self, days_old: int) -> Frame:
        """EURUSD hours of 2017 beside S&P 500 days, those of the last `days_old` days withheld."""
        own = eurusd().rows(slice(0, 2000))
        other = spx().known_at(int(own.close_time[-1]) - days_old * 86_400_000_000)
        return Frame({Timeframe.H1: own, Timeframe.D1: own.rows(slice(0, 0)), ("SPX", Timeframe.D1): other}, Timeframe.H1)

    def test_their_value_is_that_of_the_last_closed_bar(self) -> None:
        over = self.daily(0)
        found = values({"price": "close", "symbol": "SPX", "timeframe": "1d"}, over)
        own = over.bars[Timeframe.H1]
        for row in range(0, 2000, 131):
            known = spx().known_at(int(own.close_time[row]))
            assert found[row] == known.close[-1]

    def test_a_series_that_stopped_days_ago_is_unknown_not_old(self) -> None:
        found = values({"price": "close", "symbol": "SPX", "timeframe": "1d"}, self.daily(20))
        assert np.isfinite(found[0])
        assert np.isnan(found[-1])

    def test_what_a_rule_reads_of_others_is_known_before_it_runs(self) -> None:
        rule = Condition.model_validate(
            {"<": [{"indicator": "sma", "params": {"period": 10}, "symbol": "VIX", "timeframe": "1d", "lookback": 2}, 20]}
        )
        assert context(rule, Timeframe.H1) == {("VIX", Timeframe.D1): 12}
        assert warm_up(rule, Timeframe.H1) == {Timeframe.D1: 12, Timeframe.H1: 1}


class TestConditions:
    def test_within_holds_for_n_bars_after_the_event(self) -> None:
        cross = {"cross_above": ["close", {"indicator": "sma", "params": {"period": 10}}]}
        event = holds(cross)
        expected = event.copy()
        for shift in (1, 2):
            expected[shift:] |= event[:-shift]
        np.testing.assert_array_equal(holds({**cross, "within": 3}), expected)

    def test_for_needs_every_one_of_the_last_n_bars(self) -> None:
        above = {">": ["close", {"indicator": "sma", "params": {"period": 10}}]}
        now = holds(above)
        expected = now.copy()
        for shift in (1, 2, 3):
            expected[shift:] &= now[:-shift]
            expected[:shift] = False
        np.testing.assert_array_equal(holds({**above, "for": 4}), expected)
        assert warm_up(Condition.model_validate({**above, "for": 4}), Timeframe.H1) == {Timeframe.H1: 13}

    def test_a_pattern_points_up_down_or_either_way(self) -> None:
        up, down = (holds({"pattern": "strat_212", "direction": side}) for side in ("up", "down"))
        assert up.any()
        assert down.any()
        assert not (up & down).any()
        np.testing.assert_array_equal(holds({"pattern": "strat_212"}), up | down)

    def test_a_confluence_adds_the_weights_of_what_holds(self) -> None:
        parts = [
            {"name": "trend", "weight": 2, "when": {">": ["close", {"indicator": "sma", "params": {"period": 50}}]}},
            {"name": "4h", "when": {">": [{"price": "close", "timeframe": "4h"}, {"price": "open", "timeframe": "4h"}]}},
            {"name": "bar", "when": {">": ["close", "open"]}},
        ]
        rule = Condition.model_validate({"confluence": {"at_least": 0.75, "parts": parts}})
        found = scores(rule, frame())
        assert found is not None
        score, shares = found
        one, two, three = (evaluate(Condition.model_validate(p["when"]), frame()) for p in parts)  # type: ignore[arg-type]
        np.testing.assert_allclose(score, (2.0 * one + two + three) / 4)
        np.testing.assert_array_equal(evaluate(rule, frame()), score >= 0.75)
        np.testing.assert_allclose(sum(shares.values()), score)
        assert set(np.unique(score)) <= {0, 0.25, 0.5, 0.75, 1.0}

    @pytest.mark.parametrize(
        ("rule", "words"),
        [
            ({">": ["close", 1], "direction": "up"}, "direction belongs to a pattern"),
            ({">": ["close", 1], "within": 2, "for": 2}, "both within and for"),
            ({"not": {"confluence": {"at_least": 0.5, "parts": [
                {"name": "a", "when": {">": ["close", 1]}}, {"name": "b", "when": {">": ["close", 1]}}]}}}, "cannot stand under not"),  # noqa: E501
            ({"pattern": "strat_212", ">": ["close", 1]}, "exactly one of|> and pattern"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, rule: dict[str, Any], words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            Condition.model_validate(rule)

    def test_labels_read_as_text(self) -> None:
        rule = Condition.model_validate(
            {"all": [{"pattern": "liquidity_sweep", "direction": "up", "within": 3},
                     {">": ["close", {"price": "high", "highest": 20, "lookback": 1}]}]}
        )  # fmt: skip
        assert rule.label == "(liquidity_sweep up) within 3 bars and close > highest of 20 high[-1]"


def test_what_two_strategies_ask_of_the_same_bars_is_computed_once() -> None:
    cache = SeriesCache()
    bars = {Timeframe.H1: eurusd().rows(slice(0, 300))}
    for _ in range(20):
        over = Frame(BarWindow(bars, cache), Timeframe.H1)
        first = over.indicator("ema", {"period": 21})
        over.indicator("ema", {"period": 34})
    assert (cache.computed, cache.reused) == (2, 38)
    np.testing.assert_array_equal(first, Frame(bars, Timeframe.H1).indicator("ema", {"period": 21}))
    Frame(BarWindow({Timeframe.H1: eurusd().rows(slice(0, 301))}, cache), Timeframe.H1).indicator("ema", {"period": 21})
    assert cache.computed == 3, "other bars, another computation"
