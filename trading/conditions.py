"""Conditions over bars: comparisons of prices, indicators, patterns and numbers, nested by all, any and not.

The models are the grammar people write; `evaluate` turns a condition into arrays: no Python per bar. A condition any of
whose values is not a number is False, under `not` too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from trading import indicators, patterns
from trading.config_text import ConfigModel, Number, Positive, Text, Whole, custom_error
from trading.frame import Bools, Floats, Frame, rolling
from trading.indicators import Indicator
from trading.operands import MAX_LOOKBACK, Operand, OperandSpec
from trading.timeframes import Timeframe

__all__ = [
    "KEYS", "MAX_LOOKBACK", "OPERATORS", "Bools", "Condition", "Confluence", "Floats", "Frame", "Operand", "OperandSpec",
    "context", "evaluate", "merge_warm_up", "scores", "value_of", "warm_up",
]  # fmt: skip

Pair = Annotated[list[OperandSpec], Field(min_length=2, max_length=2)]

OPERATORS = ("cross_above", "cross_below", ">", "<", ">=", "<=", "==")
KEYS = ("all", "any", "not", *OPERATORS, "pattern", "confluence")
_PATTERN_ONLY = ("direction", "params", "timeframe", "symbol", "lookback")


class Part(ConfigModel):
    """One part of a confluence: it counts with its weight where `when` holds."""

    name: Text = Field(min_length=1, max_length=40, description="shown beside its share of the score")
    weight: Positive = Field(1.0, le=1000)
    when: Condition


class Confluence(ConfigModel):
    """Weighted parts, often of different timeframes; the score is the weight of those that hold over the weight of all."""

    at_least: Annotated[Number, Field(gt=0, le=1)] = Field(description="least score, 0 to 1")
    parts: list[Part] = Field(min_length=2)

    @model_validator(mode="after")
    def _distinct(self) -> Confluence:
        if len({p.name for p in self.parts}) < len(self.parts):
            raise custom_error("two parts have one name", "a name of its own for each part")
        return self


class Condition(ConfigModel):
    """One of all, any, not, a comparison of two operands (``{">": [close, 1.2]}``), a pattern, or a confluence.

    cross_above: the left was at or below the right one bar before and is above it now; cross_below the other way.
    within: it held at this bar or at one of the n - 1 before; for: at this one and all of the n - 1 before.
    """

    all: list[Condition] | None = Field(None, min_length=1)
    any: list[Condition] | None = Field(None, min_length=1)
    not_: Condition | None = Field(None, alias="not")
    cross_above: Pair | None = None
    cross_below: Pair | None = None
    gt: Pair | None = Field(None, alias=">")
    lt: Pair | None = Field(None, alias="<")
    ge: Pair | None = Field(None, alias=">=")
    le: Pair | None = Field(None, alias="<=")
    eq: Pair | None = Field(None, alias="==")
    pattern: Text | None = Field(None, description="a price-action pattern that points somewhere at the bar")
    direction: Literal["up", "down"] | None = Field(None, description="where the pattern must point; default: either way")
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the pattern by name")
    timeframe: Timeframe | None = Field(None, description="of the pattern: a confirm timeframe; default the primary one")
    symbol: Text | None = Field(None, description="of the pattern: another instrument, read only")
    lookback: Annotated[Whole, Field(ge=0, le=MAX_LOOKBACK)] = Field(0, description="of the pattern: this many bars before")
    confluence: Confluence | None = None
    within: Annotated[Whole, Field(ge=1, le=MAX_LOOKBACK)] | None = Field(None, description="held at one of the last n bars")
    for_: Annotated[Whole, Field(ge=1, le=MAX_LOOKBACK)] | None = Field(
        None, alias="for", description="held at each of the last n bars"
    )

    FIELD: ClassVar[dict[str, str]] = {"not": "not_", ">": "gt", "<": "lt", ">=": "ge", "<=": "le", "==": "eq"}

    @model_validator(mode="after")
    def _one_key(self) -> Condition:
        given = [k for k in KEYS if getattr(self, self.FIELD.get(k, k)) is not None]
        if len(given) != 1:
            what = f"gives {' and '.join(given) or 'none'} of them (several go under all: or any:)"
            raise custom_error(what, "exactly one of " + ", ".join(KEYS))
        loose = [k for k in _PATTERN_ONLY if getattr(self, k)]
        if self.pattern is None and loose:
            raise custom_error(f"{loose[0]} belongs to a pattern or to an operand", "pattern: NAME beside it, or no " + loose[0])
        if self.within is not None and self.for_ is not None:
            raise custom_error("gives both within and for", "one of them")
        if self.not_ is not None and any(c.confluence for c in self.not_.walk()):
            raise custom_error("a confluence cannot stand under not", "the confluence itself, or its parts negated")
        return self

    def walk(self) -> Iterator[Condition]:
        """This condition and every one below it."""
        yield self
        for child in self.children():
            yield from child.walk()

    def children(self) -> list[Condition]:
        parts = [p.when for p in self.confluence.parts] if self.confluence is not None else []
        return [*(self.all or ()), *(self.any or ()), *((self.not_,) if self.not_ else ()), *parts]

    @property
    def label(self) -> str:
        """The condition as text, for a signal's reason."""
        text = self._label()
        if self.within is not None:
            return f"({text}) within {self.within} bars"
        return f"({text}) for {self.for_} bars" if self.for_ is not None else text

    def _label(self) -> str:
        if self.all is not None:
            return " and ".join(c.label if c.any is None else f"({c.label})" for c in self.all)
        if self.any is not None:
            return " or ".join(c.label if c.all is None else f"({c.label})" for c in self.any)
        if self.not_ is not None:
            return f"not ({self.not_.label})"
        if self.confluence is not None:
            return f"confluence of {', '.join(p.name for p in self.confluence.parts)} >= {self.confluence.at_least:g}"
        if self.pattern is not None:
            return self._pattern_operand().label + (f" {self.direction}" if self.direction else "")
        operator, (left, right) = self.comparison()
        return f"{left.label} {operator.replace('cross_', 'crosses ')} {right.label}"

    def comparison(self) -> tuple[str, tuple[Operand, Operand]]:
        """(operator, (left, right)) of a comparison."""
        for operator in OPERATORS:
            pair = getattr(self, self.FIELD.get(operator, operator))
            if pair is not None:
                return operator, (pair[0], pair[1])
        raise ValueError("not a comparison")

    @property
    def is_comparison(self) -> bool:
        return any(getattr(self, self.FIELD.get(o, o)) is not None for o in OPERATORS)

    def _pattern_operand(self) -> Operand:
        return Operand(
            pattern=self.pattern, params=self.params, timeframe=self.timeframe, symbol=self.symbol, lookback=self.lookback
        )

    def operands(self) -> Iterator[tuple[Operand, bool]]:
        """Every operand below, and whether a cross needs its value of the bar before, too."""
        for child in self.children():
            yield from child.operands()
        if self.pattern is not None:
            yield self._pattern_operand(), False
        if self.is_comparison:
            operator, pair = self.comparison()
            for operand in pair:
                for part in operand.with_parts():
                    yield part, operator.startswith("cross")


Part.model_rebuild()
Confluence.model_rebuild()
Condition.model_rebuild()


def definition_of(operand: Operand) -> Indicator | None:
    """The indicator or pattern an operand names, None for a number or a price."""
    if operand.pattern is not None:
        return patterns.get(operand.pattern)
    return indicators.get(operand.indicator) if operand.indicator is not None else None


def value_of(operand: Operand, frame: Frame) -> Floats:
    """Values of `operand` over primary bars, float64 (T,), NaN where not known."""
    if operand.number is not None:
        return np.full(len(frame), operand.number)
    timeframe, symbol = operand.timeframe or frame.primary, operand.symbol
    definition = definition_of(operand)
    if definition is None:
        own = indicators.column(frame.series(timeframe, symbol), operand.price or "close")
    else:
        own = frame.own_values(definition, operand.params, operand.output, operand.source, timeframe, symbol)
    for kind, bars in enumerate((operand.highest, operand.lowest, operand.mean)):
        if bars is not None:
            own = rolling(own, bars, kind)
    values = frame.on_primary(own, timeframe, operand.lookback, symbol)
    if operand.times is not None:
        values = values * operand.times
    return values + value_of(operand.plus, frame) if operand.plus is not None else values


_COMPARE: dict[str, Callable[[Floats, Floats], Bools]] = {
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
    "==": np.equal,
}


def evaluate(condition: Condition | None, frame: Frame) -> Bools:
    """bool (T,): where `condition` holds and every value it looks at is a number. None: nowhere."""
    if condition is None:
        return np.zeros(len(frame), bool)
    value, valid = _evaluate(condition, frame)
    return value & valid


def _evaluate(condition: Condition, frame: Frame) -> tuple[Bools, Bools]:
    value, valid = _at_bar(condition, frame)
    bars = condition.within or condition.for_ or 1
    if bars == 1:
        return value, valid
    held = (value & valid).astype(np.int64)
    count = np.cumsum(held)
    count[bars:] -= np.cumsum(held)[:-bars]
    if condition.within is not None:
        return count > 0, valid
    full = count == bars
    valid = valid.copy()
    valid[: bars - 1] = False
    return full, valid


def _at_bar(condition: Condition, frame: Frame) -> tuple[Bools, Bools]:
    if condition.all is not None or condition.any is not None:
        joined, good = _evaluate((condition.all or condition.any or [])[0], frame)
        for child in (condition.all or condition.any or [])[1:]:
            value, valid = _evaluate(child, frame)
            joined = joined & value if condition.all is not None else joined | value
            good = good & valid
        return joined, good
    if condition.not_ is not None:
        value, valid = _evaluate(condition.not_, frame)
        return ~value, valid
    if condition.confluence is not None:
        score, _ = _score(condition.confluence, frame)
        # sums of weights are exact only up to float noise: 0.6 must reach 0.6
        return score >= condition.confluence.at_least - 1e-9, np.ones(len(frame), bool)
    if condition.pattern is not None:
        signal = value_of(condition._pattern_operand(), frame)
        wanted = {"up": signal > 0, "down": signal < 0}.get(condition.direction or "", signal != 0)
        return wanted, np.isfinite(signal)
    operator, (left_operand, right_operand) = condition.comparison()
    left, right = value_of(left_operand, frame), value_of(right_operand, frame)
    valid = np.isfinite(left) & np.isfinite(right)
    with np.errstate(invalid="ignore"):
        if not operator.startswith("cross"):
            return _COMPARE[operator](left, right), valid
        above = operator == "cross_above"
        value = left > right if above else left < right
        before = left <= right if above else left >= right
    value[1:] &= before[:-1]
    value[:1] = False
    crossing_valid = valid.copy()
    crossing_valid[1:] &= valid[:-1]
    crossing_valid[:1] = False
    return value, crossing_valid


def _score(confluence: Confluence, frame: Frame) -> tuple[Floats, dict[str, Floats]]:
    """(score float64 (T,), each part's share of it). A part that is not known does not count."""
    total = sum(p.weight for p in confluence.parts)
    shares: dict[str, Floats] = {p.name: np.where(evaluate(p.when, frame), p.weight / total, 0.0) for p in confluence.parts}
    held = np.zeros(len(frame))
    for p in confluence.parts:
        held = held + (shares[p.name] > 0) * p.weight
    return held / total, shares


def scores(condition: Condition | None, frame: Frame) -> tuple[Floats, dict[str, Floats]] | None:
    """(score float64 (T,) in 0..1, each part's share) of the first confluence in `condition`; None when it has none."""
    for one in condition.walk() if condition is not None else ():
        if one.confluence is not None:
            return _score(one.confluence, frame)
    return None


def merge_warm_up(into: dict[Timeframe, int], *others: Mapping[Timeframe, int]) -> dict[Timeframe, int]:
    """`into` with the larger need of each timeframe."""
    for other in others:
        for timeframe, bars in other.items():
            into[timeframe] = max(into.get(timeframe, 0), bars)
    return into


def operand_warm_up(operand: Operand, crossing: bool, primary: Timeframe) -> dict[Timeframe, int]:
    """Bars per timeframe, the current one included, before `operand` counts; of its `plus` part not (see with_parts)."""
    if operand.number is not None:
        return {}
    definition = definition_of(operand)
    bars = 1 if definition is None else definition.warm_up(operand.params)
    over = operand.highest or operand.lowest or operand.mean or 1
    return merge_warm_up(
        {operand.timeframe or primary: bars + over - 1 + operand.lookback + (1 if crossing else 0)},
        {primary: 2 if crossing else 1},
    )


def warm_up(condition: Condition | None, primary: Timeframe) -> dict[Timeframe, int]:
    """Bars per timeframe, the current one included, before `condition` counts.

    Series of other instruments count under their timeframe: their windows begin where the instrument's own do.
    """
    if condition is None:
        return {}
    needs: dict[Timeframe, int] = {}
    for child in condition.children():
        merge_warm_up(needs, warm_up(child, primary))
    if condition.pattern is not None or condition.is_comparison:
        crossing = condition.is_comparison and condition.comparison()[0].startswith("cross")
        pair = condition.comparison()[1] if condition.is_comparison else (condition._pattern_operand(),)
        for operand in pair:
            for part in operand.with_parts():
                merge_warm_up(needs, operand_warm_up(part, crossing, primary))
    more = (condition.within or condition.for_ or 1) - 1
    if more:
        return {t: bars + more for t, bars in (needs or {primary: 1}).items()}
    return needs


def context(condition: Condition | None, primary: Timeframe) -> dict[tuple[str, Timeframe], int]:
    """Series of other instruments that `condition` reads, and how many of their bars it needs."""
    needs: dict[tuple[str, Timeframe], int] = {}
    for operand, crossing in condition.operands() if condition is not None else ():
        if operand.symbol is not None:
            key = (operand.symbol, operand.timeframe or primary)
            bars = operand_warm_up(operand, crossing, primary)[key[1]]
            needs[key] = max(needs.get(key, 0), bars)
    return needs
