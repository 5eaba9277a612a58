"""From the audit to the channels' queues: each record once, in one transaction with the place it was read up to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, select

from resources.ledger import notifications as queue
from resources.ledger import tables as t
from resources.notifications.events import Context, Event, Record, Severity, event_of
from resources.notifications.routing import Notifications
from resources.notifications.scrub import Scrubber
from resources.notifications.summary import daily_summary

log = structlog.get_logger("notifier")

BATCH = 500
_BODY_LIMIT = 20_000


def pump(engine: Engine, routing: Notifications, scrub: Scrubber, mode: str) -> tuple[int, set[str]]:
    """Read the next audit records and queue what the routes say; (records read, channels that got something).

    mode: of the installation, said in every message. Raises SQLAlchemyError: then nothing was queued and nothing is lost.
    """
    with engine.begin() as connection:
        rows = queue.unread(connection, BATCH)
        if not rows:
            return 0, set()
        records = [_record(row) for row in rows]
        fresh: list[queue.NewNotification] = []
        if routing.channels:
            context = Context(mode, _orders(connection, records), lambda session: daily_summary(connection, session))
            for record in records:
                fresh += _queued(record, context, routing, scrub)
        queue.enqueue(connection, fresh)
        queue.advance(connection, records[-1].seq)
    return len(records), {row.channel for row in fresh}


def _queued(record: Record, context: Context, routing: Notifications, scrub: Scrubber) -> list[queue.NewNotification]:
    try:
        event = event_of(record, context)
    except Exception as error:  # noqa: BLE001 - one record nobody foresaw must not hold up all others: it is told as it is
        log.error("event_not_told_well", seq=record.seq, action=record.action, error=type(error).__name__)
        event = Event(
            f"audit.{record.action}", Severity.WARNING, f"{context.mode.upper()} {record.action}",
            json.dumps(record.content, default=str)[:1000], record.seq, record.time_us, mode=context.mode,
        )  # fmt: skip
    if event is None:
        return []
    about = str(record.content.get("channel", "")) if event.kind == "failure.notification" else ""
    channels = routing.channels_for(event, about)
    if not channels:
        return []
    title, body = scrub(event.title), scrub(event.body)[:_BODY_LIMIT]
    return [
        queue.NewNotification(name, event.dedupe_id, event.kind, str(event.severity), title, body, event.time_us, event.seq)
        for name in channels
    ]


def _record(row: Mapping[str, Any]) -> Record:
    try:
        content = json.loads(bytes(row["content"]))
    except ValueError:
        content = {}
    return Record(row["seq"], row["time_us"], row["actor"], row["action"], content if isinstance(content, dict) else {})


def _orders(connection: Connection, records: Iterable[Record]) -> dict[str, Mapping[str, Any]]:
    """The orders that records of order events and fills are about, with what their intents say; of positions, the entry."""
    ids = {str(r.content.get("row", {}).get("order_id")) for r in records if r.action in ("order_event", "fill")}
    ids |= {str(r.content.get("row", {}).get("trade_id")) for r in records if r.action == "position"}
    if not ids:
        return {}
    i = t.intents.c
    algo = i.content["meta"]["algo"].as_string().label("algo")
    told = [i.content["meta"].label("meta"), i.content["reference_price"].as_float().label("reference_price")]
    joined = select(t.orders, i.strategy, i.leg, i.trade_id, algo, *told).join(t.intents, i.id == t.orders.c.id)
    joined = joined.where(t.orders.c.id.in_(ids))
    return {row["id"]: dict(row) for row in connection.execute(joined).mappings()}
