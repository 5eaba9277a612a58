"""The paper broker looks only at orders that a bar can reach: what it says and holds is as if it had looked at all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from resources.brokers import paper_sql
from resources.brokers.paper import PaperBroker
from resources.brokers.protocol import OrderRequest
from resources.feeds.protocol import BarClose
from resources.ledger.store import connect
from tests.conformance.broker_suite import client_id
from tests.desk.kit import CASH, INSTRUMENTS, bar, hour
from trading.costs import Costs
from trading.orders import OrderType, Side, TimeInForce

HOURS = 34
"""Over the end of a session, so that day orders expire."""
SYMBOLS = ("EURUSD", "GBPUSD")


def _every_working_order(bars: list[BarClose]) -> Any:
    """As if every bar had gone through all prices."""
    return {**_REACHING(bars), "highs": [math.inf] * len(bars), "lows": [-math.inf] * len(bars)}


_REACHING = paper_sql.reaching


def _orders(dice: np.random.Generator, number: int, price: float) -> list[OrderRequest]:
    """An order or a bracket of any kind, some of them far away."""
    symbol, side = SYMBOLS[int(dice.integers(2))], Side.BUY if dice.random() < 0.5 else Side.SELL
    away = float(np.round(dice.choice([0.001, 0.004, 0.02]), 4))
    above, below = round(price + away, 4), round(price - away, 4)
    kind = [OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP][dice.integers(5)]
    stop = {OrderType.STOP: above if side is Side.BUY else below, OrderType.STOP_LIMIT: above if side is Side.BUY else below,
            OrderType.TRAILING_STOP: above if side is Side.BUY else below}.get(kind)  # fmt: skip
    limit = {OrderType.LIMIT: below if side is Side.BUY else above, OrderType.STOP_LIMIT: stop}.get(kind)
    term = [TimeInForce.GTC, TimeInForce.DAY, TimeInForce.IOC][int(dice.choice(3, p=[0.6, 0.3, 0.1]))]
    trail = away if kind is OrderType.TRAILING_STOP else None
    entry = OrderRequest(client_id(number), symbol, side, 100, kind, term, limit, stop, trail=trail)
    if dice.random() < 0.4:
        return [entry]
    back = Side.SELL if side is Side.BUY else Side.BUY
    legs: dict[str, Any] = {"parent_client_id": client_id(number), "oco_group": f"oco-{number}", "reduce_only": True}
    low, high = (below, above) if back is Side.SELL else (above, below)
    return [
        entry,
        OrderRequest(client_id(number + 1), symbol, back, 100, OrderType.STOP, TimeInForce.GTC, None, low, **legs),
        OrderRequest(client_id(number + 2), symbol, back, 100, OrderType.LIMIT, TimeInForce.GTC, high, None, **legs),
    ]


def _bars(dice: np.random.Generator, n: int, price: float) -> list[BarClose]:
    made = []
    for symbol in SYMBOLS:
        opened, closed = round(price + dice.normal(0, 0.001), 4), round(price + dice.normal(0, 0.001), 4)
        high, low = round(max(opened, closed) + 0.0005, 4), round(min(opened, closed) - 0.0005, 4)
        if dice.random() < 0.1:
            high = math.nan
        if dice.random() < 0.9:
            made.append(bar(symbol, n, opened, high, low, closed))
    return made


def _life(engine: Engine, seed: int) -> tuple[list[Any], ...]:
    dice, now = np.random.default_rng(seed), [hour(0)]
    broker = PaperBroker(engine, INSTRUMENTS, lambda symbol: Costs(), CASH, "USD", lambda: now[0])
    price, number = 1.2, 1
    for n in range(1, HOURS):
        for _ in range(int(dice.integers(0, 3))):
            broker.submit(_orders(dice, number, round(price, 4)))
            number += 3
        if dice.random() < 0.2:
            broker.cancel_many([client_id(int(dice.integers(1, number + 1)))])
        now[0], price = hour(n), price + dice.normal(0, 0.001)
        broker.on_bars(hour(n), _bars(dice, n, price))
    events = [(e.client_id, e.event, e.event_time, e.text, e.execution) for e in broker.poll_events("")]
    return events, broker.open_orders(), broker.positions(), [broker.account()]


@pytest.mark.parametrize("seed", [1, 2])
def test_as_if_every_working_order_were_looked_at(
    new_ledger_url: Callable[[], str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    lives = []
    for reach in (_REACHING, _every_working_order):
        engine = connect(new_ledger_url())
        with monkeypatch.context() as patched:
            patched.setattr(paper_sql, "reaching", reach)
            lives.append(_life(engine, seed))
        engine.dispose()
    assert lives[0] == lives[1]
    events = lives[0][0]
    assert {e.value for _, e, *_ in events} >= {"accept", "fill", "canceled", "expired"}
