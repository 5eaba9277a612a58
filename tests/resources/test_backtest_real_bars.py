"""Backtests on real bars, trade by trade: a split, a half day, an expiry and a roll, each explained where it happens."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import numpy as np
import pytest

from resources.feeds.lean import LeanFeed
from tests.paths import lean_data
from tests.trading.backtest_kit import wishes
from trading.backtest import BacktestResult, OrderRules, backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.costs import Costs
from trading.instruments import ActionSource, AssetClass, FutureTerms, Instrument
from trading.rolls import roll_actions
from trading.timeframes import Timeframe, session_number

M1 = Timeframe.M1
FIXED = {"kind": "fixed", "quantity": 100}


@pytest.fixture
def lean() -> LeanFeed:
    return LeanFeed(lean_data())


def stock(symbol: str) -> Instrument:
    feed_symbol = f"equity/usa/{symbol.lower()}"
    return Instrument(
        symbol, AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "lean", feed_symbol, M1, actions=ActionSource.LEAN
    )


def future(symbol: str, feed_symbol: str, terms: FutureTerms) -> Instrument:
    return Instrument(
        symbol, AssetClass.FUTURE, "CMES", Decimal("0.25"), "USD", "lean", feed_symbol, M1, multiplier=Decimal(50), future=terms
    )  # fmt: skip


def at(bars: Bars, minute: str) -> int:
    """Row of the bar closing at ``2014-06-06T19:58`` UTC."""
    time = int(np.datetime64(minute, "us").astype(np.int64))
    row = int(np.searchsorted(bars.close_time, time))
    assert bars.close_time[row] == time
    return row


def told(result: BacktestResult) -> list[tuple[str, str, float, float, str]]:
    return [(f["time"][:16], f["side"], f["quantity"], f["price"], f["leg"]) for f in result.fill_rows()]


def test_apple_over_its_seven_for_one_split_of_9_june_2014(lean: LeanFeed) -> None:
    apple = stock("AAPL")
    bars = lean.history(apple, M1, date(2014, 6, 5), date(2014, 6, 9))
    row = at(bars, "2014-06-06T19:58")
    result = backtest(
        wishes(bars, enter_long={row: True}, stop_long={row: 644.0}), bars, apple, cash=100_000.0, sizing=FIXED,
        actions={"AAPL": lean.actions(apple)}, require_stop=True,
    )  # fmt: skip
    assert told(result) == [
        # Decided at 15:58 New York on Friday, bought at the open of the next minute.
        ("2014-06-06T19:59", "buy", 100.0, 645.45, "entry"),
        # On Monday 100 shares at 645.57 have become 700 at 92.22, the stop of 644.00 has become 92.00, and the morning's
        # fall reaches it: the bar opened above it, so that it fills at its level.
        ("2014-06-09T14:15", "sell", 700.0, 92.0, "stop"),
    ]
    assert result.trades.pnl.tolist() == [pytest.approx(700 * 92.0 - 100 * 645.45)]  # -145.00
    assert result.trades.entry_price[0] == pytest.approx(645.45 / 7)
    # The curve knows nothing of a fall from 645 to 92: its largest step is the half per cent of that weekend.
    steps = np.abs(np.diff(result.equity))
    assert steps.max() == pytest.approx(700 * 92.72 - 100 * 645.57)  # 347.00 at Monday's first close
    # The same without the action would be "stopped" at Monday's open, a loss of 55,276 that nobody had.
    blind = backtest(wishes(bars, enter_long={row: True}, stop_long={row: 644.0}), bars, apple, cash=1e5, sizing=FIXED)
    assert told(blind)[1] == ("2014-06-09T13:31", "sell", 100.0, 92.69, "stop")


def test_google_on_the_half_day_before_christmas_2015(lean: LeanFeed) -> None:
    google = stock("GOOG")
    bars = lean.history(google, M1, date(2015, 12, 23), date(2015, 12, 28))

    def run(*minutes: str) -> BacktestResult:
        evaluation = wishes(bars, enter_long=dict.fromkeys([at(bars, m) for m in minutes], True))
        return backtest(evaluation, bars, google, cash=1e5, sizing=FIXED, orders=OrderRules(flat_at_session_end=True))

    result = run("2015-12-23T20:57", "2015-12-24T17:57")
    assert told(result) == [
        # A whole day: the session ends at 16:00 New York (21:00 UTC), its last minute opens at 20:59.
        ("2015-12-23T20:58", "buy", 100.0, 749.86, "entry"),
        ("2015-12-23T21:00", "sell", 100.0, 749.48, "session_end"),
        # The half day ends at 13:00 (18:00 UTC): out at the open of 17:59, not on Monday at 752.92.
        ("2015-12-24T17:58", "buy", 100.0, 748.26, "entry"),
        ("2015-12-24T18:00", "sell", 100.0, 747.93, "session_end"),
    ]
    # The wish at 17:59 could only have been filled in the last minute of the day.
    assert run("2015-12-24T17:59").refusals == {"SESSION_CLOSED": 1}


def test_a_december_contract_on_the_day_it_expires(lean: LeanFeed) -> None:
    december = future("ESZ3", "future/cme/es/20131220", FutureTerms("ES", date(2013, 12, 20)))
    bars = lean.history(december, M1, date(2013, 12, 18), date(2013, 12, 20))
    expiry = CorporateAction("ESZ3", ActionKind.DELISTING, session_number(date(2013, 12, 23)), 0)
    rows = {at(bars, "2013-12-20T14:27"): True, at(bars, "2013-12-20T14:30"): True}
    result = backtest(
        wishes(bars, enter_long=rows), bars, december, cash=100_000.0, sizing={"kind": "fixed", "quantity": 1},
        costs=Costs("per_contract", 2.0), actions={"ESZ3": [expiry]},
    )  # fmt: skip
    assert told(result) == [
        ("2013-12-20T14:28", "buy", 1.0, 1811.75, "entry"),
        # The contract stops trading at 08:30 Chicago: the position ends at its last price.
        ("2013-12-20T14:30", "sell", 1.0, 1810.25, "delisted"),
    ]
    assert result.trades.pnl.tolist() == [pytest.approx(50 * (1810.25 - 1811.75) - 4.0)]
    assert result.refusals == {"NOT_TRADABLE": 1}


def test_a_position_in_the_continuous_future_goes_over_into_march(lean: LeanFeed) -> None:
    es = future("ES", "future/cme/es", FutureTerms("ES"))
    bars = lean.history(es, M1, date(2013, 12, 2), date(2013, 12, 20))
    rolls = roll_actions("ES", lean.roll_table(es), calendar("CMES"), "lean")
    enter, leave = at(bars, "2013-12-03T23:59"), at(bars, "2013-12-18T00:02")
    evaluation = wishes(bars, enter_long={enter: True}, stop_long={enter: 1765.0}, exit_long={leave: True})
    costs = Costs("per_contract", 2.0, slippage_kind="fixed", value=1)

    def run(with_rolls: bool) -> BacktestResult:
        return backtest(
            evaluation, bars, es, cash=100_000.0, sizing={"kind": "fixed", "quantity": 1}, costs=costs,
            actions={"ES": rolls if with_rolls else []}, detail=True,
        )  # fmt: skip

    result = run(True)
    out = float(bars.open[leave + 1]) - 0.25
    assert told(result) == [
        # December at 1791.75 and a tick.
        ("2013-12-04T00:00", "buy", 1.0, 1792.0, "entry"),
        # On the 16th more was traded in March, which stands 6.25 lower (1768.75 to 1775.00). The sample has no bars of that
        # day: before the first bar of March, December is sold at its last price of 1792.00 and March bought at 1785.75, each
        # a tick worse.
        ("2013-12-18T00:01", "sell", 1.0, 1791.75, "roll"),
        ("2013-12-18T00:01", "buy", 1.0, 1786.0, "entry"),
        # The exit rule of 00:02, at the next minute's open less a tick. The stop of 1765 stood at 1758.75 by then.
        ("2013-12-18T00:03", "sell", 1.0, out, "rule"),
    ]
    expected = 50 * ((1791.75 - 1792.0) + (out - 1786.0)) - 4 * 2.0
    assert result.trades.pnl.sum() == pytest.approx(expected)
    assert result.equity[-1] == pytest.approx(100_000 + expected)
    # Without the roll the step between two contracts would count as a loss of 6.25 points that nobody had.
    blind = run(False).trades.pnl.sum()
    assert expected - blind == pytest.approx(50 * (6.25 - 2 * 0.25) - 2 * 2.0)


def test_the_same_bars_in_the_general_lane_give_the_plain_lanes_trades(lean: LeanFeed) -> None:
    apple = stock("AAPL")
    bars = lean.history(apple, M1, date(2014, 6, 5), date(2014, 6, 6))
    above = bars.close > np.convolve(bars.close, np.ones(20) / 20)[: len(bars)]
    evaluation = replace(
        wishes(bars), enter_long=above, exit_long=~above, stop_long=np.round(bars.close * 0.999, 2),
        target_long=np.round(bars.close * 1.002, 2),
    )  # fmt: skip
    plain, detailed = (
        backtest(evaluation, bars, apple, cash=100_000.0, sizing=FIXED, costs=Costs(rate=0.005), detail=d) for d in (False, True)
    )
    assert len(plain.trades) > 20
    assert plain.trades.rows() == detailed.trades.rows()
    np.testing.assert_allclose(plain.equity, detailed.equity, rtol=1e-12)
