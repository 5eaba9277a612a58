"""What must hold in any backtest, whatever its orders, costs and accidents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.resources.test_paper_parity import ENTRIES, market, random_wishes
from tests.trading.backtest_kit import TEN, make
from trading.backtest import BacktestResult, Margin, Target, backtest
from trading.bars import Bars
from trading.corporate_actions import ActionKind, CorporateAction
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.matching import with_slippage

cases = st.tuples(
    st.integers(0, 2**31), st.sampled_from(sorted(ENTRIES)), st.sampled_from([None, 0.6]),
    st.sampled_from([(), (Target(0.4, reward=0.7), Target(0.6, reward=1.5))]), st.sampled_from([0.0, 0.03]),
    st.sampled_from([None, Margin(0.6, 0.5)]), st.booleans(),
)  # fmt: skip


def options(case: tuple[Any, ...]) -> dict[str, Any]:
    _, entry, trail, targets, participation, margin, accidents = case
    actions = [
        CorporateAction("X", ActionKind.SPLIT, 15, 0, 2.0), CorporateAction("X", ActionKind.DIVIDEND, 25, 0, 1.01, 0.2),
        CorporateAction("X", ActionKind.ROLL, 35, 0, 0.99, 0.4),
    ]  # fmt: skip
    return {
        "orders": replace(ENTRIES[entry], trail=trail, targets=targets, valid_bars=5),
        "costs": Costs("per_share", 0.01, 0.5, "sqrt_volume", 0.01, participation, 0.05), "margins": margin,
        "actions": {"X": actions} if accidents else None, "cash": 900.0, "sizing": TEN, "detail": True,
    }  # fmt: skip


def run(case: tuple[Any, ...], until: int | None = None) -> tuple[BacktestResult, Bars]:
    bars = market(case[0], 50)
    evaluation = random_wishes(bars, case[0] + 1)
    if until is not None:
        names = [n for n in Evaluation.__slots__ if isinstance(getattr(evaluation, n), np.ndarray)]
        evaluation = replace(evaluation, **{n: getattr(evaluation, n)[:until] for n in names})
        bars = bars.rows(slice(0, until))
    return backtest(evaluation, bars, make(), **options(case)), bars


@settings(max_examples=60)
@given(cases)
def test_cash_and_position_are_the_equity_and_profits_add_up_to_it(case: tuple[Any, ...]) -> None:
    result, bars = run(case)
    fills = result.fills_made
    assert fills is not None
    cash = 900.0 - float(np.sum(fills["quantity"] * fills["price"] + fills["commission"]))
    cash += result.dividends - result.borrow_paid
    still = ~result.trades.closed
    held = float(result.trades.quantity[still].sum())
    marks = result.trades.exit_price[still]
    worth = float(held * marks[0]) if len(marks) else 0.0
    # A split changes the units between fills, so that only the run's own equity tells what is held.
    assert result.equity[-1] == pytest.approx(900.0 + result.trades.pnl.sum())
    assert result.equity[-1] == pytest.approx(cash + worth)
    assert result.exposures()["net"][-1] == pytest.approx(worth)
    if len(marks):
        assert marks[0] == bars.close[-1]


@settings(max_examples=60)
@given(cases)
def test_fills_never_exceed_their_orders_nor_the_bars_share(case: tuple[Any, ...]) -> None:
    result, bars = run(case)
    for order in result.order_rows():
        assert 0 <= order["filled"] <= order["quantity"] * (1 + 1e-9)
    fills, cap = result.fills_made, case[4]
    assert fills is not None
    row = np.searchsorted(bars.close_time, fills["time"])
    ordinary = ~np.isin(fills["reason"], [8, 9]) & ~((fills["reason"] == 0) & np.isin(fills["time"], _roll_times(fills)))
    if cap:
        assert (np.abs(fills["quantity"])[ordinary] <= cap * bars.volume[row[ordinary]] * (1 + 1e-9)).all()


def _roll_times(fills: Any) -> Any:
    return fills["time"][fills["reason"] == 8]


@settings(max_examples=60)
@given(cases)
def test_every_fill_is_a_price_of_its_bar_before_slippage(case: tuple[Any, ...]) -> None:
    result, bars = run(case)
    for fill in result.fills_made if result.fills_made is not None else []:
        if fill["reason"] in (8, 9) or case[6]:
            continue
        i = int(np.searchsorted(bars.close_time, fill["time"]))
        side = 1 if fill["quantity"] > 0 else -1
        worst = with_slippage(
            float(bars.high[i] if side > 0 else bars.low[i]), side, 3, 0.01, 0.01, abs(fill["quantity"]), bars.volume[i]
        )
        best = float(bars.low[i] if side > 0 else bars.high[i])
        assert (best - fill["price"]) * side <= 1e-9
        assert (fill["price"] - worst) * side <= 1e-9


@settings(max_examples=40)
@given(cases, st.integers(1, 49))
def test_what_happens_later_never_changes_what_happened(case: tuple[Any, ...], cut: int) -> None:
    (whole, bars), (part, _) = run(case), run(case, cut)
    np.testing.assert_array_equal(part.equity, whole.equity[:cut])
    last = int(bars.close_time[cut - 1])
    assert whole.fills_made is not None
    assert part.fills_made is not None
    mine = whole.fills_made[whole.fills_made["time"] <= last]
    assert mine.tolist() == part.fills_made.tolist()


@settings(max_examples=40)
@given(cases)
def test_exposures_are_never_more_than_one_position(case: tuple[Any, ...]) -> None:
    result, _ = run(case)
    exposure = result.exposures()
    np.testing.assert_allclose(exposure["gross"], np.abs(exposure["net"]))
