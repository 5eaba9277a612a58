"""What corporate actions did to plans and positions."""

from __future__ import annotations

from resources.ledger.tables import metadata

__all__ = ["metadata"]
