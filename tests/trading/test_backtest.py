"""Backtests against ledgers worked out by hand: fills, costs, gates, limits, equity, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.trading.backtest_kit import TEN, make, run, wishes
from trading.backtest import EXIT_REASONS, BacktestResult, backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.limits import DailyLoss, Limits, StrategyLimits
from trading.timeframes import US_PER_DAY, Timeframe

RISK = {"kind": "risk_percent", "percent": 1}


def bars_of(rows: list[tuple[float, float, float, float]], symbol: str = "X", start: int = 0, step: int = 1) -> Bars:
    o, h, l, c = (np.array(column, np.float64) for column in zip(*rows, strict=True))  # noqa: E741
    at = start + step * np.arange(len(rows), dtype=np.int64) + 1
    return Bars(symbol, Timeframe.D1, at * US_PER_DAY, at.astype(np.int32), o, h, l, c, np.full(len(rows), 1000.0))


def flat(price: float, count: int) -> list[tuple[float, float, float, float]]:
    return [(price, price, price, price)] * count


def fills(result: BacktestResult) -> list[tuple[float, float, float, str]]:
    t = result.trades
    return [
        (float(t.quantity[i]), float(t.entry_price[i]), float(t.exit_price[i]), EXIT_REASONS[t.reason[i]]) for i in range(len(t))
    ]


ROWS = [
    (100.0, 101.0, 99.0, 100.0), (101.0, 103.0, 99.0, 102.0), (102.0, 106.0, 101.0, 105.0), (104.0, 105.0, 98.0, 99.0),
    (97.0, 98.0, 94.0, 95.0), (96.0, 97.0, 95.0, 96.0),
]  # fmt: skip


def test_a_decision_at_a_close_fills_at_the_next_open_and_a_rule_exits_at_the_one_after_its_close() -> None:
    bars = bars_of(ROWS)
    result = run(bars, wishes(bars, enter_long={0: True}, exit_long={2: True}))
    assert fills(result) == [(10.0, 101.0, 104.0, "rule")]
    t = result.trades
    assert (t.signal_time[0], t.entry_time[0], t.exit_time[0]) == tuple(bars.close_time[[0, 1, 3]])
    assert t.bars_held[0] == 2
    assert result.orders == 2
    np.testing.assert_array_equal(result.equity, [10_000, 10_010, 10_040, 10_030, 10_030, 10_030])


def test_a_ledger_with_costs_by_hand() -> None:
    # Buy 10 at 101 + 1 tick = 101.01, sell at 104 - 1 tick = 103.99; 1.00 a fill (minimum). 29.80 - 2.00 made.
    bars = bars_of(ROWS)
    costs = Costs("per_share", 0.005, 1.0, "fixed", 1.0)
    result = run(bars, wishes(bars, enter_long={0: True}, exit_long={2: True}), costs=costs)
    assert fills(result) == [(10.0, 101.01, 103.99, "rule")]
    assert result.trades.commission[0] == 2.0
    assert result.trades.pnl[0] == pytest.approx(27.8)
    assert result.equity[-1] == pytest.approx(10_027.8)
    assert result.equity[1] == pytest.approx(10_000 - 1.0 + 10 * (102.0 - 101.01))
    assert result.traded_value == pytest.approx(1010.1 + 1039.9)


def test_stop_and_target_count_in_the_entry_bar_stop_first() -> None:
    bars = bars_of(ROWS)
    target = run(bars, wishes(bars, enter_long={0: True}, stop_long={0: 95.0}, target_long={0: 103.0}))
    assert fills(target) == [(10.0, 101.0, 103.0, "target")]
    assert target.trades.bars_held[0] == 1
    assert target.orders == 3
    both = run(bars, wishes(bars, enter_long={0: True}, stop_long={0: 99.5}, target_long={0: 103.0}))
    assert fills(both) == [(10.0, 101.0, 99.5, "stop")]
    assert both.ambiguous_bars == 1


def test_a_gap_through_the_stop_fills_at_the_open_and_slips_but_a_target_does_not() -> None:
    bars = bars_of(ROWS)
    evaluation = wishes(bars, enter_long={2: True}, stop_long={2: 97.5})
    assert fills(run(bars, evaluation)) == [(10.0, 104.0, 97.0, "stop")]
    slipping = Costs(slippage_kind="fixed", value=2.0)
    assert fills(run(bars, evaluation, costs=slipping)) == [(10.0, 104.02, 96.98, "stop")]
    target = wishes(bars, enter_long={0: True}, target_long={0: 105.5})
    assert fills(run(bars, target, costs=slipping)) == [(10.0, 101.02, 105.5, "target")]


def test_a_short_is_the_mirror() -> None:
    bars = bars_of(ROWS)
    evaluation = wishes(bars, enter_short={2: True}, stop_short={2: 106.0}, target_short={2: 95.0})
    result = run(bars, evaluation)
    assert fills(result) == [(-10.0, 104.0, 95.0, "target")]
    assert result.equity[-1] == 10_090


def test_a_rule_exit_at_the_open_goes_before_the_stop_of_that_bar() -> None:
    bars = bars_of(ROWS)
    evaluation = wishes(bars, enter_long={0: True}, stop_long={0: 98.5}, exit_long={2: True})
    assert fills(run(bars, evaluation)) == [(10.0, 101.0, 104.0, "rule")]


def test_a_position_is_closed_at_the_open_after_max_bars() -> None:
    bars = bars_of(ROWS)
    for count, price in ((1, 102.0), (2, 104.0), (3, 97.0)):
        result = run(bars, wishes(bars, max_bars=count, enter_long={0: True}))
        assert fills(result) == [(10.0, 101.0, price, "max_bars")]
        assert result.trades.bars_held[0] == count


def test_an_open_trade_is_marked_not_closed() -> None:
    bars = bars_of(ROWS)
    result = run(bars, wishes(bars, enter_long={3: True}), costs=Costs(rate=0.1))
    assert fills(result) == [(10.0, 97.0, 96.0, "open")]
    assert not result.trades.closed.any()
    assert result.trades.pnl[0] == pytest.approx(-11.0)  # the mark, less the entry's commission
    assert result.equity[-1] == pytest.approx(10_000 - 11.0)
    assert result.metrics(252).trades == 0


def test_a_wish_at_the_last_close_never_fills() -> None:
    bars = bars_of(ROWS)
    assert len(run(bars, wishes(bars, enter_long={5: True})).trades) == 0


def test_a_wish_while_holding_entering_or_leaving_is_refused_and_a_stopped_slot_may_enter_again_at_that_close() -> None:
    bars = bars_of(ROWS)
    holding = run(bars, wishes(bars, enter_long={0: True, 1: True}, enter_short={2: True}, exit_long={2: True}))
    assert fills(holding) == [(10.0, 101.0, 104.0, "rule")]
    assert holding.refusals == {"POSITION_OPEN": 2}
    again = run(bars, wishes(bars, enter_long={0: True, 1: True}, stop_long={0: 99.5}))
    assert fills(again)[:2] == [(10.0, 101.0, 99.5, "stop"), (10.0, 102.0, 96.0, "open")]


def test_wishes_for_both_sides_or_before_ready_are_none() -> None:
    bars = bars_of(ROWS)
    both = wishes(bars, enter_long={0: True}, enter_short={0: True})
    assert run(bars, both).refusals == {}
    early = wishes(bars, enter_long={0: True})
    assert len(run(bars, replace(early, ready=np.zeros(6, np.bool_))).trades) == 0


def test_gates_count_in_a_backtest() -> None:
    bars = bars_of(ROWS)
    assert run(bars, wishes(bars, enter_long={0: True}), require_stop=True).refusals == {"STOP_REQUIRED": 1}
    assert run(bars, wishes(bars, enter_long={0: True}, stop_long={0: 100.0})).refusals == {"STOP_REQUIRED": 1}
    short_of = wishes(bars, enter_long={0: True}, stop_long={0: 98.0}, target_long={0: 102.0})
    assert run(bars, short_of, min_reward_to_risk=1.5).refusals == {"REWARD_TO_RISK": 1}
    assert len(run(bars, short_of, min_reward_to_risk=1.0).trades) == 1


def test_sizes_see_the_equity_at_the_close_of_the_decision() -> None:
    bars = bars_of([*flat(100.0, 2), (100.0, 150.0, 100.0, 150.0), *flat(150.0, 3)])
    evaluation = wishes(bars, enter_long={0: True, 3: True}, exit_long={2: True})
    result = run(bars, evaluation, sizing={"kind": "percent_equity", "percent": 50})
    # 50 at 100; at the close of bar 2 equity is 12,500, the exit fills at 150; then 50 % of 12,500 at 150 is 41.67.
    assert fills(result) == [(50.0, 100.0, 150.0, "rule"), (41.0, 150.0, 150.0, "open")]


def test_less_than_a_lot_is_refused() -> None:
    bars = bars_of(ROWS)
    sizing = {"kind": "notional", "amount": 50}
    assert run(bars, wishes(bars, enter_long={0: True}), sizing=sizing).refusals == {"SIZE_ZERO": 1}


def test_levels_are_put_on_the_grid_as_a_signals_are() -> None:
    bars = bars_of(ROWS)
    evaluation = wishes(bars, enter_long={2: True}, stop_long={2: 98.5049})
    assert fills(run(bars, evaluation)) == [(10.0, 104.0, 98.5, "stop")]


def test_a_bar_without_prices_fills_nothing_and_the_order_waits() -> None:
    rows = list(ROWS)
    rows[1] = (math.nan, math.nan, math.nan, math.nan)
    bars = bars_of(rows)
    result = run(bars, wishes(bars, enter_long={0: True}))
    assert fills(result) == [(10.0, 102.0, 96.0, "open")]
    assert np.isfinite(result.equity).all()


LIMITS = Limits(
    max_order_quantity=1000, max_notional=5000, max_position_notional=6000, max_concurrent_positions=2,
    daily_loss=DailyLoss(amount=500), price_collar_percent=5, max_gross_leverage=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"max_order_quantity": 9}, "MAX_ORDER_QUANTITY"),
        ({"max_notional": 999}, "MAX_NOTIONAL"),
        ({"max_position_notional": 999}, "MAX_POSITION"),
        ({"max_gross_leverage": 0.09}, "BUYING_POWER"),
        ({"price_collar_percent": None}, "LIMIT_MISSING"),
        ({"daily_loss": None}, "LIMIT_MISSING"),
        ({"max_gross_leverage": None}, "LIMIT_MISSING"),
        ({"max_concurrent_positions": None}, "LIMIT_MISSING"),
        ({"strategies": {"trend": StrategyLimits(max_notional=999)}}, "MAX_NOTIONAL"),
    ],
)
def test_limits_refuse_as_they_do_on_the_desk(change: dict[str, Any], code: str) -> None:
    bars = bars_of(ROWS)
    evaluation = wishes(bars, enter_long={0: True})
    assert run(bars, evaluation, limits=LIMITS, strategy="trend").refusals == {}
    refused = run(bars, evaluation, limits=LIMITS.model_copy(update=change), strategy="trend")
    assert refused.refusals == {code: 1}
    assert len(refused.trades) == 0


def test_the_day_that_lost_its_limit_ends_new_risk_and_the_next_day_begins_again() -> None:
    rows = [*flat(100.0, 2), (100.0, 100.0, 90.0, 90.0), *flat(90.0, 4)]
    bars = bars_of(rows)
    bars = replace(bars, session=np.array([1, 1, 2, 2, 2, 3, 3], np.int32))
    evaluation = wishes(bars, enter_long={0: True, 3: True, 5: True}, stop_long={0: 90.0})
    limits = LIMITS.model_copy(update={"daily_loss": DailyLoss(amount=100)})
    result = run(bars, evaluation, limits=limits)
    assert result.refusals == {"HALTED": 1}
    assert [(r["scope"], r["code"], r["level"]) for r in result.halt_rows()] == [
        ("desk", "DAILY_LOSS", "reduce_only"), ("desk", "", "resumed"),
    ]  # fmt: skip
    at_once = run(bars, evaluation, limits=limits, resume="at_once")
    assert at_once.refusals == {"DAILY_LOSS": 1}, "the operator lifted the halt: the rule refuses as long as it holds"
    assert [f[3] for f in fills(result)] == ["stop", "open"]


def test_concurrent_positions_are_counted_over_the_portfolio_in_the_order_given() -> None:
    bars = [bars_of(ROWS, s) for s in "ABC"]
    evaluations = [wishes(b, enter_long={0: True}) for b in bars]
    result = backtest(evaluations, bars, [make(s) for s in "ABC"], cash=10_000.0, sizing=TEN, limits=LIMITS)
    assert result.refusals == {"CONCURRENT_POSITIONS": 1}
    assert result.trades.slot.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "code"), [({"max_position_notional": 1500}, "MAX_POSITION"), ({"max_gross_leverage": 0.15}, "BUYING_POWER")]
)
def test_an_entry_decided_at_the_same_close_counts_before_it_fills(change: dict[str, Any], code: str) -> None:
    bars = bars_of(ROWS)
    evaluation = wishes(bars, enter_long={0: True})
    limits = LIMITS.model_copy(update=change)
    result = backtest([evaluation] * 2, [bars] * 2, [make()] * 2, cash=10_000.0, sizing=TEN, limits=limits, strategy=["a", "b"])
    assert result.refusals == {code: 1}
    assert result.trades.slot.tolist() == [0]


def test_a_bar_without_prices_leaves_the_mark_where_it_was() -> None:
    rows = list(ROWS)
    rows[3] = (math.nan, math.nan, math.nan, math.nan)
    bars = bars_of(rows)
    result = run(bars, wishes(bars, enter_long={0: True}))
    np.testing.assert_array_equal(result.equity, [10_000, 10_010, 10_040, 10_040, 9_940, 9_950])
    assert result.trades.bars_held[0] == 5


def test_bars_of_different_lengths_are_merged_in_time() -> None:
    short, long = bars_of(flat(10.0, 3), "A", start=3), bars_of(flat(20.0, 6), "B")
    evaluations = [wishes(short, enter_long={0: True}), wishes(long, enter_long={0: True})]
    result = backtest(
        evaluations, {"A": short, "B": long}, {"A": make("A"), "B": make("B")}, cash=1000.0,
        sizing={"kind": "percent_equity", "percent": 10},
    )  # fmt: skip
    np.testing.assert_array_equal(result.close_time, long.close_time)
    assert result.bars == 9
    assert [row["symbol"] for row in result.trades.rows()] == ["A", "B"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cash": 0.0}, "cash 0.0: expected a positive amount"),
        ({"sizing": {"kind": "martingale"}}, "sizing kind 'martingale'"),
        ({"instrument": make("Y")}, "X: got bars of X and instrument Y"),
        ({"costs": {"Y": Costs()}}, "costs: none given for X"),
        ({"strategy": ["a", "b"]}, "strategy: 2 given for 1 evaluations"),
    ],
)
def test_parts_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    bars = bars_of(ROWS)
    with pytest.raises(ValueError, match=message):
        run(bars, wishes(bars), **change)


def test_an_evaluation_of_other_bars_is_refused() -> None:
    bars, other = bars_of(ROWS), bars_of(ROWS, start=1)
    with pytest.raises(ValueError, match="X: bars and evaluation have different close times"):
        run(bars, wishes(other))
    with pytest.raises(ValueError, match="nothing to test"):
        backtest([], [], [], cash=1.0, sizing=TEN)


def test_no_bars_give_no_trades() -> None:
    empty = Bars.empty("X", Timeframe.D1)
    result = run(empty, wishes(empty))
    assert len(result.trades) == 0
    assert len(result.equity) == 0
