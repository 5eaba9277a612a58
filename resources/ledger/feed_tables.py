"""What feeds have used up: request budgets of their plans.

One row a feed, locked while it is counted, so that every process of the installation draws on the same budget.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from resources.ledger.tables import metadata

__all__ = ["feed_budgets", "metadata"]

feed_budgets = Table(
    "feed_budgets", metadata,
    Column("feed", Text, primary_key=True),
    Column("day", Text, nullable=False),  # ISO date in the provider's zone
    Column("used_day", Integer, nullable=False),
    Column("recent", JSONB, nullable=False),  # [[second, requests], ...] of the last minute, ascending
    Column("latest_wall", BigInteger, nullable=False),  # newest moment the budget was asked
    Column("held_until_wall", BigInteger, nullable=False),  # the provider asked for silence until then; 0: it did not
    Column("held_because", Text, nullable=False),
)  # fmt: skip
