"""Order types, targets, caps and what happens to positions by themselves: ledgers worked out by hand, line by line.

Bars are written as ``open high low close [volume]``, one a day; the first is day 0. A wish at the close of day n works from
day n + 1 on.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.paths import ROOT
from tests.resources.test_paper_parity import ENTRIES, market, random_wishes
from tests.trading.backtest_kit import TEN, bars_of, make, run, told, wishes
from trading.backtest import FxSeries, Margin, OrderRules, Target, backtest
from trading.corporate_actions import ActionKind, CorporateAction, UnknownFactor
from trading.costs import Costs
from trading.instruments import AssetClass
from trading.orders import OrderType
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe

RISING = bars_of("""
    100 101  99 100
    100 102  98 101
    101 104 100 103
    103 107 102 106
    106 108 103 104
    104 105  99 100
""")


class TestEntryOrders:
    def test_a_limit_waits_until_the_price_comes_and_fills_at_its_level(self) -> None:
        # Limit 2 below the close of 100: 98 is touched on day 1.
        rules = OrderRules(entry=OrderType.LIMIT, limit=2.0)
        assert told(run(RISING, wishes(RISING, enter_long={0: True}), orders=rules)) == [(1, "buy", 10, 98.0, "entry")]

    def test_a_limit_that_opens_better_fills_at_the_open_without_slippage(self) -> None:
        bars = bars_of("100 101 99 100\n 97 99 96 98")
        rules = OrderRules(entry=OrderType.LIMIT, limit=2.0)
        result = run(bars, wishes(bars, enter_long={0: True}), orders=rules, costs=Costs(slippage_kind="fixed", value=5))
        assert told(result) == [(1, "buy", 10, 97.0, "entry")]

    def test_an_entry_expires_after_its_bars_and_the_slot_is_free_again(self) -> None:
        rules = OrderRules(entry=OrderType.LIMIT, limit=5.0, valid_bars=2)
        result = run(RISING, wishes(RISING, enter_long={0: True, 1: True, 2: True}), orders=rules)
        # Day 0: limit 95, works days 1 and 2, expires. Day 1: refused. Day 2: limit 98, works days 3 and 4, expires.
        assert told(result) == []
        assert result.refusals == {"POSITION_OPEN": 1}
        assert [(o["limit"], o["end"], o["filled"]) for o in result.order_rows()] == [(95.0, "expired", 0), (98.0, "expired", 0)]

    def test_a_stop_entry_buys_at_its_trigger_and_slips_and_a_gap_above_it_buys_at_the_open(self) -> None:
        rules = OrderRules(entry=OrderType.STOP, trigger=3.0)
        slip = Costs(slippage_kind="fixed", value=2)
        result = run(RISING, wishes(RISING, enter_long={0: True}), orders=rules, costs=slip)
        assert told(result) == [(2, "buy", 10, 103.02, "entry")]
        gap = bars_of("100 101 99 100\n 105 106 104 105")
        assert told(run(gap, wishes(gap, enter_long={0: True}), orders=rules)) == [(1, "buy", 10, 105.0, "entry")]

    def test_a_stop_limit_needs_the_price_back_at_its_limit(self) -> None:
        # Trigger 103, limit 1 beyond it (104). Day 1 gaps to 105: triggered, above the limit. Day 2 comes back to 104.
        bars = bars_of("100 101 99 100\n 105 106 105 105\n 105 105 103 104")
        rules = OrderRules(entry=OrderType.STOP_LIMIT, trigger=3.0, limit=1.0)
        assert told(run(bars, wishes(bars, enter_long={0: True}), orders=rules)) == [(2, "buy", 10, 104.0, "entry")]

    def test_shorts_mirror(self) -> None:
        rules = OrderRules(entry=OrderType.STOP, trigger=2.0)
        assert told(run(RISING, wishes(RISING, enter_short={4: True}), orders=rules)) == [(5, "sell", 10, 102.0, "entry")]

    def test_levels_by_bar_are_taken_as_they_are_and_an_unknown_one_is_no_entry(self) -> None:
        level = np.full(len(RISING), math.nan)
        level[0] = 98.5
        rules = OrderRules(entry=OrderType.LIMIT, limit=level)
        result = run(RISING, wishes(RISING, enter_long={0: True, 3: True}, exit_long={1: True}), orders=rules)
        assert told(result) == [(1, "buy", 10, 98.5, "entry"), (2, "sell", 10, 101.0, "rule")]

    def test_in_the_bar_of_an_entry_inside_it_the_stop_counts_and_the_target_does_not(self) -> None:
        # Day 1 runs from 98 to 102: a limit at 98 is filled, a target at 101.5 may have come before it.
        rules = OrderRules(entry=OrderType.LIMIT, limit=2.0)
        result = run(RISING, wishes(RISING, enter_long={0: True}, target_long={0: 101.5}), orders=rules)
        assert told(result) == [(1, "buy", 10, 98.0, "entry"), (2, "sell", 10, 101.5, "target")]
        stopped = run(RISING, wishes(RISING, enter_long={0: True}, stop_long={0: 98.0 - 0.0}, target_long={0: 110.0}),
                      orders=OrderRules(entry=OrderType.LIMIT, limit=1.0))  # fmt: skip
        assert told(stopped) == [(1, "buy", 10, 99.0, "entry"), (1, "sell", 10, 98.0, "stop")]

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ({"entry": OrderType.LIMIT}, "limit entry: limit is missing"),
            ({"limit": 1.0}, "market entry: limit is not used"),
            ({"entry": OrderType.TRAILING_STOP}, "expected one of"),
            ({"targets": (Target(0.7, reward=1), Target(0.7, reward=2))}, "add up to 1.4"),
            ({"trail": -1.0}, "trail -1.0"),
        ],
    )
    def test_rules_that_say_nothing_are_refused(self, rules: dict, message: str) -> None:  # type: ignore[type-arg]
        with pytest.raises(ValueError, match=message):
            OrderRules(**rules)


class TestProtection:
    def test_a_trailing_stop_moves_at_closes_for_the_next_bar(self) -> None:
        # Entry day 1 at 100, stop 97. Trail 4 below the high: day 1 (102) -> 98, day 2 (104) -> 100, day 3 (107) -> 103,
        # day 4 (108) -> 104 but the low of day 4 is 103, at its stop of 103: out at 103.
        result = run(RISING, wishes(RISING, enter_long={0: True}, stop_long={0: 97.0}), orders=OrderRules(trail=4.0))
        assert told(result) == [(1, "buy", 10, 100.0, "entry"), (4, "sell", 10, 103.0, "stop")]

    def test_without_a_stop_of_its_own_it_starts_its_distance_from_the_reference(self) -> None:
        bars = bars_of("100 101 99 100\n 100 100 95 96")
        result = run(bars, wishes(bars, enter_long={0: True}), orders=OrderRules(trail=4.0), require_stop=True)
        assert told(result) == [(1, "buy", 10, 100.0, "entry"), (1, "sell", 10, 96.0, "stop")]

    def test_several_targets_scale_out_and_the_stop_keeps_the_rest(self) -> None:
        # Entry 100, stop 97 (risk 3). 40 % at 1R = 103, 40 % at 2R = 106, the rest is stopped at 97... or held.
        rules = OrderRules(targets=(Target(0.4, reward=1.0), Target(0.4, reward=2.0)))
        falling = bars_of("100 101 99 100\n 100 102 98 101\n 101 104 100 103\n 103 107 102 106\n 100 100 96 97")
        result = run(falling, wishes(falling, enter_long={0: True}, stop_long={0: 97.0}), orders=rules)
        assert told(result) == [
            (1, "buy", 10, 100.0, "entry"), (2, "sell", 4, 103.0, "target"), (3, "sell", 4, 106.0, "target"),
            (4, "sell", 2, 97.0, "stop"),
        ]  # fmt: skip
        assert result.trades.pnl.tolist() == [12.0, 24.0, -6.0]
        assert set(result.trades.trade.tolist()) == {0}
        assert result.metrics(252).trades == 1
        assert result.metrics(252).net_profit == 30.0
        assert result.equity[-1] == 10_030.0

    def test_the_last_target_takes_what_rounding_to_lots_left(self) -> None:
        rules = OrderRules(targets=(Target(1 / 3, reward=1.0), Target(1 / 3, reward=2.0), Target(1 / 3, reward=3.0)))
        result = run(RISING, wishes(RISING, enter_long={0: True}, stop_long={0: 98.0 - 0.5}), orders=rules)
        assert [f[2] for f in told(result)] == [10, 3, 3, 4]

    def test_a_bar_that_reaches_stop_and_target_is_decided_for_the_stop_and_counted(self) -> None:
        wild = bars_of("100 101 99 100\n 100 110 90 100")
        rules = OrderRules(targets=(Target(0.5, reward=1.0), Target(0.5, reward=2.0)))
        result = run(wild, wishes(wild, enter_long={0: True}, stop_long={0: 97.0}), orders=rules)
        assert told(result)[1:] == [(1, "sell", 10, 97.0, "stop")]
        assert result.ambiguous_bars == 1

    def test_the_reward_gate_reads_the_mean_of_the_targets_by_share(self) -> None:
        rules = OrderRules(targets=(Target(0.5, reward=1.0), Target(0.5, reward=2.0)))  # 1.5 on average
        evaluation = wishes(RISING, enter_long={0: True}, stop_long={0: 97.0})
        assert run(RISING, evaluation, orders=rules, min_reward_to_risk=1.6).refusals == {"REWARD_TO_RISK": 1}
        assert run(RISING, evaluation, orders=rules, min_reward_to_risk=1.4).refusals == {}


class TestVolume:
    def test_a_capped_market_entry_fills_over_several_bars_at_their_opens(self) -> None:
        # 1 % of 400 units: 4 a bar. 4 at 100, 4 at 101, 2 at 103: mean 101.
        bars = replace(RISING, volume=np.full(6, 400.0))
        result = run(bars, wishes(bars, enter_long={0: True}, exit_long={4: True}), costs=Costs(participation=0.01))
        assert told(result) == [
            (1, "buy", 4, 100.0, "entry"), (2, "buy", 4, 101.0, "entry"), (3, "buy", 2, 103.0, "entry"),
            (5, "sell", 4, 104.0, "rule"),
        ]  # fmt: skip
        assert result.trades.entry_price.tolist() == [101.0, 101.0]
        assert result.trades.pnl.tolist() == [12.0, 6 * (100.0 - 101.0)]  # 4 closed at 104, 6 open, marked at 100
        assert result.equity[-1] == 10_006.0

    def test_a_stop_that_was_reached_sells_the_rest_at_the_next_opens(self) -> None:
        bars = bars_of("""
            100 101  99 100 1000
            100 101  98 100 1000
            100 100  94  95   60
             93  94  90  92   30
             91  93  90  92 1000
        """)  # fmt: skip
        result = run(bars, wishes(bars, enter_long={0: True}, stop_long={0: 95.0}), costs=Costs(participation=0.1))
        assert told(result)[1:] == [(2, "sell", 6, 95.0, "stop"), (3, "sell", 3, 93.0, "stop"), (4, "sell", 1, 91.0, "stop")]

    def test_any_exit_cancels_what_is_still_to_be_entered(self) -> None:
        bars = bars_of("100 101 99 100 400\n 100 102 98 101 400\n 101 101 90 92 400\n 92 93 91 92 400")
        result = run(bars, wishes(bars, enter_long={0: True}, stop_long={0: 95.0}), costs=Costs(participation=0.01))
        # 4 at 100, 4 at 101; the stop of day 2 sells 4, the last 4 go at the next open. The other 2 are never bought.
        assert [f[1:] for f in told(result)] == [
            ("buy", 4, 100.0, "entry"), ("buy", 4, 101.0, "entry"), ("sell", 4, 95.0, "stop"), ("sell", 4, 92.0, "stop"),
        ]  # fmt: skip
        assert [(o["quantity"], o["filled"], o["end"]) for o in result.order_rows()] == [(10, 8, "canceled")]

    def test_a_target_too_cancels_what_is_still_to_be_entered(self) -> None:
        bars = bars_of("100 101 99 100 400\n 100 102 98 101 400\n 101 104 100 103 400\n 103 104 101 102 400")
        result = run(bars, wishes(bars, enter_long={0: True}, target_long={0: 103.5}), costs=Costs(participation=0.01))
        assert told(result) == [
            (1, "buy", 4, 100.0, "entry"), (2, "buy", 4, 101.0, "entry"), (2, "sell", 4, 103.5, "target"),
            (3, "sell", 4, 103.5, "target"),
        ]  # fmt: skip

    def test_a_bar_without_volume_fills_nothing_of_a_capped_order(self) -> None:
        bars = bars_of("100 101 99 100 400\n 100 102 98 101 0\n 101 104 100 103 5000")
        result = run(bars, wishes(bars, enter_long={0: True}), costs=Costs(participation=0.01))
        assert told(result) == [(2, "buy", 10, 101.0, "entry")]

    def test_slippage_by_volume_grows_with_the_share_or_its_root(self) -> None:
        # 10 of 1000 is 1 %. Linear: 100 * 0.5 * 0.01 = 0.50. Root: 100 * 0.05 * 0.1 = 0.50.
        for costs in (Costs(slippage_kind="volume", value=0.5), Costs(slippage_kind="sqrt_volume", value=0.05)):
            assert told(run(RISING, wishes(RISING, enter_long={0: True}), costs=costs)) == [(1, "buy", 10, 100.5, "entry")]

    def test_a_cap_needs_a_volume(self) -> None:
        with pytest.raises(ValueError, match="X: costs cap an order at a share of the volume, which it does not have"):
            run(RISING, wishes(RISING), instrument=make(has_volume=False), costs=Costs(participation=0.1))


class TestMoney:
    def test_a_short_pays_to_borrow_for_every_night(self) -> None:
        # Short 10 at 100; marks 101, 103, 106 at the nights' begin; 36.5 % a year is 0.1 % a day.
        result = run(RISING, wishes(RISING, enter_short={0: True}, exit_short={3: True}), costs=Costs(borrow=0.365))
        paid = 10 * (101 + 103 + 106) * 0.001
        assert result.borrow_paid == pytest.approx(paid)
        assert result.trades.pnl[0] == pytest.approx(-60.0 - paid)
        assert result.equity[-1] == pytest.approx(10_000 - 60.0 - paid)

    def test_an_order_needs_its_initial_margin(self) -> None:
        evaluation = wishes(RISING, enter_long={0: True})
        # 10 * 100 at 50 % is 500.
        assert run(RISING, evaluation, cash=500.0, margins=Margin(0.5, 0.25)).refusals == {}
        assert run(RISING, evaluation, cash=499.0, margins=Margin(0.5, 0.25)).refusals == {"BUYING_POWER": 1}

    def test_an_open_too_far_away_rejects_the_order(self) -> None:
        gap = bars_of("100 101 99 100\n 120 121 119 120")
        result = run(gap, wishes(gap, enter_long={0: True}), cash=550.0, margins=Margin(0.5, 0.25))
        assert told(result) == []
        assert result.refusals == {"BUYING_POWER": 1}
        assert [o["end"] for o in result.order_rows()] == ["rejected"]

    def test_below_the_maintenance_margin_the_position_goes_at_the_next_open(self) -> None:
        # 10 at 100 with 300 of cash. At 80: equity 100, needed 25 % of 800 = 200. Sold at the open of 75.
        fall = bars_of("100 101 99 100\n 100 100 95 95\n 95 95 80 80\n 75 76 74 75")
        result = run(fall, wishes(fall, enter_long={0: True}), cash=300.0, margins=Margin(0.3, 0.25))
        assert told(result) == [(1, "buy", 10, 100.0, "entry"), (3, "sell", 10, 75.0, "margin_call")]
        assert (result.margin_calls, result.liquidations) == (1, 1)
        assert result.equity.tolist() == [300.0, 250.0, 100.0, 50.0]

    def test_liquidation_takes_the_largest_first_and_no_more_than_needed(self) -> None:
        fall = "100 101 99 100\n 100 100 95 95\n 95 95 80 80\n 75 76 74 75"
        bars = [bars_of(fall, "A"), bars_of(fall, "B")]
        both = [wishes(b, enter_long={0: True}) for b in bars]
        result = backtest(
            both, bars, [make("A"), make("B")], cash=550.0, margins=Margin(0.3, 0.25),
            sizing=[{"kind": "fixed", "quantity": 10}, {"kind": "fixed", "quantity": 5}],
        )  # fmt: skip
        # At 80 the account has 250 and needs 200 + 100: the larger one goes.
        assert [(t["symbol"], t["reason"]) for t in result.trades.rows()] == [("A", "margin_call"), ("B", "open")]

    def test_margins_by_class_or_symbol(self) -> None:
        evaluation = wishes(RISING, enter_long={0: True})
        margins = {"equity": Margin(1.0, 0.5), "X": Margin(0.1, 0.1)}
        assert run(RISING, evaluation, cash=150.0, margins=margins).refusals == {}

    def test_a_foreign_stock_is_bought_and_sold_at_the_rates_of_those_days(self) -> None:
        # 10 at 100 EUR and 1.10 = 1,100 USD; sold at 103 EUR and 1.20 = 1,236 USD.
        fx = FxSeries(RISING.close_time, np.array([1.0, 1.1, 1.1, 1.2, 1.2, 1.2]))
        evaluation = wishes(RISING, enter_long={0: True}, exit_long={2: True})
        result = run(RISING, evaluation, instrument=make(currency="EUR"), currency="USD", fx={"EUR": fx})
        assert result.trades.pnl[0] == pytest.approx(136.0)
        assert result.equity[1] == pytest.approx(10_000 + 10 * 1 * 1.1)
        assert result.equity[-1] == pytest.approx(10_136.0)

    def test_a_foreign_future_earns_its_moves_at_each_days_rate(self) -> None:
        # Bought at 100, marks 101, 103, sold at 103: 10 * 5 * (1 * 1.1 + 2 * 1.1 + 0 * 1.2); nothing on the value itself.
        fx = FxSeries(RISING.close_time, np.array([1.0, 1.1, 1.1, 1.2, 1.2, 1.2]))
        future = make(kind=AssetClass.FUTURE, currency="EUR", multiplier="5")
        evaluation = wishes(RISING, enter_long={0: True}, exit_long={2: True})
        result = run(RISING, evaluation, instrument=future, currency="USD", fx={"EUR": fx})
        assert result.trades.pnl[0] == pytest.approx(165.0)
        assert result.equity[-1] == pytest.approx(10_165.0)

    def test_without_a_rate_there_is_no_entry_and_no_guess(self) -> None:
        foreign, evaluation = make(currency="EUR"), wishes(RISING, enter_long={0: True})
        late = FxSeries(RISING.close_time[3:], np.ones(3))
        assert run(RISING, evaluation, instrument=foreign, currency="USD", fx={"EUR": late}).refusals == {"PRICE_MISSING": 1}
        old = FxSeries(RISING.close_time[:1] - 9 * US_PER_DAY, np.ones(1))
        assert run(RISING, evaluation, instrument=foreign, currency="USD", fx={"EUR": old}).refusals == {"PRICE_MISSING": 1}
        with pytest.raises(ValueError, match="X is quoted in EUR: no fx series to USD given"):
            run(RISING, evaluation, instrument=foreign, currency="USD")
        with pytest.raises(ValueError, match="instruments in EUR, USD: say the account's currency"):
            backtest([evaluation] * 2, [RISING] * 2, [foreign, make()], cash=1e4, sizing=TEN)


def action(kind: ActionKind, day: int, **terms: float) -> CorporateAction:
    return CorporateAction("X", kind, day + 1, 0, **terms)


class TestByThemselves:
    def test_a_split_multiplies_the_quantity_and_divides_the_levels(self) -> None:
        # 10 at 100, stop 90. A 2:1 split on day 2: 20 at 50, stop 45, which day 3 trades through.
        bars = bars_of("100 101 99 100\n 100 101 98 100\n 50 51 49 50\n 50 50 44 45")
        evaluation = wishes(bars, enter_long={0: True}, stop_long={0: 90.0})
        result = run(bars, evaluation, actions={"X": [action(ActionKind.SPLIT, 2, factor=2.0)]})
        assert told(result) == [(1, "buy", 10, 100.0, "entry"), (3, "sell", 20, 45.0, "stop")]
        assert result.equity.tolist() == [10_000.0, 10_000.0, 10_000.0, 9_900.0]
        assert result.trades.pnl.tolist() == [-100.0]

    def test_what_a_reverse_split_leaves_of_a_share_is_paid_out(self) -> None:
        # 10 at 100, 1:4: 2.5 at 400: 2 are kept, half a one is paid at the last price.
        bars = bars_of("100 101 99 100\n 100 101 98 100\n 400 404 396 400")
        evaluation = wishes(bars, enter_long={0: True})
        result = run(bars, evaluation, actions={"X": [action(ActionKind.SPLIT, 2, factor=0.25)]})
        assert told(result)[1:] == [(2, "sell", 0.5, 400.0, "split_cash")]
        assert result.trades.quantity.tolist() == [0.5, 2.0]
        assert result.equity[-1] == 10_000.0

    def test_a_split_of_an_unknown_factor_ends_the_backtest_before_it_begins(self) -> None:
        with pytest.raises(UnknownFactor, match="a position cannot be carried across it"):
            run(RISING, wishes(RISING), actions={"X": [action(ActionKind.SPLIT, 2, factor=math.nan)]})

    def test_dividends_are_received_by_longs_and_owed_by_shorts(self) -> None:
        paid = {"X": [action(ActionKind.DIVIDEND, 2, factor=1.01, amount=1.5)]}
        long = run(RISING, wishes(RISING, enter_long={0: True}, exit_long={2: True}), actions=paid)
        assert long.trades.pnl[0] == pytest.approx(30.0 + 15.0)
        short = run(RISING, wishes(RISING, enter_short={0: True}, exit_short={2: True}), actions=paid)
        assert short.trades.pnl[0] == pytest.approx(-30.0 - 15.0)
        assert (long.dividends, short.dividends) == (15.0, -15.0)

    def test_a_spin_off_pays_what_left_the_price(self) -> None:
        bars = bars_of("100 101 99 100\n 100 101 98 100\n 80 81 79 80")
        result = run(bars, wishes(bars, enter_long={0: True}), actions={"X": [action(ActionKind.SPIN_OFF, 2, factor=1.25)]})
        assert result.equity[-1] == pytest.approx(10_000.0)

    def test_a_delisted_share_is_closed_at_its_last_price_and_refused_from_then_on(self) -> None:
        bars = bars_of("100 101 99 100\n 100 101 98 100\n 100 101 70 71")
        result = run(
            bars, wishes(bars, enter_long={0: True, 2: True}), costs=Costs(minimum=1.0),
            actions={"X": [action(ActionKind.DELISTING, 5)]},
        )  # fmt: skip
        assert told(result)[1:] == [(2, "sell", 10, 71.0, "delisted")]
        assert result.refusals == {"NOT_TRADABLE": 1}
        assert result.equity[-1] == pytest.approx(10_000 - 290 - 2)

    def test_a_roll_sells_the_old_contract_and_buys_the_new_one_with_costs(self) -> None:
        # 2 contracts of 50 at 1000, stop 990. The new contract is 5 higher: out at 1002, in at 1007, 1.00 a fill, one tick.
        bars = bars_of("1000 1001 999 1000\n 1000 1003 998 1002\n 1008 1012 1006 1010\n 1010 1010 994 996")
        future = make(kind=AssetClass.FUTURE, multiplier="50", tick_size="0.25")
        rolled = {"X": [CorporateAction("X", ActionKind.ROLL, 3, 0, 1002 / 1007, 5.0, "ES 201403")]}
        result = run(
            bars, wishes(bars, enter_long={0: True}, stop_long={0: 990.0}), instrument=future, actions=rolled,
            sizing={"kind": "fixed", "quantity": 2}, costs=Costs("per_contract", 0.5, 1.0, "fixed", 1), cash=100_000.0,
        )  # fmt: skip
        assert told(result) == [
            (1, "buy", 2, 1000.25, "entry"), (2, "sell", 2, 1001.75, "roll"), (2, "buy", 2, 1007.25, "entry"),
            (3, "sell", 2, 994.75, "stop"),
        ]  # fmt: skip
        # The stop moved with the contract: 990 + 5 = 995, less a tick.
        points = (1001.75 - 1000.25) + (994.75 - 1007.25)
        assert result.trades.pnl.sum() == pytest.approx(2 * 50 * points - 4.0)
        assert result.metrics(252).trades == 1

    def test_positions_are_flat_at_the_sessions_end_half_days_included(self) -> None:
        # 2015-12-24 (XNYS) ends at 13:00 New York, 18:00 UTC: the last minute opens at 17:59.
        closes = 1_450_980_000 * 1_000_000 - np.arange(5, -1, -1, dtype=np.int64) * US_PER_MINUTE  # 17:55 ... 18:00
        day = np.full(6, 16_793, np.int32)
        p = np.array([10.0, 11.0, 12.0, 13.0, 14.0, 15.0])
        bars = replace(RISING, timeframe=Timeframe.M1, close_time=closes, session=day, open=p, high=p, low=p, close=p)
        rules = OrderRules(flat_at_session_end=True)
        result = run(bars, wishes(bars, enter_long={0: True, 4: True}), orders=rules)
        rows = result.fill_rows()
        assert [(r["time"][11:16], r["price"], r["leg"]) for r in rows] == [
            ("17:56", 11.0, "entry"), ("18:00", 15.0, "session_end"),
        ]  # fmt: skip
        assert result.refusals == {"POSITION_OPEN": 1}
        late = run(bars, wishes(bars, enter_long={4: True}), orders=rules)
        assert late.refusals == {"SESSION_CLOSED": 1}


def test_an_evaluations_own_scale_and_targets_count() -> None:
    # Half the size at day 0: 5. Three fifths of it at 103; the part without a level waits for the stop or the end.
    levels = np.full(6, 103.0)
    evaluation = replace(
        wishes(RISING, enter_long={0: True}, stop_long={0: 97.0}), scale=np.full(6, 0.5),
        targets=((0.6, levels), (0.4, np.full(6, math.nan))),
    )  # fmt: skip
    assert told(run(RISING, evaluation)) == [(1, "buy", 5, 100.0, "entry"), (2, "sell", 3, 103.0, "target")]
    plain = replace(wishes(RISING, enter_long={0: True}, exit_long={1: True}), scale=np.full(6, 0.5))
    assert told(run(RISING, plain)) == [(1, "buy", 5, 100.0, "entry"), (2, "sell", 5, 101.0, "rule")]


def test_gates_refuse_by_name_in_their_order() -> None:
    bad, good = np.zeros(6, np.bool_), np.ones(6, np.bool_)
    some = good.copy()
    some[0] = False
    evaluation = wishes(RISING, enter_long={0: True, 2: True})
    result = run(RISING, evaluation, gates={"calm": some, "news": bad})
    assert result.refusals == {"calm": 1, "news": 1}
    assert len(run(RISING, evaluation, gates={"calm": some}).trades) == 1


def test_the_tables_of_a_result_are_plain_columns() -> None:
    result = run(RISING, wishes(RISING, enter_long={0: True}, exit_long={2: True}), detail=True)
    frames = result.to_frames()
    assert set(frames) == {"trades", "equity", "fills", "orders", "refusals"}
    assert frames["equity"]["gross"].tolist() == [0.0, 1010.0, 1030.0, 0.0, 0.0, 0.0]
    assert frames["orders"]["end"] == ["filled"]
    assert frames["fills"]["leg"] == ["entry", "rule"]


def said() -> str:
    """Backtests of every kind of entry with all that may happen to a position, a line each."""
    lines = []
    for seed, entry in enumerate(sorted(ENTRIES)):
        bars = market(seed, 40)
        rules = replace(ENTRIES[entry], trail=0.8, targets=(Target(0.3, reward=0.5), Target(0.7, reward=1.5)), valid_bars=4)
        fx = {"EUR": FxSeries(bars.close_time, 1 + 0.01 * np.arange(40))}
        actions = [
            CorporateAction("X", ActionKind.SPLIT, 12, 0, 2.0), CorporateAction("X", ActionKind.DIVIDEND, 20, 0, 1.01, 0.5),
            CorporateAction("X", ActionKind.ROLL, 28, 0, 0.99, 0.5), CorporateAction("X", ActionKind.DELISTING, 39, 0),
        ]  # fmt: skip
        result = backtest(
            random_wishes(bars, seed + 1), bars, make(currency="EUR"), cash=900.0, sizing=TEN, orders=rules, currency="USD",
            fx=fx, costs=Costs("per_share", 0.01, 0.5, "sqrt_volume", 0.01, participation=0.05, borrow=0.1),
            margins=Margin(0.8, 0.6), actions={"X": actions},
        )  # fmt: skip
        lines.append(
            f"{result.fill_rows()} {result.order_rows()} {result.equity.tolist()} {result.exposures()['net'].tolist()} "
            f"{result.refusals} {result.ambiguous_bars} {result.margin_calls} {result.borrow_paid} {result.dividends}\n"
        )
    return "".join(lines)


def test_plain_python_gives_what_the_compiled_loop_gives() -> None:
    program = "from tests.trading.test_backtest_orders import said; print(said(), end='')"
    plain = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert plain == said()
    for word in ("roll", "stop", "target", "expired", "delisted"):
        assert word in plain, word
    assert plain.count("\n") == 4
