"""What people write in a strategy file, as pydantic models; plans share the parts.

Names of instruments, indicators and parameters are checked by trading.name_checks, so that every mistake of a file is
reported at once, wherever it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator, field_validator, model_validator

from trading import execution_functions, indicators, patterns
from trading.conditions import Condition
from trading.config_text import ConfigModel, Count, Name, Positive, Text, Whole, custom_error
from trading.execution.spec import Execution
from trading.execution_functions import Level, Trigger
from trading.gates.settings import OptionalGates
from trading.instruments import Mode
from trading.limits import StrategyLimits
from trading.research_schema import Research
from trading.timeframes import Timeframe

Status = Literal["active", "paused", "stopped"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Fixed(ConfigModel):
    kind: Literal["fixed"]
    quantity: Positive = Field(description="units of the instrument")


class Notional(ConfigModel):
    kind: Literal["notional"]
    amount: Positive = Field(description="account currency")


class PercentEquity(ConfigModel):
    kind: Literal["percent_equity"]
    percent: Positive = Field(le=1000, description="percent of equity the position is worth")


class RiskPercent(ConfigModel):
    kind: Literal["risk_percent"]
    percent: Positive = Field(le=100, description="percent of equity lost when the stop is hit at its price")


class AtrRisk(ConfigModel):
    kind: Literal["atr_risk"]
    percent: Positive = Field(le=100, description="percent of equity lost when the price moves `multiple` average true ranges")
    multiple: Positive = Field(2.0, le=100, description="of the average true range; the stop's distance where that is further")
    period: Whole = Field(14, ge=1, le=500, description="bars of the average true range (plain mean)")


class VolatilityTarget(ConfigModel):
    kind: Literal["volatility_target"]
    percent: Positive = Field(le=1000, description="volatility of the position a year, percent of equity")
    bars: Whole = Field(20, ge=2, le=500, description="bars the instrument's volatility is measured on")
    max_percent: Positive = Field(100.0, le=1000, description="most the position is worth, percent of equity")


class Kelly(ConfigModel):
    """Fractional Kelly from the strategy's own closed trades, shrunk towards what is expected of it."""

    kind: Literal["kelly"]
    fraction: Positive = Field(0.25, le=1, description="of the growth-optimal risk")
    cap_percent: Positive = Field(1.0, le=20, description="most that is risked to the stop, percent of equity")
    prior_trades: Positive = Field(30.0, ge=1, le=10_000, description="trades the expectation counts as")
    prior_win_rate: float = Field(gt=0, lt=1, description="expected share of winners")
    prior_payoff: Positive = Field(description="expected mean win over mean loss")

    @model_validator(mode="after")
    def _edge(self) -> Kelly:
        if self.prior_win_rate - (1 - self.prior_win_rate) / self.prior_payoff <= 0:
            least = 1 / (1 + self.prior_payoff)
            raise custom_error(
                f"win rate {self.prior_win_rate:g} at payoff {self.prior_payoff:g} is no edge: nothing would ever be entered",
                f"prior_win_rate above {least:.3g}, or a greater prior_payoff",
            )
        return self


Sizing = Annotated[
    Fixed | Notional | PercentEquity | RiskPercent | AtrRisk | VolatilityTarget | Kelly, Field(discriminator="kind")
]


class Costs(ConfigModel):
    """Costs of a backtest of this strategy; the same keys as trading.costs.Costs."""

    commission_kind: Literal["per_share", "per_contract", "per_value"] = "per_share"
    rate: float = Field(0.0, ge=0, description="currency per unit, or a fraction of the traded value")
    minimum: float = Field(0.0, ge=0, description="currency per fill")
    slippage_kind: Literal["none", "fixed", "volume", "sqrt_volume"] = "none"
    value: float = Field(
        0.0, ge=0, description="fixed: ticks; volume, sqrt_volume: fraction of the price at full participation in the volume"
    )
    participation: float = Field(0.0, ge=0, le=1, description="most of a bar's volume one order may fill; 0: all of it at once")
    borrow: float = Field(0.0, ge=0, le=10, description="yearly rate paid on the value of shorts held overnight")


class Gates(OptionalGates):
    """What a signal must satisfy before it becomes an order."""

    min_reward_to_risk: float = Field(0.0, ge=0, le=100, description="least distance to target over distance to stop")
    quality_sessions: Whole = Field(5, ge=1, le=260, description="newest sessions whose quality verdicts must be good")
    valid_bars: Whole = Field(1, ge=1, le=500, description="bars of the primary timeframe a signal stays valid")


def _clock(value: Any) -> Any:
    if isinstance(value, str):
        parts = value.split(":")
        if len(parts) == 2 and all(p.isdigit() and len(p) == 2 for p in parts) and int(parts[1]) < 60:
            minutes = int(parts[0]) * 60 + int(parts[1])
            if minutes <= 1440:
                return minutes
    raise custom_error(f"is {value!r}", "a time of day like 09:30")


Clock = Annotated[int, BeforeValidator(_clock, json_schema_input_type=str)]


class Window(ConfigModel):
    """Entries only where the bar closes in (from, to] of the venue's wall clock; over midnight when from > to."""

    from_: Clock = Field(alias="from")
    to: Clock
    days: list[Day] = Field(default_factory=lambda: list(DAYS), min_length=1, description="weekdays of the session")

    @model_validator(mode="after")
    def _not_empty(self) -> Window:
        if self.from_ == self.to:
            raise custom_error("from and to are the same time", "two different times")
        return self


def _short_level(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"kind": "level", "price": value}
    return value


def known_now(base: type[execution_functions.ExecutionFunction]) -> Any:
    """Lets a kind through that a plug-in registered after this module was made."""

    def check(value: Any, handler: Any) -> Any:
        kind = value.get("kind") if isinstance(value, Mapping) else None
        later = execution_functions.REGISTRY.get(kind) if isinstance(kind, str) and kind not in _BUILT_IN else None
        if later is not None and issubclass(later, base):
            return later.model_validate(value)
        return handler(value)

    return check


_BUILT_IN = frozenset({**execution_functions.levels(), **execution_functions.triggers(), **execution_functions.managers()})

_LEVEL: Any = Annotated[Union[tuple(execution_functions.levels().values())], Field(discriminator="kind")]  # noqa: UP007
_TRIGGER: Any = Annotated[Union[tuple(execution_functions.triggers().values())], Field(discriminator="kind")]  # noqa: UP007

LEVELS: Any = Annotated[
    _LEVEL, BeforeValidator(_short_level, json_schema_input_type=Union[float, _LEVEL]), WrapValidator(known_now(Level)),  # noqa: UP007
]  # fmt: skip
TRIGGERS: Any = Annotated[
    _TRIGGER, BeforeValidator(_short_level, json_schema_input_type=Union[float, _TRIGGER]), WrapValidator(known_now(Trigger)),  # noqa: UP007
]  # fmt: skip


class Sides(ConfigModel):
    """A condition for each side; a side left out never happens."""

    long: Condition | None = None
    short: Condition | None = None

    @model_validator(mode="after")
    def _some(self) -> Sides:
        if self.long is None and self.short is None:
            raise custom_error("has neither long nor short", "a condition under long, short or both")
        return self


class Exits(ConfigModel):
    """How a position ends. The stop is required: nothing enters without one."""

    stop: LEVELS
    target: LEVELS | None = None
    rules: Sides | None = None
    max_bars: Count = Field(0, description="close at the open after this many closed bars since entry; 0: never")
    session_end: Whole | None = Field(
        None, ge=0, le=1440, description="out at the open after the first close with so many minutes of the session left, half "
        "days included, and no entry there; empty: held over the night",
    )  # fmt: skip

    @field_validator("stop")
    @classmethod
    def _a_stop(cls, value: Level) -> Level:
        if value.NAME == "reward":
            raise custom_error("a stop has no risk to measure a reward by", "kind atr, percent or points")
        return value


class Common(ConfigModel):
    """Keys that strategies and plans share."""

    name: Name
    description: Text = ""
    owner: Text = ""
    universe: Name | None = Field(None, description="loaded only with this universe; empty: with any")
    status: Status = Field("paused", description="active: may enter; paused: no new entries; stopped: not evaluated")
    mode: Mode = Mode.SHADOW
    timeframe: Timeframe = Field(description="the primary timeframe: evaluated at each of its bar closes")
    confirm: list[Timeframe] = Field(default_factory=list, description="further timeframes that operands may name")
    windows: list[Window] = Field(default_factory=list, description="when entries are allowed; empty: always")
    sizing: Sizing
    gates: Gates = Field(default_factory=Gates)  # type: ignore[arg-type]
    limits: StrategyLimits | None = Field(None, description="on top of the account's; the tighter of the two counts")
    costs: Costs | None = None
    execution: Execution | None = Field(None, description="how the entry is worked; without it: one order")

    @field_validator("confirm")
    @classmethod
    def _once(cls, value: list[Timeframe]) -> list[Timeframe]:
        if len(set(value)) != len(value):
            raise custom_error("names a timeframe twice", "each timeframe once")
        return value


def distinct(value: list[str]) -> list[str]:
    """Symbols as given. Raises when one is named twice."""
    if len(set(value)) != len(value):
        raise custom_error("names a symbol twice", "each symbol once")
    return value


def worth_it(gates: Gates, exits: Exits) -> None:
    """Raises when no signal could pass the reward-to-risk gate."""
    least, target = gates.min_reward_to_risk, exits.target
    if least > 0 and target is None:
        raise custom_error(f"min_reward_to_risk is {least:g} but there is no target", "exits.target, or min_reward_to_risk: 0")
    ratio = getattr(target, "ratio", None)
    if ratio is not None and ratio < least:
        raise custom_error(
            f"the target's ratio {ratio:g} is below min_reward_to_risk {least:g}: every signal would be refused",
            f"a ratio of at least {least:g}",
        )


Symbols = Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)]


class Filed(Common):
    """Keys of every strategy file."""

    symbols: Symbols
    exits: Exits
    research: Research | None = Field(None, description="what research is asked of it: a grid of variants, folds, paths")

    @model_validator(mode="after")
    def _possible(self) -> Filed:
        worth_it(self.gates, self.exits)
        if self.exits.session_end is not None and self.timeframe.minutes >= 1440:
            raise custom_error(f"session_end on {self.timeframe} bars, which end with the session", "a timeframe below 1d")
        return self


class StrategyFile(Filed):
    """A strategy of rules: one instrument at a time."""

    kind: Literal["rules"] = "rules"
    entry: Sides


def with_indicator_rules(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with the parameters and outputs of each indicator and pattern spelt out, for editors that complete."""
    definitions = schema.get("$defs", {})
    known = {"indicator": indicators.INDICATORS, "pattern": patterns.patterns()}
    for name in ("Operand", "Condition"):
        node = definitions.get(name)
        for key, catalogue in known.items():
            if node is None or key not in node["properties"]:
                continue
            node["properties"][key] = {"enum": sorted(catalogue)}
            rules = [_rule(key, catalogue[n], outputs=name == "Operand") for n in sorted(catalogue)]
            node["allOf"] = [*node.get("allOf", []), *rules]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _rule(key: str, definition: indicators.Indicator, outputs: bool) -> dict[str, Any]:
    parameters = {
        p.name: {
            "type": "integer" if p.whole else "number", "default": p.default, "minimum": p.low, "maximum": p.high,
        }
        for p in definition.parameters
    }  # fmt: skip
    properties: dict[str, Any] = {"params": {"type": "object", "properties": parameters, "additionalProperties": False}}
    if outputs:
        properties["output"] = {"enum": list(definition.outputs)}
    return {
        "if": {"properties": {key: {"const": definition.name}}, "required": [key]},
        "then": {"description": definition.description, "properties": properties},
    }


def all_timeframes(primary: Timeframe, confirm: Sequence[Timeframe]) -> tuple[Timeframe, ...]:
    """Primary first, then the others from short to long."""
    return (primary, *sorted((t for t in set(confirm) if t is not primary), key=lambda t: t.minutes))
