"""The simulated broker's account: the paper broker's book, kept in a file of its own that survives any death."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from resources.brokers.paper_book import Book, BookEvent, BookOrder, BookPosition, report_of
from resources.brokers.protocol import (
    EXTERNAL_PREFIX,
    Account,
    BrokerEvent,
    BrokerPosition,
    Execution,
    Modification,
    OrderReport,
    OrderRequest,
    Replacement,
)  # fmt: skip
from resources.brokers.remote import wire
from resources.brokers.remote.faults import BOOK_FAULTS, FaultPlan
from resources.feeds.protocol import BarClose
from trading.calendars import calendar
from trading.costs import Costs
from trading.instruments import Instrument
from trading.orders import OrderEvent, OrderState, OrderType, Side, TimeInForce
from trading.timeframes import US_PER_MINUTE

ACCOUNT_ID = "SIMULATED"
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (client_id TEXT PRIMARY KEY, content TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, content TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS positions (symbol TEXT PRIMARY KEY, content TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, content TEXT NOT NULL);
"""


class NoSuchOrder(Exception):
    """The account has no order of that client id."""


@dataclass(frozen=True, slots=True)
class VenueOptions:
    """cash in `currency`, used once, when the book is empty. durable False: the book survives the process, not a power cut."""

    cash: float
    currency: str
    durable: bool = True


class Venue:
    """One simulated account. Not safe from several threads: the server takes a lock."""

    def __init__(
        self,
        path: Path,
        instruments: Mapping[str, Instrument],
        costs_of: Callable[[str], Costs],
        options: VenueOptions,
        faults: FaultPlan | None = None,
    ) -> None:
        self._instruments = instruments
        self._costs_of = costs_of
        self.faults = faults or FaultPlan()
        self._now = self._session = 0
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute(f"PRAGMA synchronous={'FULL' if options.durable else 'OFF'}")
        self._file.executescript(_SCHEMA)
        self._load(options)

    # -- what a desk asks ------------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[OrderRequest], now: int) -> list[OrderReport]:
        """Take one order or a bracket, whole or not at all. A known client id answers with its order as it is now."""
        return self.replace_groups([Replacement({}, requests)], now)[0]

    def replace_groups(self, replacements: Sequence[Replacement], now: int) -> list[list[OrderReport]]:
        """Groups in the place of orders that rest. A cancel that is refused leaves its order at work: the group is not taken."""
        now = self._at(now)
        for replacement in replacements:
            fresh = [r for r in replacement.requests if r.client_id not in self.book.orders]
            barred = ""
            if fresh:  # asked again, it says what was done
                barred = self.book.not_as_stated(replacement.ends)
                for client_id in replacement.ends:
                    if (order := self.book.orders.get(client_id)) is not None and not self._end(order, now):
                        barred = f"NOT_TRADABLE: order={client_id} reason=works_on"
                if self.faults.strike("submit", BOOK_FAULTS) == "reject":
                    barred = "NOT_TRADABLE: reason=simulated_rejection"
            self.book.take(replacement.requests, self._instruments, now, {}, barred)
        self._save()
        return [[report_of(self.book.orders[r.client_id]) for r in x.requests] for x in replacements]

    def cancel(self, client_id: str, now: int) -> None:
        """End a working order; an ended one stays as it is. Raises NoSuchOrder."""
        self._end(self._order(client_id), self._at(now))
        self._save()

    def _end(self, order: BookOrder, now: int) -> bool:
        """False: the cancel was refused, and the order works on."""
        kind = self.faults.strike("cancel", BOOK_FAULTS) if order.working else ""
        if kind == "cancel_rejected":
            self.book.tell(order, OrderEvent.CANCEL_REJECTED, now, "simulated: too late to cancel")
            return False
        if kind == "fill_after_cancel":
            self._late_fills.append(order.client_id)
        self.book.cancel(order, now, "canceled by request")
        return True

    def modify(self, client_id: str, change: Modification, now: int) -> None:
        """Change a working order; a refusal is an event. Raises NoSuchOrder."""
        order = self._order(client_id)
        self.book.modify(order, change, self._instruments[order.request.symbol], self._at(now))
        self._save()

    def open_orders(self) -> list[OrderReport]:
        return [report_of(o) for o in self.book.orders.values() if o.working]

    def completed_orders(self, since_us: int) -> list[OrderReport]:
        return [report_of(o) for o in self.book.orders.values() if not o.working and o.updated_time >= since_us]

    def executions(self, since_us: int) -> list[Execution]:
        """Fills in the order they happened, told late or not."""
        found = {e.execution.execution_id: e.execution for e in (*self._told, *self._untold) if e.execution is not None}
        return [x for x in found.values() if x.fill_time >= since_us]

    def positions(self) -> list[BrokerPosition]:
        held = sorted(self.book.positions.items())
        return [BrokerPosition(symbol, p.quantity, p.average_price) for symbol, p in held if p.quantity != 0.0]

    def account(self) -> Account:
        equity = self.book.cash
        for symbol, position in self.book.positions.items():
            if position.quantity != 0.0:
                equity += position.quantity * position.last_price * float(self._instruments[symbol].multiplier)
        return Account(ACCOUNT_ID, self.book.currency, self.book.cash, equity)

    def poll_events(self, after_key: str) -> list[BrokerEvent]:
        return self._told[int(after_key) if after_key else 0 :][:1000]

    # -- what the market and a person at the broker's own screen do ------------------------------------------------------

    def on_bars(self, close_time: int, bars: Sequence[BarClose]) -> bool:
        """Match against the bars closing at `close_time` (UTC us); a bar that was matched before is skipped. True when a
        session began with them."""
        began = False
        for bar in sorted(bars, key=lambda b: b.symbol):
            position = self.book.positions.setdefault(bar.symbol, BookPosition())
            if close_time <= position.last_close_time:
                continue
            began = began or bar.session > self._session
            self._session = max(self._session, bar.session)
            instrument, costs = self._instruments[bar.symbol], self._costs_of(bar.symbol)
            opened, _ = calendar(instrument.calendar).bounds(bar.session)
            open_time = max(opened, bar.close_time - bar.timeframe.minutes * US_PER_MINUTE)
            working = [o for o in self.book.orders.values() if o.working and o.request.symbol == bar.symbol]
            if working and self.faults.strike("match", BOOK_FAULTS) == "partial_fill":
                bar = replace(bar, volume=min(o.request.quantity for o in working))
                costs = replace(costs, participation=0.5)
            for client_id in [c for c in self._late_fills if self.book.orders[c].request.symbol == bar.symbol]:
                self._late_fills.remove(client_id)
                self.book.fill_ended(self.book.orders[client_id], bar, open_time, instrument, costs)
            self.book.match(bar, open_time, instrument, costs)
        self._now = max(self._now, close_time)
        self._save(withhold=bool(bars and self.book.events) and self.faults.strike("tell", {"events_late": ""}) == "events_late")
        return began

    def place(self, symbol: str, side: Side, quantity: float, order_type: OrderType, limit_price: float | None,
              stop_price: float | None) -> OrderReport:  # fmt: skip
        """An order entered by hand at the broker: no desk knows it."""
        client_id = f"{EXTERNAL_PREFIX}{sum(c.startswith(EXTERNAL_PREFIX) for c in self.book.orders) + 1}"
        request = OrderRequest(client_id, symbol, side, quantity, order_type, TimeInForce.GTC, limit_price, stop_price)
        self.book.take([request], self._instruments, self._now, {})
        self._save()
        return report_of(self.book.orders[client_id])

    def tell_all(self) -> None:
        """Tell what was withheld."""
        self._save()

    def close(self) -> None:
        self._file.close()

    # -- the file --------------------------------------------------------------------------------------------------------

    def _order(self, client_id: str) -> BookOrder:
        order = self.book.orders.get(client_id)
        if order is None:
            raise NoSuchOrder(f"the simulated broker has no order {client_id}")
        return order

    @staticmethod
    def _number(request: OrderRequest) -> str:
        return f"P{request.client_id.removeprefix('int-')}"

    def _at(self, now: int) -> int:
        self._now = max(self._now, now)
        return self._now

    def _load(self, options: VenueOptions) -> None:
        meta = {key: json.loads(text) for key, text in self._file.execute("SELECT key, content FROM meta")}
        if meta and meta["currency"] != options.currency:
            raise ValueError(f"the simulated account is in {meta['currency']}, asked for {options.currency}")
        self.book = Book(meta.get("currency", options.currency), meta.get("cash", options.cash))
        self._now = int(meta.get("now", 0))
        self._session = int(meta.get("session", 0))
        self._late_fills: list[str] = meta.get("late_fills", [])
        self._untold = [wire.event_of(e) for e in meta.get("untold", [])]
        for client_id, text in self._file.execute("SELECT client_id, content FROM orders ORDER BY rowid"):
            values = json.loads(text)
            request = wire.request_of(values.pop("request"))
            self.book.orders[client_id] = BookOrder(request, **{**values, "state": OrderState(values["state"])})
        for symbol, text in self._file.execute("SELECT symbol, content FROM positions"):
            self.book.positions[symbol] = BookPosition(**json.loads(text))
        self._told = [
            wire.event_of(json.loads(text)) for (text,) in self._file.execute("SELECT content FROM events ORDER BY seq")
        ]
        self._save()

    def _save(self, withhold: bool = False) -> None:
        """Write what changed, in one transaction, before anybody hears of it. withhold: its events are told with the next."""
        fresh = [_event(e) for e in self.book.events]
        self.book.events.clear()
        new = [] if withhold else self._garbled([*self._untold, *fresh])
        self._untold = [*self._untold, *fresh] if withhold else []
        numbered = [replace(e, event_key=f"{len(self._told) + i:015d}") for i, e in enumerate(new, 1)]
        meta = {
            "currency": self.book.currency, "cash": self.book.cash, "now": self._now, "session": self._session,
            "late_fills": self._late_fills, "untold": [wire.plain(e) for e in self._untold],
        }  # fmt: skip
        write = self._file.execute
        write("BEGIN")
        for client_id in sorted(self.book.touched):
            values = asdict(self.book.orders[client_id])
            write(
                "INSERT INTO orders VALUES (?, ?) ON CONFLICT (client_id) DO UPDATE SET content = excluded.content",
                (client_id, json.dumps(values)),
            )
        for event in numbered:
            write("INSERT INTO events VALUES (?, ?)", (int(event.event_key), json.dumps(wire.plain(event))))
        for symbol, position in self.book.positions.items():
            write("INSERT OR REPLACE INTO positions VALUES (?, ?)", (symbol, json.dumps(asdict(position))))
        for key, value in meta.items():
            write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))
        write("COMMIT")
        self.book.touched.clear()
        self._told += numbered

    def _garbled(self, events: list[BrokerEvent]) -> list[BrokerEvent]:
        if not events:
            return events
        told = {k: v for k, v in BOOK_FAULTS.items() if k != "events_late" and (k != "events_swapped" or len(events) > 1)}
        kind = self.faults.strike("tell", told)
        if kind == "event_twice":
            return [*events, events[0]]
        if kind == "events_swapped":
            return [events[1], events[0], *events[2:]]
        return events


def _event(event: BookEvent) -> BrokerEvent:
    return BrokerEvent("", event.client_id, event.broker_order_id, event.event, event.event_time, event.text, event.execution)
