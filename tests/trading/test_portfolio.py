"""Average-cost accounting: cash plus position is what the fills made it, whatever their order."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.orders import Side
from trading.portfolio import Fill, Position, apply_fill, cash_flow, position_of

BUY, SELL = Side.BUY, Side.SELL
fills = st.builds(
    Fill,
    st.sampled_from([BUY, SELL]),
    st.integers(1, 1000).map(float),
    st.integers(1, 40_000).map(lambda n: n / 4),
    st.integers(0, 100).map(lambda n: n / 4),
)
histories = st.lists(fills, max_size=25)
multipliers = st.sampled_from([1.0, 50.0, 1000.0])


@given(histories, multipliers, st.integers(1, 40_000).map(lambda n: n / 4))
def test_profit_is_cash_flow_plus_value_at_any_price(history: list[Fill], multiplier: float, price: float) -> None:
    position = position_of(history, multiplier)
    flow = sum(cash_flow(f.side, f.quantity, f.price, f.commission, multiplier) for f in history)
    made = position.realized_pnl + position.unrealized_pnl(price, multiplier)
    scale = 1 + sum(f.quantity * f.price for f in history) * multiplier
    assert made == pytest.approx(flow + position.value(price, multiplier), abs=1e-9 * scale)


@given(histories)
def test_quantity_and_commission_are_the_sums_of_the_fills(history: list[Fill]) -> None:
    position = position_of(history)
    assert position.quantity == sum(f.side.sign * f.quantity for f in history)
    assert position.commission == pytest.approx(sum(f.commission for f in history))


@given(histories)
def test_the_average_price_lies_between_the_fills_and_is_zero_when_flat(history: list[Fill]) -> None:
    position = position_of(history)
    if position.flat:
        assert position.average_price == 0.0
    else:
        prices = [f.price for f in history]
        assert min(prices) * (1 - 1e-12) <= position.average_price <= max(prices) * (1 + 1e-12)


@given(st.lists(fills, min_size=1, max_size=15), st.randoms(use_true_random=False))
def test_fills_of_one_side_give_the_same_position_in_any_order(history: list[Fill], random: object) -> None:
    bought = [Fill(BUY, f.quantity, f.price, f.commission) for f in history]
    shuffled = list(bought)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = position_of(bought), position_of(shuffled)
    assert one.quantity == other.quantity
    assert one.average_price == pytest.approx(other.average_price)
    assert one.realized_pnl == pytest.approx(other.realized_pnl)


@given(histories)
def test_going_flat_realises_everything(history: list[Fill]) -> None:
    position = position_of(history)
    if not position.flat:
        side = SELL if position.quantity > 0 else BUY
        closed = apply_fill(position, side, abs(position.quantity), 100.0, 0.0)
        assert closed.flat
        assert closed.realized_pnl == pytest.approx(position.realized_pnl + position.unrealized_pnl(100.0))


def test_a_ledger_by_hand() -> None:
    # Buy 100 at 10 and 100 at 12 (1.00 each): average 11. Sell 150 at 13: 150 * 2 = 300 made. Sell 100 at 10: 50 more
    # close at -1 each, 50 go short at 10. Buy 50 at 9: 50 made. Five commissions of 1.00.
    steps = [(BUY, 100, 10.0), (BUY, 100, 12.0), (SELL, 150, 13.0), (SELL, 100, 10.0), (BUY, 50, 9.0)]
    expected = [(100, 10.0, -1.0), (200, 11.0, -2.0), (50, 11.0, 297.0), (-50, 10.0, 246.0), (0, 0.0, 295.0)]
    position = Position()
    for (side, quantity, price), (held, average, realized) in zip(steps, expected, strict=True):
        position = apply_fill(position, side, quantity, price, 1.0)
        assert (position.quantity, position.average_price, position.realized_pnl) == (held, average, realized)
    assert position.commission == 5.0


def test_a_future_counts_its_multiplier() -> None:
    position = position_of([Fill(SELL, 2, 4000.0, 4.5), Fill(BUY, 2, 3990.0, 4.5)], 50.0)
    assert position.realized_pnl == 2 * 10.0 * 50.0 - 9.0


def test_float_noise_does_not_leave_a_position() -> None:
    position = position_of([Fill(BUY, 0.1, 100.0), Fill(BUY, 0.2, 100.0), Fill(SELL, 0.3, 101.0)])
    assert position.flat
    assert position.average_price == 0.0


@pytest.mark.parametrize(("quantity", "price", "fee"), [(0, 1.0, 0.0), (-1, 1.0, 0.0), (1, math.nan, 0.0), (1, 1.0, math.inf)])
def test_what_is_not_a_fill_is_refused(quantity: float, price: float, fee: float) -> None:
    with pytest.raises(ValueError, match="not a fill"):
        apply_fill(Position(), BUY, quantity, price, fee)
