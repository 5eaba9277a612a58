"""Portfolio and behaviour limits: what they measure, when they refuse, and that missing input refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.trading.test_risk import AAPL, ENTRY, LIMITS, STATE
from trading.limits import (
    CircuitBreaker,
    Correlation,
    Drawdown,
    Limits,
    LosingStreak,
    OrderRate,
    StrategyLimits,
    ValueAtRisk,
    parse_limits,
)
from trading.orders import Side
from trading.risk import DailyReturns, RiskState, check, refusal
from trading.risk_rules.circuit_breaker import largest_move
from trading.risk_rules.value_at_risk import at_risk
from trading.signals import Intent
from trading.timeframes import US_PER_MINUTE

NOW = 1_500_000_000_000_000
SELL = replace(ENTRY, side=Side.SELL)
HOLDING = replace(
    STATE, positions={("other", "MSFT"): 200.0}, last_price={"AAPL": 100.0, "MSFT": 50.0}, multipliers={"AAPL": 1.0, "MSFT": 1.0},
    now_time=NOW,
)  # fmt: skip


def with_limit(**limits: object) -> Limits:
    return LIMITS.model_copy(update=limits)


def why(limits: Limits, state: RiskState = HOLDING, intent: Intent = ENTRY) -> str:
    return refusal(check(limits, state, intent, AAPL))


def returns(rho: float, sessions: int = 250, scale: float = 0.01) -> DailyReturns:
    """AAPL and MSFT with this correlation, exactly."""
    z = np.random.default_rng(1).normal(size=(sessions, 2))
    q, _ = np.linalg.qr(z - z.mean(axis=0))
    a, b = q[:, 0], rho * q[:, 0] + math.sqrt(1 - rho**2) * q[:, 1]
    return DailyReturns(("AAPL", "MSFT"), np.stack([a, b], axis=1) * scale * math.sqrt(sessions))


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"drawdown": Drawdown(percent=10)}, "limit=drawdown missing=peak_equity"),
        ({"max_sector_percent": 50.0}, "limit=max_sector_percent missing=sector of AAPL"),
        ({"correlation": Correlation(percent=50)}, "limit=correlation missing=120 daily returns of AAPL, MSFT"),
        ({"value_at_risk": ValueAtRisk(percent=5)}, "limit=value_at_risk missing=250 daily returns of AAPL, MSFT"),
        ({"order_rate": OrderRate(orders=3, seconds=60)}, "limit=order_rate missing=times of the last orders"),
        ({"circuit_breaker": CircuitBreaker(percent=5, minutes=10, pause_minutes=30)}, "missing=recent prices of AAPL"),
        ({"losing_streak": LosingStreak(trades=3, pause_minutes=60)}, "limit=losing_streak missing=results of the last trades"),
        ({"cooldown_minutes": 30.0}, "limit=cooldown_minutes missing=times of the last stops"),
    ],
)
def test_a_limit_whose_measure_is_not_known_refuses(limit: dict[str, object], says: str) -> None:
    assert why(LIMITS) == ""
    said = why(with_limit(**limit))
    assert said.startswith("RISK_INPUT_MISSING: ")
    assert says in said


def test_an_exit_is_never_refused_by_them() -> None:
    everything = with_limit(
        drawdown=Drawdown(percent=10), value_at_risk=ValueAtRisk(percent=5), cooldown_minutes=30.0,
        order_rate=OrderRate(orders=1, seconds=60), circuit_breaker=CircuitBreaker(percent=5, minutes=10, pause_minutes=30),
    )  # fmt: skip
    assert why(everything, intent=replace(SELL, reduce_only=True)) == ""


class TestAccount:
    @pytest.mark.parametrize(("equity", "refused"), [(95_000.0, False), (90_001.0, False), (90_000.0, True), (50_000.0, True)])
    def test_drawdown_is_measured_from_the_highest_equity(self, equity: float, refused: bool) -> None:
        state = replace(HOLDING, equity=equity, day_start_equity=equity, peak_equity=100_000.0)
        assert (why(with_limit(drawdown=Drawdown(percent=10)), state) != "") == refused

    def test_net_exposure_counts_shorts_against_longs_and_lets_a_hedge_through(self) -> None:
        long = replace(HOLDING, positions={("other", "MSFT"): 2_000.0})
        limits = with_limit(max_net_leverage=1.0)
        assert why(limits, long).startswith("NET_EXPOSURE: symbol=AAPL would_be=110000 limit=100000")
        assert why(limits, long, SELL) == ""
        beyond = replace(HOLDING, positions={("other", "MSFT"): 2_500.0})
        assert why(limits, beyond, SELL) == "", "still above, but less than before"

    def test_an_order_under_way_of_unknown_direction_refuses(self) -> None:
        state = replace(HOLDING, working_notional={"MSFT": 1_000.0})
        assert "RISK_INPUT_MISSING" in why(with_limit(max_net_leverage=1.0), state)
        assert why(with_limit(max_net_leverage=1.0), replace(state, working_net={"MSFT": -1_000.0})) == ""

    def test_a_sector_is_counted_gross_over_its_instruments(self) -> None:
        state = replace(HOLDING, sectors={"AAPL": "technology", "MSFT": "technology"})
        assert why(with_limit(max_sector_percent=20.0), state) == ""
        assert why(with_limit(max_sector_percent=19.0), state).startswith("SECTOR_EXPOSURE: sector=technology would_be=20000")
        apart = replace(state, sectors={"AAPL": "technology", "MSFT": "software"})
        assert why(with_limit(max_sector_percent=19.0), apart) == ""


class TestPortfolio:
    @pytest.mark.parametrize(
        ("rho", "side", "held", "refused"),
        [(0.9, Side.BUY, 200.0, True), (0.5, Side.BUY, 200.0, False), (0.9, Side.BUY, -200.0, False),
         (0.9, Side.SELL, -200.0, True), (-0.9, Side.BUY, -200.0, True), (-0.9, Side.BUY, 200.0, False)],
    )  # fmt: skip
    def test_what_moves_with_the_order_counts_together(self, rho: float, side: Side, held: float, refused: bool) -> None:
        state = replace(HOLDING, returns=returns(rho), positions={("other", "MSFT"): held})
        limits = with_limit(correlation=Correlation(above=0.7, percent=15))
        assert (why(limits, state, replace(ENTRY, side=side)) != "") == refused

    def test_value_at_risk_of_one_normal_instrument_is_the_textbooks(self) -> None:
        values = returns(0.0, 1_000).values[:, :1]
        scale = float(np.std(values, ddof=1))
        risk, shortfall = at_risk(values, np.array([10_000.0]), 0.95)
        historical = -float(np.sort(values[:, 0])[49]) * 10_000
        assert risk == pytest.approx(max(historical, 1.644854 * scale * 10_000), rel=1e-6)
        tail = -float(np.sort(values[:, 0])[:50].mean()) * 10_000
        assert shortfall == pytest.approx(max(tail, scale * 10_000 * float(stats.norm.pdf(1.644854)) / 0.05), rel=1e-5)

    @given(
        a=st.floats(-1e5, 1e5),
        b=st.floats(-1e5, 1e5),
        scale=st.floats(0.1, 10.0),
        confidence=st.floats(0.9, 0.995),
        seed=st.integers(0, 100),
    )
    @settings(max_examples=60, deadline=None)
    def test_risk_grows_with_size_and_shortfall_is_never_below_it(
        self, a: float, b: float, scale: float, confidence: float, seed: int
    ) -> None:
        values = np.random.default_rng(seed).standard_t(4, (250, 2)) * 0.01
        risk, shortfall = at_risk(values, np.array([a, b]), confidence)
        assert shortfall >= risk * (1 - 1e-9)
        scaled = at_risk(values, np.array([a, b]) * scale, confidence)
        assert scaled == pytest.approx((risk * scale, shortfall * scale), rel=1e-9, abs=1e-9)

    def test_an_order_beyond_the_limit_is_refused_and_a_hedge_is_not(self) -> None:
        state = replace(HOLDING, returns=returns(0.9, scale=0.02), positions={("other", "MSFT"): 1_000.0})
        tight = with_limit(value_at_risk=ValueAtRisk(percent=1.5))
        assert why(tight, state).startswith("VALUE_AT_RISK: measure=value_at_risk would_be=")
        assert why(tight, state, SELL) == ""
        shortfall = with_limit(value_at_risk=ValueAtRisk(percent=90, shortfall_percent=1.5))
        assert "measure=expected_shortfall" in why(shortfall, state)

    def test_a_single_missing_return_is_not_guessed(self) -> None:
        known = returns(0.5)
        known.values[-3, 1] = np.nan
        assert "RISK_INPUT_MISSING" in why(with_limit(value_at_risk=ValueAtRisk(percent=50)), replace(HOLDING, returns=known))


class TestPauses:
    @pytest.mark.parametrize(("ages", "refused"), [((70, 65, 61), False), ((59, 30, 1), True), ((61, 30, 1), False)])
    def test_the_order_rate_looks_back_a_fixed_time(self, ages: tuple[int, ...], refused: bool) -> None:
        state = replace(HOLDING, order_times=tuple(NOW - a * 1_000_000 for a in ages))
        assert (why(with_limit(order_rate=OrderRate(orders=3, seconds=60)), state) != "") == refused

    @given(
        steps=st.lists(st.tuples(st.integers(1, 30), st.floats(50, 150)), min_size=1, max_size=40),
        window=st.integers(1, 60),
        since=st.integers(0, 400),
    )
    @settings(max_examples=80, deadline=None)
    def test_the_largest_move_is_what_looking_at_every_pair_gives(
        self, steps: list[tuple[int, float]], window: int, since: int
    ) -> None:
        times = np.cumsum([s for s, _ in steps]).astype(np.int64)
        prices = np.array([p for _, p in steps])
        worst = max(
            (abs(prices[j] / prices[i] - 1) * 100 for j in range(len(prices)) for i in range(j + 1)
             if times[j] >= since and times[j] - times[i] <= window),
            default=0.0,
        )  # fmt: skip
        assert largest_move(times, prices, window, since)[0] == pytest.approx(worst)

    @pytest.mark.parametrize(
        ("minutes_ago", "move", "refused"), [(5, 6.0, True), (29, 6.0, True), (45, 6.0, False), (5, 4.0, False)]
    )
    def test_after_an_abnormal_move_the_instrument_pauses(self, minutes_ago: int, move: float, refused: bool) -> None:
        times = NOW - np.arange(60, -1, -1, dtype=np.int64) * US_PER_MINUTE
        prices = np.where(times >= NOW - minutes_ago * US_PER_MINUTE, 100.0 - move, 100.0)
        state = replace(HOLDING, recent_prices={"AAPL": (times, prices)})
        limits = with_limit(circuit_breaker=CircuitBreaker(percent=5, minutes=10, pause_minutes=30))
        assert (why(limits, state) != "") == refused

    def test_a_losing_streak_pauses_the_strategy_and_the_tighter_limit_counts(self) -> None:
        limits = with_limit(
            losing_streak=LosingStreak(trades=4, pause_minutes=60),
            strategies={"trend": StrategyLimits(losing_streak=LosingStreak(trades=3, pause_minutes=120))},
        )
        lost = replace(HOLDING, losing_streaks={"trend": (3, NOW - 90 * US_PER_MINUTE)})
        assert why(limits, lost).startswith("LOSING_STREAK: strategy=trend lost=3")
        assert why(limits, lost, replace(ENTRY, strategy="other")) == ""
        assert why(limits, replace(lost, losing_streaks={"trend": (3, NOW - 121 * US_PER_MINUTE)})) == ""

    def test_after_a_stop_the_strategy_keeps_out_of_that_instrument(self) -> None:
        limits = with_limit(cooldown_minutes=30.0)
        stopped = replace(HOLDING, last_stops={("trend", "AAPL"): NOW - 29 * US_PER_MINUTE})
        assert why(limits, stopped).startswith("COOLDOWN: strategy=trend symbol=AAPL")
        assert why(limits, stopped, replace(ENTRY, strategy="other")) == ""
        assert why(limits, replace(stopped, last_stops={("trend", "AAPL"): NOW - 31 * US_PER_MINUTE})) == ""


def test_they_are_written_in_the_risk_file_and_faults_are_named_by_line() -> None:
    text = """name: x
max_order_quantity: 1
max_notional: 1
max_position_notional: 1
max_concurrent_positions: 1
price_collar_percent: 1
max_gross_leverage: 1
daily_loss: {amount: 1}
value_at_risk: {percent: 2, confidence: 0.99}
circuit_breaker: {percent: 5, minutes: 10}
drawdown: {percnt: 10}
"""
    limits, problems = parse_limits(text, "risk.yaml")
    assert limits is None
    assert {(p.line, p.key) for p in problems} >= {(10, "circuit_breaker.pause_minutes"), (11, "drawdown.percnt")}
    assert "percent" in next(p for p in problems if p.key == "drawdown.percnt").nearest
