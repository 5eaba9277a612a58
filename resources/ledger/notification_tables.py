"""Tables of the notification queue: what each channel is still to be told, how each channel does, how far the audit is read."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Identity, Index, Integer, Table, Text, UniqueConstraint, text

from resources.ledger.tables import metadata

__all__ = ["metadata", "notification_channels", "notification_cursor", "notifications"]

notifications = Table(
    "notifications", metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("channel", Text, nullable=False),
    Column("dedupe_id", Text, nullable=False),  # the same thing told twice has the same one
    Column("kind", Text, nullable=False),  # order.filled, halt, failure.run, ...
    Column("severity", Text, nullable=False),  # info, warning, critical
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("audit_seq", BigInteger),  # the audit record it tells of; empty for a test
    Column("happened_wall", BigInteger, nullable=False),
    Column("queued_wall", BigInteger, nullable=False),
    Column("state", Text, nullable=False),  # queued, sent, failed, discarded
    Column("attempts", Integer, nullable=False),
    Column("parts_sent", Integer, nullable=False),  # of a message longer than the channel takes
    Column("done_wall", BigInteger),
    Column("error", Text, nullable=False),
    UniqueConstraint("channel", "dedupe_id"),
    Index("notifications_waiting", "channel", "id", postgresql_where=text("state = 'queued'")),
    Index("notifications_by_state", "state", "id"),
)  # fmt: skip

notification_channels = Table(
    "notification_channels", metadata,
    Column("channel", Text, primary_key=True),
    Column("not_before_wall", BigInteger, nullable=False),  # the channel asked to wait until then
    Column("failures", Integer, nullable=False),  # in a row
    Column("failing_since_wall", BigInteger),
    Column("last_sent_wall", BigInteger),
    Column("error", Text, nullable=False),
)  # fmt: skip

notification_cursor = Table(
    "notification_cursor", metadata,
    Column("source", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),  # newest audit record that is in the queues
    Column("updated_wall", BigInteger, nullable=False),
)  # fmt: skip
