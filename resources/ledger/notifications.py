"""The notification queues: what each channel is still to be told, in order, until the channel has it or a person lets it go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from resources.ledger import audit
from resources.ledger.base import Row, now_us
from resources.ledger.notification_tables import notification_channels, notification_cursor, notifications
from resources.ledger.tables import audit as audit_table

SOURCE: Final = "audit"
QUEUED, SENT, FAILED, DISCARDED = "queued", "sent", "failed", "discarded"
_n, _c = notifications.c, notification_channels.c


@dataclass(frozen=True, slots=True)
class NewNotification:
    """One thing to tell one channel. dedupe_id: unique in the channel; a second one of it is not queued."""

    channel: str
    dedupe_id: str
    kind: str
    severity: str
    title: str
    body: str
    happened_wall: int
    audit_seq: int | None = None


def enqueue(connection: Connection, rows: Sequence[NewNotification]) -> int:
    """Put rows into their queues in the caller's transaction; returns how many were new."""
    if not rows:
        return 0
    made = now_us()
    values = [
        {
            "channel": r.channel, "dedupe_id": r.dedupe_id, "kind": r.kind, "severity": r.severity, "title": r.title,
            "body": r.body, "audit_seq": r.audit_seq, "happened_wall": r.happened_wall, "queued_wall": made, "state": QUEUED,
            "attempts": 0, "parts_sent": 0, "error": "",
        }
        for r in rows
    ]  # fmt: skip
    statement = insert(notifications).values(values).on_conflict_do_nothing().returning(_n.id)
    return len(connection.execute(statement).all())


def unread(connection: Connection, limit: int) -> list[Row]:
    """Audit records that are in no queue yet, oldest first; the cursor is locked until the transaction ends."""
    after = connection.execute(
        select(notification_cursor.c.seq).where(notification_cursor.c.source == SOURCE).with_for_update()
    ).scalar_one()
    chosen = select(audit_table).where(audit_table.c.seq > after).order_by(audit_table.c.seq).limit(limit)
    return [dict(row) for row in connection.execute(chosen).mappings()]


def advance(connection: Connection, seq: int) -> None:
    """Everything up to audit record `seq` is in the queues."""
    cursor = update(notification_cursor).where(notification_cursor.c.source == SOURCE)
    connection.execute(cursor.values(seq=seq, updated_wall=now_us()))


def waiting(engine: Engine, channel: str, limit: int) -> list[Row]:
    """What `channel` is to be told next, oldest first."""
    chosen = select(notifications).where(_n.channel == channel, _n.state == QUEUED).order_by(_n.id).limit(limit)
    with engine.connect() as c:
        return [dict(row) for row in c.execute(chosen).mappings()]


def channel_state(engine: Engine, channel: str) -> Row:
    """How a channel does; zeros before its first message."""
    with engine.connect() as c:
        row = c.execute(select(notification_channels).where(_c.channel == channel)).mappings().first()
    if row is not None:
        return dict(row)
    return {
        "channel": channel, "not_before_wall": 0, "failures": 0, "failing_since_wall": None, "last_sent_wall": None, "error": "",
    }  # fmt: skip


def note_sent(engine: Engine, channel: str, ids: Sequence[int], *, parts_sent: int | None, not_before_wall: int) -> None:
    """The channel has these: done, or (parts_sent) that many parts of the one. It may be asked again at `not_before_wall`."""
    now = now_us()
    values: dict[str, Any] = {"attempts": _n.attempts + 1, "error": ""}
    values |= {"state": SENT, "done_wall": now} if parts_sent is None else {"parts_sent": parts_sent}
    with engine.begin() as c:
        c.execute(update(notifications).where(_n.id.in_(ids), _n.state == QUEUED).values(**values))
        _put_channel(
            c, channel, not_before_wall=not_before_wall, failures=0, failing_since_wall=None, last_sent_wall=now, error=""
        )


def note_wait(engine: Engine, channel: str, *, not_before_wall: int, error: str) -> None:
    """The channel asked for time; its messages are as they were."""
    with engine.begin() as c:
        _put_channel(c, channel, not_before_wall=not_before_wall, error=error)


def note_failure(
    engine: Engine, channel: str, ids: Sequence[int], *, not_before_wall: int, failures: int, since_wall: int, error: str
) -> None:
    """The channel did not take them: they stay queued and come again."""
    with engine.begin() as c:
        c.execute(update(notifications).where(_n.id.in_(ids)).values(attempts=_n.attempts + 1, error=error))
        _put_channel(c, channel, not_before_wall=not_before_wall, failures=failures, failing_since_wall=since_wall, error=error)


def note_refused(engine: Engine, row_id: int, error: str, *, tell: bool) -> None:
    """The channel will never take this one: it is kept as failed, for a person; tell: audited, so the other channels say it."""
    with engine.begin() as c:
        values = {"state": FAILED, "attempts": _n.attempts + 1, "done_wall": now_us(), "error": error}
        row = c.execute(update(notifications).where(_n.id == row_id).values(**values).returning(_n.channel, _n.title)).one()
        if tell:
            audit.append(c, "notifier", "notification_failed", {"channel": row.channel, "id": row_id, "error": error})


def _put_channel(connection: Connection, channel: str, **values: Any) -> None:
    first = {"not_before_wall": 0, "failures": 0, "failing_since_wall": None, "last_sent_wall": None, "error": "", **values}
    statement = insert(notification_channels).values(channel=channel, **first)
    connection.execute(statement.on_conflict_do_update(index_elements=["channel"], set_=values))


# -- for people ----------------------------------------------------------------------------------------------------------


def overview(engine: Engine) -> list[Row]:
    """By channel: how many in each state, since when the oldest waits, how the channel does."""
    counts = select(
        _n.channel,
        *(func.count().filter(_n.state == state).label(state) for state in (QUEUED, SENT, FAILED, DISCARDED)),
        func.min(_n.queued_wall).filter(_n.state == QUEUED).label("oldest_queued_wall"),
    ).group_by(_n.channel)
    with engine.connect() as c:
        rows = {row["channel"]: dict(row) for row in c.execute(counts).mappings()}
        states = {row["channel"]: dict(row) for row in c.execute(select(notification_channels)).mappings()}
    empty = {QUEUED: 0, SENT: 0, FAILED: 0, DISCARDED: 0, "oldest_queued_wall": None}
    return [
        {"channel": name, **empty, **rows.get(name, {}), **{k: v for k, v in states.get(name, {}).items() if k != "channel"}}
        for name in sorted(rows.keys() | states.keys())
    ]


def listed(
    engine: Engine, *, states: Iterable[str] = (QUEUED, FAILED), channel: str | None = None, limit: int = 100
) -> list[Row]:
    """Notifications in these states, newest first."""
    chosen = select(notifications).where(_n.state.in_(list(states))).order_by(_n.id.desc()).limit(limit)
    if channel is not None:
        chosen = chosen.where(_n.channel == channel)
    with engine.connect() as c:
        return [dict(row) for row in c.execute(chosen).mappings()]


def retry(engine: Engine, who: str, reason: str, *, ids: Sequence[int] = (), channel: str | None = None) -> int:
    """Queue failed or discarded ones again (by id, or all failed of a channel); audited. Returns how many.

    A channel that asked for time is still given it; one that failed is tried at once.
    """
    with engine.begin() as c:
        chosen = update(notifications).where(_n.state.in_((FAILED, DISCARDED)) & _n.id.in_(ids) if ids else _n.state == FAILED)
        if channel is not None:
            chosen = chosen.where(_n.channel == channel)
        again = c.execute(chosen.values(state=QUEUED, done_wall=None, parts_sent=0, error="").returning(_n.id)).scalars().all()
        waits = update(notification_channels).where(_c.failures > 0)
        if channel is not None:
            waits = waits.where(_c.channel == channel)
        c.execute(waits.values(not_before_wall=0))
        content = {"ids": sorted(again)[:100], "count": len(again), "channel": channel or "", "reason": reason}
        audit.append(c, who, "notification_retry", content)
    return len(again)


def discard(engine: Engine, who: str, reason: str, *, ids: Sequence[int] = (), channel: str | None = None) -> int:
    """Let queued or failed ones go (by id, or all of a channel); audited, and kept as discarded. Returns how many."""
    if not ids and channel is None:
        raise ValueError("name what to discard: ids or a channel")
    with engine.begin() as c:
        chosen = update(notifications).where(_n.state.in_((QUEUED, FAILED)))
        if ids:
            chosen = chosen.where(_n.id.in_(ids))
        if channel is not None:
            chosen = chosen.where(_n.channel == channel)
        gone = c.execute(chosen.values(state=DISCARDED, done_wall=now_us()).returning(_n.id)).scalars().all()
        content = {"ids": sorted(gone)[:100], "count": len(gone), "channel": channel or "", "reason": reason}
        audit.append(c, who, "notification_discard", content)
    return len(gone)


def request_test(engine: Engine, channel: str, who: str, mode: str) -> str:
    """Queue a test message for `channel`; audited. Returns its dedupe id."""
    with engine.begin() as c:
        seq = audit.append(c, who, "notification_test", {"channel": channel})
        name = f"test-{seq}"
        title = f"{mode.upper()} test of channel {channel}"
        enqueue(c, [NewNotification(channel, name, "test", "info", title, f"asked for by {who}", now_us(), seq)])
    return name


def state_of(engine: Engine, channel: str, dedupe_id: str) -> Row | None:
    """One notification as it stands."""
    with engine.connect() as c:
        row = c.execute(select(notifications).where(_n.channel == channel, _n.dedupe_id == dedupe_id)).mappings().first()
    return dict(row) if row is not None else None


def lag(engine: Engine) -> Mapping[str, Any]:
    """How far the queues are behind: audit records unread, messages queued, age of the oldest in seconds."""
    with engine.connect() as c:
        read = c.execute(select(notification_cursor.c.seq).where(notification_cursor.c.source == SOURCE)).scalar() or 0
        newest = c.execute(select(func.max(audit_table.c.seq))).scalar() or 0
        queued, oldest = c.execute(select(func.count(), func.min(_n.queued_wall)).where(_n.state == QUEUED)).one()
    age = (now_us() - oldest) / 1e6 if oldest is not None else 0.0
    return {"unread": newest - read, "queued": queued, "oldest_seconds": round(age, 1)}


def forget_done(engine: Engine, older_than_wall: int) -> int:
    """Remove sent and discarded ones done before then: the audit keeps what happened. Failed ones stay."""
    gone = delete(notifications).where(_n.state.in_((SENT, DISCARDED)), _n.done_wall < older_than_wall)
    with engine.begin() as c:
        return c.execute(gone).rowcount
