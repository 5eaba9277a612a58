"""Partitions that changed after something was made of them, and what is therefore out of date.

`partition_changes` and `affected_decisions` are facts and only grow. `stale_partitions` and `announced_changes` say how
things are now: a row goes when its partition is recomputed, or the announced write is known to have ended.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Identity, Index, PrimaryKeyConstraint, String, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from resources.ledger.tables import metadata

__all__ = ["affected_decisions", "announced_changes", "made_outputs", "metadata", "partition_changes", "stale_partitions"]

partition_changes = Table(
    "partition_changes", metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("dataset", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("old_hash", Text, nullable=False),  # empty: there was none
    Column("new_hash", Text, nullable=False),  # empty: there is none any more
    Column("reason", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    Index("partition_changes_by_partition", "dataset", "session", "symbol"),
    Index("partition_changes_by_session", "session"),
)  # fmt: skip

stale_partitions = Table(
    "stale_partitions", metadata,
    Column("dataset", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("content_hash", Text, nullable=False),  # of the content that is out of date
    Column("because", Text, nullable=False),  # the partition it was made of, and why that changed
    Column("since_wall", BigInteger, nullable=False),  # out of date since
    Column("marked_wall", BigInteger, nullable=False),  # the newest reason, by the database's clock
    PrimaryKeyConstraint("dataset", "session", "symbol"),
    Index("stale_partitions_by_session", "session"),
)  # fmt: skip

announced_changes = Table(
    "announced_changes", metadata,
    Column("dataset", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("old_hash", Text, nullable=False),  # what the lake held before the write
    Column("reason", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("announced_wall", BigInteger, nullable=False),
    PrimaryKeyConstraint("dataset", "session", "symbol"),
)  # fmt: skip

affected_decisions = Table(
    "affected_decisions", metadata,
    Column("change_seq", BigInteger, ForeignKey("partition_changes.seq"), nullable=False),
    Column("signal_id", String(40), nullable=False),
    Column("decision_id", String(40), nullable=False),  # empty: none was taken on the signal
    Column("hash_then", Text, nullable=False),  # of the rows the signal was computed from
    Column("hash_now", Text, nullable=False),  # of the same rows after the change; empty: they are gone
    PrimaryKeyConstraint("change_seq", "signal_id"),
    Index("affected_decisions_by_signal", "signal_id"),
)  # fmt: skip

made_outputs = Table(
    "made_outputs", metadata,
    Column("asset", Text, nullable=False),  # training_set, baseline_model, daily_report
    Column("name", Text, nullable=False),  # of the set or model; the session of a report
    Column("sources", JSONB, nullable=False),  # spans of partitions with one hash each; empty for a report
    Column("read_seq", BigInteger, nullable=False),  # newest partition change when its inputs began to be read
    PrimaryKeyConstraint("asset", "name"),
)  # fmt: skip
