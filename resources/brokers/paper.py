"""The paper broker: fills orders against closed bars with the backtest's own matching functions.

Its book lives in its own schema and is written in its own transactions, as if it were a broker elsewhere: the gap
between this book and the ledger is real, and the desk closes it by the broker's evidence alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, and_, func, select
from sqlalchemy.dialects.postgresql import insert

from resources.brokers import BrokerContext, paper_sql
from resources.brokers.paper_book import Book, BookEvent, BookOrder, BookPosition, Split, report_of
from resources.brokers.paper_sql import ACCOUNT_ID, Load
from resources.brokers.protocol import (
    Account,
    BrokerError,
    BrokerEvent,
    BrokerPosition,
    Execution,
    Modification,
    OrderReport,
    OrderRequest,
    Replacement,
)  # fmt: skip
from resources.feeds.protocol import BarClose
from resources.ledger.action_tables import paper_splits
from resources.ledger.base import Insert, insert_together, place_of, reading
from resources.ledger.tables import paper_account, paper_events, paper_orders, paper_positions
from trading.calendars import calendar
from trading.costs import Costs
from trading.instruments import Instrument
from trading.orders import OrderEvent, OrderState, OrderType, Side, TimeInForce
from trading.timeframes import US_PER_MINUTE

_CHANGING = (
    "quantity", "limit_price", "state", "stop_price", "filled_quantity", "filled_units", "text", "session", "updated_time",
)  # fmt: skip


class PaperBroker:
    """Broker protocol over the paper book, plus on_bars.

    instruments: by symbol; costs_of(symbol): costs of its fills; starting_cash in `currency`, used once, when the book
    is empty; clock(): market time, UTC us. Safe from several threads and processes: every change locks the account row.
    Instruments of another currency are refused: no rate is guessed.
    """

    name = "paper"
    simulated = True
    events_page = 1000

    def __init__(
        self,
        engine: Engine,
        instruments: Mapping[str, Instrument],
        costs_of: Callable[[str], Costs],
        starting_cash: float,
        currency: str,
        clock: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._instruments = instruments
        self._costs_of = costs_of
        self._starting_cash = starting_cash
        self._currency = currency
        self._clock = clock

    def submit(self, requests: Sequence[OrderRequest]) -> list[OrderReport]:
        """Take one order or a bracket, whole or not at all. A known client id answers with its order as it is now."""
        return self.submit_groups([requests])[0]

    def submit_groups(self, groups: Sequence[Sequence[OrderRequest]]) -> list[list[OrderReport]]:
        """`submit` of several groups in one transaction: each is taken whole or not at all, whatever becomes of the others."""
        return self._taken([Replacement({}, group) for group in groups], Load.BY_ID)

    def replace_groups(self, replacements: Sequence[Replacement]) -> list[list[OrderReport]]:
        """Groups in the place of orders that rest, in one transaction."""
        return self._taken(replacements, Load.FAMILY)

    def _taken(self, replacements: Sequence[Replacement], load: Load) -> list[list[OrderReport]]:
        requests = [r for replacement in replacements for r in replacement.requests]
        if not requests:
            return [[] for _ in replacements]
        wanted = {r.client_id for r in requests} | {r.parent_client_id for r in requests if r.parent_client_id}
        wanted |= {client_id for replacement in replacements for client_id in replacement.ends}
        with self._writing(load, {"ids": list(wanted)}, positions=False) as book:
            # What replaces an order across a split works from the session's open on, as that one would have.
            since = self._unmatched_splits(book, {r.symbol for r in requests if r.client_id not in book.orders})
            for replacement in replacements:
                barred = book.not_as_stated(replacement.ends)
                for client_id in replacement.ends:
                    if (order := book.orders.get(client_id)) is not None:
                        book.cancel(order, self._clock(), "canceled by request")
                book.take(replacement.requests, self._instruments, self._clock(), since, barred)
            reports = [[report_of(book.orders[r.client_id]) for r in x.requests] for x in replacements]
        return reports

    def cancel(self, client_id: str) -> None:
        """End a working order. Unknown or ended orders stay as they are: the events say what is true."""
        if not self._cancelled([client_id]):
            raise BrokerError(f"paper broker has no order {client_id}")

    def cancel_many(self, client_ids: Sequence[str]) -> None:
        """`cancel` of several in one transaction; those it does not have are passed over."""
        self._cancelled(client_ids)

    def _cancelled(self, client_ids: Sequence[str]) -> int:
        """How many of them the book has."""
        with self._writing(Load.FAMILY, {"ids": list(client_ids)}, positions=False) as book:
            found = [order for client_id in client_ids if (order := book.orders.get(client_id)) is not None]
            for order in found:
                book.cancel(order, self._clock(), "canceled by request")
        return len(found)

    def modify(self, client_id: str, change: Modification) -> None:
        """Change a working order's prices or quantity; a refusal is an event and leaves the order as it was."""
        with self._writing(Load.ALL_RELATED, {"ids": [client_id]}) as book:
            order = book.orders.get(client_id)
            if order is None:
                raise BrokerError(f"paper broker has no order {client_id}")
            book.modify(order, change, self._instruments[order.request.symbol], self._clock())

    def on_bars(self, close_time: int, bars: Sequence[BarClose], session_of: Callable[[str, int], str] | None = None) -> None:
        """Match the working orders of these symbols against the bars closing at `close_time`, in one transaction.

        A (symbol, close_time) at or before the last matched one is skipped, so calling again after a restart is
        harmless. session_of is accepted for symmetry with other hosts; the bars carry their session themselves.
        Raises BrokerError when a bar is of another close or of an unknown symbol.
        """
        for bar in bars:
            if bar.close_time != close_time or bar.symbol not in self._instruments:
                raise BrokerError(f"bar of {bar.symbol} at {bar.close_time}: expected a known symbol closing at {close_time}")
        with self._writing(Load.REACHED, paper_sql.reaching(bars)) as book:
            met = {order.request.symbol for order in book.orders.values()}
            for bar in sorted(bars, key=lambda b: b.symbol):
                position = book.positions.setdefault(bar.symbol, BookPosition())
                if close_time > position.last_close_time and bar.symbol not in met:
                    book.mark(bar)
                elif close_time > position.last_close_time:
                    instrument = self._instruments[bar.symbol]
                    book.match(bar, _open_time(bar, instrument), instrument, self._costs_of(bar.symbol))

    def apply_split(self, action_id: str, symbol: str, factor: float, split_time: int, *, units: bool = True) -> Split:
        """Exchange the units of `symbol`, once per action: asking again answers what was done.

        split_time: open of the ex session, UTC us. units False: a spin-off, see Book.split. Working orders
        of the symbol end. Raises BrokerError for an unknown symbol.
        """
        instrument = self._instruments.get(symbol)
        if instrument is None:
            raise BrokerError(f"split of {symbol}: not an instrument of this account")
        s = paper_splits.c
        with self._writing(Load.OF_SYMBOL, {"symbol": symbol}) as book:
            done_before = select(paper_splits).where(s.action_id == action_id, s.symbol == symbol)
            known = book.connection.execute(done_before).one_or_none()
            if known is not None:
                return Split(known.quantity_before, known.quantity_after, known.average_after, known.price, known.cash_in_lieu)
            done = book.split(symbol, factor, instrument, split_time, units=units)
            book.connection.execute(
                paper_splits.insert().values(
                    action_id=action_id, symbol=symbol, factor=factor, quantity_before=done.quantity_before,
                    quantity_after=done.quantity_after, average_after=done.average_after, price=done.price,
                    cash_in_lieu=done.cash_in_lieu, split_time=split_time,
                )
            )  # fmt: skip
        return done

    @staticmethod
    def _unmatched_splits(book: Book, symbols: set[str]) -> dict[str, int]:
        """Time of the newest split by symbol, of those that no bar was matched against since."""
        if not symbols or not book.splits:
            return {}
        s, p = paper_splits.c, paper_positions.c
        matched = func.coalesce(func.max(p.last_close_time), 0).label("matched")
        newest = select(s.symbol, func.max(s.split_time).label("at"), matched)
        newest = newest.outerjoin(paper_positions, p.symbol == s.symbol).where(s.symbol.in_(symbols)).group_by(s.symbol)
        return {row.symbol: int(row.at) for row in book.connection.execute(newest) if row.matched <= row.at}

    def open_orders(self) -> list[OrderReport]:
        return self._reports(paper_orders.c.state.not_in(paper_sql.TERMINAL))

    def completed_orders(self, since_us: int) -> list[OrderReport]:
        return self._reports(and_(paper_orders.c.state.in_(paper_sql.TERMINAL), paper_orders.c.updated_time >= since_us))

    def executions(self, since_us: int) -> list[Execution]:
        query = (
            select(paper_events.c.execution)
            .where(paper_events.c.execution.is_not(None), paper_events.c.event_time >= since_us)
            .order_by(paper_events.c.seq)
        )
        with reading(self._engine) as connection:
            return [_execution(row.execution) for row in connection.execute(query)]

    def positions(self) -> list[BrokerPosition]:
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(paper_positions).where(paper_positions.c.quantity != 0.0).order_by(paper_positions.c.symbol)
            ).all()
        return [BrokerPosition(r.symbol, r.quantity, r.average_price) for r in rows]

    def account(self) -> Account:
        """Cash and equity (cash plus open positions at their last matched close)."""
        with self._engine.begin() as connection:
            account = self._account_row(connection)
            rows = connection.execute(select(paper_positions).where(paper_positions.c.quantity != 0.0)).all()
        equity = account.cash
        for row in rows:
            instrument = self._instruments.get(row.symbol)
            if instrument is None:
                raise BrokerError(f"open paper position in {row.symbol}, which the universe does not know: equity is unknown")
            equity += row.quantity * row.last_price * float(instrument.multiplier)
        return Account(account.account_id, account.currency, account.cash, equity)

    def poll_events(self, after_key: str) -> list[BrokerEvent]:
        after = int(after_key) if after_key else 0
        query = select(paper_events).where(paper_events.c.seq > after).order_by(paper_events.c.seq).limit(self.events_page)
        with reading(self._engine) as connection:
            return [
                BrokerEvent(
                    f"{row.seq:015d}", row.client_id, row.broker_order_id, OrderEvent(row.event), row.event_time, row.text,
                    _execution(row.execution) if row.execution is not None else None,
                )
                for row in connection.execute(query)
            ]  # fmt: skip

    @contextmanager
    def _writing(self, load: Load, values: Mapping[str, Any], *, positions: bool = True) -> Iterator[Book]:
        """The book with the orders of `load`, saved and committed at the end, or not at all. positions: are they needed?

        The account row is locked first: changes come one after the other, so event numbers become visible in order.
        """
        with self._engine.begin() as connection:
            asked = {**values, "account": ACCOUNT_ID}
            wanted = paper_sql.loaded(load, place_of(connection, paper_orders), positions)
            found = wanted.read(connection, asked, **paper_sql.taken(connection))
            if not found["account"]:
                self._open_account(connection)
                found = wanted.read(connection, asked, **paper_sql.taken(connection))
            account = self._checked(found["account"][0])
            book = Book(account.currency, account.cash, connection, splits=account.splits)
            book.orders |= {row.client_id: _order(row) for row in found["orders"]}
            trades = {o.request.trade for o in book.orders.values() if o.request.trade}
            if trades:
                for other in connection.execute(select(paper_orders).where(paper_orders.c.trade.in_(trades))):
                    book.orders.setdefault(other.client_id, _order(other))
            for held in found.get("positions", ()):
                book.positions[held.symbol] = BookPosition(
                    held.quantity, held.average_price, held.last_price, held.last_close_time
                )
            before = {symbol: _position_values(p) for symbol, p in book.positions.items()}
            yield book
            newest = max((p.last_close_time for p in book.positions.values()), default=account.last_close_time)
            _save(connection, book, before, max(newest, account.last_close_time))

    def _open_account(self, connection: Connection) -> None:
        values = {"account_id": ACCOUNT_ID, "currency": self._currency, "cash": self._starting_cash, "last_close_time": 0}
        connection.execute(insert(paper_account).values(**values).on_conflict_do_nothing())

    def _checked(self, account: Any) -> Any:
        if account.currency != self._currency:
            raise BrokerError(f"the paper account is in {account.currency}, the settings say {self._currency}: set them equal")
        return account

    def _account_row(self, connection: Connection) -> Any:
        query = select(paper_account).where(paper_account.c.account_id == ACCOUNT_ID)
        row = connection.execute(query).one_or_none()
        if row is None:
            self._open_account(connection)
            row = connection.execute(query).one()
        return self._checked(row)

    def _reports(self, condition: Any) -> list[OrderReport]:
        query = select(paper_orders).where(condition).order_by(paper_orders.c.created_time, paper_orders.c.client_id)
        with reading(self._engine) as connection:
            return [report_of(_order(row)) for row in connection.execute(query)]


def create(context: BrokerContext) -> PaperBroker:
    """The registry's factory."""
    return PaperBroker(
        context.engine, context.instruments, context.costs_of, context.starting_cash, context.currency, context.clock
    )


def _open_time(bar: BarClose, instrument: Instrument) -> int:
    """When the bar opened: its nominal length before its close, never before its session's open."""
    session_open, _ = calendar(instrument.calendar).bounds(bar.session)
    return max(session_open, bar.close_time - bar.timeframe.minutes * US_PER_MINUTE)


def _order(row: Any) -> BookOrder:
    kind = OrderType(row.order_type)
    trails = kind is OrderType.TRAILING_STOP  # it has no limit: the column holds its distance
    request = OrderRequest(
        row.client_id, row.symbol, Side(row.side), row.quantity, kind, TimeInForce(row.time_in_force),
        None if trails else row.limit_price, row.stop_price, row.parent_client_id, row.oco_group, row.reduce_only,
        row.limit_price if trails else None, row.trade,
    )  # fmt: skip
    return BookOrder(
        request, row.broker_order_id, OrderState(row.state), row.filled_quantity, row.text, row.session, row.created_time,
        row.updated_time, row.filled_units,
    )  # fmt: skip


def _order_values(order: BookOrder) -> dict[str, Any]:
    r = order.request
    return {
        "client_id": r.client_id, "broker_order_id": order.broker_order_id, "symbol": r.symbol, "side": r.side.value,
        "quantity": r.quantity, "order_type": r.order_type.value, "time_in_force": r.time_in_force.value,
        "limit_price": r.limit_price if r.trail is None else r.trail, "stop_price": order.stop_price,
        "parent_client_id": r.parent_client_id, "oco_group": r.oco_group, "reduce_only": r.reduce_only, "trade": r.trade,
        "state": order.state.value,
        "filled_quantity": order.filled_quantity, "filled_units": order.filled_units, "text": order.text,
        "session": order.session,
        "created_time": order.created_time, "updated_time": order.updated_time,
    }  # fmt: skip


def _position_values(position: BookPosition) -> dict[str, Any]:
    return {
        "quantity": position.quantity, "average_price": position.average_price, "last_price": position.last_price,
        "last_close_time": position.last_close_time,
    }  # fmt: skip


def _save(connection: Connection, book: Book, before: Mapping[str, dict[str, Any]], newest: int) -> None:
    """One round trip. The events are numbered in their order."""
    moved = [
        {"symbol": symbol, **values}
        for symbol, position in sorted(book.positions.items())
        if (values := _position_values(position)) != before.get(symbol)
    ]
    parts = [
        Insert(paper_orders, [_order_values(book.orders[client_id]) for client_id in sorted(book.touched)], _CHANGING),
        Insert(paper_events, [_event_values(event) for event in book.events]),
        Insert(paper_positions, moved, ("quantity", "average_price", "last_price", "last_close_time")),
    ]
    place = place_of(connection, paper_account)
    account = f"UPDATE {place} SET cash = :cash, last_close_time = :newest WHERE account_id = :account"
    insert_together(connection, parts, account, {"account": ACCOUNT_ID, "cash": book.cash, "newest": newest})


def _event_values(event: BookEvent) -> dict[str, Any]:
    return {
        "client_id": event.client_id, "broker_order_id": event.broker_order_id, "event": event.event.value,
        "event_time": event.event_time, "text": event.text,
        "execution": _execution_values(event.execution) if event.execution is not None else None,
    }  # fmt: skip


def _execution_values(execution: Execution) -> dict[str, Any]:
    return {
        "execution_id": execution.execution_id, "client_id": execution.client_id,
        "broker_order_id": execution.broker_order_id, "symbol": execution.symbol, "side": execution.side.value,
        "quantity": execution.quantity, "price": execution.price, "commission": execution.commission,
        "currency": execution.currency, "fill_time": execution.fill_time,
    }  # fmt: skip


def _execution(values: Mapping[str, Any]) -> Execution:
    return Execution(**{**values, "side": Side(values["side"])})
