"""What corporate actions did to plans and positions, and what operators said of doubtful ones.

`action_decisions` and `position_adjustments` are facts and only grow. `action_applications` says how far the desk has
come with an action; `plan_levels` in which price units a plan's levels are written.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Identity, Index, PrimaryKeyConstraint, String, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from resources.ledger.tables import PAPER_SCHEMA, metadata

__all__ = ["action_applications", "action_decisions", "metadata", "paper_splits", "plan_levels", "position_adjustments"]

action_decisions = Table(
    "action_decisions", metadata,
    Column("seq", BigInteger, Identity(), primary_key=True),
    Column("symbol", Text, nullable=False),
    Column("session", Text, nullable=False),  # the ex session
    Column("confirmed", Boolean, nullable=False),  # false: there was no action, the jump was the market's
    Column("factor", Float),  # new units per old unit, of a confirmed one
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("made_time", BigInteger, nullable=False),
    Column("made_wall", BigInteger, nullable=False),
    Column("kind", Text, nullable=False, server_default="split"),  # split, spin_off
    Index("action_decisions_by_symbol", "symbol", "session"),
)  # fmt: skip

action_applications = Table(
    "action_applications", metadata,
    Column("action_id", String(40), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("factor", Float),  # null: not known, the instrument is held
    Column("state", Text, nullable=False),  # held, started, done
    Column("content", JSONB, nullable=False),  # positions, orders and plans before, and what came of them
    Column("started_time", BigInteger, nullable=False),
    Column("started_wall", BigInteger, nullable=False),
    Column("done_wall", BigInteger),
    PrimaryKeyConstraint("action_id", "symbol"),
    Index("action_applications_by_state", "state"),
)  # fmt: skip

position_adjustments = Table(
    "position_adjustments", metadata,
    Column("action_id", String(40), nullable=False),
    Column("strategy", Text, nullable=False),
    Column("symbol", Text, nullable=False),
    Column("trade_id", String(40), nullable=False),
    Column("broker", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("factor", Float, nullable=False),
    Column("quantity_before", Float, nullable=False),  # signed
    Column("quantity_after", Float, nullable=False),
    Column("average_before", Float, nullable=False),
    Column("average_after", Float, nullable=False),
    Column("cash_in_lieu", Float, nullable=False),  # paid for the fraction below a lot; negative: paid by us
    Column("adjusted_time", BigInteger, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    PrimaryKeyConstraint("action_id", "strategy", "symbol"),
    Index("position_adjustments_by_trade", "trade_id"),
)  # fmt: skip

plan_levels = Table(
    "plan_levels", metadata,
    Column("plan", Text, nullable=False),
    Column("revision", Text, nullable=False),  # of the plan's file: an edited file speaks of today's prices
    Column("action_id", String(40), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("factor", Float, nullable=False),
    Column("recorded_wall", BigInteger, nullable=False),
    PrimaryKeyConstraint("plan", "revision", "action_id"),
)  # fmt: skip

paper_splits = Table(
    "splits", metadata,
    Column("action_id", String(40), nullable=False),
    Column("symbol", Text, nullable=False),
    Column("factor", Float, nullable=False),
    Column("quantity_before", Float, nullable=False),
    Column("quantity_after", Float, nullable=False),
    Column("average_after", Float, nullable=False),
    Column("price", Float, nullable=False),  # last price after the split: what a fraction is paid at
    Column("cash_in_lieu", Float, nullable=False),
    Column("split_time", BigInteger, nullable=False),
    PrimaryKeyConstraint("action_id", "symbol"),
    schema=PAPER_SCHEMA,
)  # fmt: skip
