"""Agents: one file each, with ``AGENTS: dict[name, class]``.

A user's agent is one file in data/config/plugins that puts its class into ``REGISTRY`` (name -> class), or an entry point of
group ``tapeline.agents`` in an installed package. Importing this package brings in neither torch nor numba.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Final

from ml.agents.base import Agent, Progress

REGISTRY: Final[dict[str, Any]] = {}
"""Agents of plug-ins by name; kept by resources.plugin_files, which takes back what a changed file registered."""


class UnknownAgent(ValueError):
    """No agent of that name, or two."""


@lru_cache(maxsize=1)
def _installed() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(__path__):
        found.update(getattr(importlib.import_module(f"{__name__}.{module.name}"), "AGENTS", {}))
    for point in entry_points(group="tapeline.agents"):
        if point.name in found:
            raise UnknownAgent(f"agent {point.name!r} of {point.value} has the name of another agent: rename it")
        found[point.name] = point.load()
    return found


def agent_classes() -> dict[str, Any]:
    """Every agent class by name. Importing them brings torch in. Raises UnknownAgent when a plug-in takes a name twice."""
    found = _installed()
    twice = sorted(found.keys() & REGISTRY.keys())
    if twice:
        raise UnknownAgent(f"agent {twice[0]!r} of a plug-in has the name of another agent: rename it")
    return {**found, **REGISTRY}


def agent_class(name: str) -> Any:
    """The class registered as `name`. Raises UnknownAgent naming the nearest."""
    classes = agent_classes()
    if name not in classes:
        near = get_close_matches(name, classes, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise UnknownAgent(f"no agent {name!r}{hint} (agents: {', '.join(sorted(classes))})")
    return classes[name]


__all__ = ["REGISTRY", "Agent", "Progress", "UnknownAgent", "agent_class", "agent_classes"]
