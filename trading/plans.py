"""Trade plans: files for one idea on one instrument: entry, stop and targets, each a level or an execution function.

A plan enters once. Its entry fires at the bar close where the trigger begins to hold within the plan's sessions: when it
holds already at the first of them, that bar fires; while it goes on holding, nothing fires again. Once its invalidation
has held in one of its sessions, nothing fires any more. How the open trade is managed: trading.plan_management.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Annotated, Any, ClassVar, Literal, Union

import numpy as np
from pydantic import Field, WrapValidator, model_validator

from trading import conflicts, execution_functions
from trading.bars import Bars
from trading.conditions import Frame
from trading.config_text import (
    ConfigModel,
    Count,
    IsoDate,
    Positive,
    Problem,
    Text,
    custom_error,
    errors,
    load_yaml,
    validate,
)
from trading.disaster_default import with_default
from trading.evaluation import Evaluation
from trading.execution.checks import check_execution
from trading.execution_functions import ExecutionFunction
from trading.execution_functions.base import Floats, Level
from trading.execution_functions.level import FixedLevel
from trading.execution_functions.managing import StopMove
from trading.execution_functions.scale_out import ScaleOut
from trading.execution_functions.stop_on_close import StopOnClose
from trading.gate_checks import check_gates
from trading.ids import file_revision
from trading.instruments import Instrument
from trading.name_checks import check_names, other_universe
from trading.plan_checks import check_possible
from trading.plan_templates import TemplateFile, Templates, fill
from trading.price_grid import on_grid
from trading.signals import Action
from trading.strategy import assemble, check_bars, in_windows, readiness
from trading.strategy_base import Compiled, compiled, needs
from trading.strategy_schema import LEVELS, TRIGGERS, Common, all_timeframes, known_now, with_indicator_rules
from trading.timeframes import session_number
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


MANAGERS: Any = Annotated[
    Union[tuple(execution_functions.managers().values())],  # noqa: UP007
    Field(discriminator="kind"), WrapValidator(known_now(ExecutionFunction)),
]  # fmt: skip


class _Wider(Level):
    """The disaster stop, or the stop itself where that is farther away."""

    NAME: ClassVar[str] = "wider"
    kind: Literal["wider"] = "wider"
    own: Any
    disaster: Any

    def at(self, frame: Frame, direction: int, reference: Floats, risk: Floats) -> Floats:
        farther = np.maximum if direction > 0 else np.minimum  # NaN where one of both is not known
        levels = (x.at(frame, direction, reference, risk) for x in (self.own, self.disaster))
        return np.asarray(farther(*levels), np.float64)


class TargetPart(ConfigModel):
    """One of several targets: `share` of the entered quantity is closed `at` this level."""

    share: Positive = Field(le=1)
    at: LEVELS


class PlanFile(Common):
    """A plan file."""

    symbol: Text
    direction: Literal["long", "short"]
    valid: Validity
    notes: Text = Field("", description="for people")
    entry: TRIGGERS
    invalidation: TRIGGERS | None = Field(None, description="once this has held in one of its sessions, it enters no more")
    stop: LEVELS
    disaster_stop: LEVELS | None = Field(
        None, description="rests at the broker, wider than stop, which is then judged at the closes: for a desk that is dead"
    )
    target: LEVELS | None = Field(None, description="of the whole position")
    targets: list[TargetPart] = Field(default_factory=list, max_length=20, description="several, instead of target")
    manage: list[MANAGERS] = Field(default_factory=list, description="stop moves, scale-outs and exits of the open trade")
    exit: TRIGGERS | None = Field(None, description="close the position at the next open when this holds")
    max_bars: Count = Field(0, description="close at the open after this many closed bars since entry; 0: never")

    @model_validator(mode="after")
    def _one_way(self) -> PlanFile:
        if self.target is not None and self.targets:
            raise custom_error("has both target and targets", "one of them")
        return self

    @model_validator(mode="after")
    def _stopped_on_closes(self) -> PlanFile:
        """With a disaster stop, the stop is judged at the closes, by a function of `manage` like any other."""
        if self.disaster_stop is None:
            return self
        if self.disaster_stop.NAME == "reward":
            raise custom_error("a disaster_stop has no risk to measure a reward by", "kind level, atr, percent or points")
        if any(isinstance(m, StopMove) for m in self.manage):
            raise custom_error("disaster_stop stays where it is, and manage moves the stop", "one of both")
        own = {"level": "price", "points": "points", "percent": "percent"}.get(self.stop.NAME)
        if own is None:
            raise custom_error(
                f"with a disaster_stop the stop is judged at later closes, where one of kind {self.stop.NAME} is another",
                "a stop of kind level, points or percent",
            )
        if isinstance(self.stop, FixedLevel) and isinstance(self.disaster_stop, FixedLevel):
            side = 1 if self.direction == "long" else -1
            if (self.stop.price - self.disaster_stop.price) * side <= 0:
                raise custom_error(
                    f"disaster_stop {self.disaster_stop.price:g} is not beyond the stop {self.stop.price:g}",
                    f"a price {'below' if side > 0 else 'above'} {self.stop.price:g}",
                )
        judged = StopOnClose.model_validate({"level" if own == "price" else own: getattr(self.stop, own)})
        if judged not in self.manage:
            object.__setattr__(self, "manage", [judged, *self.manage])
        return self

    @property
    def at_the_broker(self) -> Any:
        """The level at which the protective order rests."""
        return self.stop if self.disaster_stop is None else _Wider(own=self.stop, disaster=self.disaster_stop)

    @property
    def scale_outs(self) -> list[ScaleOut]:
        """Of `manage`, in the file's order."""
        return [m for m in self.manage if isinstance(m, ScaleOut)]


@dataclass(frozen=True, slots=True)
class Plan(Compiled):
    """A compiled plan file (see trading.evaluable.Evaluable). once is True: it enters one time only.

    resolved: the file with its template filled in, as JSON: what `parse_plan` makes this plan of again.
    """

    kind: str = "plan"
    once: bool = True
    resolved: str = field(default="", repr=False)

    @property
    def direction(self) -> str:
        """long or short."""
        return self.rules.direction

    @property
    def valid_sessions(self) -> tuple[date, date]:
        """First and last session in which it may enter."""
        return self.rules.valid.from_, self.rules.valid.to

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What the plan says at each primary bar, computed over exactly the arrays given (see Evaluation)."""
        check_bars(self, bars, instrument)
        frame, rules = Frame(bars, self.timeframe), self.rules
        primary = bars[self.timeframe]
        ready = readiness(frame, self.warm_up, {key: n for key, n in self.context.items() if key[0] != instrument.symbol})
        valid = (primary.session >= session_number(rules.valid.from_)) & (primary.session <= session_number(rules.valid.to))
        holds = ready & valid & in_windows(primary, rules.windows, instrument) & rules.entry.holds(frame)
        begins = holds.copy()
        begins[1:] &= ~holds[:-1]
        if rules.invalidation is not None:
            begins &= ~np.maximum.accumulate(ready & valid & rules.invalidation.holds(frame))
        leave = ready & rules.exit.holds(frame) if rules.exit is not None else np.zeros(len(frame), bool)
        never = np.zeros(len(frame), bool)
        long = rules.direction == "long"
        evaluation = assemble(
            frame, instrument, ready, self.max_bars,
            enter_long=begins if long else never, enter_short=never if long else begins,
            exit_long=leave if long else never, exit_short=never if long else leave,
            stop=rules.at_the_broker, target=rules.target,
        )  # fmt: skip
        return _with_parts(evaluation, rules, frame, instrument)

    def reason(self, action: Action) -> str:
        """The entry trigger as text."""
        return str(self.rules.entry.label)


def _with_parts(evaluation: Evaluation, rules: PlanFile, frame: Frame, instrument: Instrument) -> Evaluation:
    """`evaluation` with the parts a position is closed in: targets first, then scale-outs. What is left has the stop only.

    The one target of the evaluation becomes the parts' mean weighted by share: what reward to risk is measured by. A bar
    where a target is not known is no entry.
    """
    if not rules.targets and not rules.scale_outs:
        return evaluation
    side = 1 if rules.direction == "long" else -1
    close = frame.price("close")
    risk = np.abs(close - (evaluation.stop_long if side > 0 else evaluation.stop_short))
    nothing = np.full(len(frame), np.nan)
    whole = (evaluation.target_long if side > 0 else evaluation.target_short) if rules.target is not None else nothing
    parts: list[tuple[float, Floats]] = []
    for part in rules.targets:
        levels = np.asarray(on_grid(part.at.at(frame, side, close, risk), instrument), np.float64)
        parts.append((part.share, np.where(levels > 0, levels, np.nan)))
    scaled = sum(s.share for s in rules.scale_outs)
    if rules.target is not None and scaled < 1 - 1e-9:
        parts.append((1.0 - scaled, whole))
    parts += [(s.share, whole) for s in rules.scale_outs]
    known = np.ones(len(frame), bool)
    if rules.targets:
        weight = sum(p.share for p in rules.targets)
        mean = sum((share * levels for share, levels in parts[: len(rules.targets)]), np.zeros(len(frame))) / weight
        known = np.isfinite(mean)
        evaluation = replace(evaluation, target_long=mean) if side > 0 else replace(evaluation, target_short=mean)
    return replace(
        evaluation, enter_long=evaluation.enter_long & known, enter_short=evaluation.enter_short & known,
        strength=np.where(known, evaluation.strength, 0.0), targets=tuple(parts),
    )  # fmt: skip


def parse_plan(
    text: str, file: str, universe: Universe, templates: Templates | None = None, today: date | None = None
) -> tuple[Plan | None, list[Problem]]:
    """Plan of the file's text, or None and every problem it has; None and no problem when it is for another universe.

    templates: (file, text) by name. today: sessions before it are over, which is a warning.
    """
    document, template, problems = fill(load_yaml(text, file), templates or {})
    if other_universe(document, universe):
        return None, list(document.problems)
    if problems:
        return None, sorted([*document.problems, *problems], key=lambda p: p.line)
    document, default = with_default(document, universe.disaster_stop)
    parsed, problems = validate(PlanFile, document)
    symbol = document.data.get("symbol") if isinstance(document.data, Mapping) else None
    symbols: dict[tuple[str | int, ...], Any] = {("symbol",): symbol} if symbol is not None else {}
    problems = [*problems, *check_names(document, symbols, universe), *check_possible(document, universe, today)]
    problems = sorted(problems, key=lambda p: p.line)
    if parsed is not None:
        instrument = universe.instruments.get(parsed.symbol)
        gated = check_gates(document, parsed.gates, [parsed.symbol], parsed.timeframe, universe)
        gated += check_execution(document, parsed, [parsed.symbol], universe)
        gated += conflicts.check_timeframes(document, parsed.timeframe, parsed.confirm)
        if instrument is not None:
            gated += conflicts.check_windows(document, parsed.windows, parsed.timeframe, instrument)
        problems = sorted([*problems, *gated], key=lambda p: p.line)
    if parsed is None or errors(problems):
        return None, problems
    named = (parsed.entry, parsed.stop, parsed.disaster_stop, parsed.target, parsed.exit, parsed.invalidation)
    functions: list[ExecutionFunction] = [f for f in named if f is not None]
    functions += [*(p.at for p in parsed.targets), *parsed.manage]
    read, context = needs(parsed, (), functions)
    found = compiled(
        parsed, symbols=(parsed.symbol,), revision=file_revision(text + template + default), max_bars=parsed.max_bars,
        warm_up={t: bars for t, bars in read.items() if t in all_timeframes(parsed.timeframe, parsed.confirm)},
        context=context,
    )  # fmt: skip
    return Plan(**found, resolved=json.dumps(document.data, sort_keys=True)), problems


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a plan file, whole or with a template, for editors and the docs."""
    whole = with_indicator_rules(PlanFile.model_json_schema(by_alias=True))
    definitions = whole.pop("$defs")
    draft = whole.pop("$schema")
    definitions["ScaleOut"]["properties"]["when"] = whole["properties"]["entry"]  # any trigger: not known where it is defined
    filled = {
        **whole,
        "title": "Plan with a template",
        "description": "A plan whose other keys come from a file of plans/templates.",
        "properties": {
            **whole["properties"],
            "template": {"type": "string", "description": "name of a file of plans/templates"},
            "parameters": {"type": "object", "description": "what the template's parameters become"},
        },
        "required": ["name", "template"],
    }
    return {
        "$schema": draft,
        "title": "Tapeline plan file",
        "type": "object",
        "if": {"required": ["template"]},
        "then": {"$ref": "#/$defs/TemplatedPlan"},
        "else": {"$ref": "#/$defs/PlanFile"},
        "$defs": {**definitions, "PlanFile": whole, "TemplatedPlan": filled},
    }


def template_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a template. What stands under ``plan`` may be a parameter anywhere, so only its keys are
    checked there; a plan that uses the template checks the rest."""
    schema = TemplateFile.model_json_schema(by_alias=True)
    known = json_schema()["$defs"]["PlanFile"]["properties"]
    keys = {name: {"description": said.get("description", "")} for name, said in known.items()}
    schema["properties"]["plan"] = {
        "type": "object", "description": "keys of a plan, $name for a parameter", "properties": keys,
        "additionalProperties": False,
    }  # fmt: skip
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
