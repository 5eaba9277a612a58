"""Brokers, one module each. A module resources/brokers/NAME.py with ``create(context) -> Broker`` is the broker NAME."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Engine

from resources.brokers.protocol import Broker
from trading.costs import Costs
from trading.instruments import Instrument

_NOT_BROKERS = frozenset({"__init__", "protocol", "paper_book"})


class UnknownBroker(ValueError):
    """No broker of that name."""


@dataclass(frozen=True, slots=True)
class BrokerContext:
    """What a broker may need: engine of the ledger's server, instruments by symbol, costs_of(symbol) for simulated
    fills, starting cash of a simulated account and its currency, clock() in UTC us (the market's clock), address of a broker
    that is another process (host:port)."""

    engine: Engine
    instruments: Mapping[str, Instrument]
    costs_of: Callable[[str], Costs]
    starting_cash: float
    currency: str
    clock: Callable[[], int]
    address: str = ""


def broker_names() -> list[str]:
    """Names of the brokers there are."""
    return sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in _NOT_BROKERS)


def get_broker(name: str, context: BrokerContext) -> Broker:
    """The broker `name`. Raises UnknownBroker naming those there are."""
    if name not in broker_names() or find_spec(f"resources.brokers.{name}") is None:
        raise UnknownBroker(f"no broker {name!r}: expected one of {', '.join(broker_names())}")
    broker = import_module(f"resources.brokers.{name}").create(context)
    if not isinstance(broker, Broker):
        raise TypeError(f"resources/brokers/{name}.py: create() gave {type(broker).__name__}, which is not a Broker")
    return broker
