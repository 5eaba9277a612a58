"""Quarantined rows and what operators did about them."""

from __future__ import annotations

from resources.ledger.tables import metadata

__all__ = ["metadata"]
