"""An account with real money, for tests: the paper broker's matching behind a name and an account id of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from resources.brokers import BrokerContext
from resources.brokers.paper import PaperBroker
from resources.brokers.protocol import Account, Broker
from resources.feeds.protocol import BarClose
from tests.doubles.faulty_broker import FaultyBroker

NAME, ACCOUNT = "account", "U1"


class AccountBroker(FaultyBroker):
    """Does not say that it is simulated. Driven by bars, because nothing else fills an order in a test."""

    def account(self) -> Account:
        return replace(self.inner.account(), account_id=ACCOUNT)

    def on_bars(self, close_time: int, bars: Sequence[BarClose]) -> None:
        inner: Any = self.inner
        inner.on_bars(close_time, bars)


def brokers(real: Callable[[str, BrokerContext], Broker]) -> Callable[[str, BrokerContext], Broker]:
    """`get_broker` that knows this one as well."""

    def get(name: str, context: BrokerContext) -> Broker:
        if name != NAME:
            return real(name, context)
        return AccountBroker(
            PaperBroker(
                context.engine, context.instruments, context.costs_of, starting_cash=context.starting_cash,
                currency=context.currency, clock=context.clock,
            ),
            name=NAME, simulated=False,
        )  # fmt: skip

    return get
