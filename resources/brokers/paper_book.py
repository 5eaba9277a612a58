"""The paper broker's book in memory: working orders, positions and cash of one transaction, and how a bar fills them.

The order of events within a bar is the backtest's: exits at the open, entries at the open, entries inside the bar, then
the protective legs of every open trade, stops before targets. The fill prices are trading.matching's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from resources.brokers.protocol import Execution, Modification, OrderReport, OrderRequest
from resources.feeds.protocol import BarClose
from trading import matching, portfolio
from trading.corporate_actions import exact_factor
from trading.costs import Costs
from trading.instruments import Instrument
from trading.orders import TERMINAL, OrderEvent, OrderState, OrderType, Side, TimeInForce

_STOPS = (OrderType.STOP, OrderType.STOP_LIMIT, OrderType.TRAILING_STOP)
_MARKET_STOPS = (OrderType.STOP, OrderType.TRAILING_STOP)


@dataclass(slots=True)
class BookOrder:
    """One order as the paper broker holds it. session: number of the first session whose bars it met, None before.

    filled_units: filled_quantity in today's units, which differ from the traded ones after a split. stop_price: level of the
    stop now; a trailing one moves.
    """

    request: OrderRequest
    broker_order_id: str
    state: OrderState
    filled_quantity: float
    text: str
    session: int | None
    created_time: int
    updated_time: int
    filled_units: float = 0.0
    stop_price: float | None = None

    def __post_init__(self) -> None:
        if self.stop_price is None:
            self.stop_price = self.request.stop_price

    @property
    def met(self) -> bool:
        """Was its stop price met in an earlier bar?"""
        return self.state in (OrderState.TRIGGERED, OrderState.PARTIALLY_FILLED)

    @property
    def reached(self) -> bool:
        """Is it a stop that was met and is a market order since?"""
        return self.met and self.request.order_type in _MARKET_STOPS

    @property
    def client_id(self) -> str:
        return self.request.client_id

    @property
    def working(self) -> bool:
        return self.state not in TERMINAL


@dataclass(frozen=True, slots=True)
class BookEvent:
    """One thing the broker says about an order."""

    client_id: str
    broker_order_id: str
    event: OrderEvent
    event_time: int
    text: str = ""
    execution: Execution | None = None


@dataclass(slots=True)
class BookPosition:
    """Net position of a symbol; last_close_time: bars up to here are matched."""

    quantity: float = 0.0
    average_price: float = 0.0
    last_price: float = 0.0
    last_close_time: int = 0


@dataclass(slots=True)
class Book:
    """Orders by client id, positions by symbol and cash. Every change lands in `events` or in the rows themselves;
    `touched` names the orders to write back. connection: of the transaction the book lives in. splits: were units ever
    exchanged in this account?"""

    currency: str
    cash: float
    connection: Any = None
    orders: dict[str, BookOrder] = field(default_factory=dict)
    positions: dict[str, BookPosition] = field(default_factory=dict)
    events: list[BookEvent] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    splits: bool = True

    def not_as_stated(self, ends: Mapping[str, float]) -> str:
        """Why nothing may take the place of these orders, of which so much is known to be filled; "" when it may."""
        for client_id, filled in ends.items():
            order = self.orders.get(client_id)
            if order is None or not order.working or not math.isclose(order.filled_quantity, filled, rel_tol=1e-9):
                return f"NOT_TRADABLE: order={client_id} reason=not_as_stated"
        return ""

    def take(
        self, requests: Sequence[OrderRequest], instruments: Mapping[str, Instrument], now: int, since: Mapping[str, int],
        barred: str = "",
    ) -> None:  # fmt: skip
        """Take an order or a bracket, whole or not at all; a known client id is left as it is.

        since: by symbol, market time from which an order works that takes the place of one from before (a split).
        barred: why it is refused, whatever it is.
        """
        fresh = [r for r in requests if r.client_id not in self.orders]
        sides = {o.client_id: o.request.side for o in self.orders.values()} | {r.client_id: r.side for r in requests}
        problems = [problem_of(r, instruments.get(r.symbol), self.currency, sides.get(r.parent_client_id)) for r in fresh]
        refusal = barred or next((p for p in problems if p), "")
        for request in fresh:
            number = f"P{request.client_id.removeprefix('int-')}"
            if refusal:
                self.reject(request, number, now, refusal)
                continue
            order = self.accept(request, number, min(now, since.get(request.symbol, now)))
            parent = self.orders.get(request.parent_client_id)
            if parent is not None and not parent.working and parent.filled_quantity == 0.0:
                self.cancel(order, now, f"parent {parent.state}")

    def modify(self, order: BookOrder, change: Modification, instrument: Instrument, time_us: int) -> None:
        """Change what rests of a working order; refused (UPDATE_REJECTED, the order stays) when it may not be."""
        request = replace(
            order.request,
            quantity=order.request.quantity if change.quantity is None else change.quantity,
            limit_price=order.request.limit_price if change.limit_price is None else change.limit_price,
            stop_price=order.request.stop_price if change.stop_price is None else change.stop_price,
        )
        parent = self.orders.get(request.parent_client_id)
        problem = problem_of(request, instrument, self.currency, parent.request.side if parent else None)
        if not order.working or order.met:
            problem = f"NOT_TRADABLE: order={order.client_id} reason={order.state}"
        elif request.quantity < order.filled_quantity:
            problem = f"PRICE_GRID: quantity={request.quantity} filled={order.filled_quantity}"
        if problem:
            self._say(order, OrderEvent.UPDATE_REJECTED, time_us, problem)
            return
        order.request = request
        if change.stop_price is not None:
            order.stop_price = change.stop_price
        self._say(order, OrderEvent.UPDATED, time_us)

    def accept(self, request: OrderRequest, broker_order_id: str, time_us: int) -> BookOrder:
        """Take a new order as working."""
        order = BookOrder(request, broker_order_id, OrderState.ACCEPTED, 0.0, "", None, time_us, time_us)
        self.orders[request.client_id] = order
        self._say(order, OrderEvent.ACCEPT, time_us)
        return order

    def reject(self, request: OrderRequest, broker_order_id: str, time_us: int, text: str) -> BookOrder:
        """Keep a refused order, so that asking again gives the same answer."""
        order = BookOrder(request, broker_order_id, OrderState.REJECTED, 0.0, text, None, time_us, time_us)
        self.orders[request.client_id] = order
        self._say(order, OrderEvent.REJECT, time_us, text)
        return order

    def cancel(self, order: BookOrder, time_us: int, text: str, event: OrderEvent = OrderEvent.CANCELED) -> None:
        """End a working order and the legs that wait for it. An ended order stays as it is."""
        if not order.working:
            return
        order.state = OrderState.EXPIRED if event is OrderEvent.EXPIRED else OrderState.CANCELED
        order.text = text
        self._say(order, event, time_us, text)
        if order.filled_quantity == 0.0:
            for leg in self._ordered(o for o in self._beside(order) if o.request.parent_client_id == order.client_id):
                self.cancel(leg, time_us, f"parent {order.state}")

    def match(self, bar: BarClose, open_time: int, instrument: Instrument, costs: Costs) -> None:
        """Fill this symbol's working orders against one closed bar and mark the position to its close.

        An order takes part only in bars that opened at or after its creation: no fill at a price that was gone before.
        """
        self._bar, self._open_time, self._instrument, self._costs = bar, open_time, instrument, costs
        orders = self._ordered(o for o in self._of_symbol(bar.symbol) if o.working and o.created_time <= open_time)
        for order in orders:
            if order.session is None:
                order.session = bar.session
                self.touched.add(order.client_id)
            elif order.request.time_in_force is TimeInForce.DAY and bar.session > order.session:
                self.cancel(order, open_time, "session over", OrderEvent.EXPIRED)
        exits = [o for o in orders if o.request.reduce_only and (not o.request.parent_client_id or self._reduces(o))]
        entries = [o for o in orders if not o.request.parent_client_id and not o.request.reduce_only]
        legs = [o for o in orders if o.request.parent_client_id and not self._reduces(o)]
        inside: set[str] = set()
        for order in [*exits, *entries]:
            if self._at_open(order):
                self._try(order)
        for order in [*exits, *entries]:
            if order.working and not (order.request.order_type is OrderType.MARKET or order.reached) and self._try(order):
                inside.add(order.client_id)
        for leg in sorted(legs, key=lambda o: o.request.order_type not in _STOPS):
            target = leg.request.order_type not in _STOPS
            if self._active(leg) and not (target and leg.request.parent_client_id in inside):
                self._try(leg)
        for leg in legs:
            if self._active(leg):
                self._trail(leg, leg.request.parent_client_id in inside)
        for order in orders:
            if order.working and order.request.time_in_force is TimeInForce.IOC and self._active(order):
                self.cancel(order, bar.close_time, "not filled at once", OrderEvent.EXPIRED)
        self.mark(bar)

    def mark(self, bar: BarClose) -> None:
        """What a bar does that reaches no working order of its symbol: the position is worth its close."""
        position = self.positions.setdefault(bar.symbol, BookPosition())
        position.last_price, position.last_close_time = bar.close, bar.close_time

    def fill_ended(self, order: BookOrder, bar: BarClose, open_time: int, instrument: Instrument, costs: Costs) -> None:
        """Fill an order at a bar's open although its end was told before: cancel and fill crossed on their way."""
        self._bar, self._open_time, self._instrument, self._costs = bar, open_time, instrument, costs
        ended, order.state = order.state, OrderState.ACCEPTED
        self._fill(order, bar.open, open_time)
        if order.state is not OrderState.FILLED:
            order.state = ended

    def tell(self, order: BookOrder, event: OrderEvent, time_us: int, text: str) -> None:
        """Say something about an order that changes nothing in the book."""
        self._say(order, event, time_us, text)

    def _try(self, order: BookOrder) -> bool:
        if not order.working:
            return False
        request, bar = order.request, self._bar
        kind = matching.MARKET if self._at_open(order) else matching.ORDER_TYPE_CODES[request.order_type.value]
        price, triggered = matching.match_bar(
            kind, request.side.sign, _level(request.limit_price), _level(order.stop_price), order.met, bar.open, bar.high,
            bar.low, bar.close,
        )  # fmt: skip
        if math.isnan(price):
            if triggered and order.state is OrderState.ACCEPTED:  # a partly filled one stays that
                order.state = OrderState.TRIGGERED
                self._say(order, OrderEvent.TRIGGER, bar.close_time)
            return False
        parent = self.orders.get(request.parent_client_id)
        earliest = parent.updated_time if parent is not None else self._open_time  # no leg fills before its entry
        return self._fill(order, float(price), max(earliest, self._open_time) if price == bar.open else bar.close_time)

    def _at_open(self, order: BookOrder) -> bool:
        """Is it a market order now: one by type, or a stop that was reached in an earlier bar and has not filled whole?"""
        return order.request.order_type is OrderType.MARKET or order.reached

    def _fill(self, order: BookOrder, price: float, time_us: int) -> bool:
        """Fill what the position and the cap on the bar's volume allow; False when that is nothing."""
        request, instrument = order.request, self._instrument
        wanted = request.quantity - order.filled_quantity
        if request.reduce_only:
            wanted = min(wanted, self._reducible(order))
            if wanted <= 0.0:
                self.cancel(order, time_us, "nothing left to reduce")
                return False
        quantity = self._costs.fillable(wanted, self._bar.volume, float(instrument.lot_size))
        if quantity <= 0.0:
            if request.order_type in _STOPS and order.state is OrderState.ACCEPTED:
                order.state = OrderState.TRIGGERED
                self._say(order, OrderEvent.TRIGGER, time_us)
                if request.order_type in _MARKET_STOPS:
                    self._closing(order, time_us)
            return False
        if request.order_type is OrderType.MARKET or request.order_type in _MARKET_STOPS:
            price = self._costs.slipped(price, request.side.sign, float(instrument.tick_size), quantity, self._bar.volume)
        multiplier = float(instrument.multiplier)
        fee = self._costs.commission(quantity, price, multiplier)
        position = self.positions.setdefault(request.symbol, BookPosition(last_price=price))
        after = portfolio.apply_fill(
            portfolio.Position(position.quantity, position.average_price), request.side, quantity, price, fee, multiplier
        )
        position.quantity, position.average_price = after.quantity, after.average_price
        self.cash += portfolio.cash_flow(request.side, quantity, price, fee, multiplier)
        order.filled_quantity += quantity
        order.filled_units += quantity
        full = order.filled_quantity >= request.quantity
        order.state = OrderState.FILLED if full else OrderState.PARTIALLY_FILLED
        part = "1" if order.filled_quantity == quantity else str(self._bar.close_time)  # at most one fill in a bar
        execution = Execution(
            f"{order.broker_order_id}.{part}", order.client_id, order.broker_order_id, request.symbol, request.side, quantity,
            price, fee, self.currency, time_us,
        )  # fmt: skip
        self._say(order, OrderEvent.FILL if full else OrderEvent.PARTIAL_FILL, time_us, execution=execution)
        capped = quantity < wanted
        if not full and not capped:  # a clipped reduce-only order: the rest has nothing to close
            self.cancel(order, time_us, "nothing left to reduce")
        partial_target = capped and request.order_type is OrderType.LIMIT  # leaves the stop at work
        self._closing(order, time_us, keep_others=partial_target)
        return True

    def _closing(self, order: BookOrder, time_us: int, keep_others: bool = False) -> None:
        """An order was filled or its stop reached: the others of its group end, and nothing more of its entry is filled."""
        group = order.request.oco_group if not keep_others else ""
        for other in self._ordered(o for o in self._beside(order) if group and o.request.oco_group == group):
            if other is not order:
                self.cancel(other, time_us, f"one-cancels-other: {order.client_id} filled")
        parent = self.orders.get(order.request.parent_client_id)
        if parent is not None and order.request.reduce_only:
            self.cancel(parent, time_us, "its trade is being closed")

    def _trail(self, order: BookOrder, inside: bool) -> None:
        """Move a trailing stop at the close of a bar, for the next one."""
        request, bar = order.request, self._bar
        if request.trail is None or order.reached or any(math.isnan(p) for p in (bar.open, bar.high, bar.low, bar.close)):
            return
        high, low = (bar.close, bar.close) if inside else (bar.high, bar.low)
        level = matching.trail_on_grid(
            -request.side.sign, _level(order.stop_price), request.trail, float(self._instrument.tick_size), high, low
        )
        if level != order.stop_price:
            order.stop_price = float(level)
            self.touched.add(order.client_id)

    def _reduces(self, order: BookOrder) -> bool:
        """Is it a market order that closes a part of an open trade, apart from the trade's protective legs?"""
        return order.request.order_type is OrderType.MARKET and order.request.reduce_only and self._active(order)

    def _active(self, order: BookOrder) -> bool:
        """Does the order work, its parent (if any) being filled?"""
        parent = self.orders.get(order.request.parent_client_id)
        return order.working and (not order.request.parent_client_id or (parent is not None and parent.filled_quantity > 0.0))

    def _reducible(self, order: BookOrder) -> float:
        """Most that a reduce-only order may fill: what is open of its trade, or of the net position when it has none.

        A trade is an oco group below its entry, so that strategies holding opposite positions do not block each other.
        """
        request = order.request
        if request.trade and not request.parent_client_id:
            return self._open_of(order)
        group = [o for o in self._beside(order) if request.oco_group and o.request.oco_group == request.oco_group]
        parents = [o.request.parent_client_id for o in group if o.request.parent_client_id]
        parent_id = request.parent_client_id or (parents[0] if parents else "")
        parent = self.orders.get(parent_id)
        if parent is not None:
            legs = [o for o in self._beside(order) if o.request.parent_client_id == parent_id]  # of its other groups, too
            groups = {o.request.oco_group for o in (*group, *legs) if o.request.oco_group}
            family = [o for o in self._beside(order) if o.request.parent_client_id == parent_id or o.request.oco_group in groups]
            exits = [o for o in family if o.request.side is not parent.request.side]
            rest = parent.filled_units - sum(o.filled_units for o in exits)
            if any(o.filled_units != o.filled_quantity for o in (parent, *exits)):
                rest = self._whole_lots(rest)
            if request.trade:  # what closed the whole trade closed this entry's part of it
                rest = min(rest, self._open_of(order))
            return 0.0 if parent.request.side is request.side else rest
        held = self.positions.get(request.symbol, BookPosition()).quantity
        return max(0.0, -held * request.side.sign)

    def _open_of(self, order: BookOrder) -> float:
        """What is open of a trade that several orders entered."""
        request = order.request
        family = [o for o in self._beside(order) if o.request.trade == request.trade]
        entries = [o for o in family if not o.request.reduce_only]
        if not entries or entries[0].request.side is request.side:
            return 0.0
        closed = [o for o in family if o.request.side is request.side]
        rest = sum(o.filled_units for o in entries) - sum(o.filled_units for o in closed)
        rest = self._whole_lots(rest) if any(o.filled_units != o.filled_quantity for o in family) else rest
        wanted = request.quantity - order.filled_quantity
        if abs(rest - wanted) <= 1e-9 * wanted:  # sums of the same numbers in another order
            return wanted
        return rest if rest > 1e-9 * max(o.request.quantity for o in entries) else 0.0

    def _whole_lots(self, quantity: float) -> float:
        """`quantity` after a split, up to the lot: which trade of a position a fraction was paid out of is not known here."""
        lot = float(self._instrument.lot_size)
        return max(0.0, math.ceil(quantity / lot - 1e-9) * lot)

    def split(self, symbol: str, factor: float, instrument: Instrument, time_us: int, *, units: bool = True) -> Split:
        """Exchange every unit of `symbol` for `factor` new ones. A fraction below a lot is paid out at the last price.

        units False: a spin-off. The units stay, their price is divided by `factor`, and what was spun off is paid out at what
        the price lost. time_us: open of the ex session; a last price from after it is at the new level already. Working orders
        of the symbol end: their levels and quantities are in units that are no more.
        """
        exchanged = exact_factor(factor) if units else Fraction(1)
        for order in self._ordered(o for o in self.orders.values() if o.request.symbol == symbol):
            self.cancel(order, time_us, "split")
            order.filled_units = float(Fraction(order.filled_units) * exchanged)
            self.touched.add(order.client_id)
        position = self.positions.setdefault(symbol, BookPosition())
        before, exact = position.quantity, Fraction(position.quantity) * exchanged
        after = whole_lots(exact, instrument)
        old_level = position.last_close_time <= time_us
        price = float(Fraction(position.last_price) / exact_factor(factor)) if old_level else position.last_price
        average = float(Fraction(position.average_price) / exact_factor(factor)) if after else 0.0
        paid = float(exact - Fraction(after)) * price * float(instrument.multiplier)
        if not units:
            paid += spun_off(after, price, factor, float(instrument.multiplier))
        position.quantity, position.average_price, position.last_price = after, average, price
        self.cash += paid
        return Split(before, after, average, price, paid)

    def _say(self, order: BookOrder, event: OrderEvent, time_us: int, text: str = "", execution: Execution | None = None) -> None:
        order.updated_time = time_us
        self.touched.add(order.client_id)
        self.events.append(BookEvent(order.client_id, order.broker_order_id, event, time_us, text, execution))

    def _beside(self, order: BookOrder) -> list[BookOrder]:
        """The orders of its instrument: its parent, legs, group and trade are among them."""
        return self._of_symbol(order.request.symbol)

    def _of_symbol(self, symbol: str) -> list[BookOrder]:
        if self._indexed != len(self.orders):  # orders come, and none ever goes
            self._indexed = len(self.orders)
            self._by_symbol.clear()
            for order in self.orders.values():
                self._by_symbol.setdefault(order.request.symbol, []).append(order)
        return self._by_symbol.get(symbol, [])

    @staticmethod
    def _ordered(orders: Iterable[BookOrder]) -> list[BookOrder]:
        return sorted(orders, key=lambda o: (o.created_time, o.client_id))

    _by_symbol: dict[str, list[BookOrder]] = field(init=False, repr=False, default_factory=dict)
    _indexed: int = field(init=False, default=0, repr=False)
    _bar: BarClose = field(init=False, repr=False)
    _open_time: int = field(init=False, default=0, repr=False)
    _instrument: Instrument = field(init=False, repr=False)
    _costs: Costs = field(init=False, repr=False)


@dataclass(frozen=True, slots=True)
class Split:
    """What a split or spin-off did to a position. price: the last price at the new level, cash_in_lieu: paid for the fraction
    at it, and for what was spun off."""

    quantity_before: float
    quantity_after: float
    average_after: float
    price: float
    cash_in_lieu: float


def spun_off(quantity: float, price: float, factor: float, multiplier: float) -> float:
    """What a spin-off is worth on `quantity` (signed): price before it less `price` after it, in the account's money."""
    return quantity * price * (factor - 1.0) * multiplier


def whole_lots(quantity: Fraction, instrument: Instrument) -> float:
    """The whole lots in `quantity`, toward zero."""
    lot = Fraction(instrument.lot_size)
    lots = abs(quantity) // lot * lot
    return float(lots if quantity >= 0 else -lots)


def report_of(order: BookOrder) -> OrderReport:
    """The broker's word on an order of the book."""
    r = order.request
    return OrderReport(
        r.client_id, order.broker_order_id, r.symbol, r.side, r.quantity, order.filled_quantity, order.state, order.text,
        r.order_type, r.limit_price, order.stop_price,
    )  # fmt: skip


def _level(price: float | None) -> float:
    return math.nan if price is None else price


def problem_of(request: OrderRequest, instrument: Instrument | None, currency: str, side_of_parent: Side | None) -> str:
    """Why the paper broker does not take `request` (a refusal text), or "" when it does."""
    if instrument is None:
        return f"NOT_TRADABLE: symbol={request.symbol} reason=unknown_instrument"
    if instrument.currency != currency:
        return f"PRICE_MISSING: fx={instrument.currency}/{currency}"
    if not (request.quantity > 0 and math.isfinite(request.quantity)):
        return f"PRICE_GRID: quantity={request.quantity} reason=not_positive"
    if not math.isclose(instrument.round_quantity_down(request.quantity * (1 + 1e-12)), request.quantity, rel_tol=1e-9):
        return f"PRICE_GRID: quantity={request.quantity} lot={instrument.lot_size}"
    needs = {
        OrderType.MARKET: (False, False), OrderType.LIMIT: (True, False), OrderType.STOP: (False, True),
        OrderType.STOP_LIMIT: (True, True), OrderType.TRAILING_STOP: (False, True),
    }.get(request.order_type)  # fmt: skip
    if needs is None:
        return f"NOT_TRADABLE: order_type={request.order_type} reason=not_supported"
    for name, price, needed in (
        ("limit_price", request.limit_price, needs[0]),
        ("stop_price", request.stop_price, needs[1]),
    ):
        if needed != (price is not None):
            return f"PRICE_GRID: {name}={price} order_type={request.order_type}"
        if price is not None and not (math.isfinite(price) and math.isclose(instrument.round_price(price), price, rel_tol=1e-12)):
            return f"PRICE_GRID: {name}={price} tick={instrument.tick_size}"
    trails = request.order_type is OrderType.TRAILING_STOP
    if trails != (request.trail is not None) or (request.trail is not None and not (0 < request.trail < math.inf)):
        return f"PRICE_GRID: trail={request.trail} order_type={request.order_type}"
    if request.parent_client_id and (side_of_parent is None or side_of_parent is request.side):
        return f"NOT_TRADABLE: parent={request.parent_client_id} reason={'unknown' if side_of_parent is None else 'same_side'}"
    return ""
