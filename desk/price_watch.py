"""Prices between bars: feeds that quote are asked every second, and the breakers judge each answer.

Only feeds whose quotes cost nothing of a plan's budget are asked. A price that cannot be had trips nothing: the bar closes
judge, too, and the resting stops guard the positions. The desk of a paper book beside an account asks nobody: it hears the prices
that the account's desk has judged (`Teller`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from desk.breakers import Trip
from resources import told_prices
from resources.feeds.protocol import Feed, Quote, QuoteFeed
from resources.told_prices import Price
from trading.instruments import Instrument

log = structlog.get_logger("desk.price_watch")


class Judge(Protocol):
    """What judges prices and acts on what trips (desk.router.Router)."""

    def on_price(self, symbol: str, price: float, time_us: int) -> tuple[Trip, ...]: ...
    def trip(self, trip: Trip) -> bool: ...


class Worker(Protocol):
    """The desk around it: one thread for everything that touches orders."""

    stop: asyncio.Event

    async def work(self, function: Any, *arguments: Any) -> Any: ...


def price_of(quote: Quote) -> float:
    """The middle of bid and ask, else the last price; NaN when the quote has neither, or is crossed."""
    if math.isfinite(quote.bid) and math.isfinite(quote.ask):
        return (quote.bid + quote.ask) / 2.0 if quote.bid <= quote.ask else math.nan
    return quote.last


def quoting(feeds: Mapping[str, Feed], instruments: Mapping[str, Instrument]) -> list[tuple[QuoteFeed, list[Instrument]]]:
    """The feeds that quote without a budget, with their instruments."""
    found: list[tuple[QuoteFeed, list[Instrument]]] = []
    for name, feed in feeds.items():
        can = feed.capabilities()
        own = [i for i in instruments.values() if i.feed == name]
        if isinstance(feed, QuoteFeed) and own and can.requests_per_minute is None and can.requests_per_day is None:
            found.append((feed, own))
    return found


def judge(router: Judge, prices: Sequence[Price]) -> list[Trip]:
    """Every price to the breakers, on the worker; what tripped is latched and acted on at once."""
    tripped: list[Trip] = []
    for symbol, price, time_us in prices:
        tripped += [trip for trip in router.on_price(symbol, price, time_us) if router.trip(trip)]
    return tripped


class Teller:
    """Passes on what was judged, to the desk of the paper book (desk/beside.py). Never waited for: while one message is under
    way the next ones are left out, and a ledger that does not take one keeps no price from being judged here."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._under_way: asyncio.Task[None] | None = None
        self._failed = False

    def __call__(self, prices: Sequence[Price]) -> None:
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._tell(prices))

    async def _tell(self, prices: Sequence[Price]) -> None:
        try:
            await asyncio.to_thread(told_prices.tell, self._engine, prices)
            self._failed = False
        except Exception as error:  # noqa: BLE001 - the paper book judges at its bar closes, too
            if not self._failed:
                log.warning("prices_not_told", error=f"{type(error).__name__}: {error}")
            self._failed = True


async def watch(
    router: Judge,
    feeds: Sequence[tuple[QuoteFeed, Sequence[Instrument]]],
    worker: Worker,
    seconds: float,
    told: Callable[[Sequence[Price]], None] = lambda prices: None,
) -> None:
    """Ask and judge until the desk stops. A feed that fails is asked again the next time. told: hears every price once it is
    judged; it must not wait."""
    said: set[int] = set()
    while not worker.stop.is_set():
        for number, (feed, instruments) in enumerate(feeds):
            try:
                quotes = await asyncio.to_thread(feed.quote, instruments)
                prices = [(quote.symbol, price_of(quote), quote.time) for quote in quotes]
                await worker.work(judge, router, prices)
                told(prices)
                said.discard(number)
            except SQLAlchemyError:
                raise
            except Exception as error:  # noqa: BLE001 - a feed's trouble, whatever it is: bar closes and stops still guard
                if number not in said:
                    log.warning("quotes_unavailable", error=f"{type(error).__name__}: {error}")
                said.add(number)
        try:
            await asyncio.wait_for(worker.stop.wait(), seconds)
        except TimeoutError:
            continue
