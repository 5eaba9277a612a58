"""Execution functions: conditions on bar closes, and price levels, that plans and strategies name by ``kind``.

Every module of this package registers one; `triggers` and `levels` give those known.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

from trading.execution_functions.base import REGISTRY, ExecutionFunction, Level, Trigger, register

__all__ = ["REGISTRY", "ExecutionFunction", "Level", "Trigger", "get", "levels", "load", "managers", "register", "triggers"]


@lru_cache(maxsize=1)
def load() -> None:
    """Import every module of this package, once, so that each registers itself."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")


def triggers() -> dict[str, type[Trigger]]:
    """Known triggers by name."""
    load()
    return {name: cls for name, cls in sorted(REGISTRY.items()) if issubclass(cls, Trigger)}


def levels() -> dict[str, type[Level]]:
    """Known levels by name."""
    load()
    return {name: cls for name, cls in sorted(REGISTRY.items()) if issubclass(cls, Level)}


def managers() -> dict[str, type[ExecutionFunction]]:
    """Known functions that manage an open trade by name: stop moves, exits of the trade, scale-outs."""
    load()
    return {name: cls for name, cls in sorted(REGISTRY.items()) if not issubclass(cls, (Trigger, Level))}


def get(name: str) -> type[ExecutionFunction]:
    """The function of that name. Raises KeyError naming the valid ones."""
    load()
    if name not in REGISTRY:
        raise KeyError(f"no execution function {name!r}: expected one of {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]
