"""Sources of market data behind one protocol.

A feed is a module in this folder with ``FEEDS: dict[name, Callable[[Settings], Feed]]``, or an entry point of group
``tapeline.feeds`` in an installed package (name -> such a callable). Adding one touches no other file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import entry_points

from resources.feeds.protocol import Feed, FeedError
from resources.settings import Settings

FeedFactory = Callable[[Settings], Feed]


@lru_cache(maxsize=1)
def _factories() -> dict[str, FeedFactory]:
    found: dict[str, FeedFactory] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "protocol" and not module.name.startswith("_"):
            found.update(getattr(importlib.import_module(f"{__name__}.{module.name}"), "FEEDS", {}))
    for point in entry_points(group="tapeline.feeds"):
        if point.name in found:
            raise FeedError(f"feed {point.name!r} of {point.value} has the name of another feed: rename it")
        found[point.name] = point.load()
    return found


def feed_names() -> list[str]:
    """Names get_feed knows."""
    return sorted(_factories())


@lru_cache(maxsize=64)
def get_feed(name: str, settings: Settings) -> Feed:
    """The feed `name`, one per process and settings. Raises FeedError naming the nearest when there is none."""
    factories = _factories()
    if name not in factories:
        near = get_close_matches(name, factories, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise FeedError(f"no feed {name!r}{hint} (feeds: {', '.join(sorted(factories))})")
    return factories[name](settings)


__all__ = ["Feed", "FeedError", "FeedFactory", "feed_names", "get_feed"]
