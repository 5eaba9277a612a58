"""The drill: the kill switch is pulled for real, on a paper book of its own, while nobody trades on it.

A ledger database is made beside the real one, a position and a resting order are placed in its paper book as by hand, and
``tapeline kill`` runs as a process of its own, as it would at night: own connections, desk dead. Prices go on meanwhile.
The broker's book, not the switch's word, says at the end whether it is flat. The database is dropped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from desk.clock import wall
from resources.brokers.paper import PaperBroker
from resources.brokers.protocol import EXTERNAL_PREFIX, OrderRequest
from resources.config import load_config
from resources.feeds.protocol import BarClose
from resources.ledger.migrate import create_databases, upgrade
from resources.ledger.store import connect
from resources.settings import ROOT, Settings
from trading.calendars import calendar
from trading.costs import Costs
from trading.instruments import Instrument
from trading.orders import OrderType, Side, TimeInForce
from trading.timeframes import US_PER_MINUTE, Timeframe

PATIENCE_SECONDS = 60.0
PRICE = 100


@dataclass(frozen=True, slots=True)
class Drill:
    """flat: the drill book holds nothing any more. seconds: from the start of the process to its end; at_broker_seconds: until
    nothing was left at the broker, by the switch's own clock. said: what went wrong, empty when nothing did."""

    flat: bool
    seconds: float
    at_broker_seconds: float
    symbol: str
    orders_cancelled: int
    positions_closed: int
    said: str


def run_drill(settings: Settings) -> Drill:
    """Make the book, pull the switch, look at the book, clean up. Raises ConfigInvalid, SQLAlchemyError."""
    name = f"{settings.ledger_database}_drill_{os.getpid()}_{time.time_ns() // 1_000_000}"
    server = settings.server_url()
    create_databases(server, [name])
    url = f"{server}/{name}"
    try:
        upgrade(url)
        return _drill(settings, name, url)
    finally:
        admin = create_engine(make_url(server).set(database="postgres"), isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            quoted = connection.dialect.identifier_preparer.quote_identifier(name)
            connection.execute(text(f"DROP DATABASE IF EXISTS {quoted} WITH (FORCE)"))
        admin.dispose()


def _drill(settings: Settings, name: str, url: str) -> Drill:
    universe = load_config(settings).universe
    instrument = next(i for _, i in sorted(universe.instruments.items()) if i.currency == settings.account_currency)
    engine = connect(url)
    at = [wall()]  # at or after whatever market time the switch's process has: its orders fill at the bars that follow
    try:
        book = PaperBroker(
            engine, {instrument.symbol: instrument}, lambda _: Costs(), 1_000_000.0, settings.account_currency, lambda: at[0]
        )  # fmt: skip
        bars = _Bars(book, instrument, at)
        quantity = float(instrument.lot_size) * 2
        bars.next()
        book.submit([_order("position", instrument, quantity, OrderType.MARKET, None)])
        bars.next()
        book.submit([_order("resting", instrument, quantity, OrderType.LIMIT, PRICE * 0.5)])
        before = (len(book.open_orders()), sum(p.quantity != 0.0 for p in book.positions()))
        if before != (1, 1):
            return Drill(False, 0.0, 0.0, instrument.symbol, 0, 0, f"the drill's own book is not as wanted: {before}")
        started = time.monotonic()
        process = subprocess.Popen(
            [
                sys.executable, "-m", "pipelines.cli", "kill", "--json", "--by-hand", "--reason", "drill", "--who", "drill",
                "--patience", str(PATIENCE_SECONDS),
            ],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "TAPELINE_LEDGER_DATABASE": name, "TAPELINE_BROKER": "paper", "TAPELINE_DESK_PORT": "1"},
        )  # fmt: skip
        while process.poll() is None and time.monotonic() - started < 2 * PATIENCE_SECONDS:
            time.sleep(0.2)
            bars.next()
        if process.poll() is None:
            process.kill()
        out, errors = process.communicate()
        seconds = time.monotonic() - started
        orders, held = book.open_orders(), [p for p in book.positions() if p.quantity != 0.0]
        answers = [line for line in out.splitlines() if line.startswith("{")]  # beside log lines
        told = json.loads(answers[-1]) if answers else {}
        said = "" if process.returncode == 0 else f"exit code {process.returncode}: {errors.strip()[-400:]}"
        flat = not orders and not held and process.returncode == 0 and bool(told.get("flat"))
        return Drill(
            flat, round(seconds, 3), float(told.get("seconds", 0.0)), instrument.symbol, before[0] - len(orders),
            before[1] - len(held), said,
        )  # fmt: skip
    finally:
        engine.dispose()


@dataclass
class _Bars:
    """Prices that go on, a minute a bar, so that orders fill at the next open."""

    book: PaperBroker
    instrument: Instrument
    at: list[int]

    def next(self) -> None:
        self.at[0] += US_PER_MINUTE
        price = float(PRICE)
        session = int(calendar(self.instrument.calendar).number[0])
        bar = BarClose(
            self.instrument.symbol, Timeframe.M1, self.at[0], session, price, price, price, price, 1e9
        )  # fmt: skip
        self.book.on_bars(self.at[0], [bar])


def _order(name: str, instrument: Instrument, quantity: float, kind: OrderType, limit: float | None) -> OrderRequest:
    return OrderRequest(
        f"{EXTERNAL_PREFIX}drill-{name}", instrument.symbol, Side.BUY, quantity, kind, TimeInForce.GTC, limit_price=limit
    )
