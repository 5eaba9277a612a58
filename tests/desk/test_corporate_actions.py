"""What a split does at the desk: positions, resting orders and plans follow it once, and doubt holds the instrument."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select, text

from desk import mismatches, reconcile, submission
from desk.action_steps import shares
from desk.corporate_actions import CorporateActions, held_instruments
from resources.corporate_actions import write_actions
from resources.feeds.protocol import BarClose
from resources.ledger import action_tables as a
from resources.ledger import audit
from resources.ledger.actions import applied_splits, decide, position_adjustments
from tests.desk import kit
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.costs import Costs
from trading.instruments import AssetClass
from trading.timeframes import US_PER_HOUR, Timeframe, session_date, session_number

WED, THU, FRI = date(2017, 12, 27), date(2017, 12, 28), date(2017, 12, 29)
STOCK = kit.instrument(
    "AAPL", asset_class=AssetClass.EQUITY, calendar="XNYS", tick_size=Decimal("0.01"), native_timeframe=Timeframe.H1
)


def at(day: date, hours: int) -> int:
    """Close of the day's n-th hourly bar."""
    return calendar("XNYS").bounds(day)[0] + hours * US_PER_HOUR


def stock_bar(day: date, hours: int, price: float, low: float = math.nan, high: float = math.nan) -> BarClose:
    low, high = (price if math.isnan(x) else x for x in (low, high))
    return BarClose("AAPL", Timeframe.H1, at(day, hours), session_number(day), price, high, low, price, 1e6)


def split(factor: float, day: date = THU, kind: ActionKind = ActionKind.SPLIT) -> CorporateAction:
    return CorporateAction("AAPL", kind, session_number(day), calendar("XNYS").bounds(day)[0], factor, source="test")


class StockDesk(kit.Desk):
    """The small desk with one stock, and the engine's order of things around corporate actions."""

    def __init__(self, engine: Engine, room: Path, lot: str = "1", costs: Costs = kit.NO_COSTS) -> None:
        kit.INSTRUMENTS["AAPL"] = replace(STOCK, lot_size=Decimal(lot))
        try:
            super().__init__(engine, costs=costs)
        finally:
            instruments = dict(kit.INSTRUMENTS)
            del kit.INSTRUMENTS["AAPL"]
        self.paper._instruments = instruments  # a copy that keeps the stock
        self.config.universe.instruments["AAPL"] = instruments["AAPL"]
        self.config.strategies |= {n: kit.Rule(n, symbols=("AAPL",)) for n in ("trend", "revert")}
        limits = {"max_order_quantity": 1e9, "max_notional": 1e9, "max_position_notional": 1e9, "price_collar_percent": 90}
        self.config.limits = kit.LIMITS.model_copy(update=limits)
        self.room = room
        self.actions = CorporateActions(
            engine=engine, broker=self.broker, clock=self.clock, lake=room, config=lambda: self.config
        )

    def begin(self) -> StockDesk:
        self.clock.advance(at(WED, 1))
        submission.recover(self.engine, self.broker, self.clock)
        self.ledger.open_session(WED.isoformat(), opened_time=at(WED, 0), start_equity=kit.CASH)
        self.ledger.put_verdicts(kit.good_verdicts("AAPL"))
        self.store.mark(at(WED, 1), WED.isoformat(), {"AAPL": 700.0})
        return self

    def bar(self, bar: BarClose) -> dict[str, str]:
        self.clock.advance(bar.close_time)
        held = self.actions.begin([bar])
        if bar.symbol not in held:
            self.paper.on_bars(bar.close_time, [bar])
        self.router.drain()
        if bar.symbol not in held:
            self.store.mark(bar.close_time, session_date(bar.session).isoformat(), {bar.symbol: bar.close})
        return held

    def enter(self, quantity: float = 100, strategy: str = "trend", stop: float = 630.0, target: float | None = 770.0) -> str:
        made = self.submit(
            0, strategy, "AAPL", reference=700.0, stop=stop, target=target, quantity=quantity, close_time=at(WED, 1),
            valid_until=at(WED, 2),
        )  # fmt: skip
        assert made.accepted, made.refusal
        return made.intent_ids[0]

    def legs(self, trade: str) -> dict[str, tuple[str, float, float]]:
        """leg -> (state, quantity, level) of the trade's working orders."""
        working = [o for o in self.store.orders_of_trade(trade) if o.working]
        return {o.leg.split(":")[0]: (o.state.value, o.quantity, o.stop_price or o.limit_price or 0.0) for o in working}

    def audits(self, act: str) -> int:
        with self.engine.connect() as connection:
            rows = connection.execute(text("SELECT count(*) FROM audit WHERE action = :a"), {"a": act})
            return int(rows.scalar_one())

    def say(self, day: date, factor: float | None, kind: ActionKind = ActionKind.SPLIT) -> None:
        now = self.clock()
        with self.engine.begin() as connection:
            decide(connection, "AAPL", day, factor=factor, who="tapeline:test", reason="looked at it", now_time=now, kind=kind)


@pytest.fixture
def desk(ledger_engine: Engine, tmp_path: Path) -> StockDesk:
    made = StockDesk(ledger_engine, tmp_path).begin()
    assert made.bar(stock_bar(WED, 1, 700.0)) == {}
    return made


def opened(desk: StockDesk, quantity: float = 100) -> str:
    trade = desk.enter(quantity)
    desk.bar(stock_bar(WED, 2, 700.0))
    assert desk.position(symbol="AAPL") == quantity
    return trade


class TestAKnownSplit:
    def test_exchanges_shares_and_average_in_both_books_and_costs_nothing(self, desk: StockDesk) -> None:
        opened(desk)
        equity = desk.broker.account().equity
        write_actions(desk.room, "AAPL", [split(7.0)])
        assert desk.bar(stock_bar(THU, 1, 100.0)) == {}
        (held,) = desk.store.open_positions()
        assert (held.quantity, held.average_price) == (700.0, 100.0)
        assert [(p.quantity, p.average_price) for p in desk.broker.positions()] == [(700.0, 100.0)]
        assert desk.broker.account().equity == pytest.approx(equity)
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}
        assert audit.verify(desk.engine) == []

    def test_moves_stop_and_target_to_the_new_level_through_the_order_path(self, desk: StockDesk) -> None:
        trade = opened(desk)
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.bar(stock_bar(THU, 1, 100.0))
        assert desk.legs(trade) == {"stop": ("accepted", 700.0, 90.0), "target": ("accepted", 700.0, 110.0)}
        gone = [o for o in desk.store.orders_of_trade(trade) if o.leg in ("stop", "target")]
        assert [o.state.value for o in gone] == ["canceled", "canceled"]
        assert desk.audits("corporate_action_protection") == 1

    def test_protects_in_the_very_first_bar_of_the_session(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.bar(stock_bar(THU, 1, 100.0, low=89.0))
        assert desk.position(symbol="AAPL") == 0.0
        fills = [f for f in desk.ledger.fills() if f["side"] == "sell"]
        assert [(f["quantity"], f["price"]) for f in fills] == [(700.0, 90.0)]
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}

    def test_does_not_sell_at_the_old_stop(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.bar(stock_bar(THU, 1, 100.0))
        assert [f["side"] for f in desk.ledger.fills()] == ["buy"]

    def test_a_later_exit_closes_every_new_share(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.bar(stock_bar(THU, 1, 100.0))
        assert desk.router.exit_position("trend", "AAPL", "rule", at(THU, 1)).accepted
        desk.bar(stock_bar(THU, 2, 101.0))
        assert desk.position(symbol="AAPL") == 0.0
        assert desk.broker.positions() == []
        assert desk.broker.account().cash == pytest.approx(kit.CASH + 700.0)
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}

    def test_an_exit_under_way_is_asked_for_again_in_new_shares(self, desk: StockDesk) -> None:
        opened(desk)
        desk.router.exit_position("trend", "AAPL", "rule", at(WED, 2))  # a market order for the next open
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.bar(stock_bar(THU, 1, 100.0))
        assert desk.position(symbol="AAPL") == 0.0
        sold = [(f["quantity"], f["price"]) for f in desk.ledger.fills() if f["side"] == "sell"]
        assert sold == [(700.0, 100.0)]

    def test_an_entry_that_has_not_filled_is_lost(self, desk: StockDesk) -> None:
        trade = desk.enter()
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.bar(stock_bar(THU, 1, 100.0))
        assert desk.states(trade) == ["canceled"]
        assert desk.position(symbol="AAPL") == 0.0

    def test_a_reverse_split_pays_the_fraction_out(self, desk: StockDesk) -> None:
        trade = opened(desk, 130)
        cash, equity = desk.broker.account().cash, desk.broker.account().equity
        write_actions(desk.room, "AAPL", [split(0.05)])
        desk.bar(stock_bar(THU, 1, 14000.0))
        (held,) = desk.store.open_positions()
        assert (held.quantity, held.average_price) == (6.0, 14000.0)
        assert desk.broker.account().cash - cash == pytest.approx(0.5 * 14000.0)
        assert desk.broker.account().equity == pytest.approx(equity)
        assert desk.legs(trade)["stop"] == ("accepted", 6.0, 12600.0)
        with desk.engine.connect() as connection:
            (told,) = connection.execute(select(a.position_adjustments)).all()
        assert told.cash_in_lieu == pytest.approx(7000.0)
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}

    def test_a_position_below_one_lot_is_paid_out_whole(self, desk: StockDesk) -> None:
        trade = opened(desk, 10)
        write_actions(desk.room, "AAPL", [split(0.05)])
        desk.bar(stock_bar(THU, 1, 14000.0))
        assert (desk.store.open_positions(), desk.broker.positions(), desk.legs(trade)) == ([], [], {})
        assert desk.broker.account().cash == pytest.approx(kit.CASH)
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}

    def test_strategies_with_one_symbol_share_the_brokers_whole_lots(self, desk: StockDesk) -> None:
        desk.enter(30)
        desk.enter(30, "revert")
        desk.bar(stock_bar(WED, 2, 700.0))
        write_actions(desk.room, "AAPL", [split(0.05)])
        desk.bar(stock_bar(THU, 1, 14000.0))
        assert sum(p.quantity for p in desk.store.open_positions()) == 3.0
        assert desk.broker.positions()[0].quantity == 3.0
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}

    def test_is_applied_once(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [split(7.0)])
        for hours in (1, 2, 3):
            desk.bar(stock_bar(THU, hours, 100.0))
        desk.actions.resume()
        assert desk.position(symbol="AAPL") == 700.0
        assert (desk.audits("corporate_action_started"), desk.audits("corporate_action_done")) == (1, 1)

    def test_of_a_session_without_bars_is_applied_at_the_next_one(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [split(7.0, THU)])
        desk.bar(stock_bar(FRI, 1, 100.0))
        assert desk.position(symbol="AAPL") == 700.0

    def test_of_another_day_does_nothing(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [split(7.0, FRI), split(2.0, date(2017, 1, 3))])
        desk.bar(stock_bar(THU, 1, 700.0))
        assert desk.position(symbol="AAPL") == 100.0

    def test_moves_the_last_price_so_that_the_collar_holds(self, desk: StockDesk) -> None:
        write_actions(desk.room, "AAPL", [split(7.0)])
        desk.clock.advance(at(THU, 1))
        desk.actions.begin([stock_bar(THU, 1, 100.0)])
        assert desk.store.last_prices()["AAPL"] == 100.0


class TestDoubt:
    def test_a_split_without_a_factor_holds_the_instrument_and_freezes_its_orders(self, desk: StockDesk) -> None:
        trade = opened(desk)
        write_actions(desk.room, "AAPL", [split(math.nan)])
        held = desk.bar(stock_bar(THU, 1, 100.0))
        assert "not known" in held["AAPL"]
        assert "trend 100" in held["AAPL"]
        assert desk.legs(trade)["stop"] == ("accepted", 100.0, 630.0)
        assert desk.position(symbol="AAPL") == 100.0
        refused = desk.submit(
            0, "revert", "AAPL", reference=100.0, stop=90.0, target=None, close_time=at(THU, 1), valid_until=at(THU, 2)
        )
        assert (refused.accepted, refused.refusal.split(":")[0]) == (False, "RECONCILIATION")

    def test_a_step_that_looks_like_a_split_holds_until_an_operator_confirms_it(self, desk: StockDesk) -> None:
        trade = opened(desk)
        held = desk.bar(stock_bar(THU, 1, 100.0))
        assert "looks like a split by 7" in held["AAPL"]
        desk.say(THU, 7.0)
        assert desk.bar(stock_bar(THU, 2, 101.0)) == {}
        assert desk.position(symbol="AAPL") == 700.0
        assert desk.legs(trade)["stop"] == ("accepted", 700.0, 90.0)
        with desk.engine.connect() as connection:
            assert mismatches.known(connection) == {}
            assert held_instruments(connection) == {}
        assert reconcile.reconcile(desk.engine, desk.broker, desk.clock).mismatches == {}

    def test_a_crash_that_looked_like_a_split_is_dismissed_and_the_stop_works(self, desk: StockDesk) -> None:
        opened(desk)
        assert "AAPL" in desk.bar(stock_bar(THU, 1, 350.0))
        assert desk.position(symbol="AAPL") == 100.0
        desk.say(THU, None)
        assert desk.bar(stock_bar(THU, 2, 350.0)) == {}
        assert desk.position(symbol="AAPL") == 0.0
        assert desk.audits("corporate_action_dismissed") == 2  # the operator's word and what the desk made of it

    def test_a_factor_confirmed_ahead_needs_no_hold(self, desk: StockDesk) -> None:
        opened(desk)
        desk.say(THU, 7.0)
        assert desk.bar(stock_bar(THU, 1, 100.0)) == {}
        assert desk.position(symbol="AAPL") == 700.0

    def test_a_factor_confirmed_later_in_the_session_is_applied(self, desk: StockDesk) -> None:
        opened(desk)
        desk.bar(stock_bar(THU, 1, 665.0))  # a stock dividend of 5 %: too small a step to be noticed
        desk.say(THU, 1.05)
        desk.clock.advance(at(THU, 2))
        desk.actions.begin([stock_bar(THU, 2, 665.0)])
        assert desk.position(symbol="AAPL") == 105.0
        assert desk.store.last_prices()["AAPL"] == 665.0  # of this session: at the new level already
        assert desk.broker.account().equity == pytest.approx(kit.CASH - 100 * 700.0 + 105 * 665.0)

    def test_a_delisting_of_something_held_is_the_operators(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [split(1.0, kind=ActionKind.DELISTING)])
        assert "delisting" in desk.bar(stock_bar(THU, 1, 690.0))["AAPL"]

    def test_actions_that_cannot_be_read_hold_the_instrument(self, desk: StockDesk) -> None:
        write_actions(desk.room, "AAPL", [split(7.0)])
        (desk.room / "corporate_actions" / "symbol=AAPL" / "manifest.json").write_text("{}")
        assert "cannot be read" in desk.bar(stock_bar(THU, 1, 100.0))["AAPL"]

    def test_a_factor_that_is_none_is_refused(self, desk: StockDesk) -> None:
        for factor in (0.0, -7.0, 1.0, math.inf):
            with pytest.raises(ValueError, match="factor"):
                desk.say(THU, factor)


SPIN_OFF = ActionKind.SPIN_OFF


class TestASpinOff:
    """The shares stay; what was spun off leaves at what the price lost, and levels follow the price."""

    def test_a_known_one_moves_average_and_levels_and_pays_out_what_was_spun_off(self, desk: StockDesk) -> None:
        trade = opened(desk)
        equity = desk.broker.account().equity
        write_actions(desk.room, "AAPL", [split(1.25, kind=SPIN_OFF)])
        assert desk.bar(stock_bar(THU, 1, 560.0)) == {}
        (held,) = desk.store.open_positions()
        assert (held.quantity, held.average_price) == (100.0, 560.0)
        assert [(p.quantity, p.average_price) for p in desk.broker.positions()] == [(100.0, 560.0)]
        assert desk.broker.account().equity == pytest.approx(equity)
        assert desk.legs(trade) == {"stop": ("accepted", 100.0, 504.0), "target": ("accepted", 100.0, 616.0)}
        (booked,) = position_adjustments(desk.engine)
        assert (booked["quantity_before"], booked["quantity_after"], booked["cash_in_lieu"]) == (100.0, 100.0, 14_000.0)
        reconcile.reconcile(desk.engine, desk.broker, desk.clock)
        assert mismatches_of(desk) == {}

    def test_what_it_gained_with_the_part_that_left_is_realized(self, desk: StockDesk) -> None:
        opened(desk)
        desk.bar(stock_bar(WED, 3, 750.0))
        write_actions(desk.room, "AAPL", [split(1.25, kind=SPIN_OFF)])
        desk.bar(stock_bar(THU, 1, 600.0))
        (held,) = desk.store.open_positions()
        assert held.realized_pnl == pytest.approx(100 * (150.0 - 140.0))  # a fifth of 750 got for a fifth of 700

    def test_told_by_its_value_it_is_measured_by_the_price_before(self, desk: StockDesk) -> None:
        opened(desk)
        told = replace(split(math.nan, kind=SPIN_OFF), amount=140.0)
        write_actions(desk.room, "AAPL", [told])
        assert desk.bar(stock_bar(THU, 1, 560.0)) == {}
        assert desk.store.open_positions()[0].average_price == pytest.approx(560.0)

    def test_told_by_a_value_without_a_price_of_the_session_before_it_holds(self, desk: StockDesk) -> None:
        opened(desk)
        write_actions(desk.room, "AAPL", [replace(split(math.nan, FRI, kind=SPIN_OFF), amount=140.0)])
        assert "spin_off" in desk.bar(stock_bar(FRI, 1, 560.0))["AAPL"]

    def test_an_unknown_one_holds_until_an_operator_says_what_it_was(self, desk: StockDesk) -> None:
        trade = opened(desk)
        write_actions(desk.room, "AAPL", [split(math.nan, kind=SPIN_OFF)])
        assert "--value" in desk.bar(stock_bar(THU, 1, 560.0))["AAPL"]
        assert not desk.submit(1, symbol="AAPL", close_time=at(THU, 1), valid_until=at(THU, 3)).accepted
        desk.say(THU, 1.25, SPIN_OFF)
        assert desk.bar(stock_bar(THU, 2, 560.0)) == {}
        assert (desk.position(symbol="AAPL"), desk.legs(trade)["stop"][2]) == (100.0, 504.0)

    def test_a_step_that_looked_like_a_split_and_was_a_spin_off_leaves_the_shares(self, desk: StockDesk) -> None:
        opened(desk)
        assert "looks like a split" in desk.bar(stock_bar(THU, 1, 350.0))["AAPL"]
        desk.say(THU, 2.0, SPIN_OFF)
        assert desk.bar(stock_bar(THU, 2, 350.0)) == {}
        assert desk.position(symbol="AAPL") == 100.0
        assert held_of(desk) == {}
        with desk.engine.connect() as connection:
            assert [(s.factor, s.units) for s in applied_splits(connection)["AAPL"]] == [(2.0, False)]

    def test_a_factor_below_one_is_no_spin_off(self, desk: StockDesk) -> None:
        with pytest.raises(ValueError, match="takes value away"):
            desk.say(THU, 0.5, SPIN_OFF)


def mismatches_of(desk: StockDesk) -> dict[str, Any]:
    with desk.engine.connect() as connection:
        return dict(mismatches.known(connection))


def held_of(desk: StockDesk) -> dict[str, str]:
    with desk.engine.connect() as connection:
        return held_instruments(connection)


# ---- whole lots ---------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(-500, 500).filter(bool), min_size=1, max_size=6),
       st.sampled_from([7.0, 2.0, 1.5, 0.05, 0.1, 1 / 3]))  # fmt: skip
def test_the_shares_of_strategies_are_whole_lots_that_sum_up_to_the_brokers(held: dict[str, int], factor: float) -> None:
    exact = Fraction(factor).limit_denominator(1000)
    quantities: dict[str, Any] = {k: float(v) for k, v in held.items()}
    total = sum(Fraction(v) for v in held.values()) * exact
    whole = float(abs(total) // 1 * (1 if total >= 0 else -1))
    after = shares(quantities, exact, whole, Fraction(1))
    assert sum(after.values()) == whole
    assert all(x == int(x) for x in after.values())
    assert all(abs(Fraction(after[k]) - Fraction(v) * exact) <= 1 for k, v in held.items())
