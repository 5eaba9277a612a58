"""All tables of the ledger, from every module that declares some: what the migrations must create."""

from __future__ import annotations

from resources.ledger import (
    action_tables,
    algo_tables,
    change_tables,
    feed_tables,
    notification_tables,
    plan_tables,
    quality_tables,
)
from resources.ledger.tables import metadata

__all__ = [
    "action_tables",
    "algo_tables",
    "change_tables",
    "feed_tables",
    "metadata",
    "notification_tables",
    "plan_tables",
    "quality_tables",
]
