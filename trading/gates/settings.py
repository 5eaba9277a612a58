"""What people write under ``gates:`` of a strategy or plan for the gates that can be switched on, with every default.

A key that is absent leaves its gate off; a key that is there switches it on, and from then on an input that is missing
refuses. Timeframes are written ``bars: 1d``: they are the gate's own reading, not the strategy's.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from trading.conditions import Part
from trading.config_text import ConfigModel, Number, Positive, Text, Whole, custom_error
from trading.regime import RegimeRules
from trading.timeframes import Timeframe

_RULES: Final = RegimeRules()
Impact = Literal["low", "medium", "high"]
_COUNTED: Final[tuple[Impact, ...]] = ("medium", "high")


class NewsGate(ConfigModel):
    """No entry around the events of data/config/news. The windows stand with the events."""

    impact: list[Impact] = Field(default_factory=lambda: list(_COUNTED), min_length=1, description="events that count")


class RegimeGate(ConfigModel):
    """Entries only in these regimes (trading/regime.py)."""

    allowed: list[Literal["ranging", "trending", "volatile"]] = Field(min_length=1)
    by: Literal["rules", "markov", "both"] = Field("rules", description="both: the two must name an allowed one")
    bars: Timeframe | None = Field(None, description="timeframe it is measured on; empty: the primary one")
    window: Whole = Field(_RULES.window, ge=2, le=500, description="bars of direction and volatility")
    history: Whole = Field(_RULES.history, ge=20, le=5000, description="rules: bars whose volatility is usual")
    trending: float = Field(_RULES.trending, gt=0, lt=1, description="rules: efficiency ratio of a trend")
    volatile: Positive = Field(_RULES.volatile, gt=1, description="rules: multiple of the usual volatility")
    train: Whole = Field(1000, ge=100, le=10_000, description="markov: bars each fit is made of")
    refit: Whole = Field(250, ge=1, le=10_000, description="markov: bars a fit holds")
    certain: float = Field(0.6, gt=0, le=1, description="markov: least probability of the state")

    @model_validator(mode="after")
    def _longer(self) -> RegimeGate:
        if self.history < self.window:
            raise custom_error(f"history {self.history} is shorter than window {self.window}", "history of at least window")
        return self

    @property
    def rules(self) -> RegimeRules:
        return RegimeRules(self.window, self.history, self.trending, self.volatile)


class ConfluenceGate(ConfigModel):
    """The weight of the parts that hold over the weight of all, per side; parts may read any timeframe under ``confirm``."""

    at_least: Annotated[Number, Field(gt=0, le=1)] = Field(description="least score, 0 to 1")
    long: list[Part] = Field(default_factory=list)
    short: list[Part] = Field(default_factory=list)

    @model_validator(mode="after")
    def _some(self) -> ConfluenceGate:
        if not self.long and not self.short:
            raise custom_error("has parts for neither side", "parts under long, short or both")
        for parts in (self.long, self.short):
            if len({p.name for p in parts}) < len(parts):
                raise custom_error("two parts have one name", "a name of its own for each part")
        return self


class _Ranged(ConfigModel):
    @model_validator(mode="after")
    def _bounded(self) -> Any:
        limits = [n for n in type(self).model_fields if n.startswith(("min_", "max_"))]
        given = [n for n in limits if getattr(self, n) is not None]
        if not given:
            raise custom_error("has no limit", "at least one of " + ", ".join(limits))
        for name in given:
            low, high = getattr(self, name.replace("max_", "min_"), None), getattr(self, name.replace("min_", "max_"), None)
            if low is not None and high is not None and low >= high:
                raise custom_error(f"min {low:g} is not below max {high:g}: every signal would be refused", "min below max")
        return self


class AtrRange(_Ranged):
    """Average true range (mean of the last `period`) as percent of the close."""

    period: Whole = Field(14, ge=1, le=500)
    bars: Timeframe | None = Field(None, description="timeframe it is measured on; empty: the primary one")
    min_percent: Positive | None = None
    max_percent: Positive | None = None


class SpreadMax(_Ranged):
    """Closing ask less closing bid of the newest quote bar (dataset quotes_1m)."""

    max_percent: Positive | None = Field(None, description="of the mid price")
    max_ticks: Positive | None = None
    stale_minutes: Positive = Field(5.0, le=1440, description="an older quote is none")


class VixLevel(_Ranged):
    """Last close of a volatility index known at the bar's close; one that is days old is unknown."""

    instrument: Text = Field("VIX", description="an instrument of the universe")
    bars: Timeframe = Field(Timeframe.D1, description="timeframe that is read")
    min_level: Positive | None = None
    max_level: Positive | None = None


class VolumeMin(_Ranged):
    """Volume of the bar that closed, against the mean of the bars before it, and turnover of the last `period` bars."""

    period: Whole = Field(20, ge=1, le=500)
    min_ratio: Positive | None = Field(None, description="volume over the mean volume of the `period` bars before")
    min_value: Positive | None = Field(None, description="mean of volume * close * multiplier, quote currency")


class VolatilityGate(ConfigModel):
    """Enough movement, not too much of it, and somebody on the other side."""

    atr: AtrRange | None = None
    spread: SpreadMax | None = None
    vix: VixLevel | None = None
    volume: VolumeMin | None = None

    @model_validator(mode="after")
    def _some(self) -> VolatilityGate:
        if not any((self.atr, self.spread, self.vix, self.volume)):
            raise custom_error("has nothing to judge by", "at least one of atr, spread, vix, volume")
        return self


class BudgetGate(ConfigModel):
    """Risk of everything open, ordered and accepted at the same close, this entry included, as percent of equity."""

    percent: Positive = Field(le=100, description="risk: distance from the price to the stop, times quantity")


class OptionalGates(ConfigModel):
    """Gates that are off unless their key is there."""

    news: NewsGate | None = Field(None, description="no entries around events of data/config/news")
    regime: RegimeGate | None = Field(None, description="entries only in some market regimes")
    confluence: ConfluenceGate | None = Field(None, description="a score over several timeframes")
    volatility: VolatilityGate | None = Field(None, description="ATR, spread, VIX and volume")
    budget: BudgetGate | None = Field(None, description="risk of the whole account")

    @property
    def switched_on(self) -> dict[str, Any]:
        """Settings of the gates that are on, as plain data: what a snapshot carries. Conditions stand as labels."""
        found: dict[str, Any] = {}
        for name in OptionalGates.model_fields:
            gate = getattr(self, name)
            if gate is None:
                continue
            plain = gate.model_dump(mode="json", exclude_none=True, exclude={"long", "short"})
            if isinstance(gate, ConfluenceGate):
                plain |= {side: [p.name for p in getattr(gate, side)] for side in ("long", "short")}
            found[name] = plain
        return found


NO_GATES: Final = OptionalGates()  # type: ignore[call-arg]


def gates_of(evaluable: Any) -> OptionalGates:
    """The optional gates of a strategy or plan; none where its file has no ``gates:``."""
    found = getattr(getattr(evaluable, "rules", None), "gates", None)
    return found if isinstance(found, OptionalGates) else NO_GATES


def budget_of(evaluable: Any) -> float | None:
    """Percent of equity its budget gate allows at risk, None when the gate is off."""
    budget = gates_of(evaluable).budget
    return None if budget is None else float(budget.percent)
