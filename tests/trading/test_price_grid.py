"""Whole arrays of prices round exactly as one price does."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.trading.samples import universe
from trading.price_grid import on_grid

TICKS = ["0.01", "0.00001", "0.25", "0.05", "1", "0.03125", "5", "0.0025"]


@pytest.mark.parametrize("tick", TICKS)
@given(price=st.floats(-1e7, 1e7, allow_nan=False))
@example(price=1.005)
@example(price=2.675)
@example(price=0.125)
@example(price=1.195005)
@example(price=-0.005)
def test_a_price_in_an_array_rounds_as_round_price_rounds_it(tick: str, price: float) -> None:
    instrument = dataclasses.replace(universe().instruments["EURUSD"], tick_size=Decimal(tick))
    assert on_grid(np.array([price]), instrument)[0] == instrument.round_price(price)


@pytest.mark.parametrize("tick", TICKS)
@given(ticks=st.integers(-10_000_000, 10_000_000))
def test_the_middle_between_two_ticks_goes_where_round_price_puts_it(tick: str, ticks: int) -> None:
    instrument = dataclasses.replace(universe().instruments["EURUSD"], tick_size=Decimal(tick))
    middle = float((Decimal(ticks) + Decimal("0.5")) * Decimal(tick))
    assert on_grid(np.array([middle]), instrument)[0] == instrument.round_price(middle)


def test_what_is_no_number_stays_none() -> None:
    values = on_grid(np.array([np.nan, 1.234, np.nan]), universe().instruments["SPX"])
    assert np.isnan(values[[0, 2]]).all()
    assert values[1] == 1.23
