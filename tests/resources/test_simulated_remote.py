"""The simulated broker in a process of its own: the conformance suite over TCP, its faults one by one, and its memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.brokers import BrokerContext, broker_names, get_broker
from resources.brokers.protocol import Broker, BrokerError, Connected, Modification, OrderReport, OrderRequest
from resources.brokers.remote.faults import ANSWER_FAULTS, FAULTS, FaultPlan, parse_rates
from resources.brokers.remote.server import BrokerServer
from resources.brokers.remote.venue import Venue, VenueOptions
from resources.brokers.simulated_remote import SimulatedRemoteBroker, connect
from tests.conformance.broker_suite import BrokerSuite, client_id
from tests.desk.kit import CASH, INSTRUMENTS, bar, hour
from trading.costs import Costs
from trading.orders import OrderEvent, OrderState, OrderType, Side

TIMEOUT = 0.1


class Market:
    """Feeds EURUSD bars to a server of its own, one hour after the other."""

    symbol = "EURUSD"

    def __init__(self, book: Path) -> None:
        self.book, self.n, self.now = book, 0, hour(0)
        self.adapters: list[SimulatedRemoteBroker] = []
        self.open()

    def open(self) -> None:
        self.venue = Venue(self.book, INSTRUMENTS, lambda s: Costs(), VenueOptions(CASH, "USD", durable=False), FaultPlan())
        self.server = BrokerServer(self.venue, late_seconds=TIMEOUT * 2, down_seconds=0.05)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        for adapter in self.adapters:
            adapter.close()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.venue.close()

    def restart(self) -> SimulatedRemoteBroker:
        self.adapters.append(connect(f"127.0.0.1:{self.server.port}?replacing", lambda: self.now, TIMEOUT))
        return self.adapters[-1]

    def trade(self, o: float, h: float, low: float, c: float) -> None:
        self.n += 1
        self.now = hour(self.n)
        self.server.perform("bars", self.now, {"close_time": self.now, "bars": [_values(bar(self.symbol, self.n, o, h, low, c))]})


def _values(made: object) -> dict[str, object]:
    from resources.brokers.remote.wire import bar_values

    return bar_values(made)  # type: ignore[arg-type]


@pytest.fixture
def venue(tmp_path: Path) -> Iterator[Market]:
    market = Market(tmp_path / "book.sqlite")
    yield market
    market.close()


@pytest.fixture
def broker(venue: Market) -> SimulatedRemoteBroker:
    return venue.restart()


class TestSimulatedRemoteBroker(BrokerSuite):
    """The suite every broker passes, and what only a broker elsewhere can do."""

    def test_the_registry_finds_it_and_it_is_on_loopback_only(self, broker: Broker, venue: Market) -> None:
        def context(address: str) -> BrokerContext:
            return BrokerContext(None, INSTRUMENTS, lambda s: Costs(), CASH, "USD", lambda: 0, address)  # type: ignore[arg-type]

        assert "simulated_remote" in broker_names()
        assert isinstance(get_broker("simulated_remote", context(f"127.0.0.1:{venue.server.port}")), Broker)
        for address in ("", "127.0.0.1", "10.0.0.1:8611", "broker.example:443"):
            with pytest.raises(BrokerError, match=r"127\.0\.0\.1:PORT"):
                get_broker("simulated_remote", context(address))

    @pytest.mark.parametrize("kind", ["late", "out_of_order", "never", "accept_then_timeout", "delayed_accept"])
    def test_no_answer_in_time_is_an_error_and_the_next_question_is_answered(
        self, broker: Broker, venue: Market, kind: str
    ) -> None:
        venue.venue.faults.arm(kind)
        with pytest.raises(BrokerError, match="no answer within"):
            broker.submit([self.order(venue, 1)])
        there = kind not in ("never", "delayed_accept")
        assert [r.client_id for r in broker.open_orders()] == ([client_id(1)] if there else [])
        venue.trade(1.2, 1.201, 1.199, 1.2)  # what was held back arrives behind this bar
        assert self.state(broker, 1) is {"never": None, "delayed_accept": OrderState.ACCEPTED}.get(kind, OrderState.FILLED)

    @pytest.mark.parametrize("kind", ["accept_then_5xx", "disconnect"])
    def test_an_error_after_the_order_was_taken_leaves_it_at_the_broker(self, broker: Broker, venue: Market, kind: str) -> None:
        venue.venue.faults.arm(kind)
        with pytest.raises(BrokerError):
            broker.submit([self.order(venue, 1)])
        assert self.state(broker, 1) is OrderState.ACCEPTED

    def test_a_second_answer_is_dropped(self, broker: Broker, venue: Market) -> None:
        venue.venue.faults.arm("twice")
        assert broker.submit([self.order(venue, 1)])[0].client_id == client_id(1)
        assert [r.client_id for r in broker.open_orders()] == [client_id(1)]
        assert broker.positions() == []

    def test_a_rejection_is_a_clear_answer(self, broker: Broker, venue: Market) -> None:
        venue.venue.faults.arm("reject")
        assert {r.state for r in broker.submit(self.bracket(venue, 1))} == {OrderState.REJECTED}

    def test_a_partial_fill_goes_on_in_later_bars(self, broker: Broker, venue: Market) -> None:
        venue.venue.faults.arm("partial_fill")
        broker.submit([self.order(venue, 1)])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert [e.quantity for e in broker.executions(0)] == [50]
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert [e.quantity for e in broker.executions(0)] == [50, 50]
        assert self._story(broker.poll_events(""), 1) == [OrderEvent.ACCEPT, OrderEvent.PARTIAL_FILL, OrderEvent.FILL]

    def test_a_fill_may_come_after_a_confirmed_cancel(self, broker: Broker, venue: Market) -> None:
        venue.venue.faults.arm("fill_after_cancel")
        broker.submit([self.order(venue, 1)])
        broker.cancel(client_id(1))
        assert self.state(broker, 1) is OrderState.CANCELED
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert self._story(broker.poll_events(""), 1) == [OrderEvent.ACCEPT, OrderEvent.CANCELED, OrderEvent.FILL]
        assert [p.quantity for p in broker.positions()] == [100]

    def test_a_refused_cancel_leaves_the_order(self, broker: Broker, venue: Market) -> None:
        venue.venue.faults.arm("cancel_rejected")
        broker.submit([self.order(venue, 1)])
        broker.cancel(client_id(1))
        assert self._story(broker.poll_events(""), 1)[-1] is OrderEvent.CANCEL_REJECTED
        assert self.state(broker, 1) is OrderState.ACCEPTED

    def test_events_come_twice_swapped_and_late(self, broker: Broker, venue: Market) -> None:
        venue.venue.faults.arm("event_twice")
        broker.submit([self.order(venue, 1)])
        assert self._story(broker.poll_events(""), 1) == [OrderEvent.ACCEPT, OrderEvent.ACCEPT]
        venue.venue.faults.arm("events_late")
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert [p.quantity for p in broker.positions()] == [100]
        assert self._story(broker.poll_events(""), 1) == [OrderEvent.ACCEPT, OrderEvent.ACCEPT]
        assert len(broker.executions(0)) == 1
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert self._story(broker.poll_events(""), 1)[-1] is OrderEvent.FILL

    def test_the_daily_disconnect_is_a_new_connection(self, broker: SimulatedRemoteBroker, venue: Market) -> None:
        assert isinstance(broker, Connected)
        before = broker.connection()
        venue.venue.faults.arm("disconnect_daily")
        venue.trade(1.2, 1.201, 1.199, 1.2)
        after = before
        while after == before:
            try:
                after = broker.connection()
            except BrokerError:
                continue
        assert after == before + 1

    def test_it_forgets_nothing_when_it_dies_itself(self, broker: Broker, venue: Market) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        venue.server.perform("place", 0, {"symbol": "EURUSD", "side": "buy", "quantity": 7})
        told = (broker.open_orders(), broker.completed_orders(0), broker.executions(0), broker.positions(), broker.account(),
                broker.poll_events(""))  # fmt: skip
        venue.close()
        venue.open()
        again = venue.restart()
        assert told == (again.open_orders(), again.completed_orders(0), again.executions(0), again.positions(), again.account(),
                        again.poll_events(""))  # fmt: skip
        assert "ext-1" in {r.client_id for r in again.open_orders()}


class TestFaults:
    def test_rates_are_read_and_refused_with_their_name(self) -> None:
        assert parse_rates("late=0.5, reject=0.1") == {"late": 0.5, "reject": 0.1}
        for text in ("lat=0.5", "late=often", "late=2"):
            with pytest.raises(ValueError, match=text.partition("=")[0]):
                parse_rates(text)

    def test_the_same_seed_strikes_at_the_same_places(self) -> None:
        made = [[FaultPlan({"late": 0.3}, seed=5).strike("submit", ANSWER_FAULTS)] for _ in range(2)]
        assert made[0] == made[1]
        plan = FaultPlan({"late": 0.3, "twice": 0.3}, seed=5)
        struck = [plan.strike("submit", ANSWER_FAULTS) for _ in range(200)]
        assert {"", "late", "twice"} == set(struck)
        assert sum(plan.struck.values()) == sum(bool(k) for k in struck)

    def test_every_fault_says_what_it_is(self) -> None:
        assert all(FAULTS.values())


@pytest.mark.parametrize("remote", [True, False])
def test_a_modified_order_rests_at_its_new_price_and_a_bad_change_is_refused(
    remote: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    venue: Market | object = request.getfixturevalue("venue") if remote else _paper(request.getfixturevalue("ledger_engine"))
    broker = venue.restart()  # type: ignore[union-attr]
    suite = BrokerSuite()
    broker.submit(suite.bracket(venue, 1))  # type: ignore[arg-type]
    venue.trade(1.2, 1.201, 1.199, 1.2)  # type: ignore[union-attr]
    broker.modify(client_id(2), Modification(stop_price=1.195))
    assert _report(broker, 2).stop_price == 1.195
    broker.modify(client_id(2), Modification(stop_price=1.19555))
    broker.modify(client_id(3), Modification(quantity=60))
    assert (_report(broker, 2).stop_price, _report(broker, 3).quantity) == (1.195, 60)
    events = suite._story(broker.poll_events(""), 2)
    assert events == [OrderEvent.ACCEPT, OrderEvent.UPDATED, OrderEvent.UPDATE_REJECTED]
    venue.trade(1.2, 1.2, 1.194, 1.196)  # type: ignore[union-attr]
    assert broker.executions(0)[-1].price == pytest.approx(1.195)


def _paper(engine: object) -> object:
    from tests.resources.test_paper_broker import Bars

    return Bars(engine, Costs())  # type: ignore[arg-type]


def _report(broker: Broker, n: int) -> OrderReport:
    return next(r for r in broker.open_orders() if r.client_id == client_id(n))


def test_an_order_request_survives_the_wire() -> None:
    from resources.brokers.remote import wire

    request = OrderRequest("int-1", "EURUSD", Side.SELL, 5, OrderType.LIMIT, "gtc", 1.1, None, "p", "g", True, None)  # type: ignore[arg-type]
    assert wire.request_of(wire.decode(wire.encode(wire.plain(request)))) == request
