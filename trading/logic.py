"""Can a condition ever hold? Reasoning over its comparisons, without bars.

A condition is spread into alternatives, each a list of facts that must hold at once. Facts about one value and numbers
are intervals, facts about two values are relations (<, =, >); what is not understood (a `within`, a confluence, not crossing) is
taken to be possible, but not to hold and not to hold at once. An answer "cannot hold" is therefore certain, "may hold" is not a
promise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from trading.conditions import Condition
from trading.operands import Operand

LESS, EQUAL, GREATER = 1, 2, 4
_MASKS = {
    ">": GREATER, "<": LESS, ">=": GREATER | EQUAL, "<=": LESS | EQUAL, "==": EQUAL, "cross_above": GREATER, "cross_below": LESS,
}  # fmt: skip
_MOST = 512  # alternatives looked at; a condition with more is taken to be possible

BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("rsi", "stochastic", "stochastic_fast", "stochastic_rsi", "adx", "adxr", "dx", "plus_di"), (0.0, 100.0)),
    **dict.fromkeys(("minus_di", "mfi", "aroon", "imi", "ultimate", "percent_rank", "relative_volatility"), (0.0, 100.0)),
    **dict.fromkeys(("cmo", "aroon_oscillator", "smi", "tsi"), (-100.0, 100.0)),
    **dict.fromkeys(("balance_of_power", "chaikin_money_flow"), (-1.0, 1.0)),
    **dict.fromkeys(("efficiency_ratio", "vertical_filter", "trend_mode"), (0.0, 1.0)),
    **dict.fromkeys(("atr", "natr", "true_range", "stddev", "variance", "average_range"), (0.0, math.inf)),
    "williams_r": (-100.0, 0.0),
}
"""Least and greatest value of an indicator, any output."""


class TooMany(Exception):
    """The condition has too many alternatives to be reasoned about."""


@dataclass(frozen=True, slots=True)
class Fact:
    """``left mask right`` of two values (keys), or of a value and a number. understood False: of a condition that is known only
    to hold (the number is 1) or not (0)."""

    left: str
    mask: int
    right: str = ""
    number: float = math.nan
    bounds: tuple[float, float] = (-math.inf, math.inf)
    ranks: tuple[str, str] = ("", "")
    understood: bool = True

    def denied(self) -> Fact:
        return Fact(self.left, 7 - self.mask, self.right, self.number, self.bounds, self.ranks, self.understood)


def _bounds(operand: Operand) -> tuple[float, float]:
    if operand.times is not None or operand.plus is not None:
        return (-math.inf, math.inf)
    if operand.price is not None:
        return (0.0, math.inf)
    if operand.pattern is not None and operand.output in (None, "signal"):
        return (-1.0, 1.0)
    return BOUNDS.get(operand.indicator or "", (-math.inf, math.inf))


def _rank(operand: Operand) -> str:
    """``low``, ``mid`` or ``high`` with the bar it is of, when it is a plain price of one bar; else empty."""
    plain = operand.price in ("low", "high", "open", "close") and operand.over is None
    if not plain or operand.times is not None or operand.plus is not None:
        return ""
    place = {"low": "low", "high": "high"}.get(operand.price or "", "mid")
    return f"{place} {operand.symbol}@{operand.timeframe}-{operand.lookback}"


def _facts(condition: Condition) -> list[Fact]:
    """Facts of one comparison or pattern that must hold at once."""
    if condition.pattern is not None:
        key = condition.model_copy(update={"direction": None, "within": None, "for_": None}).label
        if condition.direction is None:
            return [Fact(key, LESS | GREATER, number=0.0, bounds=(-1.0, 1.0))]
        mask = GREATER if condition.direction == "up" else LESS
        return [Fact(key, mask, number=0.0, bounds=(-1.0, 1.0))]
    operator, (left, right) = condition.comparison()
    mask = _MASKS[operator]
    if left.number is not None and right.number is not None:
        order = LESS if left.number < right.number else GREATER if left.number > right.number else EQUAL
        return [Fact("a number", 7 if mask & order else 0)]
    if left.number is not None:
        mask = (mask & EQUAL) | (GREATER if mask & LESS else 0) | (LESS if mask & GREATER else 0)
        left, right = right, left
    if right.number is not None:
        return [Fact(left.label, mask, number=right.number, bounds=_bounds(left))]
    ranks = (_rank(left), _rank(right))
    if right.label < left.label:
        mask = (mask & EQUAL) | (GREATER if mask & LESS else 0) | (LESS if mask & GREATER else 0)
        return [Fact(right.label, mask, left.label, ranks=(ranks[1], ranks[0]))]
    return [Fact(left.label, mask, right.label, ranks=ranks)]


def alternatives(condition: Condition, wanted: bool = True) -> list[list[Fact]]:
    """Lists of facts of which one must hold entirely for `condition` to hold (wanted False: not to). Raises TooMany.

    A comparison that does not hold may do so because a value is not known: then nothing is entered anyway.
    """
    if condition.within is not None or condition.confluence is not None or (condition.for_ is not None and not wanted):
        return [[_said(condition, wanted)]]
    if condition.not_ is not None:
        return alternatives(condition.not_, not wanted)
    children = condition.all or condition.any
    if children is None:
        facts = _facts(condition)
        crossing = condition.is_comparison and condition.comparison()[0].startswith("cross")
        if crossing:  # not crossing says nothing about where the values are now
            return [[*facts, _said(condition, True)]] if wanted else [[_said(condition, False)]]
        return [facts] if wanted else [[f.denied()] for f in facts]
    spread = [alternatives(child, wanted) for child in children]
    if (condition.all is not None) != wanted:
        return _limited(one for group in spread for one in group)
    joined: list[list[Fact]] = [[]]
    for group in spread:
        joined = _limited(a + b for a in joined for b in group)
    return joined


def _said(condition: Condition, wanted: bool) -> Fact:
    return Fact(condition.model_dump_json(), EQUAL, number=float(wanted), understood=False)


def _limited(found: Iterator[list[Fact]]) -> list[list[Fact]]:
    result = []
    for one in found:
        result.append(one)
        if len(result) > _MOST:
            raise TooMany
    return result


@dataclass(slots=True)
class _Interval:
    low: float
    high: float
    low_open: bool = False
    high_open: bool = False
    without: set[float] = field(default_factory=set)

    def take(self, mask: int, number: float) -> bool:
        """Narrow by ``value mask number``; False when nothing is left."""
        if mask == LESS | GREATER:
            self.without.add(number)
        if mask & GREATER and not mask & LESS and (number, not mask & EQUAL) > (self.low, self.low_open):
            self.low, self.low_open = number, not mask & EQUAL
        if mask & LESS and not mask & GREATER:
            closer = number < self.high or (number == self.high and not mask & EQUAL)
            if closer:
                self.high, self.high_open = number, not mask & EQUAL
        if mask == EQUAL:
            if number < self.low or number > self.high:
                return False
            self.low, self.high = number, number
            if number in self.without:
                return False
        if self.low > self.high:
            return False
        return not (self.low == self.high and (self.low_open or self.high_open or self.low in self.without))


_PRICE_ORDER = {("low", "high"): LESS | EQUAL, ("low", "mid"): LESS | EQUAL, ("mid", "high"): LESS | EQUAL}


def together(facts: list[Fact], same: bool = True) -> str:
    """Why `facts` cannot hold at once, or "". same False: of conditions that are not understood, nothing is known."""
    intervals: dict[str, _Interval] = {}
    relations: dict[tuple[str, str], int] = {}
    for fact in facts:
        if not fact.understood and not same:
            continue
        if fact.mask == 0:
            return f"{fact.left} never is so"
        if fact.right:
            known = relations.get((fact.left, fact.right), 7) & fact.mask & _always(fact.ranks)
            if known == 0:
                return f"{fact.left} and {fact.right} cannot stand so"
            relations[fact.left, fact.right] = known
        elif not math.isnan(fact.number):
            interval = intervals.setdefault(fact.left, _Interval(*fact.bounds))
            if not interval.take(fact.mask, fact.number):
                if not fact.understood:
                    return "one condition cannot hold and not hold at once"
                return f"{fact.left} cannot be so (numbers leave nothing, or it never has such a value)"
    return ""


def _always(ranks: tuple[str, str]) -> int:
    left, _, of = ranks[0].partition(" ")
    right, _, other = ranks[1].partition(" ")
    if not left or not right or of != other:
        return 7
    if (left, right) in _PRICE_ORDER:
        return _PRICE_ORDER[left, right]
    return GREATER | EQUAL if (right, left) in _PRICE_ORDER else 7


def impossible(*conditions: Condition, but_not: Condition | None = None, same: bool = True) -> str:
    """Why all `conditions` (and not `but_not`) can never hold at one bar; "" when they may. same: see `together`."""
    try:
        joined: list[list[Fact]] = [[]]
        for group in [alternatives(c) for c in conditions] + ([alternatives(but_not, False)] if but_not is not None else []):
            joined = _limited(a + b for a in joined for b in group)
    except TooMany:
        return ""
    why = ""
    for facts in joined:
        why = together(facts, same)
        if not why:
            return ""
    return why


def always(condition: Condition) -> bool:
    """Does `condition` hold at every bar whose values are known?"""
    try:
        return all(bool(together(facts)) for facts in alternatives(condition, False))
    except TooMany:
        return False
