"""Accounting of a whole account: many instruments, several currencies, orders and the fills that belong to them.

Built for evidence: fills carry the id the broker gave them, an execution told twice counts once, and the account after the
same events is the same whatever order they came in, as long as it is one the broker could have told (a fill never before its
order). Whatever contradicts itself raises instead of being believed.

    cash of a currency = what was paid in + sum over its fills of -side * quantity * price * multiplier - commission
    equity = sum over currencies of (cash + sum of quantity * last price * multiplier) * rate

Futures have no purchase value; with the same formula their cash and value move against each other, so that the equity is
the margin account's (variation margin paid at the mark).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trading import lots, portfolio
from trading.lots import LotPosition
from trading.orders import Side
from trading.portfolio import QUANTITY_EPSILON, Fill, Position


class AccountingError(ValueError):
    """An event contradicts what is known: it is not booked."""


class RateMissing(ValueError):
    """A currency without a rate: no total can be told."""


@dataclass(frozen=True, slots=True)
class Contract:
    """What accounting must know of an instrument: multiplier (currency per point and unit) and quote currency."""

    multiplier: float = 1.0
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Ordered:
    """An order as placed: unsigned quantity."""

    order_id: str
    symbol: str
    side: Side
    quantity: float


@dataclass(frozen=True, slots=True)
class Executed:
    """One execution. sequence: its place in the broker's own order, which decides what was bought first. commission in the
    instrument's currency."""

    execution_id: str
    order_id: str
    sequence: int
    quantity: float
    price: float
    commission: float = 0.0


Event = Ordered | Executed


@dataclass(slots=True)
class Account:
    """Orders, executions and deposits of one account; everything else follows from them. contracts: by symbol."""

    contracts: Mapping[str, Contract]
    deposits: dict[str, float] = field(default_factory=dict)
    _orders: dict[str, Ordered] = field(default_factory=dict)
    _executed: dict[str, Executed] = field(default_factory=dict)

    def deposit(self, currency: str, amount: float) -> None:
        """Pay in (or out, negative). Raises AccountingError on an amount that is not finite."""
        if not math.isfinite(amount):
            raise AccountingError(f"deposit of {amount} {currency}")
        self.deposits[currency] = self.deposits.get(currency, 0.0) + amount

    def apply(self, event: Event) -> bool:
        """Book one event; False when it was known already. Raises AccountingError when it contradicts what is known: another
        content under a known id, a fill of an unknown order, or more filled than was ordered."""
        if isinstance(event, Ordered):
            return self._order(event)
        known = self._executed.get(event.execution_id)
        if known is not None:
            if known != event:
                raise AccountingError(f"execution {event.execution_id} was {known}, now {event}")
            return False
        order = self._orders.get(event.order_id)
        if order is None:
            raise AccountingError(f"execution {event.execution_id} of the unknown order {event.order_id}")
        if not (event.quantity > 0 and all(map(math.isfinite, (event.quantity, event.price, event.commission)))):
            raise AccountingError(f"not a fill: {event}")
        if self.filled(event.order_id) + event.quantity > order.quantity * (1 + QUANTITY_EPSILON):
            raise AccountingError(
                f"order {order.order_id}: {self.filled(order.order_id):g} of {order.quantity:g} are filled, "
                f"{event.quantity:g} more would be too much"
            )
        self._executed[event.execution_id] = event
        return True

    def _order(self, order: Ordered) -> bool:
        known = self._orders.get(order.order_id)
        if known is not None:
            if known != order:
                raise AccountingError(f"order {order.order_id} was {known}, now {order}")
            return False
        if order.symbol not in self.contracts:
            raise AccountingError(f"order {order.order_id}: no contract terms of {order.symbol}")
        if not (order.quantity > 0 and math.isfinite(order.quantity)):
            raise AccountingError(f"order {order.order_id}: quantity {order.quantity}")
        self._orders[order.order_id] = order
        return True

    def filled(self, order_id: str) -> float:
        """What of an order is filled so far, unsigned."""
        return math.fsum(e.quantity for e in self._executed.values() if e.order_id == order_id)

    def fills(self, symbol: str) -> list[Fill]:
        """Fills of `symbol` in the broker's order."""
        mine = [e for e in self._executed.values() if self._orders[e.order_id].symbol == symbol]
        mine.sort(key=lambda e: (e.sequence, e.execution_id))
        return [Fill(self._orders[e.order_id].side, e.quantity, e.price, e.commission) for e in mine]

    @property
    def symbols(self) -> list[str]:
        """Symbols with at least one fill."""
        return sorted({self._orders[e.order_id].symbol for e in self._executed.values()})

    def position(self, symbol: str) -> Position:
        """Average-cost position (trading.portfolio)."""
        return portfolio.position_of(self.fills(symbol), self.contracts[symbol].multiplier)

    def lots(self, symbol: str) -> LotPosition:
        """First-in-first-out position (trading.lots)."""
        return lots.position_of(self.fills(symbol), self.contracts[symbol].multiplier)

    def cash(self) -> dict[str, float]:
        """Cash by currency."""
        flows = {currency: [amount] for currency, amount in self.deposits.items()}
        for symbol in self.symbols:
            contract = self.contracts[symbol]
            flows.setdefault(contract.currency, []).extend(
                portfolio.cash_flow(f.side, f.quantity, f.price, f.commission, contract.multiplier) for f in self.fills(symbol)
            )
        return {currency: math.fsum(parts) for currency, parts in sorted(flows.items())}

    def equity(self, prices: Mapping[str, float], currency: str, rates: Mapping[str, float]) -> float:
        """Cash plus positions at `prices` in `currency`; rates: units of it per unit of each other currency.

        Raises RateMissing where a price or a rate is missing: nothing is guessed.
        """
        total = []
        for other, amount in self.cash().items():
            total.append(amount * self._rate(other, currency, rates))
        for symbol in self.symbols:
            held = self.position(symbol)
            if held.flat:
                continue
            price = prices.get(symbol, math.nan)
            if not math.isfinite(price):
                raise RateMissing(f"no price of {symbol}, of which {held.quantity:g} are held")
            contract = self.contracts[symbol]
            total.append(held.value(price, contract.multiplier) * self._rate(contract.currency, currency, rates))
        return math.fsum(total)

    @staticmethod
    def _rate(of: str, to: str, rates: Mapping[str, float]) -> float:
        if of == to:
            return 1.0
        rate = rates.get(of, math.nan)
        if not (math.isfinite(rate) and rate > 0):
            raise RateMissing(f"no rate of {of} in {to}")
        return rate


def account_of(contracts: Mapping[str, Contract], events: Iterable[Event]) -> Account:
    """Account after `events`."""
    account = Account(contracts)
    for event in events:
        account.apply(event)
    return account
