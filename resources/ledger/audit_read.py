"""The audit for people: read by time, actor and action, and exported for a regulator as CSV or Parquet."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Engine, Select, select

from resources.ledger.base import Row
from resources.ledger.tables import audit
from trading.timeframes import iso

COLUMNS: Final = ("seq", "time", "time_us", "actor", "action", "subject", "content", "previous_hash", "hash")
"""Of an export. time: ISO 8601 UTC of time_us; content: the record's JSON, byte for byte what the hash is over."""

_PAGE: Final = 5000


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export holds: how many records, the first and last one's number, and the file."""

    path: Path
    records: int
    first: int | None
    last: int | None


def read(
    engine: Engine,
    *,
    after: int = 0,
    before: int | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
    actor: str | None = None,
    action: str | None = None,
    limit: int = 100,
    newest_first: bool = False,
) -> list[Row]:
    """Records with ``after < seq < before``, of a time range (UTC us, end excluded), content decoded.

    actor and action: the whole name, or its beginning with a * behind it.
    """  # fmt: skip
    chosen = _chosen(start_us, end_us, actor, action).where(audit.c.seq > after)
    if before is not None:
        chosen = chosen.where(audit.c.seq < before)
    order = audit.c.seq.desc() if newest_first else audit.c.seq
    with engine.connect() as c:
        return [shown(dict(row)) for row in c.execute(chosen.order_by(order).limit(limit)).mappings()]


def shown(row: Mapping[str, Any]) -> Row:
    """A record as plain values, its content as a mapping (as text when it is no JSON)."""
    text = bytes(row["content"]).decode(errors="replace")
    try:
        content: Any = json.loads(text)
    except ValueError:
        content = text
    names = ("seq", "time_us", "actor", "action", "previous_hash", "hash")
    return {**{name: row[name] for name in names}, "time": iso(row["time_us"]), "content": content}


def export(
    engine: Engine,
    path: Path,
    *,
    start_us: int | None,
    end_us: int | None,
    form: Literal["csv", "parquet"],
    actor: str | None = None,
    action: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Write the records of a time range to `path`, complete or not at all, in the chain's order.

    Raises OSError when it cannot be written.
    """  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    count, first, last = 0, None, None
    try:
        with (_csv if form == "csv" else _parquet)(draft) as write:
            for page in _pages(engine, start_us, end_us, actor, action):
                write([_cells(row) for row in page])
                first = page[0]["seq"] if first is None else first
                last = page[-1]["seq"]
                count += len(page)
                progress(count)
        os.chmod(draft, 0o600)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Exported(path, count, first, last)


def _chosen(start_us: int | None, end_us: int | None, actor: str | None, action: str | None) -> Select[Any]:
    chosen = select(audit)
    if start_us is not None:
        chosen = chosen.where(audit.c.time_us >= start_us)
    if end_us is not None:
        chosen = chosen.where(audit.c.time_us < end_us)
    for column, wanted in ((audit.c.actor, actor), (audit.c.action, action)):
        if wanted is not None and wanted.endswith("*"):
            chosen = chosen.where(column.startswith(wanted[:-1], autoescape=True))
        elif wanted is not None:
            chosen = chosen.where(column == wanted)
    return chosen


def _pages(
    engine: Engine, start_us: int | None, end_us: int | None, actor: str | None, action: str | None
) -> Iterator[list[Row]]:
    after = 0
    chosen = _chosen(start_us, end_us, actor, action)
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as c:
        while True:
            found = c.execute(chosen.where(audit.c.seq > after).order_by(audit.c.seq).limit(_PAGE)).mappings()
            page = [dict(row) for row in found]
            if not page:
                return
            yield page
            after = page[-1]["seq"]


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "seq": row["seq"], "time": iso(row["time_us"]), "time_us": row["time_us"], "actor": row["actor"],
        "action": row["action"], "subject": subject(bytes(row["content"])), "content": bytes(row["content"]).decode(),
        "previous_hash": row["previous_hash"], "hash": row["hash"],
    }  # fmt: skip


def subject(content: bytes) -> str:
    """The id of what a record is about: of its row, order, decision, plan or scope; "" when it is about none."""
    try:
        told = json.loads(content)
    except ValueError:
        return ""
    if not isinstance(told, dict):
        return ""
    row = told.get("row")
    if isinstance(row, dict):
        return str(row.get("order_id") if told.get("table") == "order_events" else row.get("id") or row.get("symbol") or "")
    names = ("intent", "order", "decision", "plan", "scope", "symbol", "run_id", "channel")
    return next((str(told[name]) for name in names if told.get(name)), "")


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, quoting=csv.QUOTE_MINIMAL)
        writer.writeheader()
        yield writer.writerows
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = {"seq", "time_us"}
    schema = pa.schema([(name, pa.int64() if name in whole else pa.string()) for name in COLUMNS])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))
