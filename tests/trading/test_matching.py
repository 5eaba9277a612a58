"""Fills against a bar: honest about gaps, pessimistic about what a bar does not tell."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading import matching as m
from trading.costs import Costs
from trading.instruments import AssetClass, Instrument
from trading.orders import OrderType
from trading.timeframes import Timeframe

NAN = math.nan
BUY, SELL = 1, -1
ticks = st.integers(1, 400).map(lambda n: n / 4)
sides = st.sampled_from([BUY, SELL])


@st.composite
def bars(draw: st.DrawFn) -> tuple[float, float, float, float]:
    o, c, x, y = (draw(ticks) for _ in range(4))
    return o, max(o, c, x), min(o, c, y), c


@given(sides, bars())
def test_a_market_order_fills_at_the_open(side: int, bar: tuple[float, ...]) -> None:
    assert m.match_bar(m.MARKET, side, NAN, NAN, False, *bar) == (bar[0], False)


@given(st.sampled_from([m.LIMIT, m.STOP, m.STOP_LIMIT, m.TRAILING_STOP]), sides, ticks, ticks, st.booleans(), bars())
def test_every_fill_is_a_price_the_bar_traded(
    kind: int, side: int, limit: float, stop: float, triggered: bool, bar: tuple[float, ...]
) -> None:
    o, h, l, c = bar  # noqa: E741
    price, _ = m.match_bar(kind, side, limit, stop, triggered, o, h, l, c)
    assert math.isnan(price) or l <= price <= h


@given(st.sampled_from([m.LIMIT, m.STOP_LIMIT]), sides, ticks, ticks, st.booleans(), bars())
def test_a_limit_never_fills_worse_than_its_limit(
    kind: int, side: int, limit: float, stop: float, triggered: bool, bar: tuple[float, ...]
) -> None:
    price, _ = m.match_bar(kind, side, limit, stop, triggered, *bar)
    assert math.isnan(price) or price * side <= limit * side


@given(st.sampled_from([m.STOP, m.TRAILING_STOP]), sides, ticks, bars())
def test_a_stop_never_fills_better_than_its_stop_and_a_gap_fills_at_the_open(
    kind: int, side: int, stop: float, bar: tuple[float, ...]
) -> None:
    price, triggered = m.match_bar(kind, side, NAN, stop, False, *bar)
    reached = bar[1] >= stop if side == BUY else bar[2] <= stop
    assert triggered == reached == (not math.isnan(price))
    if reached:
        assert price == (bar[0] if (bar[0] - stop) * side >= 0 else stop)
        assert price * side >= stop * side


@given(sides, ticks, bars())
def test_a_limit_fills_exactly_when_the_bar_reaches_it(side: int, limit: float, bar: tuple[float, ...]) -> None:
    price, _ = m.match_bar(m.LIMIT, side, limit, NAN, False, *bar)
    reached = bar[2] <= limit if side == BUY else bar[1] >= limit
    assert reached == (not math.isnan(price))


@given(sides, ticks, ticks, bars())
def test_a_stop_limit_triggers_exactly_when_a_stop_would(side: int, limit: float, stop: float, bar: tuple[float, ...]) -> None:
    price, triggered = m.match_bar(m.STOP_LIMIT, side, limit, stop, False, *bar)
    as_stop, _ = m.match_bar(m.STOP, side, NAN, stop, False, *bar)
    assert triggered == (not math.isnan(as_stop))
    assert triggered or math.isnan(price)


def test_a_stop_limit_whose_limit_is_beyond_the_trigger_waits_unless_the_close_proves_the_way_back() -> None:
    # Buy stop 105, limit 103: the bar runs from 100 to 110. The low of 100 came before the trigger and proves nothing.
    assert m.match_bar(m.STOP_LIMIT, BUY, 103.0, 105.0, False, 100.0, 110.0, 100.0, 108.0)[1] is True
    assert math.isnan(m.match_bar(m.STOP_LIMIT, BUY, 103.0, 105.0, False, 100.0, 110.0, 100.0, 108.0)[0])
    assert m.match_bar(m.STOP_LIMIT, BUY, 103.0, 105.0, False, 100.0, 110.0, 100.0, 102.0) == (103.0, True)
    assert m.match_bar(m.STOP_LIMIT, BUY, 103.0, 105.0, True, 104.0, 106.0, 102.0, 104.0) == (103.0, True)


@pytest.mark.parametrize("kind", sorted(m.ORDER_TYPE_CODES.values()))
@pytest.mark.parametrize("hole", range(4))
def test_a_bar_with_a_hole_fills_nothing(kind: int, hole: int) -> None:
    bar = [100.0, 101.0, 99.0, 100.0]
    bar[hole] = NAN
    assert math.isnan(m.match_bar(kind, BUY, 100.0, 100.0, False, *bar)[0])


def test_a_level_that_is_not_there_fills_nothing() -> None:
    for kind in (m.LIMIT, m.STOP, m.STOP_LIMIT, m.TRAILING_STOP):
        assert math.isnan(m.match_bar(kind, BUY, NAN, NAN, False, 100.0, 101.0, 99.0, 100.0)[0])


def test_every_order_type_has_a_code() -> None:
    assert set(m.ORDER_TYPE_CODES) == {t.value for t in OrderType}


@given(sides, ticks, ticks, bars())
def test_the_stop_goes_before_the_target_whenever_the_bar_reaches_both(
    side: int, stop: float, target: float, bar: tuple[float, ...]
) -> None:
    o, h, l, _ = bar  # noqa: E741
    price, leg = m.match_bracket(side, stop, target, True, o, h, l)
    stop_alone, _ = m.match_bracket(side, stop, NAN, True, o, h, l)
    target_alone, _ = m.match_bracket(side, NAN, target, True, o, h, l)
    if not math.isnan(stop_alone):
        assert (price, leg) == (stop_alone, m.STOP_LEG)
    elif not math.isnan(target_alone):
        assert (price, leg) == (target_alone, m.TARGET_LEG)
    else:
        assert math.isnan(price)
        assert leg == m.NO_LEG
    assert m.bracket_ambiguous(side, stop, target, h, l) == (not math.isnan(stop_alone) and not math.isnan(target_alone))


@given(sides, ticks, ticks, bars())
def test_a_bracket_fills_as_its_orders_would_one_by_one(side: int, stop: float, target: float, bar: tuple[float, ...]) -> None:
    o, h, l, _ = bar  # noqa: E741
    by_order, _ = m.match_bar(m.STOP, -side, NAN, stop, False, *bar)
    if math.isnan(by_order):
        by_order, _ = m.match_bar(m.LIMIT, -side, target, NAN, False, *bar)
    assert m.match_bracket(side, stop, target, True, o, h, l)[0] == pytest.approx(by_order, nan_ok=True)


def test_the_target_of_an_entry_inside_the_bar_waits_for_the_next_one() -> None:
    assert m.match_bracket(1, 90.0, 105.0, False, 100.0, 106.0, 99.0) == pytest.approx((NAN, m.NO_LEG), nan_ok=True)
    assert m.match_bracket(1, 99.5, 105.0, False, 100.0, 106.0, 99.0) == (99.5, m.STOP_LEG)


@given(sides, ticks, st.lists(bars(), min_size=1, max_size=20))
def test_a_trailing_stop_never_loosens_and_stays_its_distance_from_the_extreme(
    side: int, distance: float, history: list[tuple[float, ...]]
) -> None:
    level = NAN
    for _, h, l, _ in history:  # noqa: E741
        before, level = level, m.trail(side, level, distance, h, l)
        assert math.isnan(before) or level * side >= before * side
    extreme = max(b[1] for b in history) if side == 1 else min(b[2] for b in history)
    assert level == extreme - side * distance


GRIDS = [Decimal("0.01"), Decimal("0.25"), Decimal("0.00001"), Decimal("0.05"), Decimal(1), Decimal("0.03"), Decimal(5)]


@given(st.sampled_from(GRIDS), st.integers(1, 10**7), sides)
def test_a_price_on_the_grid_stays_the_float_that_the_instrument_knows(tick: Decimal, count: int, side: int) -> None:
    price = float(count * tick)
    snapped = m.snap_against(price, side, float(tick))
    instrument = Instrument("X", AssetClass.EQUITY, "XNYS", tick, "USD", "f", "X", Timeframe.D1)
    assert instrument.round_price(snapped) == price
    assert snapped == pytest.approx(price, rel=1e-14)
    if (1 / tick) % 1 == 0:
        assert snapped == price


@given(st.sampled_from([m.SLIPPAGE_NONE, m.SLIPPAGE_FIXED, m.SLIPPAGE_VOLUME]), st.floats(0, 20), sides, ticks, ticks, ticks)
def test_slippage_is_never_in_favour(kind: int, value: float, side: int, price: float, quantity: float, volume: float) -> None:
    slipped = m.with_slippage(price, side, kind, value, 0.25, quantity, volume)
    assert slipped * side >= price * side
    assert slipped * 4 == int(slipped * 4)


def test_slippage_by_hand() -> None:
    assert m.with_slippage(100.0, BUY, m.SLIPPAGE_FIXED, 2.0, 0.01) == 100.02
    assert m.with_slippage(100.0, SELL, m.SLIPPAGE_FIXED, 1.5, 0.01) == 99.98  # half a tick more, against the trader
    # A tenth of the bar's volume at 1 % full impact: 0.1 % of 100.
    assert m.with_slippage(100.0, BUY, m.SLIPPAGE_VOLUME, 0.01, 0.01, 10.0, 100.0) == 100.1
    # A bar without volume cannot have absorbed anything: full impact.
    assert m.with_slippage(100.0, BUY, m.SLIPPAGE_VOLUME, 0.01, 0.01, 10.0, 0.0) == 101.0


def test_commission_by_hand() -> None:
    assert m.commission(200.0, 50.0, 1.0, m.COMMISSION_PER_SHARE, 0.005, 0.0) == 1.0
    assert m.commission(10.0, 50.0, 1.0, m.COMMISSION_PER_SHARE, 0.005, 1.0) == 1.0  # the minimum
    assert m.commission(3.0, 4000.0, 50.0, m.COMMISSION_PER_CONTRACT, 2.25, 0.0) == 6.75
    assert m.commission(2.0, 4000.0, 50.0, m.COMMISSION_PER_VALUE, 0.0001, 0.0) == pytest.approx(40.0)
    assert m.commission(0.0, 50.0, 1.0, m.COMMISSION_PER_SHARE, 0.005, 1.0) == 0.0


def test_costs_say_what_is_wrong_with_them() -> None:
    with pytest.raises(ValueError, match=r"commission_kind 'per_trade': expected one of per_share"):
        Costs("per_trade")
    with pytest.raises(ValueError, match="rate -1"):
        Costs(rate=-1)
    with pytest.raises(ValueError, match="unknown costs key 'fee'"):
        Costs.from_dict({"fee": 1})
    assert Costs.from_dict({"rate": 0.005, "minimum": 1.0}).commission(-10, 50.0, 1.0) == 1.0
    assert Costs(slippage_kind="fixed", value=1).slipped(10.0, SELL, 0.01) == 9.99


def test_compiled_and_plain_python_agree() -> None:
    random = np.random.default_rng(7)
    for _ in range(300):
        o, c, x, y, limit, stop = random.integers(380, 420, 6) / 4.0
        bar = (o, max(o, c, x), min(o, c, y), c)
        for kind in m.ORDER_TYPE_CODES.values():
            for side in (BUY, SELL):
                compiled = m.match_bar(kind, side, limit, stop, False, *bar)
                plain = getattr(m.match_bar, "py_func", m.match_bar)(kind, side, limit, stop, False, *bar)
                assert compiled == pytest.approx(plain, nan_ok=True)
