"""What an execution function is, and the registry of their names.

An execution function is a pydantic model: its fields are what people write beside ``kind: NAME``. A Trigger says at
which bar closes something holds; a Level says at which price. One small file each; adding one touches no other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, get_args

import numpy as np

from trading import conditions
from trading.conditions import Bools, Condition, Floats, Frame, Operand
from trading.config_text import ConfigModel
from trading.timeframes import Timeframe


class ExecutionFunction(ConfigModel):
    """Base of all. `kind` is a Literal field of every concrete class: the name people write."""

    NAME: ClassVar[str] = ""

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        """Bars per timeframe needed, the current one included."""
        return {primary: 1}

    def context(self, primary: Timeframe) -> dict[tuple[str, Timeframe], int]:
        """Series of other instruments it reads, by (symbol, timeframe), and how many of their bars it needs."""
        found: dict[tuple[str, Timeframe], int] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Condition):
                merge_context(found, conditions.context(value, primary))
            elif isinstance(value, ExecutionFunction):
                merge_context(found, value.context(primary))
        return found

    def fixed_price(self) -> float | None:
        """The price the file names, when it names one: what impossible levels are found by."""
        return None

    @property
    def label(self) -> str:
        """Short text for a signal's reason."""
        values = self.model_dump(mode="json", exclude={"kind"}, exclude_none=True).values()
        values_text = ", ".join(f"{v:.10g}" if isinstance(v, float) else str(v) for v in values)
        return f"{self.NAME}({values_text})"


class Trigger(ExecutionFunction):
    """Says where something holds."""

    def holds(self, frame: Frame) -> Bools:
        """bool (T,) over primary bars, False where an input is not known."""
        raise NotImplementedError


class Level(ExecutionFunction):
    """Says at which price."""

    def at(self, frame: Frame, direction: int, reference: Floats, risk: Floats) -> Floats:
        """float64 (T,) over primary bars, NaN where not known.

        direction: +1 for a level above the reference (a long's target, a short's stop), -1 below. reference: the price
        an entry at that bar refers to. risk: distance of the reference to the stop, NaN when the level is the stop.
        """
        raise NotImplementedError


F = TypeVar("F", bound="ExecutionFunction")

REGISTRY: dict[str, type[ExecutionFunction]] = {}


def register(cls: type[F]) -> type[F]:
    """Class decorator: makes the function known by its NAME. Raises ValueError when the name is taken."""
    taken = REGISTRY.get(cls.NAME)
    if taken is not None and taken.__qualname__ != cls.__qualname__:
        raise ValueError(f"execution function {cls.NAME!r} is already registered by {taken.__module__}")
    if cls.NAME not in get_args(cls.model_fields["kind"].annotation):
        raise ValueError(f"{cls.__qualname__}: field kind must be Literal[{cls.NAME!r}]")
    REGISTRY[cls.NAME] = cls
    return cls


def beyond(frame: Frame, timeframe: Timeframe | None, level: float, above: bool, count: int) -> Bools:
    """bool (T,): the last `count` closes of `timeframe` (None: primary) all lie beyond `level`."""
    result = np.ones(len(frame), bool)
    for back in range(count):
        closes = frame.price("close", timeframe, back)
        with np.errstate(invalid="ignore"):
            result &= closes > level if above else closes < level  # NaN compares False
    return result


def merge_context(into: dict[tuple[str, Timeframe], int], more: Mapping[tuple[str, Timeframe], int]) -> None:
    """Of each series as many bars as either of the two needs."""
    for key, bars in more.items():
        into[key] = max(into.get(key, 0), bars)


def plain(function: ExecutionFunction) -> Mapping[str, Any]:
    """`function` as plain values, for metadata."""
    return function.model_dump(mode="json", by_alias=True, exclude_none=True)


__all__ = [
    "REGISTRY", "Bools", "Condition", "ExecutionFunction", "Floats", "Frame", "Level", "Operand", "Trigger", "beyond",
    "merge_context", "plain", "register",
]  # fmt: skip
