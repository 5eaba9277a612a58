"""Performance figures against numbers worked out by hand and against their own definitions."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading import metrics as m

EQUITY = np.array([110.0, 99.0, 108.9, 108.9])  # from 100: +10 %, -10 %, +10 %, 0
curves = st.lists(st.floats(50, 200), min_size=2, max_size=40).map(lambda values: np.array(values))


def test_returns_begin_at_the_starting_cash() -> None:
    np.testing.assert_allclose(m.simple_returns(EQUITY, 100.0), [0.1, -0.1, 0.1, 0.0], atol=1e-12)


def test_return_and_growth_by_hand() -> None:
    assert m.total_return(EQUITY, 100.0) == pytest.approx(0.089)
    assert m.cagr(EQUITY, 100.0, 4) == pytest.approx(0.089)  # four values are the year
    assert m.cagr(EQUITY, 100.0, 8) == pytest.approx(1.089**2 - 1)
    assert m.cagr(np.array([50.0, -1.0]), 100.0, 252) == -1.0


def test_sharpe_and_sortino_by_hand() -> None:
    returns = m.simple_returns(EQUITY, 100.0)
    assert m.sharpe(returns, 252) == pytest.approx(0.025 / statistics.stdev([0.1, -0.1, 0.1, 0.0]) * math.sqrt(252))
    assert m.sortino(returns, 252) == pytest.approx(0.025 / math.sqrt(0.01 / 4) * math.sqrt(252))


def test_rates_without_a_value_are_nan_not_zero() -> None:
    flat = np.zeros(5)
    assert math.isnan(m.sharpe(flat, 252))
    assert math.isnan(m.sharpe(np.full(5, 0.01), 252))
    assert math.isnan(m.sortino(np.full(5, 0.01), 252))
    assert math.isnan(m.calmar(0.1, 0.0))
    assert math.isnan(m.total_return(np.empty(0), 100.0))
    assert math.isnan(m.trade_figures(np.empty(0)).win_rate)
    assert math.isnan(m.trade_figures(np.array([1.0])).profit_factor)


def test_drawdown_depth_and_duration_by_hand() -> None:
    assert m.max_drawdown(EQUITY, 100.0) == (pytest.approx(0.1), 3)  # below 110 from the second value to the last
    assert m.max_drawdown(np.array([90.0, 100.0, 120.0]), 100.0) == (pytest.approx(0.1), 1)  # below the starting cash
    assert m.max_drawdown(np.array([100.0, 101.0]), 100.0) == (0.0, 0)


@given(curves)
def test_drawdown_is_the_worst_fall_from_any_earlier_high(curve: np.ndarray) -> None:  # type: ignore[type-arg]
    values = [100.0, *curve]
    worst = max(1 - later / max(values[: i + 1]) for i, later in enumerate(values))
    assert m.max_drawdown(curve, 100.0)[0] == pytest.approx(worst, abs=1e-12)


@given(curves, st.floats(0.1, 10))
def test_figures_do_not_depend_on_the_currency(curve: np.ndarray, rate: float) -> None:  # type: ignore[type-arg]
    def measured(scale: float) -> m.Metrics:
        return m.measure(
            curve * scale, 100.0 * scale, np.array([5.0, -3.0]) * scale, periods_per_year=252, bars_held=3, bars_total=10,
            traded_value=1000.0 * scale,
        )  # fmt: skip

    one, other = measured(1.0), measured(rate)
    for name in ("total_return", "cagr", "max_drawdown", "win_rate", "profit_factor", "exposure", "turnover"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6, abs=1e-9, nan_ok=True)


def test_trade_figures_by_hand() -> None:
    figures = m.trade_figures(np.array([10.0, -5.0, 20.0, 0.0, -10.0]))
    assert figures.trades == 5
    assert figures.win_rate == 0.4
    assert figures.average_win == 15.0
    assert figures.average_loss == -7.5
    assert figures.profit_factor == 2.0
    assert figures.expectancy == 3.0


def test_exposure_turnover_and_calmar_by_hand() -> None:
    measured = m.measure(
        EQUITY, 100.0, np.array([8.9]), periods_per_year=4, bars_held=3, bars_total=4, traded_value=2 * float(EQUITY.mean())
    )
    assert measured.exposure == 0.75
    assert measured.turnover == pytest.approx(2.0)  # twice the mean equity in one year
    assert measured.calmar == pytest.approx(0.089 / 0.1)
    assert measured.trades == 1
    assert set(measured.to_dict()) >= {"sharpe", "sortino", "periods_per_year"}


def test_annualisation_is_never_guessed() -> None:
    with pytest.raises(ValueError, match="expected how many equity values make a year"):
        m.measure(EQUITY, 100.0, np.empty(0), periods_per_year=0, bars_held=0, bars_total=4, traded_value=0.0)
