"""The account's limits in a backtest: each refuses where the desk's rule of the same name would."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.trading.backtest_kit import bars_of, make, wishes
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars, concat
from trading.corporate_actions import ActionKind, CorporateAction
from trading.limits import (
    CircuitBreaker,
    Correlation,
    DailyLoss,
    Drawdown,
    Limits,
    LosingStreak,
    OrderRate,
    StrategyLimits,
    ValueAtRisk,
)
from trading.order_rules import OrderRules
from trading.orders import OrderType
from trading.risk_history import RiskHistory

DAY_MINUTES = 1440
WIDE = Limits(
    max_order_quantity=1e9, max_notional=1e9, max_position_notional=1e9, max_concurrent_positions=50, price_collar_percent=50,
    max_gross_leverage=100, daily_loss=DailyLoss(amount=1e9),
)  # fmt: skip
FALLING = bars_of("\n".join(f"{100 - k} {100.5 - k} {98.5 - k} {99 - k}" for k in range(14)))
"""A point lower every day; a long with a stop a point below its entry is stopped on the day of its entry."""
EVERY_DAY: dict[str, Any] = {
    "enter_long": {k: True for k in range(12)}, "stop_long": {k: float(FALLING.close[k]) - 0.4 for k in range(12)},
}  # fmt: skip


def limited(bars: Bars = FALLING, wish: dict[str, Any] = EVERY_DAY, **limits: Any) -> BacktestResult:
    return backtest(
        wishes(bars, **wish), bars, make(), cash=10_000.0, sizing={"kind": "fixed", "quantity": 10}, strategy="one",
        limits=WIDE.model_copy(update=limits),
    )  # fmt: skip


def days_entered(result: BacktestResult) -> list[int]:
    return [int(t) // 86_400_000_000 for t in result.trades.entry_time]


def test_without_them_it_enters_every_day_and_is_stopped_every_day() -> None:
    result = limited()
    assert days_entered(result) == list(range(2, 14))
    assert {r["reason"] for r in result.trades.rows()} == {"stop"}
    assert result.refusals == {}


def test_after_a_stop_the_strategy_keeps_out_for_the_cooldown() -> None:
    result = limited(cooldown_minutes=2.5 * DAY_MINUTES)
    # In on day 2, stopped that day: closes 2, 3 and 4 are within two and a half days; the wish of day 5 fills on day 6.
    assert days_entered(result) == [2, 6, 10, 14][: len(result.trades)]
    assert result.refusals == {"COOLDOWN": 9}


def test_a_streak_of_losses_pauses_the_strategy_and_its_own_tighter_limit_counts() -> None:
    result = limited(losing_streak=LosingStreak(trades=3, pause_minutes=4 * DAY_MINUTES))
    # Losses on days 2, 3 and 4; closes 4 to 7 are within four days of the third; then one more loss, and again.
    assert days_entered(result) == [2, 3, 4, 9]
    assert result.refusals == {"LOSING_STREAK": 8}
    own = {"one": StrategyLimits(losing_streak=LosingStreak(trades=2, pause_minutes=40 * DAY_MINUTES))}
    assert days_entered(limited(strategies=own)) == [2, 3]


def test_a_streak_is_the_strategys_over_all_its_instruments() -> None:
    other = replace(FALLING, symbol="Y")
    limits = WIDE.model_copy(update={"losing_streak": LosingStreak(trades=4, pause_minutes=400 * DAY_MINUTES)})
    result = backtest(
        [wishes(FALLING, **EVERY_DAY), wishes(other, **EVERY_DAY)], [FALLING, other], [make(), make("Y")], cash=10_000.0,
        sizing={"kind": "fixed", "quantity": 10}, strategy="one", limits=limits,
    )  # fmt: skip
    assert days_entered(result) == [2, 2, 3, 3], "two losses a day"
    assert [dict(r) for r in result.slot_refusals] == [{"LOSING_STREAK": 10}, {"LOSING_STREAK": 10}]


def test_below_the_drawdown_nothing_new_is_entered() -> None:
    # Ten shares lose 4 a day and 1 at most by the gap: a tenth of a percent of 10,000 is lost after three trades.
    free = limited()
    lost = 100.0 * (1 - free.equity / 10_000.0)
    first = int((lost >= 0.1).argmax())
    result = limited(drawdown=Drawdown(percent=0.1))
    assert len(result.trades) < len(free.trades)
    assert max(days_entered(result)) == int(free.close_time[first]) // 86_400_000_000
    assert set(result.refusals) == {"HALTED", "DRAWDOWN"}
    assert result.refusals["HALTED"] == 1, "until the operator's next morning; from then on the rule refuses"


def with_a_win(day: int) -> tuple[Bars, dict[str, Any]]:
    """The falling bars with one on which the trade reaches its target two points up, 20 earned."""
    high = FALLING.high.copy()
    high[day - 1] += 3
    stops = {**EVERY_DAY["stop_long"], day - 2: float(FALLING.close[day - 2]) - 5}
    targets = {k: float(FALLING.close[k]) + 2 for k in range(12)}
    return replace(FALLING, high=high), {**EVERY_DAY, "stop_long": stops, "target_long": targets}


def test_a_win_ends_a_streak() -> None:
    bars, wish = with_a_win(day=4)
    limits = {"losing_streak": LosingStreak(trades=3, pause_minutes=40 * DAY_MINUTES)}
    assert days_entered(limited(bars, wish, **limits)) == [2, 3, 4, 5, 6, 7], "lost, lost, won, lost, lost, lost"


def test_drawdown_counts_from_the_highest_equity_not_from_the_start() -> None:
    bars, wish = with_a_win(day=2)
    # 20 are won on day 2; 4 are lost on each of the next days: 12 below 10,020 are more than a tenth of a percent.
    result = limited(bars, wish, drawdown=Drawdown(percent=0.1))
    assert days_entered(result) == [2, 3, 4, 5]
    assert float(result.equity[-1]) == 10_008.0


def two_slots(**limits: Any) -> BacktestResult:
    """Two long wishes at one close, a thousand each of ten thousand."""
    bars = bars_of("\n".join(["100 101 99 100"] * 5))
    other = replace(bars, symbol="Y")
    wish: dict[str, Any] = {"enter_long": {1: True}, "stop_long": {1: 90.0}}
    sectors = limits.pop("sectors", ("tech", "tech"))
    instruments = [replace(make(), sector=sectors[0]), replace(make("Y"), sector=sectors[1])]
    return backtest(
        [wishes(bars, **wish), wishes(other, **wish)], [bars, other], instruments, cash=10_000.0,
        sizing={"kind": "fixed", "quantity": 10}, strategy=["one", "two"], limits=WIDE.model_copy(update=limits),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "refusals"),
    [
        ({"max_sector_percent": 21.0}, {}),
        ({"max_sector_percent": 15.0}, {"SECTOR_EXPOSURE": 1}),
        ({"max_sector_percent": 15.0, "sectors": ("tech", "banks")}, {}),
        ({"max_sector_percent": 15.0, "sectors": ("tech", "")}, {"RISK_INPUT_MISSING": 1}),
        ({"max_net_leverage": 0.15}, {"NET_EXPOSURE": 1}),
        ({"order_rate": OrderRate(orders=1, seconds=60)}, {"ORDER_RATE": 1}),
        ({"order_rate": OrderRate(orders=2, seconds=60)}, {}),
    ],
)
def test_what_is_ordered_at_the_same_close_counts(limits: dict[str, Any], refusals: dict[str, int]) -> None:
    assert two_slots(**limits).refusals == refusals


def test_orders_are_counted_over_several_bars() -> None:
    result = limited(order_rate=OrderRate(orders=2, seconds=3.5 * 86_400))
    # Two entries fill the time of three days and a half; of every four wishes two are refused.
    assert result.refusals == {"ORDER_RATE": 6}
    assert days_entered(result) == [2, 3, 6, 7, 10, 11]


def table(rows: list[tuple[float, ...]]) -> Bars:
    return bars_of("\n".join(" ".join(map(str, row)) for row in rows))


def test_a_leg_that_was_never_ordered_is_no_order() -> None:
    bars = [bars_of("\n".join(["100 101 99 100"] * 5), symbol) for symbol in "XYZ"]
    twins = SimpleNamespace(name="twins", revision="", valid_bars=1, legs=("X", "Y"))
    other = SimpleNamespace(name="other", revision="", valid_bars=1, legs=())
    stops = (90.0, 110.0, 90.0)  # the second leg's lies on the wrong side: a gate refuses it, so the first is not entered either
    result = backtest(
        [wishes(b, enter_long={1: True}, stop_long={1: stop}) for b, stop in zip(bars, stops, strict=True)], bars,
        [make(b.symbol) for b in bars], cash=10_000.0, sizing={"kind": "fixed", "quantity": 1},
        strategy=["twins", "twins", "other"], files=[twins, twins, other],  # type: ignore[list-item]
        limits=WIDE.model_copy(update={"order_rate": OrderRate(orders=1, seconds=60)}),
    )  # fmt: skip
    assert [dict(r) for r in result.slot_refusals] == [{"LEG_MISSING": 1}, {"STOP_REQUIRED": 1}, {}]
    assert [r["symbol"] for r in result.trades.rows()] == ["Z"]


def crash(day: int, percent: float = 10.0) -> Bars:
    """A hundred every day, and from one day on so much less."""
    rows = [(100.0, 100.0, 100.0, 100.0)] * day
    low = 100.0 - percent
    return table([*rows, (100.0, 100.0, low, low), *[(low, low, low, low)] * 6])


BREAKER = CircuitBreaker(percent=5, minutes=DAY_MINUTES, pause_minutes=2 * DAY_MINUTES)
HELD: dict[str, Any] = {"enter_long": {0: True, 4: True, 5: True, 6: True, 7: True}, "exit_long": {2: True}}


def test_an_abnormal_move_halts_the_instrument_until_the_operators_morning_and_pauses_it_after() -> None:
    result = limited(crash(4), HELD, circuit_breaker=BREAKER)
    # Row 4 falls a tenth: its session is halted; rows 5 and 6 are within two days of the move; row 7 enters.
    assert result.refusals == {"HALTED": 1, "CIRCUIT_BREAKER": 2}
    assert days_entered(result) == [2, 9]
    assert [(r["scope"], r["code"], r["level"]) for r in result.halt_rows()] == [
        ("X", "CIRCUIT_BREAKER", "reduce_only"), ("X", "", "resumed"),
    ]  # fmt: skip
    assert limited(crash(4, percent=4.9), HELD, circuit_breaker=BREAKER).refusals == {"POSITION_OPEN": 3}


def test_the_operator_may_lift_at_once_or_never() -> None:
    def with_operator(resume: str) -> BacktestResult:
        limits = WIDE.model_copy(update={"circuit_breaker": BREAKER})
        bars = crash(4)
        return backtest(
            wishes(bars, **HELD), bars, make(), cash=10_000.0, sizing={"kind": "fixed", "quantity": 10}, limits=limits,
            resume=resume,
        )  # fmt: skip

    assert with_operator("at_once").refusals == {"CIRCUIT_BREAKER": 3}
    assert with_operator("never").refusals == {"HALTED": 4}
    with pytest.raises(ValueError, match="resume 'tomorrow': expected one of next_session, at_once, never"):
        with_operator("tomorrow")


def test_a_breaker_that_flattens_closes_at_the_next_open_and_takes_a_waiting_entry_back() -> None:
    bars = crash(4)
    flat = BREAKER.model_copy(update={"then": "flatten"})
    result = limited(bars, {"enter_long": {0: True}}, circuit_breaker=flat)
    assert [(r["reason"], r["exit_price"]) for r in result.trades.rows()] == [("flatten", 90.0)]
    rules = OrderRules(entry=OrderType.LIMIT, limit=np.full(len(bars), 50.0))
    waiting = backtest(
        wishes(bars, enter_long={0: True}), bars, make(), cash=10_000.0, sizing={"kind": "fixed", "quantity": 10}, orders=rules,
        limits=WIDE.model_copy(update={"circuit_breaker": flat, "price_collar_percent": 60}),
    )  # fmt: skip
    assert [(r["end"], r["filled"]) for r in waiting.order_rows()] == [("canceled", 0.0)]


def test_a_split_is_no_abnormal_move_and_no_loss() -> None:
    bars = crash(4, percent=50.0)
    split = CorporateAction("X", ActionKind.SPLIT, int(bars.session[4]), 0, 2.0)
    opened = replace(bars, open=np.where(np.arange(len(bars)) == 4, 50.0, bars.open), high=np.minimum(bars.high, bars.close))
    limits = WIDE.model_copy(update={"circuit_breaker": BREAKER})

    def run(actions: dict[str, list[CorporateAction]]) -> BacktestResult:
        return backtest(
            wishes(opened, enter_long={5: True}), opened, make(), cash=10_000.0, sizing={"kind": "fixed", "quantity": 10},
            limits=limits, actions=actions,
        )  # fmt: skip

    assert run({"X": [split]}).refusals == {}
    assert run({}).refusals == {"CIRCUIT_BREAKER": 1}
    late = replace(split, known_time=int(bars.close_time[6]))
    assert run({"X": [late]}).refusals == {"CIRCUIT_BREAKER": 1}, "nobody knew of it yet"


def calm(rows: int = 70) -> Bars:
    """Closes that go up and down by two percent in turn."""
    return table([(p, p, p, p) for p in (100.0 + 2.0 * (k % 2) for k in range(rows))])


@pytest.mark.parametrize(
    ("limits", "refusals"),
    [
        # 1,000 of 10,000 move by 2 % a day: one in twenty times as much is lost, about 0.33 % by the normal tail.
        ({"value_at_risk": ValueAtRisk(percent=0.4, confidence=0.95, sessions=60)}, {}),
        ({"value_at_risk": ValueAtRisk(percent=0.3, confidence=0.95, sessions=60)}, {"VALUE_AT_RISK": 1}),
        ({"value_at_risk": ValueAtRisk(percent=0.4, shortfall_percent=0.4, confidence=0.95, sessions=60)}, {"VALUE_AT_RISK": 1}),
        ({"value_at_risk": ValueAtRisk(percent=0.4, confidence=0.95, sessions=200)}, {"RISK_INPUT_MISSING": 1}),
        ({"correlation": Correlation(percent=11, sessions=60)}, {}),
        ({"correlation": Correlation(percent=9, sessions=60)}, {"CORRELATION": 1}),
    ],
)  # fmt: skip
def test_the_portfolio_is_measured_on_the_bars_before_the_wish(limits: dict[str, Any], refusals: dict[str, int]) -> None:
    assert limited(calm(), {"enter_long": {65: True}}, **limits).refusals == refusals


def test_nothing_later_and_nothing_but_enough_sessions_is_measured() -> None:
    at_risk = ValueAtRisk(percent=50, confidence=0.95, sessions=60)
    assert limited(calm(), {"enter_long": {59: True}}, value_at_risk=at_risk).refusals == {"RISK_INPUT_MISSING": 1}
    assert limited(calm(), {"enter_long": {60: True}}, value_at_risk=at_risk).refusals == {}
    until = limited(calm(66), {"enter_long": {65: True}}, value_at_risk=at_risk.model_copy(update={"percent": 0.33}))
    wild = calm(80)
    wild = replace(wild, close=np.where(np.arange(80) > 65, wild.close * 1.5, wild.close))
    after = limited(wild, {"enter_long": {65: True}}, value_at_risk=at_risk.model_copy(update={"percent": 0.33}))
    assert after.refusals == until.refusals


def test_the_history_of_its_own_that_a_backtest_is_given_is_what_limits_are_measured_on() -> None:
    bars = calm(10)
    limits = WIDE.model_copy(update={"value_at_risk": ValueAtRisk(percent=0.4, confidence=0.95, sessions=60)})

    def refusals(history: RiskHistory | None) -> dict[str, int]:
        return backtest(
            wishes(bars, enter_long={5: True}), bars, make(), cash=10_000.0, sizing={"kind": "fixed", "quantity": 10},
            limits=limits, history=history,
        ).refusals  # fmt: skip

    shift = 70
    before = replace(
        calm(70), close_time=calm(70).close_time - shift * 86_400_000_000, session=calm(70).session - np.int32(shift)
    )  # fmt: skip
    assert refusals(None) == {"RISK_INPUT_MISSING": 1}
    assert refusals(RiskHistory({"X": concat([before, bars])})) == {}
