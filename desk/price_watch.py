"""Prices between bars: feeds that quote are asked every second, and the breakers judge each answer.

Only feeds whose quotes cost nothing of a plan's budget are asked. A price that cannot be had trips nothing: the bar closes
judge, too, and the resting stops guard the positions.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog
from sqlalchemy.exc import SQLAlchemyError

from desk.breakers import Trip
from resources.feeds.protocol import Feed, Quote, QuoteFeed
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


def judge(router: Judge, quotes: Sequence[Quote]) -> list[Trip]:
    """Every price to the breakers, on the worker; what tripped is latched and acted on at once."""
    tripped: list[Trip] = []
    for quote in quotes:
        tripped += [trip for trip in router.on_price(quote.symbol, price_of(quote), quote.time) if router.trip(trip)]
    return tripped


async def watch(router: Judge, feeds: Sequence[tuple[QuoteFeed, Sequence[Instrument]]], worker: Worker, seconds: float) -> None:
    """Ask and judge until the desk stops. A feed that fails is asked again the next time."""
    said: set[int] = set()
    while not worker.stop.is_set():
        for number, (feed, instruments) in enumerate(feeds):
            try:
                quotes = await asyncio.to_thread(feed.quote, instruments)
                await worker.work(judge, router, quotes)
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
