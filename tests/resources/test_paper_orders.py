"""The paper broker keeps trailing stops and partly filled orders over restarts, in its own books."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from resources.brokers.paper import PaperBroker
from resources.brokers.protocol import OrderRequest
from tests.desk.kit import CASH, INSTRUMENTS, bar, hour
from trading.costs import Costs
from trading.orders import OrderState, OrderType, Side, TimeInForce

GTC = TimeInForce.GTC


class Venue:
    """EURUSD bars, one an hour; every bar meets a broker that was just started."""

    def __init__(self, engine: Engine, costs: Costs) -> None:
        self.engine, self.costs, self.n, self.now = engine, costs, 0, hour(0)

    @property
    def broker(self) -> PaperBroker:
        return PaperBroker(self.engine, INSTRUMENTS, lambda symbol: self.costs, CASH, "USD", lambda: self.now)

    def trade(self, o: float, h: float, low: float, c: float, volume: float = 0.0) -> None:
        self.n += 1
        self.now = hour(self.n)
        self.broker.on_bars(self.now, [bar("EURUSD", self.n, o, h, low, c, volume)])

    def fills(self) -> list[tuple[str, float, float]]:
        return [(e.client_id, e.quantity * e.side.sign, e.price) for e in self.broker.executions(0)]


def bracket(quantity: float = 100.0, trail: float | None = 0.004) -> list[OrderRequest]:
    kind = OrderType.STOP if trail is None else OrderType.TRAILING_STOP
    shared = {"parent_client_id": "int-e", "oco_group": "oco-1", "reduce_only": True}
    return [
        OrderRequest("int-e", "EURUSD", Side.BUY, quantity, OrderType.MARKET, GTC),
        OrderRequest("int-s", "EURUSD", Side.SELL, quantity, kind, GTC, None, 1.196, trail=trail, **shared),
        OrderRequest("int-t", "EURUSD", Side.SELL, quantity, OrderType.LIMIT, GTC, 1.22, None, **shared),
    ]


def test_a_trailing_stop_moves_at_closes_and_survives_restarts(ledger_engine: Engine) -> None:
    venue = Venue(ledger_engine, Costs())
    venue.broker.submit(bracket())
    venue.trade(1.2000, 1.2030, 1.1990, 1.2020)  # in at 1.2000; the stop goes to 1.1990
    venue.trade(1.2020, 1.2080, 1.2000, 1.2070)  # to 1.2040
    venue.trade(1.2070, 1.2075, 1.2039, 1.2050)  # and is met
    assert venue.fills() == [("int-e", 100.0, 1.2), ("int-s", -100.0, pytest.approx(1.204))]
    assert {r.client_id: r.state for r in venue.broker.completed_orders(0)}["int-t"] is OrderState.CANCELED


def test_capped_orders_fill_over_several_bars_each_fill_with_its_own_id(ledger_engine: Engine) -> None:
    venue = Venue(ledger_engine, Costs(participation=0.1))
    venue.broker.submit(bracket(trail=None))
    venue.trade(1.2000, 1.2010, 1.1990, 1.2000, 600)  # 60
    venue.trade(1.2010, 1.2010, 1.1990, 1.2000, 600)  # the other 40
    venue.trade(1.1970, 1.1980, 1.1950, 1.1955, 700)  # the stop at 1.1960: 70
    venue.trade(1.1940, 1.2300, 1.1930, 1.2250, 500)  # the rest at the open; the target is gone
    assert venue.fills() == [("int-e", 60.0, 1.2), ("int-e", 40.0, 1.201), ("int-s", -70.0, 1.196), ("int-s", -30.0, 1.194)]
    ids = [e.execution_id for e in venue.broker.executions(0)]
    assert len(set(ids)) == 4
    assert venue.broker.positions() == []


def test_a_trailing_stop_without_a_distance_is_refused(ledger_engine: Engine) -> None:
    venue = Venue(ledger_engine, Costs())
    request = OrderRequest("int-x", "EURUSD", Side.SELL, 1.0, OrderType.TRAILING_STOP, GTC, None, 1.19)
    (report,) = venue.broker.submit([request])
    assert (report.state, report.text) == (OrderState.REJECTED, "PRICE_GRID: trail=None order_type=trailing_stop")
