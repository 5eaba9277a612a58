"""Scores of partitions in the ledger, and when the desk's bars arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.dialects.postgresql import insert

from resources.ledger.base import Row, now_us
from resources.ledger.quality_tables import quality_scores
from resources.ledger.tables import closes
from trading.scorecard import Scorecard

Key = tuple[str, str, str]
"""session, symbol, content hash."""


def put_scores(engine: Engine, dataset: str, cards: Mapping[Key, Scorecard], *, run_id: str) -> int:
    """Store the scores of partitions; returns how many rows. The newest score of the same content stands."""
    wall = now_us()
    rows: list[Row] = []
    for (session, symbol, content_hash), card in sorted(cards.items()):
        values = asdict(card)
        rows.append(
            {
                "dataset": dataset, "session": session, "symbol": symbol, "content_hash": content_hash, **values,
                "run_id": run_id, "scored_wall": wall,
            }
        )  # fmt: skip
    if not rows:
        return 0
    statement = insert(quality_scores)
    keys = [c.name for c in quality_scores.primary_key]
    changed = {name: statement.excluded[name] for name in rows[0] if name not in keys}
    statement = statement.on_conflict_do_update(index_elements=keys, set_=changed)
    with engine.begin() as c:
        for start in range(0, len(rows), 1000):
            c.execute(statement, rows[start : start + 1000])
    return len(rows)


def known_scores(engine: Engine, dataset: str, start: date, end: date) -> dict[Key, tuple[float, ...]]:
    """Scores stored of sessions [start, end]: the five dimensions, in the order of trading.scorecard.DIMENSIONS."""
    q = quality_scores.c
    chosen = select(
        q.session, q.symbol, q.content_hash, q.completeness, q.validity, q.timeliness, q.consistency, q.uniqueness
    ).where(q.dataset == dataset, q.session >= start.isoformat(), q.session <= end.isoformat())
    with engine.connect() as c:
        return {(row[0], row[1], row[2]): tuple(row[3:]) for row in c.execute(chosen)}


def scores(
    engine: Engine, *, dataset: str | None = None, symbol: str | None = None, session: str | None = None, limit: int = 200
) -> list[Row]:
    """Scores, newest sessions first; of one partition the newest score only."""
    q = quality_scores.c
    newest = select(quality_scores).distinct(q.session, q.dataset, q.symbol)
    newest = newest.order_by(q.session.desc(), q.dataset, q.symbol, q.scored_wall.desc())
    for column, value in ((q.dataset, dataset), (q.symbol, symbol), (q.session, session)):
        if value is not None:
            newest = newest.where(column == value)
    with engine.connect() as c:
        return [dict(row) for row in c.execute(newest.limit(limit)).mappings()]


def arrivals(engine: Engine, timeframe: str, first_close: int, last_close: int, *, real_clock: bool) -> dict[str, dict[int, int]]:
    """How late the desk's bars of `timeframe` were: symbol -> close_time -> us from close to lake.

    real_clock: market time is real time; otherwise (a replay) the delay is counted from when the feed gave the bar.
    """
    q = closes.c
    chosen = select(q.close_time, q.bars, q.emitted_wall, q.stored_wall).where(
        q.close_time >= first_close, q.close_time <= last_close
    )
    found: dict[str, dict[int, int]] = {}
    with engine.connect() as c:
        for close_time, bars, emitted, stored in c.execute(chosen):
            for symbol in _symbols(bars, timeframe):
                found.setdefault(symbol, {})[close_time] = stored - (close_time if real_clock else emitted)
    return found


def _symbols(bars: Any, timeframe: str) -> Sequence[str]:
    listed = bars.get(timeframe, ()) if isinstance(bars, Mapping) else ()
    return [str(s) for s in listed]
