"""The life of trade plans: where each stands, what happened to it, and every revision of its file that was in force.

`plan_revisions` and `plan_events` are facts and only grow; `plan_states` is where a plan stands now.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Identity, Index, PrimaryKeyConstraint, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from resources.ledger.tables import metadata

__all__ = ["metadata", "plan_events", "plan_revisions", "plan_states"]

plan_states = Table(
    "plan_states", metadata,
    Column("plan", Text, primary_key=True),
    Column("revision", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("direction", Text, nullable=False),
    Column("state", Text, nullable=False),  # armed, entered, managing, closed, expired, cancelled
    Column("trade_id", Text, nullable=False),  # "" before an entry was sent
    Column("reason", Text, nullable=False),
    Column("problem", Text, nullable=False),  # what of the newest file is not in force, "" when all of it is
    Column("since_time", BigInteger, nullable=False),
    Column("updated_wall", BigInteger, nullable=False),
    Index("plan_states_by_state", "state"),
)  # fmt: skip

plan_revisions = Table(
    "plan_revisions", metadata,
    Column("plan", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("content", Text, nullable=False),  # the file with its template filled in, as JSON
    Column("recorded_time", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    PrimaryKeyConstraint("plan", "revision"),
)  # fmt: skip

plan_events = Table(
    "plan_events", metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("plan", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("state_before", Text, nullable=False),
    Column("state_after", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("content", JSONB, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    Index("plan_events_by_plan", "plan", "seq"),
)  # fmt: skip
