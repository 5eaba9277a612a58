"""Prices that the account's desk has heard, for the desk of the paper book beside it: told by the ledger's server, kept nowhere.

Nobody asks a feed twice: who listens hears what was asked for anyway. What is not listened to is lost, as a price is that nobody
asked for; bar closes judge, too.
"""

from __future__ import annotations

import json
import math
import select
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Engine, text

CHANNEL: Final = "tapeline_prices"
_MOST_BYTES: Final = 7_500
"""The server takes messages of less than 8,000 bytes."""

Price = tuple[str, float, int]
"""(symbol, price, market time UTC us)."""


def tell(engine: Engine, prices: Sequence[Price]) -> None:
    """Tell whoever listens. Raises what the ledger raises while it is away: then nobody heard."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for message in _messages(prices):
            connection.execute(text("SELECT pg_notify(:channel, :told)"), {"channel": CHANNEL, "told": message})


@contextmanager
def listening(engine: Engine) -> Iterator[Callable[[float], list[Price]]]:
    """Gives ``wait(seconds)``: the prices told since it last returned, oldest first, at once or when one is told; [] after that
    time. Raises sqlalchemy's OperationalError, in the wait psycopg2's, while the server is away."""
    connection = engine.connect()
    try:
        connection.detach()  # what listens must not go back to the pool
        raw: Any = connection.connection.dbapi_connection
        raw.autocommit = True
        with raw.cursor() as cursor:
            cursor.execute(f"LISTEN {CHANNEL}")

        def wait(seconds: float) -> list[Price]:
            if not (raw.notifies or select.select([raw], [], [], max(0.0, seconds))[0]):
                return []
            raw.poll()
            found = [price for told in raw.notifies for price in _read(told.payload)]
            raw.notifies.clear()
            return found

        yield wait
    finally:
        connection.close()


def _messages(prices: Iterable[Price]) -> Iterator[str]:
    part: list[str] = []
    size = 2
    for symbol, price, time_us in prices:
        if not 0.0 < price < math.inf:
            continue
        item = json.dumps([symbol, price, time_us])
        if part and size + len(item) + 1 > _MOST_BYTES:
            yield f"[{','.join(part)}]"
            part, size = [], 2
        part.append(item)
        size += len(item) + 1
    if part:
        yield f"[{','.join(part)}]"


def _read(message: str) -> list[Price]:
    """The prices of a message; one that is none tells none."""
    try:
        return [(str(symbol), float(price), int(time_us)) for symbol, price, time_us in json.loads(message)]
    except (TypeError, ValueError):
        return []
