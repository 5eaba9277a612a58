"""The account's optional limits in a backtest: each refuses where the desk's rule of the same name would, and what is not tested
is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.trading.backtest_kit import bars_of, make, wishes
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
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
    assert set(result.refusals) == {"DRAWDOWN"}


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
    wish = {"enter_long": {1: True}, "stop_long": {1: 90.0}}
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


def test_limits_that_a_backtest_cannot_know_are_named() -> None:
    assert limited().limits_not_tested == ()
    result = limited(
        value_at_risk=ValueAtRisk(percent=3), correlation=Correlation(percent=100),
        circuit_breaker=CircuitBreaker(percent=5, minutes=10, pause_minutes=30), order_rate=OrderRate(orders=3, seconds=1e6),
    )  # fmt: skip
    assert result.limits_not_tested == ("value_at_risk", "correlation", "circuit_breaker", "order_rate")
