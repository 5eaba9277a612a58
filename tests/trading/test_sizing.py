"""Sizes: what the rule says, rounded down to the lot, never more."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.instruments import AssetClass, Instrument
from trading.sizing import SIZING_KINDS, floor_to_lot, parse_sizing, size
from trading.timeframes import Timeframe


def instrument(lot: str = "1", multiplier: str = "1") -> Instrument:
    return Instrument(
        "X", AssetClass.FUTURE, "CMES", Decimal("0.25"), "USD", "f", "X", Timeframe.D1,
        lot_size=Decimal(lot), multiplier=Decimal(multiplier),
    )  # fmt: skip


money = st.floats(1, 1e7)
prices = st.integers(1, 100_000).map(lambda n: n / 4)
lots = st.sampled_from(["1", "100", "0.01", "0.001", "1000", "25"])
noise = 1e-9  # of a lot: what float arithmetic of a rule that comes out even may lose


def sized(rule: dict, lot: str = "1", multiplier: str = "1", **values: float) -> float:  # type: ignore[type-arg]
    given_values = {"equity": 100_000.0, "reference_price": 50.0, "stop_price": 48.0, **values}
    return size(rule, instrument=instrument(lot, multiplier), **given_values)


def test_each_kind_by_hand() -> None:
    assert sized({"kind": "fixed", "quantity": 7}) == 7
    assert sized({"kind": "notional", "amount": 1020}) == 20
    assert sized({"kind": "percent_equity", "percent": 10}) == 200
    assert sized({"kind": "risk_percent", "percent": 1}) == 500  # 1000 at risk, 2 a share
    assert sized({"kind": "risk_percent", "percent": 1}, multiplier="50") == 10
    assert sized({"kind": "risk_percent", "percent": 1}, stop_price=52.0) == 500  # a short's stop is above
    assert sized({"kind": "notional", "amount": 1000}, fx_rate=2.0) == 10


@given(st.floats(0.01, 100), money, prices, prices, lots, st.sampled_from(["1", "50"]))
def test_a_loss_at_the_stop_is_never_more_than_the_risk(
    percent: float, equity: float, price: float, stop: float, lot: str, multiplier: str
) -> None:
    rule = {"kind": "risk_percent", "percent": percent}
    quantity = sized(rule, lot, multiplier, equity=equity, reference_price=price, stop_price=stop)
    unit = abs(price - stop) * float(multiplier)
    assert quantity * unit <= equity * percent / 100 + unit * float(lot) * noise * 1.01 + equity * 1e-12


@given(money, prices, lots)
def test_a_notional_is_never_exceeded_and_less_than_a_lot_is_left(amount: float, price: float, lot: str) -> None:
    quantity = sized({"kind": "notional", "amount": amount}, lot, reference_price=price)
    slack = price * float(lot) * noise * 1.01 + amount * 1e-12
    assert quantity * price <= amount + slack
    assert (quantity + float(lot)) * price > amount - slack


@given(st.floats(0, 1e9), lots)
def test_a_size_is_a_whole_number_of_lots(quantity: float, lot: str) -> None:
    rounded = floor_to_lot(quantity, float(lot))
    count = round(rounded / float(lot))
    assert rounded == pytest.approx(float(count * Decimal(lot)), rel=1e-15)
    assert instrument(lot).round_quantity_down(rounded + float(lot) / 2) == pytest.approx(rounded, rel=1e-15)


def test_what_comes_out_even_is_not_lost_to_float_noise() -> None:
    assert sized({"kind": "fixed", "quantity": 0.29}, "0.01") == 0.29
    assert sized({"kind": "fixed", "quantity": 0.7}, "0.1") == 0.7


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"stop_price": math.nan}, "no stop"),
        ({"stop_price": 50.0}, "no distance"),
        ({"equity": -5.0}, "no equity"),
        ({"equity": math.nan}, "unknown equity"),
        ({"equity": 1.0}, "less than a lot"),
    ],
)
def test_a_risk_size_that_cannot_be_said_is_zero(values: dict[str, float], why: str) -> None:
    assert sized({"kind": "risk_percent", "percent": 1}, **values) == 0, why


def test_no_size_is_infinite() -> None:
    assert sized({"kind": "fixed", "quantity": 1e308}, "0.001") == 0
    assert sized({"kind": "risk_percent", "percent": 1}, equity=1e308, reference_price=1e-300, stop_price=0.0) == 0


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "expected one of fixed, notional, percent_equity, risk_percent"),
        ({"kind": "martingale"}, "sizing kind 'martingale'"),
        ({"kind": "kelly", "fraction": 0.5}, "sizing kelly: becomes a plain rule"),
        ({"kind": "fixed"}, "quantity is None, expected a positive number"),
        ({"kind": "fixed", "quantity": True}, "quantity is True"),
        ({"kind": "notional", "amount": -1}, "amount is -1"),
        ({"kind": "risk_percent", "percent": math.inf}, "percent is inf"),
        ({"kind": "fixed", "quantity": 1, "percent": 2}, "unknown key 'percent', expected only quantity"),
    ],
)
def test_a_malformed_rule_names_what_is_wrong(rule: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        parse_sizing(rule)


def test_every_kind_parses() -> None:
    for kind, (code, name) in SIZING_KINDS.items():
        assert parse_sizing({"kind": kind, name: 2}) == (code, 2.0)
