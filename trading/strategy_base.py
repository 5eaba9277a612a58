"""What every kind of strategy file compiles to, and what compiling needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trading import conditions
from trading.bars import Bars
from trading.conditions import Condition
from trading.evaluation import Evaluation
from trading.execution_functions import ExecutionFunction
from trading.execution_functions.base import conditions_of
from trading.ids import file_revision
from trading.instruments import Instrument, Mode
from trading.signals import Action
from trading.strategy_schema import Filed, all_timeframes
from trading.timeframes import Timeframe

Context = dict[tuple[str, Timeframe], int]
"""Series of other instruments by (symbol, timeframe), and how many bars of them are needed."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A compiled strategy file (see trading.evaluable.Evaluable). rules: the file as it was read.

    context: series of other instruments it reads. legs: symbols entered together or not at all (a pair).
    """

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
    kind: str = "strategy"
    once: bool = False
    context: Context = field(default_factory=dict)
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
    primary = parsed.timeframe
    warm_up = dict.fromkeys(all_timeframes(primary, parsed.confirm), 1)
    exits = parsed.exits
    functions: list[ExecutionFunction] = [f for f in (exits.stop, exits.target) if f is not None]
    sides = [exits.rules.long, exits.rules.short] if exits.rules is not None else []
    context: Context = {}
    for condition in (*entries, *sides, *(c for f in functions for c in conditions_of(f))):
        conditions.merge_warm_up(warm_up, conditions.warm_up(condition, primary))
        for key, bars in conditions.context(condition, primary).items():
            context[key] = max(context.get(key, 0), bars)
    for function in functions:
        conditions.merge_warm_up(warm_up, function.warm_up(primary))
    conditions.merge_warm_up(warm_up, more or {})
    return warm_up, context


def common(parsed: Filed, text: str, warm_up: dict[Timeframe, int], context: Context) -> dict[str, Any]:
    """The fields of Strategy that every kind of file gives."""
    return {
        "name": parsed.name,
        "revision": file_revision(text),
        "symbols": tuple(parsed.symbols),
        "timeframe": parsed.timeframe,
        "timeframes": all_timeframes(parsed.timeframe, parsed.confirm),
        "mode": parsed.mode,
        "status": parsed.status,
        "sizing": parsed.sizing.model_dump(mode="json"),
        "valid_bars": parsed.gates.valid_bars,
        "min_reward_to_risk": parsed.gates.min_reward_to_risk,
        "quality_sessions": parsed.gates.quality_sessions,
        "max_bars": parsed.exits.max_bars,
        "warm_up": warm_up,
        "costs": parsed.costs.model_dump(mode="json") if parsed.costs else None,
        "rules": parsed,
        "description": parsed.description,
        "owner": parsed.owner,
        "context": context,
    }
