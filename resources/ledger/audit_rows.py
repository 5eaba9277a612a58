"""The rows the audit tells of, compared with what they are now: a changed, removed or smuggled-in row is found."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

SHOWN = 20
"""Faults named singly for each table; more are counted."""

COVERED: Final = {
    "signals": ("signal", ("id",)),
    "decisions": ("decision", ("id",)),
    "intents": ("intent", ("id",)),
    "order_events": ("order_event", ("seq",)),
    "fills": ("fill", ("id",)),
    "positions": ("position", ("strategy", "symbol")),
}
"""Table -> audit action and key. Each row's newest record says what the row is."""

_MOVES: Final = {"positions": ("strategy", "symbol", "trade_id", "quantity", "realized_pnl")}
"""Columns compared where others change without a record (bars held, the memory of exit functions)."""

_QUERY: Final = """
WITH told AS (
  SELECT DISTINCT ON ({key}) {key} AS key, a.seq, c.v -> 'row' AS said, c.v ->> 'op' AS op
  FROM audit a CROSS JOIN LATERAL (SELECT convert_from(a.content, 'UTF8')::jsonb AS v OFFSET 0) c
  WHERE a.action = '{action}' AND c.v ->> 'table' = '{table}'
  ORDER BY {key}, a.seq DESC
), now AS (
  SELECT audited_row('{table}', to_jsonb(t)) AS kept FROM {table} t OFFSET 0
), paired AS (
  SELECT told.key, told.seq, told.op, told.said, now.kept, {now_key} AS now_key
  FROM told FULL JOIN now ON told.key = {now_key}
)
SELECT coalesce(key, now_key) AS key, seq,
  CASE WHEN key IS NULL THEN 'added' WHEN kept IS NULL AND op IS DISTINCT FROM 'delete' THEN 'removed'
       WHEN kept IS NOT NULL AND op = 'delete' THEN 'added' ELSE 'changed' END AS fault,
  (SELECT string_agg(e.key, ', ') FROM jsonb_each(said) e
   WHERE kept IS NOT NULL {only} AND (kept -> e.key) IS DISTINCT FROM e.value) AS columns
FROM paired
WHERE key IS NULL
   OR (kept IS NULL AND op IS DISTINCT FROM 'delete')
   OR (kept IS NOT NULL AND op = 'delete')
   OR (kept IS NOT NULL AND op IS DISTINCT FROM 'delete' AND kept <> said
       AND EXISTS (SELECT 1 FROM jsonb_each(said) e WHERE (kept -> e.key) IS DISTINCT FROM e.value {only}))
ORDER BY seq NULLS LAST, 1
"""


def row_problems(connection: Connection) -> tuple[int, list[str]]:
    """(rows compared, one line per fault). Columns that a later version added are not compared: they were not recorded."""
    compared, problems = 0, []
    connection.execute(text("SET LOCAL bytea_output = 'hex'"))
    for table, (action, key) in COVERED.items():
        compared += int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())
        only = _MOVES.get(table)
        query = _QUERY.format(
            table=table, action=action, key=_key("(c.v -> 'row')", key), now_key=_key("now.kept", key),
            only=f"AND e.key IN ({', '.join(repr(name) for name in only)})" if only else "",
        )  # fmt: skip
        try:
            with connection.begin_nested():
                found = connection.execute(text(query.replace(":", "\\:"))).all()
        except DBAPIError:
            problems.append(f"{table}: its audit records cannot be read as JSON, so its rows cannot be compared")
            continue
        for row in found[:SHOWN]:
            problems.append(_line(table, row.key, row.seq, row.fault, row.columns))
        if len(found) > SHOWN:
            problems.append(f"{table}: {len(found) - SHOWN} more rows are not as they were recorded")
    return compared, problems


def _key(row: str, columns: tuple[str, ...]) -> str:
    return " || ' ' || ".join(f"({row} ->> '{column}')" for column in columns)


def _line(table: str, key: str, seq: int | None, fault: str, columns: str | None) -> str:
    if fault == "added":
        return f"{table} {key} is not in the audit trail: added around it"
    if fault == "removed":
        return f"{table} {key} is gone, audit record {seq} tells of it"
    return f"{table} {key} is not as audit record {seq} tells it: {columns}"
