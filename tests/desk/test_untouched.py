"""Exits that need not wait for the bar's fills: of trades that no price of the bar has touched, and of no others."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desk.store import OrderRecord, PositionRecord
from desk.trades import OpenTrades
from desk.untouched import is_untouched
from tests.desk.kit import bar
from trading import matching
from trading.orders import OrderState, OrderType, Side

TRADE = "int-entry"
POSITION = PositionRecord("trend", "EURUSD", TRADE, 1000.0, 1.2, 0.0, 0.0, 1, 3, {})


class Plain:
    """What is asked of a strategy: it trades one instrument at a time."""


def order(kind: OrderType = OrderType.STOP, side: Side = Side.SELL, **changes: Any) -> OrderRecord:
    known = OrderRecord(
        "int-leg", "paper", "P1", "paper", TRADE, "stop", TRADE, "trend", "EURUSD", "2017-12-29", side, 1000.0, kind, None, None,
        OrderState.ACCEPTED, 0.0, None, "", "", 1, {"time_in_force": "gtc", "meta": {"multiplier": 1.0}},
    )  # fmt: skip
    return replace(known, **changes)


STOP = order(stop_price=1.19)
TARGET = order(OrderType.LIMIT, limit_price=1.21)
FILLED = order(OrderType.MARKET, Side.BUY, id=TRADE, leg="entry", state=OrderState.FILLED)


def book(*orders: OrderRecord, **made_of: float) -> OpenTrades:
    return OpenTrades([POSITION], {("trend", "EURUSD"): made_of or {TRADE: 1000.0}}, {TRADE: orders})


def untouched(*orders: OrderRecord, at: tuple[float, ...] = (1.2, 1.205, 1.195, 1.2), **made_of: float) -> bool:
    return is_untouched(POSITION, book(*orders, **made_of), Plain(), [bar("EURUSD", 1, *at)])  # type: ignore[arg-type]


def test_what_rests_beyond_all_prices_is_untouched() -> None:
    assert untouched(FILLED, STOP, TARGET)


@pytest.mark.parametrize("at", [
    (1.2, 1.205, 1.19, 1.2), (1.2, 1.21, 1.195, 1.2),  # just met
    (1.18, 1.185, 1.175, 1.18),  # gone through at the open
    (math.nan, 1.205, 1.195, 1.2), (1.2, math.nan, 1.195, 1.2), (1.2, 1.205, math.nan, 1.2), (1.2, 1.205, 1.195, math.nan),
    (1.2, 1.199, 1.195, 1.2),  # a bar that contradicts itself
])  # fmt: skip
def test_a_price_that_met_it_or_is_not_known_touches_it(at: tuple[float, ...]) -> None:
    assert not untouched(FILLED, STOP, TARGET, at=at)


@pytest.mark.parametrize("doubtful", [
    replace(STOP, state=OrderState.UNKNOWN), replace(STOP, state=OrderState.PENDING_CANCEL),
    replace(STOP, state=OrderState.PARTIALLY_FILLED), replace(STOP, state=OrderState.INITIALIZED),
    replace(STOP, content={**STOP.content, "time_in_force": "day"}), replace(STOP, order_type=OrderType.TRAILING_STOP),
    replace(STOP, order_type=OrderType.STOP_LIMIT, limit_price=1.18), replace(STOP, order_type=OrderType.MARKET),
    replace(STOP, stop_price=None), replace(STOP, content={**STOP.content, "meta": {"algo": {"kind": "twap"}}}),
])  # fmt: skip
def test_whatever_is_not_known_for_certain_counts_as_touched(doubtful: OrderRecord) -> None:
    assert not untouched(FILLED, doubtful)


def test_a_position_of_several_trades_or_of_another_size_counts_as_touched() -> None:
    assert not untouched(FILLED, STOP, **{TRADE: 500.0, "int-late": 500.0})
    assert not untouched(FILLED, STOP, **{TRADE: 500.0})


def test_without_a_bar_or_a_strategy_it_counts_as_touched() -> None:
    whole = bar("EURUSD", 1, 1.2, 1.205, 1.195, 1.2)
    assert is_untouched(POSITION, book(FILLED, STOP), Plain(), [whole])  # type: ignore[arg-type]
    assert not is_untouched(POSITION, book(FILLED, STOP), Plain(), [])  # type: ignore[arg-type]
    assert not is_untouched(POSITION, book(FILLED, STOP), None, [whole])


PRICE = st.integers(1, 12).map(lambda n: n / 4)


@settings(max_examples=400)
@given(st.sampled_from([OrderType.STOP, OrderType.LIMIT]), st.sampled_from(list(Side)), PRICE, PRICE, PRICE, PRICE, PRICE)
def test_the_backtests_matching_fills_nothing_that_is_untouched(
    kind: OrderType, side: Side, level: float, opened: float, one: float, other: float, closed: float
) -> None:
    high, low = max(opened, one, other, closed), min(opened, one, other, closed)
    resting = order(kind, side, **{"stop_price" if kind is OrderType.STOP else "limit_price": level})
    stop, limit = (level, math.nan) if kind is OrderType.STOP else (math.nan, level)
    price, triggered = matching.match_bar(
        matching.ORDER_TYPE_CODES[kind.value], side.sign, limit, stop, False, opened, high, low, closed
    )
    reached = not math.isnan(price) or triggered
    assert untouched(resting, at=(opened, high, low, closed)) is not reached
