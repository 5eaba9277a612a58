"""Partitions that changed after something was made of them."""

from __future__ import annotations

from resources.ledger.tables import metadata

__all__ = ["metadata"]
