"""The audit trail: an append-only chain of records, each holding the hash of the one before.

A record is written in the transaction of the act it tells of, so neither exists without the other. The newest record's
number and hash are kept beside the chain (``desk_state``, key ``audit_head``), so a cut-off end is found as well. The
table refuses UPDATE, DELETE and TRUNCATE; whoever gets around that is found by `verify`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.dialects.postgresql import insert

from resources.ledger.tables import audit, desk_state
from trading import ids

HEAD_KEY = "audit_head"
GENESIS = "0" * 64
_LOCK = 0x7461_7065_6175  # one writer at a time: the chain has one end


def append(connection: Connection, actor: str, action: str, content: Mapping[str, Any]) -> None:
    """Add one record in the caller's transaction (READ COMMITTED); it is there exactly when that transaction commits.

    actor: who (``desk``, ``tapeline:<user>``, ``supervisor``). action: what (``halt``, ``order_sent``). content: plain JSON
    values, no secrets. Other writers of the chain wait until the caller commits: append late in the transaction.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    last = connection.execute(select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).first()
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    now = time.time_ns() // 1000
    body = ids.canonical(content)
    digest = record_hash(seq, now, actor, action, body, previous)
    connection.execute(
        audit.insert().values(
            seq=seq, time_us=now, actor=actor, action=action, content=body, previous_hash=previous, hash=digest
        )
    )
    head = insert(desk_state).values(key=HEAD_KEY, value={"seq": seq, "hash": digest}, updated_wall=now)
    connection.execute(
        head.on_conflict_do_update(
            index_elements=["key"], set_={"value": head.excluded.value, "updated_wall": head.excluded.updated_wall}
        )
    )


def record_hash(seq: int, time_us: int, actor: str, action: str, content: bytes, previous_hash: str) -> str:
    """SHA-256 (hex) over everything a record says, its place in the chain included."""
    fields = ids.canonical([seq, time_us, actor, action, content.decode(), previous_hash])
    return hashlib.sha256(fields).hexdigest()


def verify(engine: Engine) -> list[str]:
    """Walk the whole chain; return one line per fault, empty when every record is as it was written."""
    problems: list[str] = []
    expected_seq, previous = 1, GENESIS
    with engine.connect().execution_options(isolation_level="REPEATABLE READ", yield_per=2000) as connection:
        for row in connection.execute(select(audit).order_by(audit.c.seq)):
            if row.seq != expected_seq:
                missing = f"{expected_seq}" if row.seq == expected_seq + 1 else f"{expected_seq} to {row.seq - 1}"
                problems.append(f"audit record {missing} is missing")
            elif row.previous_hash != previous:
                problems.append(f"audit record {row.seq} does not continue record {row.seq - 1}: changed or reordered")
            content = bytes(row.content)
            try:
                digest = record_hash(row.seq, row.time_us, row.actor, row.action, content, row.previous_hash)
            except UnicodeDecodeError:
                digest = ""
            if digest != row.hash:
                problems.append(f"audit record {row.seq} ({row.actor} {row.action}) was changed after it was written")
            expected_seq, previous = row.seq + 1, row.hash
        head = connection.execute(select(desk_state.c.value).where(desk_state.c.key == HEAD_KEY)).scalar()
        count = connection.execute(select(func.count()).select_from(audit)).scalar_one()
    if head is None and count:
        problems.append(f"the audit head is missing: {count} records, their end cannot be proven")
    elif head is not None and (head["seq"], head["hash"]) != (expected_seq - 1, previous):
        problems.append(f"the audit trail ends at record {expected_seq - 1}, but record {head['seq']} was written last")
    return problems
