"""What feeds have used up: request budgets of their plans."""

from __future__ import annotations

from resources.ledger.tables import metadata

__all__ = ["metadata"]
