"""What a circuit breaker looks back on: over a split it sees the move a holder made, and trips where the adjusted path does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trading.breaker_window import PriceWindow, divided
from trading.corporate_actions import exact_factor
from trading.portfolio_math import moves

MINUTE = 60_000_000
LIMIT = 5.0


def trips(told: list[tuple[int, float]], window: int, steps: dict[int, float]) -> list[int]:
    """Rows at which a breaker of `LIMIT` percent trips; steps: row -> factor of the split before it."""
    kept, found = PriceWindow(), []
    for row, (time_us, price) in enumerate(told):
        if row in steps:
            kept.scale(steps[row])
        if kept.move(time_us, price, window) >= LIMIT:
            found.append(row)
            kept = PriceWindow()
    return found


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(900, 1100)), min_size=2, max_size=25),
    st.lists(st.tuples(st.integers(1, 24), st.sampled_from([2.0, 4.0, 1.5, 7.0, 0.1, 0.05, 1 / 3])), max_size=2),
)
def test_a_path_with_splits_and_the_same_path_adjusted_trip_at_the_same_bars(
    told: list[tuple[int, int]], splits: list[tuple[int, float]]
) -> None:
    times = np.cumsum([step * MINUTE for step, _ in told]).tolist()
    adjusted = [float(ticks) for _, ticks in told]
    ratio = np.divide.outer(adjusted, adjusted)
    assume(not np.any(np.abs(np.abs(ratio - 1.0) * 100.0 - LIMIT) < 1e-6))  # at the very limit the last bit of a division decides
    steps = dict(splits)
    raw, level = [], exact_factor(1.0)
    for row, price in enumerate(adjusted):
        level *= exact_factor(steps[row]) if row in steps else 1
        raw.append(divided(price, level))
    found = trips(list(zip(times, raw, strict=True)), 5 * MINUTE, steps)
    assert found == trips(list(zip(times, adjusted, strict=True)), 5 * MINUTE, {})
    out = np.empty(len(times))
    assert found == moves(np.array(times), np.array(adjusted), 5 * MINUTE, LIMIT, out).tolist(), "as the backtest's breaker"


def test_an_unscaled_split_would_trip() -> None:
    assert trips([(0, 700.0), (MINUTE, 100.0)], 5 * MINUTE, {}) == [1]
    assert trips([(0, 700.0), (MINUTE, 100.0)], 5 * MINUTE, {1: 7.0}) == []


@pytest.mark.parametrize("factor", [7.0, 0.1])
def test_a_step_told_of_late_moves_the_prices_before_it_alone(factor: float) -> None:
    kept = PriceWindow([(1, 700.0), (2, 707.0), (3, 700.0 / factor)])
    kept.scale(factor, before=2)
    assert kept.move(4, 700.0 / factor, 10) == pytest.approx(100 * (1 - 700 / 707))


def test_the_newest_price_is_known() -> None:
    kept = PriceWindow()
    assert kept.newest is None
    for row, price in enumerate((3.0, 2.0, 4.0, 3.0)):
        kept.move(row, price, 10)
        assert kept.newest == (row, price)
