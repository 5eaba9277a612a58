"""Price action by name: candle types, structure, gaps, liquidity, levels. Every module of this package registers some."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from trading.patterns.base import PATTERNS, Pattern

__all__ = ["PATTERNS", "Pattern", "get", "load", "patterns"]


@lru_cache(maxsize=1)
def load() -> None:
    """Import every module of this package, once, so that each registers itself."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")


def patterns() -> dict[str, Pattern]:
    """Known patterns by name."""
    load()
    return PATTERNS


def get(name: str) -> Pattern:
    """Pattern `name`. Raises KeyError naming the valid ones."""
    load()
    if name not in PATTERNS:
        raise KeyError(f"no pattern {name!r}: expected one of {', '.join(sorted(PATTERNS))}")
    return PATTERNS[name]
