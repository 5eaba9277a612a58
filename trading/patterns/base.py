"""What a price-action pattern is, and the registry of their names.

A pattern is an indicator whose first output, ``signal``, says in which direction it points at a bar: 1 up, -1 down, 0
none. Strategy files name it as a condition (``{pattern: strat_212, direction: up}``); its other outputs, levels mostly,
are operands (``{pattern: swing, output: high}``). One small file a family; adding one touches no other file.

Every definition is prefix-invariant (row i uses bars up to i only; a swing is known when it is confirmed, not when it
happens), judges by closes where it says "closes", and does not change when all prices are multiplied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trading.bars import Bars
from trading.indicator_base import Floats, Formula, Indicator, Parameter

__all__ = ["PATTERNS", "Bars", "Floats", "Mapping", "Parameter", "Pattern", "Sequence", "pattern", "register", "whole"]

Pattern = Indicator

PATTERNS: dict[str, Pattern] = {}
"""Registered patterns by name; ask `trading.patterns` for them, which imports every family first."""


def register(definition: Pattern) -> Pattern:
    """Make `definition` known. Raises ValueError when the name is taken or its first output is not ``signal``."""
    if definition.outputs[0] != "signal":
        raise ValueError(f"pattern {definition.name!r}: the first output is {definition.outputs[0]!r}, expected 'signal'")
    if definition.name in PATTERNS:
        raise ValueError(f"pattern {definition.name!r} is registered already")
    PATTERNS[definition.name] = definition
    return definition


def pattern(
    name: str, inputs: tuple[str, ...], outputs: tuple[str, ...] = (), parameters: tuple[Parameter, ...] = (), *,
    before: Callable[[Mapping[str, Any]], int], settle: Callable[[Mapping[str, Any]], int] = lambda _: 0, what: str,
    definition: str, reference: str,
) -> Callable[[Formula], Formula]:  # fmt: skip
    """Decorator: registers a formula as pattern `name`.

    outputs: those after ``signal``. before: bars needed before the first row. settle: further bars after which what lies
    before the window hardly matters. what: one line; definition: the exact rule; reference: after whom.
    """

    def decorate(formula: Formula) -> Formula:
        register(
            Pattern(
                name, "", inputs, parameters, ("signal", *outputs), settle, what, formula, before, True, definition, reference
            )
        )
        return formula

    return decorate


def whole(name: str, default: int, low: int, high: int) -> Parameter:
    """A whole-number parameter."""
    return Parameter(name, "", default, low, high)
