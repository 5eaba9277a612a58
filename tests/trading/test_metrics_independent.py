"""The figures once more: by empyrical, a library of performance figures, and in pandas, written from their definitions."""

from __future__ import annotations

import math

import empyrical
import numpy as np
import pandas as pd
import pytest

from tests.trading.backtest_kit import bars_of, make, run, wishes
from trading import metrics, trade_metrics
from trading.backtest import backtest
from trading.instruments import Instrument

YEAR = 252.0


def curve(seed: int) -> np.ndarray:  # type: ignore[type-arg]
    returns = np.random.default_rng(seed).standard_t(4, 750) * 0.01 + 0.0003
    return 100_000.0 * np.cumprod(1 + returns)


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_the_curve_are_those_of_empyrical(seed: int) -> None:
    equity = curve(seed)
    none = np.empty(0)
    ours = metrics.measure(equity, 100_000.0, none, periods_per_year=YEAR, bars_held=0, bars_total=750, traded_value=0.0)
    returns = pd.Series(np.concatenate([[100_000.0], equity])).pct_change().dropna()
    expected = {
        "total_return": empyrical.cum_returns_final(returns),
        "cagr": empyrical.cagr(returns, annualization=YEAR),
        "sharpe": empyrical.sharpe_ratio(returns, annualization=YEAR),
        "sortino": empyrical.sortino_ratio(returns, annualization=YEAR),
        "max_drawdown": -empyrical.max_drawdown(returns),
        "calmar": empyrical.calmar_ratio(returns, annualization=YEAR),
    }
    for name, value in expected.items():
        assert getattr(ours, name) == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_the_curve_are_those_of_pandas(seed: int) -> None:
    equity = curve(seed)
    pnl = np.random.default_rng(seed + 99).normal(5, 100, 40)
    ours = metrics.measure(equity, 100_000.0, pnl, periods_per_year=YEAR, bars_held=500, bars_total=750, traded_value=2_000_000.0)
    series = pd.Series(np.concatenate([[100_000.0], equity]))
    returns = series.pct_change().dropna()
    growth = (series.iloc[-1] / series.iloc[0]) ** (YEAR / len(returns)) - 1
    drawdown = 1 - series / series.cummax()
    below = drawdown > 0
    longest = below.groupby((~below).cumsum()).sum().max()
    trades = pd.Series(pnl)
    expected = {
        "total_return": series.iloc[-1] / series.iloc[0] - 1,
        "cagr": growth,
        "sharpe": returns.mean() / returns.std(ddof=1) * math.sqrt(YEAR),
        "sortino": returns.mean() / math.sqrt((returns.clip(upper=0) ** 2).mean()) * math.sqrt(YEAR),
        "max_drawdown": drawdown.max(),
        "max_drawdown_bars": longest,
        "calmar": growth / drawdown.max(),
        "trades": 40,
        "win_rate": (trades > 0).mean(),
        "average_win": trades[trades > 0].mean(),
        "average_loss": trades[trades < 0].mean(),
        "profit_factor": trades.clip(lower=0).sum() / -trades.clip(upper=0).sum(),
        "expectancy": trades.mean(),
        "net_profit": trades.sum(),
        "profit": series.iloc[-1] - 100_000.0,
        "exposure": 500 / 750,
        "turnover": 2_000_000.0 / series.iloc[1:].mean() / (750 / YEAR),
    }
    for name, value in expected.items():
        assert getattr(ours, name) == pytest.approx(value, rel=1e-9), name


def test_the_compiled_walk_and_the_single_formulas_agree_on_flat_and_rising_curves() -> None:
    for equity in (np.full(50, 100.0), 100.0 * 1.01 ** np.arange(1, 50), np.array([120.0]), np.array([50.0, -10.0, 5.0])):
        ours = metrics.measure(
            equity, 100.0, np.empty(0), periods_per_year=YEAR, bars_held=0, bars_total=1, traded_value=0.0
        )  # fmt: skip
        returns = metrics.simple_returns(equity, 100.0)
        returns = returns[np.isfinite(returns)]
        assert ours.sharpe == pytest.approx(metrics.sharpe(returns, YEAR), nan_ok=True)
        assert ours.sortino == pytest.approx(metrics.sortino(returns, YEAR), nan_ok=True)
        assert (ours.max_drawdown, ours.max_drawdown_bars) == pytest.approx(metrics.max_drawdown(equity, 100.0))


WAY = bars_of("""
    100 101  99 100
    100 104  98 103
    103 107 101 105
    105 106  95  96
     96  97  90  91
""")


def test_excursions_by_hand_exit_bar_at_its_price_only() -> None:
    # Long from 100 on day 1, out at the open of day 4 (96): highs 104, 107, 106, lows 98, 101, 95.
    result = run(WAY, wishes(WAY, enter_long={0: True}, exit_long={3: True}))
    e = result.excursions()
    assert (e.mfe.tolist(), e.mae.tolist()) == ([7.0], [5.0])
    assert (e.mfe_value.tolist(), e.mae_value.tolist()) == ([70.0], [50.0])
    short = run(WAY, wishes(WAY, enter_short={2: True}, exit_short={3: True})).excursions()
    # Short from 105 on day 3, out at 96: high 106, low 95 of the entry bar.
    assert (short.mfe.tolist(), short.mae.tolist()) == ([10.0], [1.0])


def test_exposures_are_units_times_close() -> None:
    made = make()
    result = backtest(
        [wishes(WAY, enter_long={0: True}, exit_long={2: True}), wishes(WAY, enter_short={1: True})], [WAY, WAY], [made, made],
        cash=10_000.0, sizing={"kind": "fixed", "quantity": 10}, strategy=["a", "b"],
    )  # fmt: skip
    exposures = result.exposures()
    assert exposures["gross"].tolist() == [0.0, 1030.0, 2100.0, 960.0, 910.0]
    assert exposures["net"].tolist() == [0.0, 1030.0, 0.0, -960.0, -910.0]


def test_trades_by_hour_and_by_regime_are_the_groups_of_pandas() -> None:
    instrument: Instrument = make()
    result = run(
        WAY, wishes(WAY, enter_long={0: True, 2: True}, exit_long={1: True, 3: True}), instrument=instrument,
    )  # fmt: skip
    table = pd.DataFrame(result.trades.rows())
    times = WAY.close_time[[0, 2]]
    by_regime = result.by_regime(times, ["calm", "wild"])
    table["regime"] = ["calm", "wild"]
    for name, group in table.groupby("regime"):
        assert by_regime[str(name)].net_profit == pytest.approx(group.pnl.sum())
        assert by_regime[str(name)].trades == len(group)
    hours = pd.to_datetime(table.entry_time).dt.tz_convert("America/New_York").dt.strftime("%H")
    assert set(result.by_hour("America/New_York")) == set(hours)
    assert trade_metrics.labels_at(np.array([5]), np.array([7]), ["x"]) == ["unknown"]
