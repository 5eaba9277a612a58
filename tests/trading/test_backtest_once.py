"""Slots that enter one time only, and actions that are told by their value alone: worked out by hand."""

from __future__ import annotations

import math

import pytest

from tests.trading.backtest_kit import bars_of, run, told, wishes
from trading.backtest import OrderRules
from trading.corporate_actions import ActionKind, CorporateAction
from trading.orders import OrderType

BARS = bars_of("100 101 99 100\n 100 102 98 101\n 101 104 100 103\n 103 107 102 106\n 106 108 103 104\n 104 105 99 100")


@pytest.mark.parametrize("detail", [False, True], ids=["plain lane", "general lane"])
def test_a_slot_that_enters_once_wants_nothing_more_after_its_first_fill(detail: bool) -> None:
    evaluation = wishes(BARS, enter_long={0: True, 2: True, 3: True}, exit_long={1: True})
    once = run(BARS, evaluation, once=True, detail=detail)
    assert told(once) == [(1, "buy", 10, 100.0, "entry"), (2, "sell", 10, 101.0, "rule")]
    assert once.refusals == {}
    again = run(BARS, evaluation, once=False, detail=detail)
    assert [f[0] for f in told(again)][2:] == [3]


def test_an_order_that_was_never_filled_has_not_entered() -> None:
    rules = OrderRules(entry=OrderType.LIMIT, limit=5.0, valid_bars=1)
    evaluation = wishes(BARS, enter_long={0: True, 4: True})
    assert told(run(BARS, evaluation, orders=rules, once=True)) == [(5, "buy", 10, 99.0, "entry")]


def test_a_dividend_is_paid_by_its_amount_and_a_spin_off_by_the_value_before_it() -> None:
    evaluation = wishes(BARS, enter_long={0: True}, stop_long={0: 90.0})
    dividend = CorporateAction("X", ActionKind.DIVIDEND, int(BARS.session[3]), 0, math.nan, 0.5)
    paid = run(BARS, evaluation, actions={"X": [dividend]})
    assert paid.dividends == 5.0
    assert paid.equity[-1] == 10_005.0
    # Day 2 closes at 103; a company worth 10.30 of it is spun off: the factor is 103 / 92.70.
    spun = run(
        BARS, evaluation, actions={"X": [CorporateAction("X", ActionKind.SPIN_OFF, int(BARS.session[3]), 0, math.nan, 10.3)]}
    )
    assert spun.dividends == pytest.approx(103.0)
