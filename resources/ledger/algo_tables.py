"""Entries worked in slices: the parents with their schedules, and every slice they sent or were refused."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Float, Index, Integer, PrimaryKeyConstraint, String, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from resources.ledger.tables import metadata

__all__ = ["RUNNING", "algo_parents", "algo_slices", "is_entry", "metadata"]

WORKING, ENDING, ENDED = "working", "ending", "ended"
RUNNING = (WORKING, ENDING)
"""States in which a parent may still send or hold slices."""

algo_parents = Table(
    "algo_parents", metadata,
    Column("id", String(40), primary_key=True),
    Column("decision_id", String(40), nullable=False, unique=True),
    Column("trade_id", String(40), nullable=False),
    Column("strategy", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("broker", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("algo", Text, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", Float, nullable=False),
    Column("schedule", JSONB, nullable=False),  # trading.execution.schedule.Schedule
    Column("content", JSONB, nullable=False),  # entry: the whole intent; signal; sizing; risk: verdicts on the whole
    Column("state", Text, nullable=False),  # working, ending, ended
    Column("reason", Text, nullable=False),  # why it ends or ended
    Column("created_time", BigInteger, nullable=False),
    Column("created_wall", BigInteger, nullable=False),
    Column("ended_time", BigInteger),
    Index("algo_parents_by_state", "state"),
    Index("algo_parents_by_trade", "trade_id"),
)  # fmt: skip

algo_slices = Table(
    "algo_slices", metadata,
    Column("parent_id", String(40), nullable=False),
    Column("number", Integer, nullable=False),  # in the order they were wanted, from 1
    Column("slot", Integer, nullable=False),  # -1: what was left when the window was over
    Column("intent_id", String(40)),  # null: refused before it became an order
    Column("quantity", Float, nullable=False),
    Column("refusal", Text, nullable=False),
    Column("risk", JSONB, nullable=False),  # every rule's verdict on the slice
    Column("wanted_time", BigInteger, nullable=False),
    PrimaryKeyConstraint("parent_id", "number"),
)  # fmt: skip


def is_entry(leg: Any) -> Any:
    """Condition on the column intents.leg: an entry, whole (``entry``) or a slice of one (``entry.2``)."""
    return leg.op("~")(r"^entry($|\.)")
