"""An engine that a zygote has used before: its children turn it to their own ledger and find every statement compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url

from desk import store
from resources.ledger.base import engines_of
from resources.ledger.store import connect
from tests.faults.zygote import single

_kept: Engine | None = None
_url = ""
_PATIENCE_SECONDS = 120.0


def engine_of(url: str) -> Engine:
    """Engine on the ledger at `url`. Once in a process only: it is the same one for every ledger."""
    global _kept, _url
    if _kept is None:
        _kept = connect(url)
        for engine in engines_of(_kept):
            event.listen(engine, "do_connect", _turned)
    _url = url
    return _kept


def alone(engine: Engine, live: Callable[[], None]) -> None:
    """Be the only desk: the server notices a killed desk's end after a moment, on a busy machine after a long one."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with store.exclusive(engine):
                return live()
        except store.SecondDesk:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.003)


def cool() -> None:
    """Close its connections, which no child may share; what was compiled stays."""
    if _kept is not None:
        _kept.dispose()
    single()


def _turned(dialect: Any, record: object, arguments: list[Any], keywords: dict[str, Any]) -> None:
    keywords.update(dialect.create_connect_args(make_url(_url))[1])
