"""Backtests on real prices, each ledger worked out by hand from the bars that are quoted: a split, a reverse split, a half
day, an expiry, a roll; and the paper broker's book on the same bars, fill for fill."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from resources.brokers.paper_book import Book
from resources.brokers.protocol import OrderRequest
from resources.feeds.lean import LeanFeed
from resources.feeds.protocol import BarClose
from tests.paths import lean_data
from tests.resources.test_paper_parity import on_paper
from tests.trading.backtest_kit import wishes
from tests.trading.samples import universe
from trading.backtest import BacktestResult, OrderRules, backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.costs import Costs
from trading.instruments import AssetClass, FutureTerms, Instrument
from trading.orders import OrderType, Side, TimeInForce
from trading.plans import parse_plan
from trading.rolls import roll_actions
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe, session_date, session_number, to_us
from trading.universe import parse_universe

M1, D1 = Timeframe.M1, Timeframe.D1
A_TICK = Costs("per_share", 0.005, 1.0, "fixed", 1.0)
"""Half a cent a share, at least 1.00 a fill; one tick of slippage."""


def make(symbol: str, path: str, timeframe: Timeframe, kind: AssetClass = AssetClass.EQUITY, **changes: Any) -> Instrument:
    venue, tick = changes.pop("venue", "XNYS"), Decimal(changes.pop("tick", "0.01"))
    return Instrument(symbol, kind, venue, tick, "USD", "lean", path, timeframe, **changes)


AAPL = make("AAPL", "equity/usa/aapl", D1)
AIG = make("AIG", "equity/usa/aig", D1)
GOOG = make("GOOG", "equity/usa/goog", M1)
FUTURE: dict[str, Any] = {"kind": AssetClass.FUTURE, "venue": "CMES", "tick": "0.25", "multiplier": Decimal(50)}
ES_DECEMBER = make("ESZ3", "future/cme/es/20131220", M1, **FUTURE, future=FutureTerms("ES", date(2013, 12, 20)))
ES = make("ES", "future/cme/es", M1, **FUTURE, future=FutureTerms("ES"))


@pytest.fixture(scope="module")
def lean() -> LeanFeed:
    return LeanFeed(lean_data())


def read(feed: LeanFeed, instrument: Instrument, first: str, last: str) -> Bars:
    return feed.history(instrument, instrument.native_timeframe, date.fromisoformat(first), date.fromisoformat(last))


def day(bars: Bars, text: str) -> int:
    """Row of a daily bar."""
    return int(np.flatnonzero(bars.session == session_number(date.fromisoformat(text)))[0])


def minute(bars: Bars, text: str) -> int:
    """Row of the bar that closes then."""
    return int(np.flatnonzero(bars.close_time == to_us(datetime.fromisoformat(text)))[0])


def told(result: BacktestResult) -> list[tuple[str, str, float, float, float, str]]:
    """(time, side, quantity, price, commission, leg) of every fill."""
    return [
        (r["time"][:16], r["side"], r["quantity"], round(r["price"], 6), round(r["commission"], 6), r["leg"])
        for r in result.fill_rows()
    ]


class TestAppleAcrossItsSplit:
    """AAPL, 2014-06-09: seven new shares for one. The raw bars:

    06-05  646.25 649.35 642.61 647.35        06-10  94.64 95.05 93.57 94.25
    06-06  650.00 651.25 644.48 645.57        06-11  94.13 94.76 92.86 93.86
    06-09   92.69  93.88  91.75  93.70        06-12  94.04 94.12 91.90 92.26        06-13  92.18 92.44 90.88 91.28
    """

    @pytest.fixture
    def bars(self, lean: LeanFeed) -> Bars:
        return read(lean, AAPL, "2014-05-28", "2014-06-20")

    def test_shares_cost_and_stop_are_carried_and_nothing_is_earned_by_the_step(self, lean: LeanFeed, bars: Bars) -> None:
        entered, left = day(bars, "2014-06-05"), day(bars, "2014-06-12")
        wish = wishes(bars, enter_long={entered: True}, stop_long={entered: 630.05}, exit_long={left: True})
        result = backtest(
            wish, bars, AAPL, cash=100_000, sizing={"kind": "fixed", "quantity": 10}, costs=A_TICK,
            actions={"AAPL": lean.actions(AAPL)}, require_stop=True,
        )  # fmt: skip
        # Bought at the open of 06-06, 650.00 and a tick. The split makes 70 shares at 92.858571 of it and brings the stop of
        # 630.05 to 90.00 (90.007 on the grid, away from the price); the lowest low after is 90.88, so that it is never met.
        # Sold at the open of 06-13, 92.18 less a tick: 70 x 92.17 - 10 x 650.01 = -48.20, and 1.00 of commission each way.
        assert told(result) == [
            ("2014-06-06T20:00", "buy", 10, 650.01, 1.0, "entry"),
            ("2014-06-13T20:00", "sell", 70, 92.17, 1.0, "rule"),
        ]  # fmt: skip
        assert result.trades.pnl[0] == pytest.approx(70 * 92.17 - 10 * 650.01 - 2)
        marks = dict(zip([str(session_date(int(s))) for s in bars.session], result.equity, strict=True))
        assert marks["2014-06-06"] == pytest.approx(100_000 - 1 + 10 * (645.57 - 650.01))
        assert marks["2014-06-09"] == pytest.approx(100_000 - 1 + 70 * 93.70 - 10 * 650.01)

    def test_a_stop_from_before_the_split_is_met_after_it_at_its_new_level(self, lean: LeanFeed, bars: Bars) -> None:
        entered = day(bars, "2014-06-05")
        wish = wishes(bars, enter_long={entered: True}, stop_long={entered: 643.30})
        result = backtest(
            wish, bars, AAPL, cash=100_000, sizing={"kind": "fixed", "quantity": 10}, costs=A_TICK,
            actions={"AAPL": lean.actions(AAPL)},
        )  # fmt: skip
        # 643.30 lies below 06-06's low of 644.48. It is 91.90 of the new shares: 06-09 opens above (92.69) and trades down
        # to 91.75. Without the split the bar would have gapped through and "lost" 550 a share.
        assert told(result)[1] == ("2014-06-09T20:00", "sell", 70, 91.89, 1.0, "stop")
        assert result.trades.pnl[0] == pytest.approx(70 * 91.89 - 10 * 650.01 - 2)

    def test_the_paper_broker_ends_with_the_same_money(self, lean: LeanFeed, bars: Bars) -> None:
        entered = day(bars, "2014-06-05")
        wish = wishes(bars, enter_long={entered: True}, stop_long={entered: 643.30})
        result = backtest(
            wish, bars, AAPL, cash=100_000, sizing={"kind": "fixed", "quantity": 10}, costs=A_TICK,
            actions={"AAPL": lean.actions(AAPL)}, detail=True,
        )  # fmt: skip
        book, equity = Book("USD", 100_000.0), []
        for i in range(len(bars)):
            opened, _ = calendar("XNYS").bounds(int(bars.session[i]))
            if session_date(int(bars.session[i])) == date(2014, 6, 9):  # before the open: seven for one, the stop anew
                book.split("AAPL", 7.0, AAPL, opened)
                book.accept(_stop("stop2", 70.0, 91.90), "B4", opened)
            now = int(bars.close_time[i])
            o, h, low, c, v = (float(getattr(bars, n)[i]) for n in ("open", "high", "low", "close", "volume"))
            book.match(BarClose("AAPL", D1, now, int(bars.session[i]), o, h, low, c, v), opened, AAPL, A_TICK)
            if i == entered:
                book.accept(OrderRequest("entry", "AAPL", Side.BUY, 10.0, OrderType.MARKET, TimeInForce.GTC), "B1", now)
                book.accept(_stop("stop", 10.0, 643.30), "B2", now)
            held = book.positions["AAPL"]
            equity.append(book.cash + held.quantity * held.last_price)
        executions = [e.execution for e in book.events if e.execution is not None]
        assert [(x.side.value, x.quantity, round(x.price, 6), x.commission) for x in executions] == [
            (side, quantity, price, fee) for _, side, quantity, price, fee, _ in told(result)
        ]
        np.testing.assert_allclose(equity, result.equity, atol=1e-6)

    def test_a_plan_written_before_is_managed_across_it(self, lean: LeanFeed, bars: Bars) -> None:
        plan, problems = parse_plan(APPLE_PLAN, "apple.yaml", universe())
        assert plan is not None, problems
        result = backtest(
            plan, {"AAPL": {D1: bars}}, {"AAPL": AAPL}, cash=100_000, costs=A_TICK, actions={"AAPL": lean.actions(AAPL)},
            require_stop=True,
        )  # fmt: skip
        # 06-04 closes at 644.82, above 640: 20 shares at 06-05's open of 646.25 and a tick. The risk is 646.26 - 630 = 16.26.
        # 06-09, after the split: 140 shares, stop 90.00, target 665 = 95.00. The close of 93.70 is 655.90 of the old shares,
        # more than 646.26 + 0.5 x 16.26 = 654.39: the stop goes to the entry, 646.26 / 7 = 92.322..., on the grid 92.32.
        # 06-10 trades to 95.05: half of the shares at the limit of 95.00. 06-12 falls to 91.90: the others at 92.32 less a tick.
        assert told(result) == [
            ("2014-06-05T20:00", "buy", 20, 646.26, 1.0, "entry"),
            ("2014-06-10T20:00", "sell", 70, 95.0, 1.0, "target"),
            ("2014-06-12T20:00", "sell", 70, 92.31, 1.0, "stop"),
        ]  # fmt: skip
        assert result.metrics(252).trades == 1
        assert result.trades.pnl.sum() == pytest.approx(70 * 95 + 70 * 92.31 - 20 * 646.26 - 3)
        assert result.equity[-1] == pytest.approx(100_000 + result.trades.pnl.sum())


APPLE_PLAN = """\
name: apple
symbol: AAPL
direction: long
timeframe: 1d
valid: {from: 2014-06-04, to: 2014-06-20}
entry: {kind: close_above, level: 640}
stop: 630
targets: [{share: 0.5, at: 665}]
manage: [{kind: break_even, after_r: 0.5}]
sizing: {kind: fixed, quantity: 20}
"""


def test_a_reverse_split_pays_out_what_is_less_than_a_share(lean: LeanFeed) -> None:
    """AIG, 2009-07-01: one new share for twenty. 06-30: 1.33 1.33 1.08 1.13; 07-01: 19.70 ... 18.08; 07-02 opens at 17.89."""
    bars = read(lean, AIG, "2009-06-24", "2009-07-08")
    bought, sold = day(bars, "2009-06-29"), day(bars, "2009-07-01")
    wish = wishes(bars, enter_long={bought: True}, exit_long={sold: True})
    result = backtest(
        wish, bars, AIG, cash=10_000, sizing={"kind": "fixed", "quantity": 105}, actions={"AIG": lean.actions(AIG)}
    )  # fmt: skip
    # 105 shares at 1.33 are 5.25 at 26.60. A quarter of a share is paid out at the last price, 20 x 1.13 = 22.60.
    assert told(result) == [
        ("2009-06-30T20:00", "buy", 105, 1.33, 0.0, "entry"),
        ("2009-07-01T20:00", "sell", 0.25, 22.6, 0.0, "split_cash"),
        ("2009-07-02T20:00", "sell", 5, 17.89, 0.0, "rule"),
    ]  # fmt: skip
    assert result.equity[-1] == pytest.approx(10_000 - 105 * 1.33 + 0.25 * 22.60 + 5 * 17.89)


class TestGoogleOnAHalfDay:
    """GOOG minutes, 2015-12-24: the venue closes at 13:00, 18:00Z. Prints after it are no bars of the session."""

    @pytest.fixture
    def bars(self, lean: LeanFeed) -> Bars:
        return read(lean, GOOG, "2015-12-23", "2015-12-28")

    def test_parts_by_volume_and_flat_before_the_early_close(self, bars: Bars) -> None:
        decided = minute(bars, "2015-12-24T16:11Z")
        late = minute(bars, "2015-12-24T18:00Z")
        wish = wishes(bars, enter_long={decided: True, late: True})
        costs = Costs("per_share", 0.005, 1.0, "fixed", 1.0, participation=0.01)
        result = backtest(
            wish, bars, GOOG, cash=50_000, sizing={"kind": "fixed", "quantity": 20}, costs=costs,
            orders=OrderRules(flat_at_session_end=True),
        )  # fmt: skip
        # 16:12 trades 1,965 shares: 19 of the 20 at its open of 750.75, the last at 16:13's open of 750.60, a tick more each.
        # On a half day the session's last minute opens at 17:59: out at its open of 747.93 less a tick, all 20 of 106,129.
        assert told(result) == [
            ("2015-12-24T16:12", "buy", 19, 750.76, 1.0, "entry"),
            ("2015-12-24T16:13", "buy", 1, 750.61, 1.0, "entry"),
            ("2015-12-24T18:00", "sell", 20, 747.92, 1.0, "session_end"),
        ]  # fmt: skip
        assert result.trades.pnl[0] == pytest.approx(20 * 747.92 - 19 * 750.76 - 750.61 - 3)
        assert result.refusals == {"SESSION_CLOSED": 1}

    def test_a_plan_ends_its_trade_minutes_before_the_early_close(self, bars: Bars) -> None:
        text = (
            "name: goog\nsymbol: GOOG\ndirection: long\ntimeframe: 1m\nvalid: {from: 2015-12-24, to: 2015-12-24}\n"
            "entry: {kind: close_above, level: 750.70}\nwindows: [{from: '11:10', to: '12:00'}]\nstop: 745\n"
            "manage: [{kind: session_end, minutes: 5}]\nsizing: {kind: fixed, quantity: 20}\n"
        )
        own = universe()
        own = type(own)(**{**_fields(own), "instruments": {"GOOG": GOOG}})
        plan, problems = parse_plan(text, "goog.yaml", own)
        assert plan is not None, [str(p) for p in problems]
        result = backtest(plan, {"GOOG": {M1: bars}}, {"GOOG": GOOG}, cash=50_000, costs=A_TICK)
        # 16:11Z closes at 750.72 inside the window: 20 at 16:12's open of 750.75 and a tick. At 17:55Z five minutes are left:
        # out at the next open, 17:55's 749.14 less a tick.
        assert told(result) == [
            ("2015-12-24T16:12", "buy", 20, 750.76, 1.0, "entry"),
            ("2015-12-24T17:56", "sell", 20, 749.13, 1.0, "session_end"),
        ]  # fmt: skip

    def test_a_minute_without_a_trade_has_no_bar_and_the_order_waits_for_the_next(self, bars: Bars) -> None:
        wish = wishes(bars, enter_long={minute(bars, "2015-12-28T17:08Z"): True})
        result = backtest(wish, bars, GOOG, cash=50_000, sizing={"kind": "fixed", "quantity": 20})
        assert told(result)[0] == ("2015-12-28T17:10", "buy", 20, 755.85, 0.0, "entry")


ES_UNIVERSE = """\
name: futures
history_start: 2013-12-02
history_end: 2013-12-20
instruments:
  ES: {asset_class: future, calendar: CMES, tick_size: 0.25, multiplier: 50, currency: USD, feed: lean, native_timeframe: 1m,
       feed_symbol: future/cme/es, future: {root: ES}, tradable_in: [backtest]}
"""
ES_PLAN = """\
name: es_idea
symbol: ES
direction: long
timeframe: 1m
valid: {from: 2013-12-04, to: 2013-12-20}
entry: {kind: close_above, level: 1790}
stop: 1765
manage: [{kind: break_even, after_r: 0.5}, {kind: trailing_points, points: 40}]
sizing: {kind: fixed, quantity: 1}
"""


class TestTheFutureAcrossItsExpiry:
    """E-mini S&P 500, 50 dollars a point. December 2013 trades until 2013-12-20 14:30Z."""

    COSTS = Costs("per_contract", 2.10, 0.0, "fixed", 1.0)

    def test_a_contract_held_into_expiry_is_settled_at_its_last_price(self, lean: LeanFeed) -> None:
        bars = read(lean, ES_DECEMBER, "2013-12-16", "2013-12-23")
        decided = minute(bars, "2013-12-18T22:15Z")
        wish = wishes(bars, enter_long={decided: True, len(bars) - 1: True})
        over = CorporateAction("ESZ3", ActionKind.DELISTING, session_number(date(2013, 12, 21)), 0)
        result = backtest(
            wish, bars, ES_DECEMBER, cash=100_000, sizing={"kind": "fixed", "quantity": 2}, costs=self.COSTS, currency="USD",
            actions={"ESZ3": [over]},
        )  # fmt: skip
        # The next session opens at 1810.00, a tick more is paid: 1810.25. The last bar closes at 1810.25: no gain, four fees.
        assert told(result) == [
            ("2013-12-18T23:01", "buy", 2, 1810.25, 4.2, "entry"),
            ("2013-12-20T14:30", "sell", 2, 1810.25, 4.2, "delisted"),
        ]  # fmt: skip
        assert result.equity[-1] == pytest.approx(100_000 - 8.4)
        # In between it was marked, 50 dollars a point: 1811.25 at the end of the minutes of the 19th.
        assert result.equity[minute(bars, "2013-12-19T00:00Z")] == pytest.approx(100_000 - 4.2 + 2 * 50 * 1.0)
        assert result.refusals == {"NOT_TRADABLE": 1}

    def test_the_continuous_future_is_rolled_with_costs_on_both_sides(self, lean: LeanFeed) -> None:
        bars = read(lean, ES, "2013-12-02", "2013-12-20")
        rolls = roll_actions("ES", lean.roll_table(ES), calendar("CMES"), "lean")
        (roll,) = [a for a in rolls if a.ex_session <= int(bars.session[-1])]
        assert (session_date(roll.ex_session), roll.amount) == (date(2013, 12, 16), -6.25)  # 1775.00 and 1768.75 on the 13th
        wish = wishes(
            bars, enter_long={minute(bars, "2013-12-03T22:15Z"): True}, exit_long={minute(bars, "2013-12-18T22:15Z"): True}
        )
        result = backtest(
            wish, bars, ES, cash=100_000, sizing={"kind": "fixed", "quantity": 1}, costs=self.COSTS, currency="USD",
            actions={"ES": rolls},
        )  # fmt: skip
        # Bought at 1792.00 and a tick. The sample has no bar from the 5th to the 17th: at the first one after the roll the old
        # contract is sold at its last price of 1792.00 less a tick, the new one bought 6.25 lower and a tick: 1786.00. Sold on
        # the 18th at 1804.00 less a tick. (1791.75 - 1792.25 + 1803.75 - 1786.00) x 50 = 862.50, four fees of 2.10.
        assert told(result) == [
            ("2013-12-03T23:01", "buy", 1, 1792.25, 2.1, "entry"),
            ("2013-12-18T00:01", "sell", 1, 1791.75, 2.1, "roll"),
            ("2013-12-18T00:01", "buy", 1, 1786.0, 2.1, "entry"),
            ("2013-12-18T23:01", "sell", 1, 1803.75, 2.1, "rule"),
        ]  # fmt: skip
        assert result.equity[-1] == pytest.approx(100_000 + 862.5 - 8.4)
        assert set(result.trades.trade.tolist()) == {0}

    def test_a_trade_that_a_plan_manages_ends_with_the_old_contract_and_is_counted(self, lean: LeanFeed) -> None:
        bars = read(lean, ES, "2013-12-02", "2013-12-20")
        rolls = roll_actions("ES", lean.roll_table(ES), calendar("CMES"), "lean")
        result = self.managed(bars, ES, rolls)
        # Above 1790 from the first minute of the session of the 4th: bought at 1792.00 and a tick. Before the first bar of the
        # next contract December is sold at its last price of 1792.00 less a tick, and March is not bought.
        assert told(result) == [
            ("2013-12-03T23:02", "buy", 1, 1792.25, 2.1, "entry"),
            ("2013-12-18T00:01", "sell", 1, 1791.75, 2.1, "roll"),
        ]  # fmt: skip
        assert (result.rolled_out, result.trades.closed.all()) == (1, True)
        assert result.equity[-1] == pytest.approx(100_000 - 50 * 0.5 - 4.2)
        # Told nothing of the roll, the stop of 1765 is met by March, 6.25 below December.
        assert told(self.managed(bars, ES, []))[1] == ("2013-12-18T19:01", "sell", 1, 1764.75, 2.1, "stop")

    def test_so_does_one_in_a_single_contract_at_its_expiry(self, lean: LeanFeed) -> None:
        bars = replace(read(lean, ES_DECEMBER, "2013-12-18", "2013-12-20"), symbol="ES")
        over = CorporateAction("ES", ActionKind.DELISTING, session_number(date(2013, 12, 21)), 0)
        result = self.managed(bars, replace(ES_DECEMBER, symbol="ES"), [over], ES_PLAN.replace("2013-12-04", "2013-12-20"))
        assert told(result)[-1] == ("2013-12-20T14:30", "sell", 1, 1810.25, 2.1, "delisted")
        assert result.rolled_out == 0

    def managed(self, bars: Bars, instrument: Instrument, actions: list[CorporateAction], text: str = ES_PLAN) -> BacktestResult:
        known, problems = parse_universe(ES_UNIVERSE, "futures.yaml")
        assert known is not None, problems
        plan, problems = parse_plan(text, "es.yaml", known)
        assert plan is not None, problems
        return backtest(
            plan, {"ES": {M1: bars}}, {"ES": instrument}, cash=100_000, costs=self.COSTS, currency="USD",
            actions={"ES": actions}, require_stop=True,
        )  # fmt: skip


CASES = {
    "GOOG minutes over a half day": (GOOG, "2015-12-23", "2015-12-28", 0.35, A_TICK),
    "GOOG minutes with a cap on the volume": (GOOG, "2015-12-23", "2015-12-28", 0.35,
                                              Costs("per_value", 0.0001, 0.5, "sqrt_volume", 0.01, participation=0.004)),
    "AAPL days of the crisis": (AAPL, "2007-06-01", "2009-06-30", 4.0, A_TICK),
    "ES minutes before its expiry": (ES_DECEMBER, "2013-12-16", "2013-12-23", 1.5, Costs("per_contract", 2.1, 0.0, "fixed", 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_the_paper_book_replays_real_bars_fill_for_fill(lean: LeanFeed, name: str) -> None:
    instrument, first, last, away, costs = CASES[name]
    if instrument.asset_class is AssetClass.FUTURE:  # the paper book pays for what it holds in full: so does this run
        instrument = make(
            "ESZ3", "future/cme/es/20131220", M1, AssetClass.INDEX, venue="CMES", tick="0.25", multiplier=Decimal(50)
        )
        bars = read(lean, ES_DECEMBER, first, last)
    else:
        bars = read(lean, instrument, first, last)
    dice, n = np.random.default_rng(len(name)), len(bars)
    side, exits = dice.integers(0, 12, n), dice.random(n) < 0.01
    tick = float(instrument.tick_size)
    distance = np.round(dice.uniform(0.5, 1.5, n) * away / tick) * tick
    rows = {
        "enter_long": side == 0, "enter_short": side == 1, "exit_long": exits, "exit_short": exits,
        "stop_long": np.round(bars.close - distance, 2), "stop_short": np.round(bars.close + distance, 2),
        "target_long": np.round(bars.close + 1.5 * distance, 2), "target_short": np.round(bars.close - 1.5 * distance, 2),
    }  # fmt: skip
    on_grid = {k: np.round(np.round(v / tick) * tick, 2) if k[0] in "st" else v for k, v in rows.items()}
    evaluation = replace(wishes(bars), **on_grid)
    result = backtest(
        evaluation, bars, instrument, cash=1_000_000.0, sizing={"kind": "fixed", "quantity": 10}, costs=costs, require_stop=True,
        detail=True,
    )  # fmt: skip
    step = US_PER_DAY // 4 if instrument.native_timeframe is D1 else US_PER_MINUTE
    fills, equity = on_paper(bars, evaluation, OrderRules(), costs, instrument=instrument, step=step, cash=1_000_000.0)
    mine = result.fills_made
    assert mine is not None
    assert [(float(f["quantity"]), round(float(f["price"]), 6), round(float(f["commission"]), 6)) for f in mine] == fills
    np.testing.assert_allclose(equity, result.equity, atol=1e-4)
    assert len(fills) > 40


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _stop(name: str, quantity: float, level: float) -> OrderRequest:
    return OrderRequest(
        name, "AAPL", Side.SELL, quantity, OrderType.STOP, TimeInForce.GTC, None, level, parent_client_id="entry",
        oco_group="g", reduce_only=True,
    )  # fmt: skip
