"""Adaptive sizes: measured on trailing bars, shrunk where they are estimates, and the same in backtest and decision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading import gate_samples
from tests.trading.backtest_kit import make, wishes
from tests.trading.samples import eurusd, spx
from tests.trading.strategies import problems_of
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.sizing import kelly_percent, size
from trading.sizing_inputs import (
    NoSize,
    average_range,
    bars_a_year,
    decided_rule,
    history,
    resolve,
    volatility,
    wish_scale,
)
from trading.timeframes import Timeframe

ATR = {"kind": "atr_risk", "percent": 1.0, "multiple": 2.0, "period": 14}
TARGET = {"kind": "volatility_target", "percent": 10.0, "bars": 20, "max_percent": 150.0}
KELLY = {"kind": "kelly", "fraction": 0.5, "cap_percent": 5.0, "prior_trades": 10.0, "prior_win_rate": 0.5, "prior_payoff": 1.5}
FLAT = {"wins": 0, "losses": 0, "won": 0.0, "lost": 0.0}


class TestMeasures:
    def test_the_average_range_is_the_mean_of_true_ranges(self) -> None:
        bars = spx().rows(slice(0, 60))
        before = np.roll(bars.close, 1)
        true = np.maximum(bars.high, before) - np.minimum(bars.low, before)
        found = average_range(bars, 14)
        assert np.isnan(found[:14]).all()
        assert found[14:] == pytest.approx([true[t - 13 : t + 1].mean() for t in range(14, 60)], rel=1e-12)

    def test_volatility_is_the_deviation_of_log_returns_a_year(self) -> None:
        bars = spx().rows(slice(0, 60))
        year = bars_a_year(calendar("XNYS"), Timeframe.D1)
        assert year == pytest.approx(252, abs=1)
        returns = np.diff(np.log(bars.close))
        found = volatility(bars, 20, year)
        expected = [returns[t - 20 : t].std(ddof=1) * math.sqrt(year) * 100 for t in range(20, 60)]
        assert found[20:] == pytest.approx(expected, rel=1e-9)

    def test_a_year_of_hours_follows_the_venues_sessions(self) -> None:
        assert bars_a_year(calendar("FX"), Timeframe.H1) == pytest.approx(260 * 24, rel=0.01)
        assert bars_a_year(calendar("XNYS"), Timeframe.M1) == pytest.approx(252 * 390, rel=0.01)

    def test_both_look_back_a_fixed_number_of_bars_wherever_the_series_begins(self) -> None:
        bars = eurusd().rows(slice(0, 400))
        late = bars.rows(slice(350, 400))
        assert average_range(late, 14)[-1] == average_range(bars, 14)[-1]
        assert volatility(late, 20, 252.0)[-1] == volatility(bars, 20, 252.0)[-1]

    def test_a_split_is_no_range(self) -> None:
        bars = spx().rows(slice(0, 60))
        session, cut = int(bars.session[40]), np.where(np.arange(60) >= 40, 7.0, 1.0)
        prices = {name: getattr(bars, name) / cut for name in ("open", "high", "low", "close")}
        split = replace(bars, **prices, volume=bars.volume * cut)
        action = CorporateAction("SPX", ActionKind.SPLIT, session, 0, 7.0)
        found = history(ATR, split, make("SPX"), {"SPX": [action]})["atr"]
        assert found * cut == pytest.approx(average_range(bars, 14), rel=1e-9, nan_ok=True)
        unknown = CorporateAction("SPX", ActionKind.SPLIT, session, 0, math.nan)
        doubtful = history(ATR, split, make("SPX"), {"SPX": [unknown]})["atr"]
        assert np.isfinite(doubtful[14:40]).all()
        assert np.isnan(doubtful[40:]).all()


class TestAtrRisk:
    def test_two_ranges_lose_the_percent_and_a_further_stop_no_more(self) -> None:
        near = resolve(ATR, {"atr": 2.0}, None, 100.0, 99.0)
        assert near == {"kind": "risk_percent", "percent": 0.25}  # 0.25 % to the stop at 1 is 1 % to 4
        assert resolve(ATR, {"atr": 2.0}, None, 100.0, 90.0) == {"kind": "risk_percent", "percent": 1.0}

    @given(atr=st.floats(1e-4, 1e3), distance=st.floats(1e-4, 1e3))
    def test_the_stop_never_loses_more_than_the_percent(self, atr: float, distance: float) -> None:
        assert 0 < resolve(ATR, {"atr": atr}, None, 2000.0, 2000.0 - distance)["percent"] <= 1.0

    @pytest.mark.parametrize("measured", [{}, {"atr": None}, {"atr": math.nan}, {"atr": 0.0}])
    def test_without_a_range_there_is_no_size(self, measured: dict[str, Any]) -> None:
        with pytest.raises(NoSize):
            resolve(ATR, measured, None, 100.0, 99.0)


class TestVolatilityTarget:
    def test_twice_the_volatility_is_half_the_position_up_to_the_cap(self) -> None:
        assert resolve(TARGET, {"volatility": 20.0}, None, 100.0, 99.0) == {"kind": "percent_equity", "percent": 50.0}
        assert resolve(TARGET, {"volatility": 40.0}, None, 100.0, 99.0)["percent"] == 25.0
        assert resolve(TARGET, {"volatility": 1.0}, None, 100.0, 99.0)["percent"] == 150.0
        assert resolve(TARGET, {"volatility": 0.0}, None, 100.0, 99.0)["percent"] == 150.0

    def test_unknown_volatility_is_no_size(self) -> None:
        with pytest.raises(NoSize):
            resolve(TARGET, {}, None, 100.0, 99.0)


def kelly(wins: float, losses: float, won: float, lost: float, **changes: float) -> float:
    rule = {**KELLY, **changes}
    return float(
        kelly_percent(wins, losses, won, lost, rule["fraction"], rule["cap_percent"], rule["prior_trades"],  # type: ignore[arg-type]
                      rule["prior_win_rate"], rule["prior_payoff"])  # type: ignore[arg-type]
    )  # fmt: skip


class TestKelly:
    def test_without_trades_the_expectation_alone_speaks(self) -> None:
        # p - q / b = 0.5 - 0.5 / 1.5 = 1/6 of the account at 1 R; half of it is 8.3 %, the cap is 5 %
        assert kelly(0, 0, 0.0, 0.0, cap_percent=100.0) == pytest.approx(100 / 12)
        assert kelly(0, 0, 0.0, 0.0) == 5.0

    def test_it_is_the_bet_that_grows_fastest(self) -> None:
        found = kelly(60, 40, 60 * 1.2, 40 * 0.9, fraction=1.0, cap_percent=100.0, prior_trades=1e-9) / 100
        bets = np.linspace(0.0, 0.9, 9001)
        growth = 0.6 * np.log1p(1.2 * bets) + 0.4 * np.log1p(-0.9 * bets)
        assert found == pytest.approx(float(bets[growth.argmax()]), abs=2e-4)

    def test_evidence_moves_the_estimate_away_from_the_expectation_as_it_grows(self) -> None:
        good = [kelly(n * 0.7, n * 0.3, n * 0.7 * 2, n * 0.3, cap_percent=100.0) for n in (0, 10, 100, 1000)]
        assert good == sorted(good)
        assert good[-1] == pytest.approx(50 * (0.7 - 0.3 / 2), rel=0.02)
        assert kelly(20, 80, 20.0, 80.0) == 0.0

    @given(
        wins=st.integers(0, 500), losses=st.integers(0, 500), w=st.floats(0.01, 5), l=st.floats(0.01, 3),
        cap=st.floats(0.1, 20),
    )  # fmt: skip
    def test_it_is_never_negative_and_never_above_its_cap(self, wins: int, losses: int, w: float, l: float, cap: float) -> None:  # noqa: E741
        assert 0.0 <= kelly(wins, losses, wins * w, losses * l, cap_percent=cap) <= cap

    def test_no_edge_and_no_record_are_no_size(self) -> None:
        with pytest.raises(NoSize, match="no edge"):
            resolve(KELLY, {}, {"wins": 20, "losses": 80, "won": 20.0, "lost": 80.0}, 100.0, 99.0)
        with pytest.raises(NoSize, match="no record"):
            resolve(KELLY, {}, None, 100.0, 99.0)

    def test_an_expectation_without_an_edge_is_a_mistake_of_the_file(self) -> None:
        text = gate_samples.text("gates: {}", "{kind: kelly, prior_win_rate: 0.4, prior_payoff: 1.4}")
        (problem,) = [p for p in problems_of(text) if p.severity == "error"]
        assert "nothing would ever be entered" in problem.message
        assert problem.expected.startswith("prior_win_rate above 0.417")


class TestWhatTheDeskAccepts:
    def test_a_plain_rule_is_the_files_own_whatever_was_decided(self) -> None:
        own = {"kind": "risk_percent", "percent": 0.5}
        assert decided_rule(own, {"kind": "risk_percent", "percent": 50.0}) == own
        assert decided_rule(own, None) == own

    def test_an_adaptive_one_is_the_decided_one_within_the_files_cap(self) -> None:
        assert decided_rule(ATR, {"kind": "risk_percent", "percent": 0.3}) == {"kind": "risk_percent", "percent": 0.3}
        for decided in (None, {"kind": "fixed", "quantity": 5}, {"kind": "risk_percent", "percent": 1.1}):
            with pytest.raises(ValueError, match="sizing atr_risk"):
                decided_rule(ATR, decided)
        with pytest.raises(ValueError, match="the file allows 5"):
            decided_rule(KELLY, {"kind": "risk_percent", "percent": 6.0})


# -- in the backtest ---------------------------------------------------------------------------------------------------------


def random_walk(seed: int, n: int = 400) -> Bars:
    dice = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(dice.normal(0.0005, 0.015, n))), 2)
    open_ = np.round(np.concatenate(([100.0], close[:-1])), 2)
    spread: Any = np.round(np.abs(dice.normal(0, 0.6, n)), 2)
    day = np.arange(1, n + 1, dtype=np.int64)
    high, low = np.maximum(open_, close) + spread, np.minimum(open_, close) - spread
    prices: Any = (open_, high, low, close)
    return Bars("X", Timeframe.D1, day * 86_400_000_000, day.astype(np.int32), *prices, np.full(n, 1e6))


def entries(bars: Bars, every: int = 7) -> Any:
    rows = range(25, len(bars) - 1, every)
    return wishes(
        bars, 5, enter_long=dict.fromkeys(rows, True), stop_long={r: round(float(bars.close[r]) * 0.97, 2) for r in rows},
        target_long={r: round(float(bars.close[r]) * 1.04, 2) for r in rows},
    )  # fmt: skip


@pytest.mark.parametrize("rule", [ATR, TARGET])
def test_the_backtest_orders_what_the_decision_would_have(rule: dict[str, Any]) -> None:
    bars, instrument = random_walk(3), make()
    result = backtest(entries(bars), bars, instrument, cash=100_000.0, sizing=rule)
    measured = history(rule, bars, instrument, {})
    (name,) = measured
    equity = dict(zip(result.close_time.tolist(), result.equity.tolist(), strict=True))
    assert len(result.trades) > 20
    for trade in range(len(result.trades)):
        row = int(np.searchsorted(bars.close_time, result.trades.signal_time[trade]))
        reference, stop = float(bars.close[row]), round(float(bars.close[row]) * 0.97, 2)
        plain = resolve(rule, {name: float(measured[name][row])}, None, reference, stop)
        account = equity[int(bars.close_time[row])]
        expected = size(plain, equity=account, reference_price=reference, stop_price=stop, instrument=instrument)
        assert result.trades.quantity[trade] == expected


def test_a_size_that_cannot_be_measured_yet_is_refused_as_zero() -> None:
    bars = random_walk(3)
    early = wishes(bars, 5, enter_long={5: True}, stop_long={5: 90.0})
    result = backtest(early, bars, make(), cash=100_000.0, sizing=ATR)
    assert (len(result.trades), result.refusals) == (0, {"SIZE_ZERO": 1})
    assert np.isnan(wish_scale(ATR, np.array([5]), np.array([100.0]), np.array([90.0]), bars, make(), {})).all()  # type: ignore[arg-type]


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_kelly_in_the_backtest_knows_the_trades_closed_by_then_and_no_others(seed: int) -> None:
    bars, instrument = random_walk(seed), make()
    result = backtest(entries(bars), bars, instrument, cash=100_000.0, sizing=KELLY)
    equity = dict(zip(result.close_time.tolist(), result.equity.tolist(), strict=True))
    t = result.trades
    for trade in range(len(t)):
        at = int(t.signal_time[trade])
        seen = dict(FLAT)
        for other in range(len(t)):
            if t.closed[other] and int(t.exit_time[other]) <= at:
                row = int(np.searchsorted(bars.close_time, t.signal_time[other]))
                stop = round(float(bars.close[row]) * 0.97, 2)
                r = float(t.pnl[other]) / (float(t.quantity[other]) * abs(float(t.entry_price[other]) - stop))
                key, total = ("wins", "won") if r > 0 else ("losses", "lost")
                seen[key] += r != 0
                seen[total] += abs(r)
        row = int(np.searchsorted(bars.close_time, at))
        reference, stop = float(bars.close[row]), round(float(bars.close[row]) * 0.97, 2)
        plain = resolve(KELLY, {}, seen, reference, stop)
        unrounded = equity[at] * plain["percent"] / 100 / (reference - stop)
        assert float(t.quantity[trade]) == pytest.approx(math.floor(unrounded + 1e-6), abs=0 if unrounded % 1 > 1e-6 else 1)


class TestTheBudgetInTheBacktest:
    def two(self, budget: float | None) -> Any:
        one = random_walk(1)
        other = replace(random_walk(2), symbol="Y")
        return backtest(
            [entries(one), entries(other)], [one, other], [make(), make("Y")], cash=100_000.0,
            sizing={"kind": "risk_percent", "percent": 1.0}, risk_budget=budget,
        )  # fmt: skip

    def test_two_risks_of_one_percent_do_not_fit_into_one_and_a_half(self) -> None:
        free, tight, none = self.two(None), self.two(1.5), self.two(0.5)
        assert "RISK_BUDGET" not in free.refusals
        assert tight.refusals["RISK_BUDGET"] > 10
        assert 0 < len(tight.trades) < len(free.trades)
        assert len(none.trades) == 0

    def test_a_wide_budget_changes_nothing(self) -> None:
        free, wide = self.two(None), self.two(50.0)
        assert np.array_equal(free.equity, wide.equity)
        assert "RISK_BUDGET" not in wide.refusals
