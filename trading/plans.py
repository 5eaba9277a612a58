"""Trade plans: files for one idea on one instrument: entry, stop and target, each a level or an execution function.

A plan enters once. Its entry fires at the bar close where the trigger begins to hold within the plan's sessions: when it
holds already at the first of them, that bar fires; while it goes on holding, nothing fires again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from trading import conditions
from trading.bars import Bars
from trading.conditions import Frame
from trading.config_text import ConfigModel, Count, IsoDate, Problem, Text, YamlDocument, custom_error, load_yaml, validate
from trading.evaluation import Evaluation
from trading.execution_functions import ExecutionFunction
from trading.execution_functions.base import conditions_of
from trading.ids import file_revision
from trading.instruments import Instrument, Mode
from trading.name_checks import check_names, other_universe
from trading.signals import Action
from trading.strategy import assemble, check_bars, in_windows, readiness
from trading.strategy_schema import LEVELS, TRIGGERS, Common, all_timeframes, with_indicator_rules
from trading.timeframes import Timeframe, session_number
from trading.universe import Universe


class Validity(ConfigModel):
    """Sessions, both included, in which the plan may enter."""

    from_: IsoDate = Field(alias="from")
    to: IsoDate

    @model_validator(mode="after")
    def _ascending(self) -> Validity:
        if self.to < self.from_:
            raise custom_error(f"to {self.to} lies before from {self.from_}", f"a date from {self.from_} on")
        return self


class PlanFile(Common):
    """A plan file."""

    symbol: Text
    direction: Literal["long", "short"]
    valid: Validity
    entry: TRIGGERS
    stop: LEVELS
    target: LEVELS | None = None
    exit: TRIGGERS | None = Field(None, description="close the position at the next open when this holds")
    max_bars: Count = Field(0, description="close at the open after this many closed bars since entry; 0: never")


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled plan file (see trading.strategy.Evaluable). once is True: it enters one time only."""

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
    rules: PlanFile = field(repr=False)
    description: str = ""
    owner: str = ""
    kind: str = "plan"
    once: bool = True

    @property
    def direction(self) -> str:
        """long or short."""
        return self.rules.direction

    @property
    def valid_sessions(self) -> tuple[date, date]:
        """First and last session in which it may enter."""
        return self.rules.valid.from_, self.rules.valid.to

    def evaluate(self, bars: Mapping[Timeframe, Bars], instrument: Instrument) -> Evaluation:
        """What the plan says at each primary bar, computed over exactly the arrays given (see Evaluation)."""
        check_bars(self, bars, instrument)
        frame, rules = Frame(bars, self.timeframe), self.rules
        primary = bars[self.timeframe]
        ready = readiness(frame, self.warm_up)
        valid = (primary.session >= session_number(rules.valid.from_)) & (primary.session <= session_number(rules.valid.to))
        holds = ready & valid & in_windows(primary, rules.windows, instrument) & rules.entry.holds(frame)
        begins = holds.copy()
        begins[1:] &= ~holds[:-1]
        leave = ready & rules.exit.holds(frame) if rules.exit is not None else np.zeros(len(frame), bool)
        never = np.zeros(len(frame), bool)
        long = rules.direction == "long"
        return assemble(
            frame, instrument, ready, self.max_bars,
            enter_long=begins if long else never, enter_short=never if long else begins,
            exit_long=leave if long else never, exit_short=never if long else leave,
            stop=rules.stop, target=rules.target,
        )  # fmt: skip

    def reason(self, action: Action) -> str:
        """The entry trigger as text."""
        return str(self.rules.entry.label)


def parse_plan(text: str, file: str, universe: Universe) -> tuple[Plan | None, list[Problem]]:
    """Plan of the file's text, or None and every problem it has; None and no problem when it is for another universe."""
    document = load_yaml(text, file)
    if other_universe(document, universe):
        return None, list(document.problems)
    parsed, problems = validate(PlanFile, document)
    symbol = document.data.get("symbol") if isinstance(document.data, Mapping) else None
    symbols: dict[tuple[str | int, ...], Any] = {("symbol",): symbol} if symbol is not None else {}
    problems = [*problems, *check_names(document, symbols, universe), *_impossible(document, universe)]
    if parsed is None or problems:
        return None, sorted(problems, key=lambda p: p.line)
    functions: list[ExecutionFunction] = [f for f in (parsed.entry, parsed.stop, parsed.target, parsed.exit) if f is not None]
    needs = dict.fromkeys(all_timeframes(parsed.timeframe, parsed.confirm), 1)
    for function in functions:
        conditions.merge_warm_up(needs, function.warm_up(parsed.timeframe))
        for condition in conditions_of(function):
            conditions.merge_warm_up(needs, conditions.warm_up(condition, parsed.timeframe))
    return (
        Plan(
            name=parsed.name,
            revision=file_revision(text),
            symbols=(parsed.symbol,),
            timeframe=parsed.timeframe,
            timeframes=all_timeframes(parsed.timeframe, parsed.confirm),
            mode=parsed.mode,
            status=parsed.status,
            sizing=parsed.sizing.model_dump(mode="json"),
            valid_bars=parsed.gates.valid_bars,
            min_reward_to_risk=parsed.gates.min_reward_to_risk,
            quality_sessions=parsed.gates.quality_sessions,
            max_bars=parsed.max_bars,
            warm_up=needs,
            costs=parsed.costs.model_dump(mode="json") if parsed.costs else None,
            rules=parsed,
            description=parsed.description,
            owner=parsed.owner,
        ),
        [],
    )


def _fixed(node: Any) -> tuple[float | None, tuple[str, ...]]:
    """(price a raw entry, stop or target names, path below it), whatever its kind; (None, ()) when it names none."""
    if isinstance(node, Mapping):
        for key in ("price", "level"):
            value = node.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value), (key,)
        return None, ()
    if isinstance(node, (int, float)) and not isinstance(node, bool):
        return float(node), ()
    return None, ()


def _impossible(document: YamlDocument, universe: Universe) -> list[Problem]:
    """Levels that cannot work: off the price grid, on the wrong side of the entry, or never worth the risk."""
    data = document.data
    if not isinstance(data, Mapping):
        return []
    problems: list[Problem] = []
    prices = {part: _fixed(data.get(part)) for part in ("entry", "stop", "target")}
    instrument = universe.instruments.get(str(data.get("symbol")))
    for part, (price, below) in prices.items():
        if price is None or instrument is None or not np.isfinite(price) or price <= 0:
            continue
        rounded = instrument.round_price(price)
        if rounded != price:
            problems.append(
                document.problem(
                    (part, *below), f"{price!r} is not on the price grid of {instrument.symbol}",
                    f"a multiple of {instrument.tick_size:f}", f"{rounded!r}",
                )
            )  # fmt: skip
    direction = data.get("direction")
    if direction not in ("long", "short"):
        return problems
    side = 1 if direction == "long" else -1
    entry, stop, target = (prices[p][0] for p in ("entry", "stop", "target"))

    def wrong(part: str, price: float, other: str, base: float, above: bool) -> None:
        word = "above" if above else "below"
        path = (part, *prices[part][1])
        message = f"{part} {price:g} is not {word} the {other} {base:g} of a {direction} plan"
        problems.append(document.problem(path, message, f"a price {word} {base:g}"))

    if entry is not None and stop is not None and (entry - stop) * side <= 0:
        wrong("stop", stop, "entry", entry, above=side < 0)
    if entry is not None and target is not None and (target - entry) * side <= 0:
        wrong("target", target, "entry", entry, above=side > 0)
    if entry is None and stop is not None and target is not None and (target - stop) * side <= 0:
        wrong("target", target, "stop", stop, above=side > 0)
    if isinstance(data.get("stop"), Mapping) and data["stop"].get("kind") == "reward":
        expected = "kind level, atr, percent or points"
        problems.append(document.problem(("stop", "kind"), "a stop has no risk to measure a reward by", expected))
    gates = data.get("gates")
    least = gates.get("min_reward_to_risk", 0) if isinstance(gates, Mapping) else 0
    if isinstance(least, bool) or not isinstance(least, (int, float)) or least <= 0:
        return problems
    if data.get("target") is None:
        message = f"is {least:g} but there is no target"
        problems.append(document.problem(("gates", "min_reward_to_risk"), message, "a target, or 0"))
    elif entry is not None and stop is not None and target is not None and (entry - stop) * side > 0:
        ratio = (target - entry) / (entry - stop)
        if 0 < ratio < least:
            problems.append(
                document.problem(
                    ("target", *prices["target"][1]), f"reward to risk is {ratio:.2f} at the entry level, below {least:g}",
                    f"a price {'at least' if side > 0 else 'at most'} {entry + least * (entry - stop):g}",
                )
            )  # fmt: skip
    return problems


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a plan file, for editors and the docs."""
    return with_indicator_rules(PlanFile.model_json_schema(by_alias=True))
