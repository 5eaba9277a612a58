"""The audit trail: an append-only chain of records, each holding the hash of the one before.

A record is written in the transaction of the act it tells of, so neither exists without the other. Acts and commands are
written by `append`; signals, decisions with their verdicts, intents with theirs, order events, fills, positions and
sessions by triggers of the database, whatever code writes them (migration 0011). The newest record's number and hash are
kept beside the chain (``desk_state``, key ``audit_head``) and outside the database (resources.ledger.audit_anchor), so a
cut-off end is found as well. The table refuses UPDATE, DELETE and TRUNCATE; whoever gets around that is found by `verify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.engine import Row

from resources.ledger.audit_anchor import Anchor
from resources.ledger.audit_rows import row_problems
from resources.ledger.tables import audit, desk_state
from trading import ids

HEAD_KEY = "audit_head"
GENESIS = "0" * 64
_APPEND = text("SELECT audit_append(:actor, :action, :content)")
_APPEND_ALL = text(
    "SELECT audit_append(told.actor, told.action, told.content) "
    "FROM (SELECT actor, action, content FROM unnest("
    "CAST(:actors AS text[]), CAST(:actions AS text[]), CAST(:contents AS text[])"
    ") WITH ORDINALITY AS x(actor, action, content, n) ORDER BY n) AS told"
)


@dataclass(frozen=True, slots=True)
class Verified:
    """What walking the chain found. problems: one line a fault. records: how many there are; head: the newest one."""

    problems: tuple[str, ...]
    records: int
    head: Anchor | None
    anchors: int
    rows: int


def append(connection: Connection, actor: str, action: str, content: Mapping[str, Any]) -> int:
    """Add one record in the caller's transaction (READ COMMITTED); it is there exactly when that transaction commits.

    actor: who (``desk``, ``tapeline:<user>``, ``supervisor``). action: what (``halt``, ``order_sent``). content: plain JSON
    values, no secrets. Other writers of the chain wait until the caller commits: append late in the transaction.
    Returns the record's number.
    """
    told = {"actor": actor, "action": action, "content": ids.canonical(content).decode()}
    return int(connection.execute(_APPEND, told).scalar_one())


def append_all(connection: Connection, actor: str, action: str, contents: Sequence[Mapping[str, Any]], **options: Any) -> None:
    """`append` of several records of one action, in their order, in one statement. options: see `append_acts`."""
    append_acts(connection, [(actor, action, content) for content in contents], **options)


def append_acts(connection: Connection, acts: Sequence[tuple[str, str, Mapping[str, Any]]], **options: Any) -> None:
    """`append` of each (actor, action, content), in their order, in one statement. options: of its execution; one is executed
    also for no record when there are any."""
    if acts or options:
        told = [(actor, action, ids.canonical(content).decode()) for actor, action, content in acts]
        actors, actions, contents = (list(column) for column in zip(*told, strict=True)) if told else ([], [], [])
        connection.execute(_APPEND_ALL, {"actors": actors, "actions": actions, "contents": contents}, **options).all()


def record_hash(seq: int, time_us: int, actor: str, action: str, content: bytes, previous_hash: str) -> str:
    """SHA-256 (hex) over everything a record says, its place in the chain included."""
    fields = ids.canonical([seq, time_us, actor, action, content.decode(), previous_hash])
    return hashlib.sha256(fields).hexdigest()


def head(connection: Connection) -> Anchor | None:
    """The newest record's number and hash, as the chain has it; None while there is no record."""
    row = connection.execute(select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    return Anchor(row.seq, row.hash) if row is not None else None


def verify(engine: Engine, anchors: Iterable[Anchor] = ()) -> list[str]:
    """Walk the whole chain; return one line per fault, empty when every record is as it was written (see `check`)."""
    return list(check(engine, anchors).problems)


def check(engine: Engine, anchors: Iterable[Anchor] = (), *, progress: Callable[[int], None] = lambda _: None) -> Verified:
    """Walk the whole chain and compare it with the rows it tells of and with heads kept elsewhere.

    Finds changed, missing, added and reordered records, a cut-off end (by the head beside the chain and by `anchors`,
    which were noted outside the database), and rows of decisions, orders and fills that are not as they were recorded.
    progress: told the number of records walked, now and then. One consistent view of the database.
    """
    problems: list[str] = []
    known = {a.seq: a for a in anchors}
    seen = set[int]()
    expected_seq, previous, count = 1, GENESIS, 0
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        for row in _walk(connection):
            if row.seq != expected_seq:
                missing = f"{expected_seq}" if row.seq == expected_seq + 1 else f"{expected_seq} to {row.seq - 1}"
                problems.append(f"audit record {missing} is missing")
            elif row.previous_hash != previous:
                problems.append(f"audit record {row.seq} does not continue record {row.seq - 1}: changed or reordered")
            if _digest(row) != row.hash:
                problems.append(f"audit record {row.seq} ({row.actor} {row.action}) was changed after it was written")
            if row.seq in known:
                seen.add(row.seq)
                if known[row.seq].hash != row.hash:
                    problems.append(f"audit record {row.seq} is not the one that was anchored: the chain was written anew")
            expected_seq, previous = row.seq + 1, row.hash
            count += 1
            if count % 10_000 == 0:
                progress(count)
        kept = connection.execute(select(desk_state.c.value).where(desk_state.c.key == HEAD_KEY)).scalar()
        if kept is None and count:
            problems.append(f"the audit head is missing: {count} records, their end cannot be proven")
        elif kept is not None and (kept["seq"], kept["hash"]) != (expected_seq - 1, previous):
            problems.append(f"the audit trail ends at record {expected_seq - 1}, but record {kept['seq']} was written last")
        lost = sorted(set(known) - seen)
        if lost:
            problems.append(
                f"audit record {lost[-1]} was anchored outside the database and is not there: {len(lost)} anchor(s) without one"
            )
        compared, wrong = row_problems(connection)
    problems += wrong
    newest = Anchor(expected_seq - 1, previous) if count else None
    return Verified(tuple(problems), count, newest, len(known), compared)


def _walk(connection: Connection) -> Iterator[Row[Any]]:
    """Every record in order, read in pages: the chain is longer than memory one day."""
    after = -(2**62)
    while True:
        page = connection.execute(select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(5000)).all()
        if not page:
            return
        yield from page
        after = page[-1].seq


def _digest(row: Row[Any]) -> str:
    try:
        return record_hash(row.seq, row.time_us, row.actor, row.action, bytes(row.content), row.previous_hash)
    except UnicodeDecodeError:
        return ""


def count(connection: Connection) -> int:
    """How many records there are."""
    return int(connection.execute(select(func.count()).select_from(audit)).scalar_one())
