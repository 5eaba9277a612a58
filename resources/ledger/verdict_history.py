"""Verdicts of a whole history at once: what the ledger says already, and tens of thousands of new ones by COPY.

Same rows and same rule as Ledger.put_verdicts (the newest evaluation stands); that one writes row by row, which is right
for a bar close and takes minutes for a history.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import psycopg2
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError

from resources.ledger import tables as t
from resources.ledger.base import now_us
from resources.ledger.store import VerdictRow

Key = tuple[str, str, str]
"""session, symbol, check."""
Said = tuple[bool, str, str]
"""passed, severity, content hash."""

_TABLE = t.quality_verdicts
_COLUMNS = [c.name for c in _TABLE.columns]
_KEYS = [c.name for c in _TABLE.primary_key]


def known_verdicts(engine: Engine, dataset: str, start: date, end: date) -> dict[Key, Said]:
    """Every verdict on bars of `dataset` in sessions [start, end]."""
    q = _TABLE.c
    held = select(q.session, q.symbol, q.check_name, q.passed, q.severity, q.content_hash).where(
        q.dataset == dataset, q.session >= start.isoformat(), q.session <= end.isoformat()
    )
    with engine.connect() as connection:
        return {(s, y, c): (p, v, h) for s, y, c, p, v, h in connection.execute(held)}


def judged_so_far(engine: Engine, dataset: str, start: date, end: date) -> dict[Key, tuple[int | None, int]]:
    """(judged_time, evaluated_wall) of every verdict on bars of `dataset` in sessions [start, end]."""
    q = _TABLE.c
    held = select(q.session, q.symbol, q.check_name, q.judged_time, q.evaluated_wall).where(
        q.dataset == dataset, q.session >= start.isoformat(), q.session <= end.isoformat()
    )
    with engine.connect() as connection:
        return {(s, y, c): (judged, wall) for s, y, c, judged, wall in connection.execute(held)}


def copy_verdicts(engine: Engine, verdicts: Sequence[VerdictRow]) -> None:
    """Store `verdicts` in one transaction; one evaluated earlier never replaces a later one.

    All or nothing. Raises sqlalchemy's DBAPIError.
    """
    if not verdicts:
        return
    made = now_us()
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    # In key order, so that two writers of the same partitions cannot wait for each other; a key once, its newest row.
    newest = {_key(v): v for v in sorted(verdicts, key=lambda v: (*_key(v), v.evaluated_wall))}
    for v in newest.values():
        values: dict[str, Any] = {
            "dataset": v.dataset, "session": v.session, "symbol": v.symbol, "check_name": v.check,
            "passed": "t" if v.passed else "f", "severity": v.severity, "failed_count": v.failed_count,
            "examples": json.dumps(list(v.examples), allow_nan=False), "content_hash": v.content_hash, "run_id": v.run_id,
            "evaluated_wall": v.evaluated_wall or made, "judged_time": "" if v.judged_time is None else v.judged_time,
        }  # fmt: skip
        writer.writerow([values[name] for name in _COLUMNS])
    buffer.seek(0)
    names = ", ".join(_COLUMNS)
    replaced = ", ".join(f"{c} = EXCLUDED.{c}" for c in _COLUMNS if c not in _KEYS)
    with engine.begin() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE verdicts_in (LIKE quality_verdicts) ON COMMIT DROP"))
        cursor = connection.connection.cursor()
        # FORCE_NOT_NULL: an empty text is an empty text, not an unknown one.
        texts = ", ".join(c.name for c in _TABLE.columns if not c.nullable)
        command = f"COPY verdicts_in ({names}) FROM STDIN (FORMAT csv, FORCE_NOT_NULL ({texts}))"
        try:
            cursor.copy_expert(command, buffer)  # type: ignore[attr-defined]
        except psycopg2.Error as error:  # as every other statement on the ledger raises it
            raise DBAPIError.instance(command, None, error, psycopg2.Error) from error
        connection.execute(
            text(
                f"INSERT INTO quality_verdicts ({names}) SELECT {names} FROM verdicts_in "
                f"ORDER BY {', '.join(_KEYS)} ON CONFLICT ({', '.join(_KEYS)}) DO UPDATE SET {replaced} "
                "WHERE quality_verdicts.evaluated_wall <= EXCLUDED.evaluated_wall"
            )
        )


def _key(verdict: VerdictRow) -> tuple[str, str, str, str]:
    return verdict.dataset, verdict.session, verdict.symbol, verdict.check
