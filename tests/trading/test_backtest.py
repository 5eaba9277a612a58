"""Backtests against ledgers worked out by hand, against a plain-Python double, and against themselves."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.paths import ROOT
from trading import engine_host
from trading.backtest import EXIT_REASONS, BacktestResult, backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import AssetClass, Instrument, Mode
from trading.limits import DailyLoss, Limits, StrategyLimits
from trading.orders import OrderType, Side
from trading.portfolio import Position as Held
from trading.portfolio import apply_fill
from trading.risk import RiskState, check, refusal
from trading.signals import Intent
from trading.sizing import size
from trading.timeframes import US_PER_DAY, Timeframe

FIXED = {"kind": "fixed", "quantity": 10}
RISK = {"kind": "risk_percent", "percent": 1}


def make(symbol: str = "X", tick: str = "0.01", lot: str = "1", multiplier: str = "1") -> Instrument:
    return Instrument(
        symbol, AssetClass.EQUITY, "XNYS", Decimal(tick), "USD", "f", symbol, Timeframe.D1, lot_size=Decimal(lot),
        multiplier=Decimal(multiplier), tradable_in=frozenset({Mode.BACKTEST}),
    )  # fmt: skip


def bars_of(rows: list[tuple[float, float, float, float]], symbol: str = "X", start: int = 0, step: int = 1) -> Bars:
    o, h, l, c = (np.array(column, np.float64) for column in zip(*rows, strict=True))  # noqa: E741
    at = start + step * np.arange(len(rows), dtype=np.int64) + 1
    return Bars(symbol, Timeframe.D1, at * US_PER_DAY, at.astype(np.int32), o, h, l, c, np.full(len(rows), 1000.0))


def wishes(bars: Bars, max_bars: int = 0, **columns: dict[int, Any]) -> Evaluation:
    """An evaluation that wishes nothing but what is given: enter_long={2: True}, stop_long={2: 95.0}, ..."""
    n = len(bars)
    values: dict[str, Any] = {}
    for name in ("enter_long", "enter_short", "exit_long", "exit_short"):
        values[name] = np.zeros(n, np.bool_)
    for name in ("stop_long", "stop_short", "target_long", "target_short"):
        values[name] = np.full(n, math.nan)
    for name, rows in columns.items():
        for row, value in rows.items():
            values[name][row] = value
    return Evaluation(
        bars.symbol, bars.timeframe, bars.close_time, np.ones(n, np.bool_), strength=np.ones(n), max_bars=max_bars, **values
    )


def flat(price: float, count: int) -> list[tuple[float, float, float, float]]:
    return [(price, price, price, price)] * count


def fills(result: BacktestResult) -> list[tuple[float, float, float, str]]:
    t = result.trades
    return [
        (float(t.quantity[i]), float(t.entry_price[i]), float(t.exit_price[i]), EXIT_REASONS[t.reason[i]]) for i in range(len(t))
    ]


def run(bars: Bars, evaluation: Evaluation, **changes: Any) -> BacktestResult:
    return backtest(evaluation, bars, changes.pop("instrument", make()), **{"cash": 10_000.0, "sizing": FIXED, **changes})


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
    assert result.refusals == {"DAILY_LOSS": 1}
    assert [f[3] for f in fills(result)] == ["stop", "open"]


def test_concurrent_positions_are_counted_over_the_portfolio_in_the_order_given() -> None:
    bars = [bars_of(ROWS, s) for s in "ABC"]
    evaluations = [wishes(b, enter_long={0: True}) for b in bars]
    result = backtest(evaluations, bars, [make(s) for s in "ABC"], cash=10_000.0, sizing=FIXED, limits=LIMITS)
    assert result.refusals == {"CONCURRENT_POSITIONS": 1}
    assert result.trades.slot.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "code"), [({"max_position_notional": 1500}, "MAX_POSITION"), ({"max_gross_leverage": 0.15}, "BUYING_POWER")]
)
def test_an_entry_decided_at_the_same_close_counts_before_it_fills(change: dict[str, Any], code: str) -> None:
    bars = bars_of(ROWS)
    evaluation = wishes(bars, enter_long={0: True})
    limits = LIMITS.model_copy(update=change)
    result = backtest([evaluation] * 2, [bars] * 2, [make()] * 2, cash=10_000.0, sizing=FIXED, limits=limits, strategy=["a", "b"])
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
        backtest([], [], [], cash=1.0, sizing=FIXED)


def test_no_bars_give_no_trades() -> None:
    empty = Bars.empty("X", Timeframe.D1)
    result = run(empty, wishes(empty))
    assert len(result.trades) == 0
    assert len(result.equity) == 0


def plain(
    evaluations: list[Evaluation], bars: list[Bars], instruments: list[Instrument], cash: float, sizing: dict[str, Any],
    costs: Costs, limits: Limits | None, minimum: float,
) -> tuple[list[tuple[Any, ...]], dict[int, float]]:  # fmt: skip
    """The stated order of events once more, in plain Python with the desk's own parts: portfolio.apply_fill, sizing.size,
    risk.check. Returns fills (slot, time, signed quantity, price) and equity by close time."""
    held = [Held() for _ in bars]
    entry: list[dict[str, Any] | None] = [None] * len(bars)
    leaving = [False] * len(bars)
    levels: list[tuple[float, float]] = [(math.nan, math.nan)] * len(bars)
    marks: list[float] = [math.nan] * len(bars)
    closes = [0] * len(bars)
    done: list[tuple[Any, ...]] = []
    equity_at: dict[int, float] = {}
    equity, day, day_start = cash, None, cash

    def fill(s: int, now: int, side: int, quantity: float, price: float, slips: bool, volume: float) -> None:
        tick, multiplier = float(instruments[s].tick_size), float(instruments[s].multiplier)
        if slips:
            price = costs.slipped(price, side, tick, quantity, volume)
        word = Side.BUY if side > 0 else Side.SELL
        held[s] = apply_fill(held[s], word, quantity, price, costs.commission(quantity, price, multiplier), multiplier)
        done.append((s, now, side * quantity, price))

    for now in sorted({int(t) for b in bars for t in b.close_time}):
        due = [(s, int(np.searchsorted(b.close_time, now))) for s, b in enumerate(bars) if now in b.close_time]
        today = max(int(bars[s].session[i]) for s, i in due)
        if day is None or today > day:
            day, day_start = today, equity
        for s, i in due:
            b = bars[s]
            o, h, l, c, v = (float(getattr(b, n)[i]) for n in ("open", "high", "low", "close", "volume"))  # noqa: E741
            waiting = entry[s]
            if leaving[s]:
                fill(s, now, -1 if held[s].quantity > 0 else 1, abs(held[s].quantity), o, True, v)
                leaving[s] = False
            elif waiting is not None:
                fill(s, now, waiting["side"], waiting["quantity"], o, True, v)
                levels[s], entry[s], closes[s] = waiting["levels"], None, 0
            if not held[s].flat:
                side, (stop, target) = (1 if held[s].quantity > 0 else -1), levels[s]
                worst, best = (l, h) if side > 0 else (h, l)
                if (worst - stop) * side <= 0:
                    fill(s, now, -side, abs(held[s].quantity), o if (o - stop) * side <= 0 else stop, True, v)
                elif (best - target) * side >= 0:
                    fill(s, now, -side, abs(held[s].quantity), o if (o - target) * side >= 0 else target, False, v)
            marks[s] = c
        multipliers = [float(i.multiplier) for i in instruments]
        equity = cash + sum(
            p.realized_pnl + (p.unrealized_pnl(marks[s], multipliers[s]) if not p.flat else 0.0) for s, p in enumerate(held)
        )
        equity_at[now] = equity
        for s, i in due:
            e, instrument = evaluations[s], instruments[s]
            if not held[s].flat:
                closes[s] += 1
                exits = e.exit_long if held[s].quantity > 0 else e.exit_short
                if exits[i] or (e.max_bars and closes[s] >= e.max_bars):
                    leaving[s] = True
            if e.enter_long[i] == e.enter_short[i] or not held[s].flat or entry[s] is not None:
                continue
            side = 1 if e.enter_long[i] else -1
            reference = instrument.round_price(float(bars[s].close[i]))
            stop = instrument.round_price(float((e.stop_long if side > 0 else e.stop_short)[i]))
            target = instrument.round_price(float((e.target_long if side > 0 else e.target_short)[i]))
            risk, reward = (reference - stop) * side, (target - reference) * side
            if risk <= 0 or reward <= 0 or reward / risk < minimum * (1 - 1e-9):
                continue
            quantity = size(sizing, equity=equity, reference_price=reference, stop_price=stop, instrument=instrument)
            intent = Intent(
                "d", "entry", "s", instrument.symbol, Side.BUY if side > 0 else Side.SELL, quantity, OrderType.MARKET,
                reference_price=reference,
            )  # fmt: skip
            if quantity <= 0 or (
                limits is not None
                and refusal(check(limits, _state(held, entry, marks, instruments, equity, day_start), intent, instrument))
            ):
                continue
            entry[s] = {
                "side": side,
                "quantity": quantity,
                "levels": (stop, target),
                "value": quantity * reference * float(instrument.multiplier),
            }
    return done, equity_at


def _state(
    held: list[Held],
    entry: list[dict[str, Any] | None],
    marks: list[float],
    instruments: list[Instrument],
    equity: float,
    start: float,
) -> RiskState:
    symbols = [i.symbol for i in instruments]
    return RiskState(
        mode=Mode.BACKTEST, equity=equity, day_start_equity=start, cash=equity, quality_ok="",
        last_price={s: m for s, m in zip(symbols, marks, strict=True) if not math.isnan(m)},
        positions={("s", s): p.quantity for s, p in zip(symbols, held, strict=True) if not p.flat},
        pending_entries=frozenset(("s", s) for s, e in zip(symbols, entry, strict=True) if e),
        working_notional={s: e["value"] for s, e in zip(symbols, entry, strict=True) if e},
        multipliers={i.symbol: float(i.multiplier) for i in instruments},
    )  # fmt: skip


def random_market(seed: int, slots: int) -> tuple[list[Evaluation], list[Bars], list[Instrument]]:
    """Random walks with random wishes and levels; bars of different starts and lengths, some without wishes."""
    rng = np.random.default_rng(seed)
    evaluations, markets, instruments = [], [], []
    for s in range(slots):
        n = int(rng.integers(5, 60))
        close = np.round(50 * np.exp(np.cumsum(rng.normal(0, 0.02, n))), 2)
        open_ = np.round(close * np.exp(rng.normal(0, 0.01, n)), 2)
        high = np.round(np.maximum(open_, close) * (1 + np.abs(rng.normal(0, 0.01, n))), 2)
        low = np.round(np.minimum(open_, close) * (1 - np.abs(rng.normal(0, 0.01, n))), 2)
        at = (int(rng.integers(0, 10)) + np.cumsum(rng.integers(1, 3, n))).astype(np.int64)
        symbol = f"S{s}"
        bars = Bars(
            symbol, Timeframe.D1, at * US_PER_DAY, (at // 3).astype(np.int32), open_, high, low, close,
            rng.integers(0, 500, n).astype(np.float64),
        )  # fmt: skip
        distance = close * rng.uniform(0.005, 0.05, n)
        evaluations.append(
            Evaluation(
                symbol,
                Timeframe.D1,
                bars.close_time,
                np.ones(n, np.bool_),
                rng.random(n) < 0.3,
                rng.random(n) < 0.2,
                rng.random(n) < 0.1,
                rng.random(n) < 0.1,
                close - distance,
                close + distance,
                close + 1.7 * distance,
                close - 1.7 * distance,
                np.ones(n),
                int(rng.choice([0, 0, 1, 4])),
            )
        )
        markets.append(bars)
        instruments.append(make(symbol, multiplier=str(rng.choice(["1", "5"]))))
    return evaluations, markets, instruments


def fills_of(result: BacktestResult) -> list[tuple[Any, ...]]:
    t = result.trades
    entries = [(int(t.slot[i]), int(t.entry_time[i]), float(t.quantity[i]), float(t.entry_price[i])) for i in range(len(t))]
    exits = [
        (int(t.slot[i]), int(t.exit_time[i]), -float(t.quantity[i]), float(t.exit_price[i])) for i in range(len(t)) if t.closed[i]
    ]
    return sorted(entries + exits)


TIGHT = Limits(
    max_order_quantity=60, max_notional=4000, max_position_notional=4000, max_concurrent_positions=2,
    daily_loss=DailyLoss(amount=150), price_collar_percent=5, max_gross_leverage=0.9,
)  # fmt: skip


@settings(max_examples=60)
@given(
    st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([None, TIGHT]),
    st.sampled_from([FIXED, {"kind": "percent_equity", "percent": 20}, {"kind": "risk_percent", "percent": 0.5}]),
    st.sampled_from([Costs(), Costs("per_share", 0.01, 1.0, "fixed", 1.0), Costs("per_value", 0.0001, 0.0, "volume", 0.01)]),
    st.sampled_from([0.0, 1.65, 1.75]),
)  # fmt: skip
def test_every_fill_is_what_the_desks_own_parts_give_in_the_stated_order(
    seed: int, slots: int, limits: Limits | None, sizing: dict[str, Any], costs: Costs, minimum: float
) -> None:
    evaluations, bars, instruments = random_market(seed, slots)
    result = backtest(
        evaluations, bars, instruments, cash=10_000.0, sizing=sizing, costs=costs, limits=limits, require_stop=True,
        min_reward_to_risk=minimum,
    )  # fmt: skip
    expected, equity = plain(evaluations, bars, instruments, 10_000.0, sizing, costs, limits, minimum)
    assert fills_of(result) == sorted(expected)
    np.testing.assert_array_equal(result.close_time, sorted(equity))
    np.testing.assert_allclose(result.equity, [equity[t] for t in sorted(equity)], rtol=1e-12)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_slots_run_apart_and_together_give_the_same(seed: int, slots: int) -> None:
    evaluations, bars, instruments = random_market(seed, slots)
    costs = Costs("per_share", 0.01, 1.0, "volume", 0.01)

    def both(detail: bool) -> BacktestResult:
        return backtest(evaluations, bars, instruments, cash=10_000.0, sizing=FIXED, costs=costs, detail=detail)

    apart, together = both(detail=False), both(detail=True)
    assert apart.fills_made is None
    assert together.fills_made is not None
    assert trade_rows(apart) == trade_rows(together)
    np.testing.assert_array_equal(apart.close_time, together.close_time)
    np.testing.assert_allclose(apart.equity, together.equity, rtol=1e-12)
    assert (apart.refusals, apart.orders, apart.ambiguous_bars) == (together.refusals, together.orders, together.ambiguous_bars)
    assert apart.traded_value == pytest.approx(together.traded_value)
    for name, values in apart.exposures().items():
        np.testing.assert_allclose(values, together.exposures()[name], atol=1e-6)


def trade_rows(result: BacktestResult) -> list[str]:
    """Every value of every trade; the numbers of the entries, which only group them, left out."""
    return sorted(str(row) for row in result.trades.rows())


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_staging_in_small_pieces_changes_nothing(seed: int) -> None:
    evaluations, bars, instruments = random_market(seed, 3)
    sizing = {"kind": "percent_equity", "percent": 20}

    def result() -> BacktestResult:
        return backtest(evaluations, bars, instruments, cash=10_000.0, sizing=sizing)

    whole = result()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_host, "_STAGED_ROWS", 12)
        patch.setattr(engine_host, "_LEAST_STAGED", 4)
        pieces = result()
    assert fills_of(pieces) == fills_of(whole)
    np.testing.assert_array_equal(pieces.equity, whole.equity)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_profit_and_equity_agree_and_one_slot_never_holds_two_positions(seed: int, slots: int) -> None:
    evaluations, bars, instruments = random_market(seed, slots)
    result = backtest(evaluations, bars, instruments, cash=10_000.0, sizing=RISK, costs=Costs(rate=0.01))
    assert result.equity[-1] == pytest.approx(10_000 + result.trades.pnl.sum())
    for slot in range(slots):
        mine = result.trades.slot == slot
        entries, exits = result.trades.entry_time[mine], result.trades.exit_time[mine]
        assert (result.trades.signal_time[mine] < entries).all()
        assert (entries <= exits).all()
        # A new entry is decided at or after the close at which the last one ended.
        assert (result.trades.signal_time[mine][1:] >= exits[:-1]).all()


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_what_happens_later_never_changes_what_happened(seed: int, cut: int) -> None:
    evaluations, bars, instruments = random_market(seed, 1)
    cut = min(cut, len(bars[0]) - 1)

    def until(n: int) -> BacktestResult:
        e = evaluations[0]
        names = ("close_time", "ready", "enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "stop_short",
                 "target_long", "target_short", "strength")  # fmt: skip
        part = replace(e, **{name: getattr(e, name)[:n] for name in names})
        return backtest(part, bars[0].rows(slice(0, n)), instruments[0], cash=10_000.0, sizing=FIXED)

    part, whole = until(cut), until(len(bars[0]))
    np.testing.assert_array_equal(part.equity, whole.equity[:cut])
    before = [f for f in fills_of(whole) if f[1] <= bars[0].close_time[cut - 1]] if cut else []
    assert fills_of(part) == before


def test_plain_python_gives_what_the_compiled_loop_gives() -> None:
    program = (
        "from tests.trading.test_backtest import *\n"
        "for seed in range(4):\n"
        "    e, b, i = random_market(seed, 3)\n"
        "    r = backtest(e, b, i, cash=1e4, sizing=RISK, costs=Costs(rate=.01), limits=TIGHT)\n"
        "    print(repr(fills_of(r)), r.equity.tolist(), r.refusals, r.orders)\n"
        "    r = backtest(e[0], b[0], i[0], cash=1e4, sizing=FIXED, costs=Costs(slippage_kind='volume', value=.01))\n"
        "    print(repr(fills_of(r)), r.equity.tolist(), r.refusals, r.orders)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, env={**os.environ, "NUMBA_DISABLE_JIT": flag},
            capture_output=True, text=True, check=True,
        ).stdout
        for flag in ("0", "1")
    ]  # fmt: skip
    assert said[0] == said[1]
    assert said[0].count("\n") == 8
