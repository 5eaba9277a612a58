"""Quarantined rows and what operators did about them, scores of partitions, and what a backfill asked for."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Identity, Index, Integer, PrimaryKeyConstraint, String, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from resources.ledger.tables import metadata

__all__ = ["backfill_requests", "known_empty", "metadata", "quality_scores", "quarantine_resolutions", "quarantined_rows"]

quarantined_rows = Table(
    "quarantined_rows", metadata,
    Column("id", String(40), primary_key=True),  # content hash of feed, dataset, symbol, session, close_time and values
    Column("kind", Text, nullable=False),  # row: put aside; left_out: the feed made no bar of a record, for information
    Column("feed", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("session", Text, nullable=False),  # "" where the record has none
    Column("close_time", BigInteger, nullable=False),
    Column("received", JSONB, nullable=False),  # values as they came, as text
    Column("reasons", JSONB, nullable=False),  # rules it failed, or the feed's words
    Column("place", Text, nullable=False),  # file and line where known
    Column("occurrences", Integer, nullable=False),  # in the source's last answer
    Column("state", Text, nullable=False),  # open, accepted, repaired, discarded, void (the source tells it no more), info
    Column("note", Text, nullable=False),  # why it is void or could not be applied
    Column("run_id", Text, nullable=False),  # the first that met it
    Column("first_wall", BigInteger, nullable=False),
    Column("seen_wall", BigInteger, nullable=False),  # last ingest that met it
    Index("quarantined_by_partition", "dataset", "symbol", "session"),
    Index("quarantined_by_state", "state"),
)  # fmt: skip

quarantine_resolutions = Table(
    "quarantine_resolutions", metadata,  # append-only
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("row_id", String(40), nullable=False),
    Column("action", Text, nullable=False),  # accept, repair, discard
    Column("given", JSONB, nullable=False),  # new values of a repair, as text
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("resolved_wall", BigInteger, nullable=False),
    Index("resolutions_by_row", "row_id"),
)  # fmt: skip

quality_scores = Table(
    "quality_scores", metadata,
    Column("dataset", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("content_hash", Text, nullable=False),  # of the bars scored
    Column("completeness", Float, nullable=False),
    Column("validity", Float, nullable=False),
    Column("timeliness", Float, nullable=False),
    Column("consistency", Float, nullable=False),
    Column("uniqueness", Float, nullable=False),
    Column("fault_share", Float, nullable=False),
    Column("counts", JSONB, nullable=False),  # trading.scorecard.Counts
    Column("run_id", Text, nullable=False),
    Column("scored_wall", BigInteger, nullable=False),
    PrimaryKeyConstraint("dataset", "session", "symbol", "content_hash"),
)  # fmt: skip

known_empty = Table(
    "known_empty", metadata,  # bars the source was asked for and does not have
    Column("feed", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("expected", Integer, nullable=False),
    Column("received", Integer, nullable=False),  # bars the source gave; 0: none at all
    Column("evidence", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("asked_wall", BigInteger, nullable=False),
    Column("ask_again_wall", BigInteger, nullable=False),
    PrimaryKeyConstraint("feed", "dataset", "symbol", "session"),
)  # fmt: skip

backfill_requests = Table(
    "backfill_requests", metadata,
    Column("id", String(40), primary_key=True),  # content hash of what is asked for and what was missing
    Column("feed", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("first_session", Text, nullable=False),
    Column("last_session", Text, nullable=False),
    Column("sessions", Integer, nullable=False),  # with missing bars
    Column("missing_bars", Integer, nullable=False),
    Column("state", Text, nullable=False),  # planned, asked, done, failed
    Column("received_bars", Integer, nullable=False),
    Column("filled_bars", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("planned_wall", BigInteger, nullable=False),
    Column("asked_wall", BigInteger),
    Column("done_wall", BigInteger),
    Index("backfill_by_state", "state"),
)  # fmt: skip
