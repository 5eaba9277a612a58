"""Pairs: cointegration as the reference library computes it, fits that never see what they trade, two legs as one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from statsmodels.tsa.stattools import adfuller, coint

from tests.trading.samples import universe
from tests.trading.strategies import parsed, problems_of, sample_text, tied, window_of
from trading.bars import Bars
from trading.calendars import calendar
from trading.cointegration import critical_value, fit
from trading.evaluation import Evaluation
from trading.pairs import PairRule, spread
from trading.strategy import Strategy, evaluate_anchored, legs_of, live_window, signal_at
from trading.timeframes import session_date

RULE = PairRule(fit_bars=200, significance=10, entry_z=1.5, max_half_life=100)


def pair() -> Strategy:
    return parsed(sample_text("index_pair").replace("fit_bars: 250", "fit_bars: 200").replace("entry_z: 2.0", "entry_z: 1.5"))


def both(strategy: Strategy, legs: tuple[Bars, Bars] | None = None) -> tuple[Evaluation, Evaluation]:
    a, b = legs or tied()
    bars = {"SPX": a, "COMP": b}
    first, second = (strategy.evaluate(window_of(strategy, s, bars), universe().instruments[s]) for s in ("SPX", "COMP"))
    return first, second


class TestCointegration:
    @pytest.mark.parametrize("lags", [0, 1, 4])
    def test_the_statistic_is_that_of_statsmodels(self, lags: int) -> None:
        a, b = tied()
        y, x = np.log(a.close[:400]), np.log(b.close[:400])
        constant, ratio, statistic, _, deviation = fit(y, x, lags)
        expected, _, critical = coint(y, x, trend="c", maxlag=lags, autolag=None)
        assert statistic == pytest.approx(expected, rel=1e-6)
        for percent, value in zip((1, 5, 10), critical, strict=True):
            assert critical_value(percent, 400) == pytest.approx(value, rel=1e-9)
        residual = y - constant - ratio * x
        assert residual.sum() == pytest.approx(0, abs=1e-8)
        assert deviation == pytest.approx(residual.std(ddof=1), rel=1e-9)
        assert statistic == pytest.approx(adfuller(residual, maxlag=lags, regression="n", autolag=None)[0], rel=1e-6)

    def test_the_half_life_is_that_of_the_process(self) -> None:
        a, b = tied(0.95, 4900)
        _, ratio, _, half_life, _ = fit(np.log(a.close), np.log(b.close), 1)
        assert ratio == pytest.approx(0.8, abs=0.02)
        assert half_life == pytest.approx(np.log(0.5) / np.log(0.95), rel=0.15)

    def test_a_series_that_does_not_move_has_no_fit(self) -> None:
        assert all(np.isnan(v) for v in fit(np.arange(50.0), np.ones(50), 1))

    def test_a_random_walk_is_seldom_taken_for_a_pair(self) -> None:
        random = np.random.default_rng(3)
        walks = np.cumsum(random.normal(0, 0.01, (200, 2, 250)), axis=2)
        found = sum(fit(y, x, 1)[2] < critical_value(5, 250) for y, x in walks)
        assert found <= 20, "5 percent of 200, and some"


class TestSpread:
    def test_a_fit_uses_only_the_bars_before_the_month_it_trades(self) -> None:
        a, b = tied()
        found = spread(a, b, RULE)
        row = int(np.flatnonzero(np.diff([session_date(int(s)).month for s in a.session]))[20]) + 1
        assert found.ratio[row] != found.ratio[row - 1]
        expected = fit(np.log(a.close[row - 200 : row]), np.log(b.close[row - 200 : row]), 1)
        assert found.ratio[row] == pytest.approx(expected[1], rel=1e-9)
        month = session_date(int(a.session[row])).month
        same = [r for r in range(row, row + 15) if session_date(int(a.session[r])).month == month]
        assert len(set(found.ratio[same])) == 1
        assert np.isnan(found.z[:200]).all()

    def test_nothing_looks_ahead(self) -> None:
        a, b = tied()
        whole = spread(a, b, RULE)
        for cut in (10, 350, 777, 1300):
            part = spread(a.rows(slice(0, cut)), b.rows(slice(0, cut)), RULE)
            assert whole.z[:cut].tobytes() == part.z.tobytes()
            assert (whole.good[:cut] == part.good).all()

    def test_only_common_closes_count(self) -> None:
        a, b = tied()
        thinned = b.rows(np.arange(len(b)) % 5 != 0)
        assert len(spread(a, thinned, RULE).z) == len(thinned)
        assert len(spread(a.rows(slice(0, 0)), b, RULE).z) == 0


class TestLegs:
    def test_both_legs_enter_at_the_same_close_on_opposite_sides(self) -> None:
        first, second = both(pair())
        assert first.enter_long.sum() >= 3
        assert first.enter_short.sum() >= 3
        np.testing.assert_array_equal(first.enter_long, second.enter_short)
        np.testing.assert_array_equal(first.enter_short, second.enter_long)
        np.testing.assert_array_equal(first.exit_long, second.exit_short)
        assert legs_of(pair()) == ("SPX", "COMP")

    def test_an_entry_is_where_the_spread_comes_to_lie_far_away_and_the_exit_where_it_is_back(self) -> None:
        first, _ = both(pair())
        z = first.parts["long/z"]
        rows = np.flatnonzero(first.enter_long)
        assert (z[rows] <= -1.5).all()
        assert (z[rows - 1] > -1.5).all()
        known = first.ready & np.isfinite(z)
        assert first.exit_long[known & (z >= -0.5)].all()

    def test_where_one_leg_has_no_bar_neither_enters(self) -> None:
        a, b = tied()
        row = int(np.flatnonzero(both(pair())[0].enter_long)[0])
        holed = b.rows(np.arange(len(b)) != row)
        first, second = both(pair(), (a, holed))
        assert not first.enter_long[row]
        assert second.enter_long.sum() + second.enter_short.sum() == first.enter_long.sum() + first.enter_short.sum()

    def test_where_one_leg_would_have_no_stop_neither_enters(self) -> None:
        a, b = tied()
        row = int(np.flatnonzero(both(pair())[0].enter_long)[0])
        close = b.close.copy()
        close[row] = np.nan
        first, second = both(pair(), (a, dataclasses.replace(b, close=close)))
        assert not first.enter_long[row]
        assert not second.enter_short[row]

    def test_a_leg_that_could_never_have_a_stop_keeps_the_other_out(self) -> None:
        text = sample_text("index_pair").replace("fit_bars: 250", "fit_bars: 200").replace("entry_z: 2.0", "entry_z: 1.5")
        first, second = both(parsed(text.replace("kind: percent, percent: 8", "kind: points, points: 2000")))
        below = tied()[0].close < 1990
        assert below.any()
        for found in (first, second):
            assert not (found.enter_long | found.enter_short)[below].any(), "no stop of SPX lies 2,000 below it"

    def test_the_second_leg_is_worth_the_first_times_the_hedge_ratio(self) -> None:
        strategy = pair()
        first, second = both(strategy)
        a, b = tied()
        row = int(np.flatnonzero(first.enter_long)[0])
        signals = [
            signal_at(
                strategy, e, row, bars, universe().instruments[bars.symbol], features_version="", partitions=(), mode="paper"
            )
            for e, bars in ((first, a), (second, b))
        ]
        assert signals == [None, None], "a paused strategy gives no signal"
        active = dataclasses.replace(strategy, status="active")
        one, two = (
            signal_at(active, e, row, bars, universe().instruments[bars.symbol], features_version="", partitions=(), mode="paper")
            for e, bars in ((first, a), (second, b))
        )
        assert one is not None
        assert two is not None
        assert one.sizing == {"kind": "notional", "amount": 20000.0}
        assert two.sizing["amount"] == pytest.approx(20000.0 * first.parts["long/hedge_ratio"][row])
        assert "hedge_ratio" in one.reason

    def test_series_that_are_not_cointegrated_are_not_traded(self) -> None:
        first, _ = both(pair(), tied(1.0, 1500, 0.004))
        share = (first.enter_long | first.enter_short).mean()
        assert share < 0.004

    def test_research_over_years_is_the_live_answer_bit_for_bit(self) -> None:
        strategy, venue = pair(), calendar("XNYS")
        a, b = tied()
        window = window_of(strategy, "COMP", {"SPX": a, "COMP": b})
        whole = evaluate_anchored(strategy, window, universe().instruments["COMP"], venue)
        rows = np.flatnonzero(whole.enter_long | whole.enter_short)
        assert len(rows) > 4
        for row in rows[-5:]:
            live = live_window(strategy, window, int(whole.close_time[row]), int(b.session[row]), venue)
            last = strategy.evaluate(live, universe().instruments["COMP"])
            for name in ("enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "strength"):
                assert getattr(last, name)[-1].tobytes() == getattr(whole, name)[row].tobytes(), name
            assert last.scale is not None
            assert whole.scale is not None
            assert last.scale[-1].tobytes() == whole.scale[row].tobytes()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("symbols: [SPX, COMP]", "symbols: [SPX]", "a pair names 1 symbols"),
        ("kind: notional, amount: 20000", "kind: risk_percent, percent: 1", "would size each leg by its own stop"),
        ("exit_z: 0.5", "exit_z: 3", "are not ascending"),
        ("  max_bars: 60", '  rules: {long: {">": [close, 1]}}', "a pair leaves by its spread"),
    ],
)
def test_a_slip_is_named(old: str, new: str, words: str) -> None:
    found = problems_of(sample_text("index_pair").replace(old, new))
    assert any(words in str(p) for p in found), [str(p) for p in found]
