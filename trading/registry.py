"""Rules that grow as a directory of small files: each file registers its class by name, adding one touches no other."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Instances registered by name, in the order their classes state.

    package: import path of the directory whose modules register themselves when first asked for.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._entries: dict[str, tuple[int, T]] = {}
        self._loaded = False

    def register(self, name: str, order: int) -> Callable[[type[T]], type[T]]:
        """Class decorator: one instance under `name`. Raises ValueError when the name is taken by another class."""

        def decorate(cls: type[T]) -> type[T]:
            known = self._entries.get(name)
            if known is not None and type(known[1]).__qualname__ != cls.__qualname__:
                raise ValueError(f"{self._package}: {name!r} is registered by {type(known[1]).__qualname__} already")
            self._entries[name] = (order, cls())
            return cls

        return decorate

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._loaded = True

    def ordered(self) -> list[tuple[str, T]]:
        """(name, instance) in the stated order; equal orders by name."""
        self._load()
        return [(name, entry) for name, (_, entry) in sorted(self._entries.items(), key=lambda item: (item[1][0], item[0]))]

    def names(self) -> list[str]:
        return [name for name, _ in self.ordered()]
