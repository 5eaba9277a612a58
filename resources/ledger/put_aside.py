"""Rows put aside that nobody has resolved: a failed verdict on every partition that lacks them, read at the moment of asking.

The verdict is not stored: it cannot be out of date, and bars that arrive in between do not make it about something else.
A row of the native bars is missing from everything derived from them, so the partitions of every timeframe refuse.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Final

from sqlalchemy import Engine, select

from resources.ledger.quality_tables import quarantined_rows
from trading.timeframes import iso

QUARANTINE: Final = "quarantine"
"""Name of the check."""
OPEN: Final = "open"

Key = tuple[str, str, str]
"""dataset, session (ISO date), symbol."""


def unresolved(engine: Engine, symbols: Iterable[str] | None = None) -> dict[str, list[tuple[str, str, str]]]:
    """Open rows by symbol: (session, id, what) of each, in order of session."""
    q = quarantined_rows.c
    chosen = select(q.symbol, q.session, q.id, q.close_time, q.reasons).where(q.state == OPEN).order_by(q.session, q.close_time)
    if symbols is not None:
        wanted = sorted(set(symbols))
        if not wanted:
            return {}
        chosen = chosen.where(q.symbol.in_(wanted))
    found: dict[str, list[tuple[str, str, str]]] = {}
    with engine.connect() as connection:
        for symbol, session, row_id, close_time, reasons in connection.execute(chosen):
            found.setdefault(symbol, []).append((session, row_id, f"{iso(close_time)} {', '.join(reasons)} ({row_id})"))
    return found


def failing(engine: Engine, keys: Iterable[Key]) -> dict[Key, list[str]]:
    """Partitions of `keys` (bars of any timeframe) that lack unresolved rows: what each of those rows is."""
    wanted = list(keys)
    rows = unresolved(engine, (symbol for _, _, symbol in wanted))
    found: dict[Key, list[str]] = {}
    for key in wanted if rows else ():
        dataset, session, symbol = key
        first = first_session(dataset, session)
        said = [what for day, _, what in rows.get(symbol, ()) if first <= day <= session]
        if said and dataset.startswith("bars_"):
            found[key] = said
    return found


def first_session(dataset: str, session: str) -> str:
    """The earliest day whose bars a partition of `dataset` can be made of: its own session; for 1w the Monday of its week."""
    if dataset != "bars_1w":
        return session
    day = date.fromisoformat(session)
    return (day - timedelta(days=day.weekday())).isoformat()
