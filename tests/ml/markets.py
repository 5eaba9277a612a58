"""Small markets of known character for tests of agents: a planted edge, and pure noise; the canaries' own."""

from __future__ import annotations

from ml.canaries import COSTS, bars_of, instrument, market

__all__ = ["COSTS", "bars_of", "instrument", "market"]
