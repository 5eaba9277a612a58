"""What every strategy and plan file compiles to, and what compiling needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trading import conditions
from trading.bars import Bars
from trading.conditions import Condition
from trading.evaluation import Evaluation
from trading.execution_functions import ExecutionFunction
from trading.execution_functions.base import merge_context
from trading.ids import file_revision
from trading.instruments import Instrument, Mode
from trading.signals import Action
from trading.strategy_schema import Common, Filed, all_timeframes
from trading.timeframes import Timeframe

Context = dict[tuple[str, Timeframe], int]
"""Series of other instruments by (symbol, timeframe), and how many bars of them are needed."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What strategies and plans have in common (see trading.evaluable.Evaluable). rules: the file as it was read; context:
    series of other instruments it reads; execution: how its entries are worked (trading.execution.spec), empty: in one order."""

    name: str
    revision: str
    symbols: tuple[str, ...]
    timeframe: Timeframe
    timeframes: tuple[Timeframe, ...]
    mode: Mode
    status: str
    sizing: dict[str, Any]
    valid_bars: int
    min_reward_to_risk: float
    quality_sessions: int
    max_bars: int
    warm_up: dict[Timeframe, int]
    costs: dict[str, Any] | None
    rules: Any = field(repr=False)
    description: str = ""
    owner: str = ""
    context: Context = field(default_factory=dict)
    execution: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Strategy(Compiled):
    """A compiled strategy file. legs: symbols entered together or not at all (a pair)."""

    kind: str = "strategy"
    once: bool = False
    legs: tuple[str, ...] = ()

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What the rules say at each primary bar, computed over exactly the arrays given (see Evaluation).

        bars: every timeframe of `timeframes`, of `instrument`, and what `context` names under (symbol, timeframe). Raises
        ValueError when one is missing or of another symbol.
        """
        raise NotImplementedError

    def reason(self, action: Action) -> str:
        """Why it would enter on that side, as text."""
        raise NotImplementedError


def needs_of(
    parsed: Filed, entries: Iterable[Condition | None] = (), more: Mapping[Timeframe, int] | None = None
) -> tuple[dict[Timeframe, int], Context]:
    """(bars per timeframe, series of other instruments) of a file: its entry conditions, exits, stop and target."""
    exits = parsed.exits
    sides = (exits.rules.long, exits.rules.short) if exits.rules is not None else ()
    warm_up, context = needs(parsed, (*entries, *sides), (f for f in (exits.stop, exits.target) if f is not None))
    conditions.merge_warm_up(warm_up, more or {})
    return warm_up, context


def needs(
    parsed: Common, entries: Iterable[Condition | None], functions: Iterable[ExecutionFunction]
) -> tuple[dict[Timeframe, int], Context]:
    """(bars per timeframe, series of other instruments) that conditions and execution functions of a file read."""
    primary = parsed.timeframe
    warm_up = dict.fromkeys(all_timeframes(primary, parsed.confirm), 1)
    context: Context = {}
    for condition in entries:
        conditions.merge_warm_up(warm_up, conditions.warm_up(condition, primary))
        merge_context(context, conditions.context(condition, primary))
    for function in functions:
        conditions.merge_warm_up(warm_up, function.warm_up(primary))
        merge_context(context, function.context(primary))
    return warm_up, context


def common(parsed: Filed, text: str, warm_up: dict[Timeframe, int], context: Context) -> dict[str, Any]:
    """The fields of Strategy that every kind of strategy file gives."""
    return compiled(
        parsed, symbols=tuple(parsed.symbols), revision=file_revision(text), max_bars=parsed.exits.max_bars,
        warm_up=warm_up, context=context,
    )  # fmt: skip


def compiled(
    parsed: Common, *, symbols: tuple[str, ...], revision: str, max_bars: int, warm_up: dict[Timeframe, int], context: Context
) -> dict[str, Any]:
    """The fields of Compiled."""
    return {
        "name": parsed.name,
        "revision": revision,
        "symbols": symbols,
        "timeframe": parsed.timeframe,
        "timeframes": all_timeframes(parsed.timeframe, parsed.confirm),
        "mode": parsed.mode,
        "status": parsed.status,
        "sizing": parsed.sizing.model_dump(mode="json"),
        "valid_bars": parsed.gates.valid_bars,
        "min_reward_to_risk": parsed.gates.min_reward_to_risk,
        "quality_sessions": parsed.gates.quality_sessions,
        "max_bars": max_bars,
        "warm_up": warm_up,
        "costs": parsed.costs.model_dump(mode="json") if parsed.costs else None,
        "rules": parsed,
        "description": parsed.description,
        "owner": parsed.owner,
        "context": context,
        "execution": parsed.execution.model_dump(mode="json") if parsed.execution else {},
    }
