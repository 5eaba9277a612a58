"""The paper broker: the conformance suite, and what only it promises (bars, costs, sessions, restarts)."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from resources.brokers import BrokerContext, UnknownBroker, broker_names, get_broker
from resources.brokers.paper import PaperBroker
from resources.brokers.paper_book import Book, BookPosition
from resources.brokers.protocol import Broker, BrokerError, OrderRequest
from tests.conformance.broker_suite import BrokerSuite, client_id
from tests.desk.kit import CASH, INSTRUMENTS, SESSION, bar, hour, instrument
from trading.calendars import calendar
from trading.costs import Costs
from trading.orders import OrderState, OrderType, Side, TimeInForce
from trading.timeframes import Timeframe, session_date, session_number


class Bars:
    """Feeds EURUSD bars, one hour after the other."""

    symbol = "EURUSD"

    def __init__(self, engine: Engine, costs: Costs) -> None:
        self.engine, self.costs, self.n, self.now = engine, costs, 0, hour(0)
        self.broker = self.restart()

    def restart(self) -> PaperBroker:
        return PaperBroker(self.engine, INSTRUMENTS, lambda symbol: self.costs, CASH, "USD", lambda: self.now)

    def trade(self, o: float, h: float, low: float, c: float) -> None:
        self.n += 1
        self.now = hour(self.n)
        self.broker.on_bars(self.now, [bar(self.symbol, self.n, o, h, low, c)])


@pytest.fixture
def venue(ledger_engine: Engine) -> Bars:
    return Bars(ledger_engine, Costs())


@pytest.fixture
def broker(venue: Bars) -> PaperBroker:
    return venue.broker


class TestPaperBroker(BrokerSuite):
    """The suite every broker passes, and the paper broker's own promises."""

    def test_the_registry_finds_it(self, ledger_engine: Engine) -> None:
        context = BrokerContext(ledger_engine, INSTRUMENTS, lambda s: Costs(), CASH, "USD", lambda: hour(0))
        assert "paper" in broker_names()
        assert isinstance(get_broker("paper", context), Broker)
        with pytest.raises(UnknownBroker, match="paper"):
            get_broker("papier", context)
        with pytest.raises(UnknownBroker):
            get_broker("protocol", context)

    def test_an_order_never_meets_a_bar_that_opened_before_it(self, broker: PaperBroker, venue: Bars) -> None:
        venue.now = hour(0) + 60_000_000  # one minute into the bar
        broker.submit([self.order(venue, 1)])
        venue.trade(1.2, 1.21, 1.19, 1.2)
        assert broker.executions(0) == []
        venue.trade(1.205, 1.21, 1.19, 1.2)
        assert broker.executions(0)[0].price == 1.205

    def test_the_same_bar_is_matched_once(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit(self.bracket(venue, 1))
        broker.on_bars(hour(1), [bar("EURUSD", 1, 1.2, 1.201, 1.199, 1.2)])
        broker.on_bars(hour(1), [bar("EURUSD", 1, 1.2, 1.201, 1.10, 1.2)])
        venue.restart().on_bars(hour(1), [bar("EURUSD", 1, 1.2, 1.201, 1.10, 1.2)])
        assert len(broker.executions(0)) == 1
        broker.on_bars(hour(1), [bar("GBPUSD", 1, 1.2, 1.201, 1.199, 1.2)])  # another symbol of the same close still counts
        assert len(broker.executions(0)) == 1

    def test_a_bar_of_another_close_or_an_unknown_symbol_is_refused(self, broker: PaperBroker) -> None:
        with pytest.raises(BrokerError):
            broker.on_bars(hour(2), [bar("EURUSD", 1, 1.2, 1.201, 1.199, 1.2)])
        with pytest.raises(BrokerError):
            broker.on_bars(hour(1), [bar("NOSUCH", 1, 1.2, 1.201, 1.199, 1.2)])

    def test_fills_at_an_open_carry_its_time_others_the_close(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        venue.trade(1.2, 1.201, 1.18, 1.2)
        entry, stop = broker.executions(0)
        assert (entry.fill_time, stop.fill_time) == (hour(0), hour(2))

    def test_a_gap_through_the_stop_fills_at_the_open(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        venue.trade(1.17, 1.18, 1.16, 1.17)
        stop = broker.executions(0)[1]
        assert (stop.price, stop.fill_time) == (1.17, hour(1))

    def test_stop_and_target_count_in_the_bar_of_a_market_entry_stop_first(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.23, 1.18, 1.2)
        assert [e.price for e in broker.executions(0)] == [1.2, 1.19]

    def test_the_target_of_an_entry_inside_a_bar_waits_for_the_next(self, broker: PaperBroker, venue: Bars) -> None:
        _, stop, target = self.bracket(venue, 1)
        entry = self.order(venue, 1, order_type=OrderType.STOP, stop_price=1.21)
        broker.submit([entry, stop, target])
        venue.trade(1.2, 1.23, 1.195, 1.225)
        assert [e.price for e in broker.executions(0)] == [1.21]
        venue.trade(1.225, 1.23, 1.215, 1.225)
        assert [e.price for e in broker.executions(0)] == [1.21, 1.225]

    def test_exits_at_the_open_come_before_entries(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        broker.submit([self.order(venue, 4, Side.SELL)])
        broker.submit([self.order(venue, 9, Side.SELL, reduce_only=True, oco_group="oco-1")])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert [e.client_id for e in broker.executions(0)] == [client_id(1), client_id(9), client_id(4)]

    def test_opposite_strategies_do_not_block_each_others_exits(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit(self.bracket(venue, 1))
        broker.submit([self.order(venue, 11, Side.SELL)])  # net position 0
        venue.trade(1.2, 1.201, 1.199, 1.2)
        broker.cancel(client_id(2))
        broker.cancel(client_id(3))
        broker.submit([self.order(venue, 9, Side.SELL, reduce_only=True, oco_group="oco-1")])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert [p.quantity for p in broker.positions()] == [-100]

    def test_a_reduce_only_order_larger_than_the_position_is_cut(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit([self.order(venue, 1)])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        broker.submit([self.order(venue, 2, Side.SELL, 250, reduce_only=True)])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert broker.positions() == []
        assert self.state(broker, 2) is OrderState.CANCELED
        assert broker.executions(0)[-1].quantity == 100

    def test_slippage_goes_against_market_and_stop_fills_never_limits(self, ledger_engine: Engine) -> None:
        venue = Bars(ledger_engine, Costs("per_value", 0.0001, 0.5, "fixed", 2))
        broker = venue.broker
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        venue.trade(1.2, 1.23, 1.199, 1.2)
        entry, target = broker.executions(0)
        assert entry.price == pytest.approx(1.2002)
        assert target.price == 1.22
        assert entry.commission == 0.5
        assert broker.account().cash == pytest.approx(CASH - 100 * 1.2002 + 100 * 1.22 - 1.0)

    def test_a_day_order_ends_with_the_first_session_it_met(self, broker: PaperBroker, venue: Bars) -> None:
        order = self.order(venue, 1, order_type=OrderType.LIMIT, limit_price=1.1, time_in_force=TimeInForce.DAY)
        broker.submit([order])
        for _ in range(14):  # to 22:00Z, the end of the FX session
            venue.trade(1.2, 1.201, 1.199, 1.2)
        assert self.state(broker, 1) is OrderState.ACCEPTED
        venue.trade(1.05, 1.06, 1.04, 1.05)
        assert self.state(broker, 1) is OrderState.EXPIRED
        assert broker.executions(0) == []

    def test_an_immediate_order_fills_at_once_or_ends(self, broker: PaperBroker, venue: Bars) -> None:
        now = self.order(venue, 1, time_in_force=TimeInForce.IOC)
        never = self.order(venue, 2, order_type=OrderType.LIMIT, limit_price=1.1, time_in_force=TimeInForce.IOC)
        broker.submit([now])
        broker.submit([never])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert [self.state(broker, n) for n in (1, 2)] == [OrderState.FILLED, OrderState.EXPIRED]

    def test_a_triggered_stop_limit_says_so_and_then_is_a_limit(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit([self.order(venue, 1, order_type=OrderType.STOP_LIMIT, stop_price=1.21, limit_price=1.205)])
        venue.trade(1.2, 1.215, 1.2, 1.214)
        assert self.state(broker, 1) is OrderState.TRIGGERED
        venue.trade(1.214, 1.215, 1.204, 1.21)
        assert broker.executions(0)[0].price == 1.205

    def test_an_instrument_of_another_currency_is_refused(self, broker: PaperBroker, venue: Bars) -> None:
        (report,) = broker.submit([self.order(venue, 1, symbol="USDJPY")])
        assert (report.state, report.text) == (OrderState.REJECTED, "PRICE_MISSING: fx=JPY/USD")

    def test_another_account_currency_is_refused_not_converted(self, broker: PaperBroker, venue: Bars) -> None:
        broker.account()
        other = PaperBroker(venue.engine, INSTRUMENTS, lambda s: Costs(), CASH, "EUR", lambda: hour(0))
        with pytest.raises(BrokerError, match="USD"):
            other.account()

    def test_a_position_of_an_unknown_instrument_makes_the_equity_unknown(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit([self.order(venue, 1)])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        smaller = PaperBroker(venue.engine, {}, lambda s: Costs(), CASH, "USD", lambda: hour(1))
        with pytest.raises(BrokerError, match="EURUSD"):
            smaller.account()

    def test_a_multiplier_counts_in_cash_equity_and_commission(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit([self.order(venue, 1, symbol="GBPUSD")])
        broker.on_bars(hour(1), [bar("GBPUSD", 1, 1.3, 1.31, 1.29, 1.31)])
        account = broker.account()
        assert account.cash == pytest.approx(CASH - 100 * 1.3 * 2)
        assert account.equity == pytest.approx(CASH + 100 * 0.01 * 2)

    def test_a_failed_transaction_leaves_nothing(self, broker: PaperBroker, venue: Bars) -> None:
        broker.submit([self.order(venue, 1)])
        with venue.engine.begin() as connection:
            connection.execute(text("ALTER TABLE paper.account ADD CONSTRAINT broke CHECK (cash > 99999)"))
        with pytest.raises(Exception, match="broke"):
            venue.trade(1.2, 1.201, 1.199, 1.2)
        assert broker.executions(0) == []
        assert broker.poll_events("")[-1].event.value == "accept"
        with venue.engine.begin() as connection:
            connection.execute(text("ALTER TABLE paper.account DROP CONSTRAINT broke"))
        venue.n -= 1
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert len(broker.executions(0)) == 1

    def test_daily_bars_open_with_their_session(self, ledger_engine: Engine) -> None:
        stock = instrument("AAA", calendar="XNYS", tick_size=Decimal("0.01"), native_timeframe=Timeframe.D1)
        opened, closed = calendar("XNYS").bounds(session_number(session_date(session_number_of(SESSION))))
        now = [opened - 3_600_000_000]
        broker = PaperBroker(ledger_engine, {"AAA": stock}, lambda s: Costs(), CASH, "USD", lambda: now[0])
        broker.submit([OrderRequest(client_id(1), "AAA", Side.BUY, 10, OrderType.MARKET, TimeInForce.DAY)])
        daily = bar("AAA", 0, 100, 101, 99, 100)
        daily = type(daily)("AAA", Timeframe.D1, closed, session_number_of(SESSION), 100, 101, 99, 100, 5.0)
        broker.on_bars(closed, [daily])
        assert broker.executions(0)[0].fill_time == opened


def session_number_of(iso: str) -> int:
    from datetime import date

    return session_number(date.fromisoformat(iso))


_PRICE = st.integers(11_500, 12_500).map(lambda t: t / 10_000)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(_PRICE, _PRICE, _PRICE, _PRICE), min_size=1, max_size=12), st.data())
def test_whatever_bars_come_the_book_adds_up(prices: list[tuple[float, float, float, float]], data: st.DataObject) -> None:
    """Cash, position and executions agree; a bracket closes at most once and never turns a position around."""
    book = Book("USD", CASH, positions={"EURUSD": BookPosition()})
    costs = Costs("per_share", 0.001, 0.1, "fixed", 1)
    groups = 0
    for n, (o, a, b, c) in enumerate(prices, start=1):
        if data.draw(st.booleans()):
            groups += 1
            side = data.draw(st.sampled_from([Side.BUY, Side.SELL]))
            entry = OrderRequest(client_id(groups * 10), "EURUSD", side, 100, OrderType.MARKET, TimeInForce.GTC)
            away = 0.01 * side.sign
            stop = OrderRequest(
                client_id(groups * 10 + 1), "EURUSD", side.opposite, 100, OrderType.STOP, TimeInForce.GTC,
                stop_price=round(1.2 - away, 4), parent_client_id=entry.client_id, oco_group=str(groups), reduce_only=True,
            )  # fmt: skip
            target = OrderRequest(
                client_id(groups * 10 + 2), "EURUSD", side.opposite, 100, OrderType.LIMIT, TimeInForce.GTC,
                limit_price=round(1.2 + away, 4), parent_client_id=entry.client_id, oco_group=str(groups), reduce_only=True,
            )  # fmt: skip
            for request in (entry, stop, target):
                book.accept(request, f"P{request.client_id}", hour(n - 1))
        if groups and data.draw(st.booleans()):
            group = data.draw(st.integers(1, groups))
            side = book.orders[client_id(group * 10)].request.side
            exit_order = OrderRequest(
                client_id(1000 + n), "EURUSD", side.opposite, 100, OrderType.MARKET, TimeInForce.GTC, oco_group=str(group),
                reduce_only=True,
            )  # fmt: skip
            book.accept(exit_order, f"P{exit_order.client_id}", hour(n - 1))
        book.match(bar("EURUSD", n, o, max(o, a, b, c), min(o, a, b, c), c), hour(n - 1), INSTRUMENTS["EURUSD"], costs)
    executions = [e.execution for e in book.events if e.execution is not None]
    net = sum(e.side.sign * e.quantity for e in executions)
    cash = CASH - sum(e.side.sign * e.quantity * e.price + e.commission for e in executions)
    assert book.positions["EURUSD"].quantity == pytest.approx(net)
    assert book.cash == pytest.approx(cash)
    assert len({e.execution_id for e in executions}) == len(executions)
    for group in range(1, groups + 1):
        members = [o for o in book.orders.values() if o.request.oco_group == str(group)]
        entry_order = book.orders[client_id(group * 10)]
        closed = sum(o.filled_quantity for o in members)
        assert closed <= entry_order.filled_quantity
        if closed:
            assert not any(o.working for o in members)
