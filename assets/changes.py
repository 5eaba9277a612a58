"""What the assets say when they replace partitions: see resources/changes.py, which the desk uses as well."""

from __future__ import annotations

from resources.changes import Noted, announce_changes, changed_by, note_changes, replace_bars, settle_announced, settle_range
from resources.ledger.changes import database_now

__all__ = [
    "Noted", "announce_changes", "changed_by", "database_now", "note_changes", "replace_bars", "settle_announced",
    "settle_range",
]  # fmt: skip
