"""What a backfill asked for, what came, and what the source does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert

from resources.ledger.base import Row, now_us
from resources.ledger.quality_tables import backfill_requests, known_empty

_LOCK = 0x6261_636B_6669
PLANNED, ASKED, DONE, FAILED = "planned", "asked", "done", "failed"


class BackfillBusy(Exception):
    """Another process is filling gaps."""


@contextmanager
def only_one(engine: Engine) -> Iterator[None]:
    """Held while gaps are filled: two at once would ask for the same twice. Raises BackfillBusy."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}).scalar_one():
            raise BackfillBusy("another process is filling gaps; what it asks for is not asked twice: try again when it is done")
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})


def put_planned(engine: Engine, rows: Sequence[Row]) -> None:
    """Write requests as planned; one planned or failed before is planned again."""
    if not rows:
        return
    statement = insert(backfill_requests)
    again = {n: statement.excluded[n] for n in ("state", "run_id", "planned_wall", "message", "asked_wall", "done_wall")}
    statement = statement.on_conflict_do_update(index_elements=["id"], set_=again)
    with engine.begin() as c:
        c.execute(statement, list(rows))


def mark(engine: Engine, request_id: str, state: str, **values: Any) -> None:
    """Set a request's state; asked_wall and done_wall follow it."""
    walls = {ASKED: "asked_wall", DONE: "done_wall", FAILED: "done_wall"}
    if state in walls:
        values[walls[state]] = now_us()
    with engine.begin() as c:
        c.execute(update(backfill_requests).where(backfill_requests.c.id == request_id).values(state=state, **values))


def requests(engine: Engine, *, state: str | None = None, limit: int = 200) -> list[Row]:
    """Requests, newest plans first."""
    chosen = select(backfill_requests).order_by(
        backfill_requests.c.planned_wall.desc(), backfill_requests.c.symbol, backfill_requests.c.first_session
    )
    if state is not None:
        chosen = chosen.where(backfill_requests.c.state == state)
    with engine.connect() as c:
        return [dict(row) for row in c.execute(chosen.limit(limit)).mappings()]


def put_known_empty(engine: Engine, rows: Sequence[Row]) -> None:
    """Write down what a source does not have; the newest answer stands."""
    if not rows:
        return
    statement = insert(known_empty)
    keys = [c.name for c in known_empty.primary_key]
    changed = {c.name: statement.excluded[c.name] for c in known_empty.columns if c.name not in keys}
    with engine.begin() as c:
        c.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def known_empties(engine: Engine, dataset: str, feeds: Mapping[str, str], now: int) -> dict[tuple[str, str], Row]:
    """(symbol, session) -> the row, of sessions not to be asked for before `now` (real clock, UTC us).

    feeds: symbol -> its feed today; what another source said counts for nothing.
    """
    q = known_empty.c
    chosen = select(known_empty).where(q.dataset == dataset, q.ask_again_wall > now)
    with engine.connect() as c:
        rows = [dict(row) for row in c.execute(chosen).mappings()]
    return {(row["symbol"], row["session"]): row for row in rows if feeds.get(row["symbol"]) == row["feed"]}


def forget_empty(engine: Engine, dataset: str, symbol: str | None = None) -> int:
    """Forget what the source said it does not have, so that it is asked again; returns how many sessions."""
    chosen = delete(known_empty).where(known_empty.c.dataset == dataset)
    if symbol is not None:
        chosen = chosen.where(known_empty.c.symbol == symbol)
    with engine.begin() as c:
        return c.execute(chosen).rowcount
