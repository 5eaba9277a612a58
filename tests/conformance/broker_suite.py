"""What every broker adapter must do. Inherit BrokerSuite, give `broker` and `venue`, and pass.

`venue` moves the market: the tests say what the next bars look like, the adapter's double makes the broker live them.
"""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from resources.brokers.protocol import Batching, Broker, BrokerEvent, OrderRequest, Replacement, Replacing
from trading.orders import TERMINAL, OrderEvent, OrderState, OrderType, Side, TimeInForce


class Venue(Protocol):
    """The market behind a broker under test. symbol: tradable, tick 0.0001, lot 1; prices near 1.2."""

    symbol: str

    def trade(self, o: float, h: float, low: float, c: float) -> None:
        """Let one more bar pass: every working order meets these prices, stops before targets."""

    def restart(self) -> Broker:
        """A new adapter on the same account, as after a crash of the desk."""


def client_id(n: int) -> str:
    return f"int-{n:024x}"


class BrokerSuite:
    """Inherited by every broker's test class, which provides the fixtures `broker` and `venue`."""

    def order(self, venue: Venue, n: int, side: Side = Side.BUY, quantity: float = 100, **changes: Any) -> OrderRequest:
        values: dict[str, Any] = {
            "client_id": client_id(n), "symbol": venue.symbol, "side": side, "quantity": quantity,
            "order_type": OrderType.MARKET, "time_in_force": TimeInForce.GTC,
        }  # fmt: skip
        return OrderRequest(**{**values, **changes})

    def bracket(self, venue: Venue, n: int, stop: float = 1.19, target: float = 1.22) -> list[OrderRequest]:
        """A long entry with its stop and target: client ids n, n + 1, n + 2."""
        legs: dict[str, Any] = {"parent_client_id": client_id(n), "oco_group": f"oco-{n}", "reduce_only": True}
        return [
            self.order(venue, n),
            self.order(venue, n + 1, Side.SELL, order_type=OrderType.STOP, stop_price=stop, **legs),
            self.order(venue, n + 2, Side.SELL, order_type=OrderType.LIMIT, limit_price=target, **legs),
        ]

    def state(self, broker: Broker, n: int) -> OrderState | None:
        reports = {r.client_id: r for r in [*broker.open_orders(), *broker.completed_orders(0)]}
        report = reports.get(client_id(n))
        return report.state if report else None

    def test_it_keeps_the_protocol(self, broker: Broker) -> None:
        assert isinstance(broker, Broker)
        assert broker.name

    def test_an_empty_account_has_no_orders_fills_or_positions(self, broker: Broker) -> None:
        assert (broker.open_orders(), broker.completed_orders(0), broker.executions(0), broker.positions()) == ([], [], [], [])
        account = broker.account()
        assert account.cash == account.equity > 0

    def test_a_submitted_order_is_open_under_its_client_id(self, broker: Broker, venue: Venue) -> None:
        report = broker.submit([self.order(venue, 1)])[0]
        assert report.client_id == client_id(1)
        assert report.broker_order_id
        assert [r.client_id for r in broker.open_orders()] == [client_id(1)]

    def test_sending_twice_makes_one_order(self, broker: Broker, venue: Venue) -> None:
        first = broker.submit(self.bracket(venue, 1))
        again = broker.submit(self.bracket(venue, 1))
        assert [r.broker_order_id for r in again] == [r.broker_order_id for r in first]
        assert len(broker.open_orders()) == 3
        venue.trade(1.2, 1.201, 1.199, 1.2)
        entry = broker.submit(self.bracket(venue, 1))[0]
        assert (entry.state, entry.filled_quantity) == (OrderState.FILLED, 100)
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert [p.quantity for p in broker.positions()] == [100]
        assert len(broker.executions(0)) == 1

    def test_sending_again_after_a_restart_makes_one_order(self, broker: Broker, venue: Venue) -> None:
        broker.submit([self.order(venue, 1)])
        other = venue.restart()
        other.submit([self.order(venue, 1)])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert len(other.executions(0)) == 1

    def test_a_market_order_fills_at_the_next_open_and_moves_cash_and_position(self, broker: Broker, venue: Venue) -> None:
        cash = broker.account().cash
        broker.submit([self.order(venue, 1)])
        venue.trade(1.2010, 1.2050, 1.2, 1.2040)
        (execution,) = broker.executions(0)
        assert (execution.client_id, execution.side, execution.quantity) == (client_id(1), Side.BUY, 100)
        assert execution.price == pytest.approx(1.2010)
        assert self.state(broker, 1) is OrderState.FILLED
        (position,) = broker.positions()
        assert (position.symbol, position.quantity) == (venue.symbol, 100)
        assert position.average_price == pytest.approx(1.2010)
        account = broker.account()
        assert account.cash == pytest.approx(cash - 100 * 1.2010 - execution.commission)
        assert account.equity == pytest.approx(account.cash + 100 * 1.2040)

    def test_legs_wait_for_their_entry(self, broker: Broker, venue: Venue) -> None:
        _, stop, target = self.bracket(venue, 1)
        limit_entry = self.order(venue, 1, order_type=OrderType.LIMIT, limit_price=1.15)
        broker.submit([limit_entry, stop, target])
        venue.trade(1.2, 1.23, 1.18, 1.2)  # through stop and target, not through the entry
        assert broker.executions(0) == []
        assert len(broker.open_orders()) == 3

    def test_the_stop_of_a_bracket_closes_it_and_cancels_the_target(self, broker: Broker, venue: Venue) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        venue.trade(1.195, 1.196, 1.185, 1.186)
        assert [self.state(broker, n) for n in (1, 2, 3)] == [OrderState.FILLED, OrderState.FILLED, OrderState.CANCELED]
        assert broker.positions() == []
        assert broker.executions(0)[-1].price == pytest.approx(1.19)

    def test_the_target_of_a_bracket_closes_it_and_cancels_the_stop(self, broker: Broker, venue: Venue) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        venue.trade(1.21, 1.225, 1.209, 1.224)
        assert [self.state(broker, n) for n in (1, 2, 3)] == [OrderState.FILLED, OrderState.CANCELED, OrderState.FILLED]
        assert broker.executions(0)[-1].price == pytest.approx(1.22)

    def test_canceling_an_entry_takes_its_legs_along(self, broker: Broker, venue: Venue) -> None:
        broker.submit(self.bracket(venue, 1))
        broker.cancel(client_id(1))
        assert broker.open_orders() == []
        assert {self.state(broker, n) for n in (1, 2, 3)} == {OrderState.CANCELED}
        venue.trade(1.2, 1.23, 1.18, 1.2)
        assert broker.executions(0) == []

    def test_canceling_an_ended_order_changes_nothing(self, broker: Broker, venue: Venue) -> None:
        broker.submit([self.order(venue, 1)])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        broker.cancel(client_id(1))
        assert self.state(broker, 1) is OrderState.FILLED

    def test_an_exit_in_the_group_closes_once_whatever_the_legs_do(self, broker: Broker, venue: Venue) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        broker.submit([self.order(venue, 9, Side.SELL, reduce_only=True, oco_group="oco-1")])
        venue.trade(1.2, 1.23, 1.18, 1.2)  # exit, stop and target all in one bar
        assert broker.positions() == []
        assert [e.client_id for e in broker.executions(0)] == [client_id(1), client_id(9)]

    def test_a_reduce_only_order_never_opens_a_position(self, broker: Broker, venue: Venue) -> None:
        broker.submit([self.order(venue, 1, Side.SELL, reduce_only=True)])
        venue.trade(1.2, 1.21, 1.19, 1.2)
        assert broker.positions() == []
        assert broker.executions(0) == []
        assert self.state(broker, 1) in TERMINAL

    @pytest.mark.parametrize(
        "changes",
        [
            {"symbol": "NOSUCH"},
            {"quantity": 0},
            {"quantity": -5},
            {"order_type": OrderType.LIMIT, "limit_price": 1.20005},
            {"order_type": OrderType.STOP},
        ],
    )
    def test_a_bad_order_is_rejected_with_its_reason(self, broker: Broker, venue: Venue, changes: dict[str, Any]) -> None:
        (report,) = broker.submit([self.order(venue, 1, **changes)])
        assert report.state is OrderState.REJECTED
        assert report.text
        assert broker.open_orders() == []

    def test_a_bracket_with_one_bad_leg_is_refused_whole(self, broker: Broker, venue: Venue) -> None:
        entry, stop, _ = self.bracket(venue, 1)
        bad = self.order(venue, 3, Side.SELL, order_type=OrderType.LIMIT, parent_client_id=client_id(1), oco_group="oco-1")
        reports = broker.submit([entry, stop, bad])
        assert {r.state for r in reports} == {OrderState.REJECTED}
        venue.trade(1.2, 1.201, 1.199, 1.2)
        assert broker.positions() == []

    def test_a_bad_group_among_several_is_refused_alone_and_each_is_answered_in_its_place(
        self, broker: Broker, venue: Venue
    ) -> None:
        if not isinstance(broker, Batching):
            pytest.skip(f"{broker.name} takes one group a call")
        groups = [self.bracket(venue, 1), [self.order(venue, 4, quantity=0)], [self.order(venue, 5)]]
        answers = broker.submit_groups(groups)
        assert [[r.client_id for r in reports] for reports in answers] == [[r.client_id for r in group] for group in groups]
        assert [{r.state is OrderState.REJECTED for r in reports} for reports in answers] == [{False}, {True}, {False}]
        assert [[r.broker_order_id for r in reports] for reports in broker.submit_groups(groups)] == [
            [r.broker_order_id for r in reports] for reports in answers
        ]

    def test_several_are_cancelled_at_once_whatever_some_of_them_are(self, broker: Broker, venue: Venue) -> None:
        if not isinstance(broker, Batching):
            pytest.skip(f"{broker.name} takes one cancel a call")
        broker.submit(self.bracket(venue, 1))
        broker.submit([self.order(venue, 4)])
        broker.submit([self.order(venue, 5, order_type=OrderType.LIMIT, limit_price=1.1)])
        broker.cancel(client_id(4))
        broker.cancel_many([client_id(1), client_id(4), client_id(999)])
        assert [r.client_id for r in broker.open_orders()] == [client_id(5)]

    def _resting(self, broker: Broker, venue: Venue) -> tuple[Replacing, OrderRequest]:
        """A bracket whose entry has filled, and the order that is to go in the place of its legs."""
        if not isinstance(broker, Replacing):
            pytest.skip(f"{broker.name} puts no orders in the place of others")
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        return broker, self.order(venue, 9, Side.SELL, reduce_only=True, oco_group="oco-1")

    def test_an_order_goes_in_the_place_of_others_in_one_step(self, broker: Broker, venue: Venue) -> None:
        replacing, leaving = self._resting(broker, venue)
        wanted = [Replacement({client_id(2): 0.0, client_id(3): 0.0}, [leaving])]
        ((report,),) = replacing.replace_groups(wanted)
        assert report.state is OrderState.ACCEPTED
        assert [r.client_id for r in broker.open_orders()] == [client_id(9)]
        assert [r.broker_order_id for r in replacing.replace_groups(wanted)[0]] == [report.broker_order_id]
        venue.trade(1.2, 1.201, 1.1, 1.15)
        assert broker.positions() == []
        assert [e.price for e in broker.executions(0)] == [1.2, 1.2]

    @pytest.mark.parametrize("stated", [{2: 0.0, 3: 500.0}, {2: 0.0, 3: 0.0, 999: 0.0}])
    def test_it_is_rejected_when_they_are_not_as_stated_and_they_end_all_the_same(
        self, broker: Broker, venue: Venue, stated: dict[int, float]
    ) -> None:
        replacing, leaving = self._resting(broker, venue)
        ends = {client_id(number): filled for number, filled in stated.items()}
        other = Replacement({}, [self.order(venue, 8)])
        (report,), (beside,) = replacing.replace_groups([Replacement(ends, [leaving]), other])
        assert (report.state, beside.state) == (OrderState.REJECTED, OrderState.ACCEPTED)
        assert report.text
        assert [r.client_id for r in broker.open_orders()] == [client_id(8)]

    def test_it_is_rejected_when_one_of_them_filled_before(self, broker: Broker, venue: Venue) -> None:
        replacing, leaving = self._resting(broker, venue)
        venue.trade(1.195, 1.196, 1.185, 1.186)
        ((report,),) = replacing.replace_groups([Replacement({client_id(2): 0.0, client_id(3): 0.0}, [leaving])])
        assert report.state is OrderState.REJECTED
        assert broker.positions() == broker.open_orders() == []

    def test_events_tell_the_whole_story_in_order_and_from_any_point(self, broker: Broker, venue: Venue) -> None:
        broker.submit(self.bracket(venue, 1))
        venue.trade(1.2, 1.201, 1.199, 1.2)
        venue.trade(1.195, 1.196, 1.185, 1.186)
        told = broker.poll_events("")
        assert len({e.event_key for e in told}) == len(told)
        assert self._story(told, 1) == [OrderEvent.ACCEPT, OrderEvent.FILL]
        assert self._story(told, 2) == [OrderEvent.ACCEPT, OrderEvent.FILL]
        assert self._story(told, 3) == [OrderEvent.ACCEPT, OrderEvent.CANCELED]
        assert [e.execution for e in told if e.execution] == broker.executions(0)
        for i, event in enumerate(told):
            assert broker.poll_events(event.event_key) == told[i + 1 :]
        assert venue.restart().poll_events("") == told

    def test_books_are_read_to_their_end_after_a_restart(self, broker: Broker, venue: Venue) -> None:
        broker.submit(self.bracket(venue, 1))
        broker.submit([self.order(venue, 7, order_type=OrderType.LIMIT, limit_price=1.1)])
        venue.trade(1.2, 1.201, 1.199, 1.2)
        other = venue.restart()
        assert {r.client_id for r in other.open_orders()} == {client_id(2), client_id(3), client_id(7)}
        assert {r.client_id for r in other.completed_orders(0)} == {client_id(1)}
        assert other.positions() == broker.positions()
        assert other.account() == broker.account()

    @staticmethod
    def _story(told: list[BrokerEvent], n: int) -> list[OrderEvent]:
        return [e.event for e in told if e.client_id == client_id(n)]
