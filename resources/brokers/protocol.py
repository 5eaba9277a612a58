"""What every broker is to the desk: the Broker protocol. The paper broker is the first to keep it.

An exception of any call means "not known", never "the order failed": the desk marks the order UNKNOWN and reads the
broker's books to their end markers before it believes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from trading.orders import OrderEvent, OrderState, OrderType, Side, TimeInForce


class BrokerError(Exception):
    """The broker did not answer clearly. Says nothing about whether an order lives."""


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """One order as sent. client_id: the intent id, echoed by the broker in every report (idempotent at the broker
    where it can be). Prices on the tick grid. parent_client_id: activate only when that order fills (bracket legs).
    oco_group: a full fill of one cancels the others. trail: distance of a trailing stop from the bar's extreme, in price
    units; its stop_price is the level it starts at. trade: of trades that several orders enter, the first
    one's client id; a broker that keeps reduce-only orders by position or not at all needs not look at it."""

    client_id: str
    symbol: str
    side: Side
    quantity: float
    order_type: OrderType
    time_in_force: TimeInForce
    limit_price: float | None = None
    stop_price: float | None = None
    parent_client_id: str = ""
    oco_group: str = ""
    reduce_only: bool = False
    trail: float | None = None
    trade: str = ""


EXTERNAL_PREFIX: Final = "ext-"
"""Client ids of orders that no desk sent: placed by hand at the broker. An adapter makes them ``ext-<broker order id>``,
because there the client-id field is empty or anything at all."""


@dataclass(frozen=True, slots=True)
class Modification:
    """What to change of a working order; None leaves it. Prices on the tick grid, quantity in units, fills included."""

    quantity: float | None = None
    limit_price: float | None = None
    stop_price: float | None = None


@dataclass(frozen=True, slots=True)
class OrderReport:
    """The broker's word on one order (open or completed). Type and prices as they are now; None where it has none or
    the broker does not say."""

    client_id: str
    broker_order_id: str
    symbol: str
    side: Side
    quantity: float
    filled_quantity: float
    state: OrderState
    text: str = ""
    order_type: OrderType | None = None
    limit_price: float | None = None
    stop_price: float | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """One fill. execution_id is unique at the broker; fill_time UTC us; commission in `currency`."""

    execution_id: str
    client_id: str
    broker_order_id: str
    symbol: str
    side: Side
    quantity: float
    price: float
    commission: float
    currency: str
    fill_time: int


@dataclass(frozen=True, slots=True)
class BrokerEvent:
    """Something the broker says by itself. event_key is unique per occurrence, so that duplicates are recognised."""

    event_key: str
    client_id: str
    broker_order_id: str
    event: OrderEvent
    event_time: int
    text: str = ""
    execution: Execution | None = None


@dataclass(frozen=True, slots=True)
class BrokerPosition:
    symbol: str
    quantity: float
    average_price: float


@dataclass(frozen=True, slots=True)
class Account:
    """account_id, cash and equity in `currency`."""

    account_id: str
    currency: str
    cash: float
    equity: float


@runtime_checkable
class Broker(Protocol):
    """A broker connection. Calls are synchronous and may block on I/O: the desk runs them in a thread.

    open_orders, completed_orders and executions read to the end marker: what they do not list does not exist there.
    A paper book says so by an attribute ``simulated = True`` (see `is_simulated`); whatever does not is real money.
    """

    name: str

    def submit(self, requests: Sequence[OrderRequest]) -> list[OrderReport]:
        """Send one order, or a bracket (entry first, then its legs) as one atomic group."""
        ...

    def cancel(self, client_id: str) -> None: ...

    def modify(self, client_id: str, change: Modification) -> None:
        """Ask for a change of a working order. UPDATED or UPDATE_REJECTED among its events says what came of it."""
        ...

    def open_orders(self) -> list[OrderReport]: ...

    def completed_orders(self, since_us: int) -> list[OrderReport]: ...

    def executions(self, since_us: int) -> list[Execution]: ...

    def positions(self) -> list[BrokerPosition]: ...

    def account(self) -> Account: ...

    def poll_events(self, after_key: str) -> list[BrokerEvent]:
        """Events after `after_key` ("" = all), in the broker's order; those of a page when there are many. A broker that has an
        attribute ``events_page`` gives that many while there are more; one without is asked until it has none."""
        ...


@runtime_checkable
class Batching(Protocol):
    """A broker that takes several groups, or several cancels, in one call: what many exits of one bar close are sent by."""

    def submit_groups(self, groups: Sequence[Sequence[OrderRequest]]) -> list[list[OrderReport]]:
        """`submit` of each group, which is taken whole or not at all whatever becomes of the others; answers in their order."""
        ...

    def cancel_many(self, client_ids: Sequence[str]) -> None:
        """`cancel` of each, in this order; those the broker does not have are passed over."""
        ...


@dataclass(frozen=True, slots=True)
class Replacement:
    """Orders that are to end, and a group that is to be taken when they have. ends: by client id what is known to be filled of
    each working order; requests: the group, as `Broker.submit` takes it."""

    ends: Mapping[str, float]
    requests: Sequence[OrderRequest]


@runtime_checkable
class Replacing(Protocol):
    """A broker that puts orders in the place of others in one step: nothing fills in between, and both never work together."""

    def replace_groups(self, replacements: Sequence[Replacement]) -> list[list[OrderReport]]:
        """Of each, whatever becomes of the others: end the orders named, then take the group whole, or not at all.

        The group is rejected when one of the orders named was not working any more, or had filled something else than is
        stated: what it was sized by is not true then. Those of them that work end all the same. Known client ids are answered
        with their orders as they are. Answers in the replacements' order.
        """
        ...


def is_simulated(broker: Broker) -> bool:
    """Is it a paper book, which never sees real money? Only a broker that says so by ``simulated = True`` is one."""
    return getattr(broker, "simulated", False) is True


@runtime_checkable
class Connected(Protocol):
    """A broker behind a connection that may be lost."""

    def connection(self) -> int:
        """Number of the connection, after making sure that it answers; a new one means that something may have been missed
        and the books are to be compared. Raises BrokerError while there is none."""
        ...
