"""Waiting for a bar close without asking again and again: the desk's transaction that records one wakes whoever listens."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, text

CHANNEL: Final = "tapeline_closes"
_OF_THIS_BOOK: Final = f"'{CHANNEL}' || CASE current_schema() WHEN 'public' THEN '' ELSE '_' || current_schema() END"


def tell(connection: Connection, close_time: int) -> None:
    """Wake the listeners when the transaction of `connection` commits."""
    connection.execute(text(f"SELECT pg_notify({_OF_THIS_BOOK}, :told)"), {"told": str(close_time)})


@contextmanager
def close_watch(engine: Engine) -> Iterator[Callable[[float], None]]:
    """Gives ``wait(seconds)``: returns after that time, or at once when a close was recorded since it last returned.

    Listens from the beginning of the block, so that a close recorded between a question and the wait is not missed. Raises
    sqlalchemy's OperationalError, in the wait psycopg2's, while the server is away.
    """
    connection = engine.connect()
    try:
        connection.detach()  # what listens must not go back to the pool
        raw: Any = connection.connection.dbapi_connection
        raw.autocommit = True
        with raw.cursor() as cursor:
            cursor.execute(f"SELECT {_OF_THIS_BOOK}")
            cursor.execute(f'LISTEN "{cursor.fetchone()[0]}"')

        def wait(seconds: float) -> None:
            if raw.notifies or select.select([raw], [], [], max(0.0, seconds))[0]:
                raw.poll()
                raw.notifies.clear()

        yield wait
    finally:
        connection.close()
