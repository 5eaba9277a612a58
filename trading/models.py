"""Model strategies: what a trained model answers at a bar close, as entries and exits under the rules of every strategy.

The model is handed in (`bound`): something that answers over bars with numpy alone (ml.serving). Nothing here knows where it
came from. Without one, or with one that does not fit, the strategy wants nothing and says why (`ModelStrategy.refused`).

A model is asked only about bars it was not trained on: what it says about the others is memory, not skill, in a backtest as
much as live. Each answer is computed from the anchored window that ends with its bar, a memory rebuilt from the last bars of
it, so that a backtest, a replay and the live run of the same bar give the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
from pydantic import Field, model_validator

from trading import conditions
from trading.bars import Bars
from trading.conditions import Bools, Floats, Frame
from trading.config_text import ConfigModel, Name, Number, custom_error
from trading.evaluable import Evaluable, assemble, check_bars, in_windows, readiness
from trading.evaluation import Evaluation
from trading.ids import file_revision
from trading.instruments import Instrument, Mode
from trading.refusals import RefusalCode, refuse
from trading.signals import Action, Signal
from trading.strategy_base import Strategy, common, needs_of
from trading.strategy_schema import Filed
from trading.timeframes import Timeframe

CHALLENGER_SUFFIX: Final = "_challenger"
Role = Literal["champion", "challenger"]


class ModelRule(ConfigModel):
    """Which model is asked, and what its answer means."""

    name: Name = Field(description="the model file of data/config/models")
    trained_on: Name | None = Field(None, description="the universe it was trained on; empty: this installation's")
    swap: Literal["when_flat", "at_once", "at_session"] = Field(
        "when_flat", description="when a newly promoted champion takes over: without a position or order, or at the next bar, "
        "or with the next session",
    )  # fmt: skip
    challenger: Literal["shadow", "off"] = Field(
        "shadow", description="the newest version beside the champion: its signals are recorded, never ordered"
    )
    rise: Literal["long", "none"] = Field("long", description="what is done when it forecasts a rise, or wants to be long")
    fall: Literal["short", "none"] = Field("short", description="what is done when it forecasts a fall, or wants to be short")
    margin: Number | None = Field(
        None, ge=0, lt=0.5, description="distance of the probability from its prior; empty: what the model was judged with"
    )
    min_strength: Number = Field(0.0, ge=0, le=1, description="least strength of an entry; strength: how sure the model is")
    leave: Literal["forecast", "never"] = Field(
        "forecast", description="forecast: close when the model no longer wants the position; never: only exits below do"
    )

    @model_validator(mode="after")
    def _acts(self) -> ModelRule:
        if self.rise == "none" and self.fall == "none":
            raise custom_error("does nothing on either answer", "rise: long, fall: short or both")
        return self


class ModelFile(Filed):
    """A strategy that does what a promoted model says."""

    kind: Literal["model"]
    model: ModelRule


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What a model wants at rows of one window, one entry per row asked about. known: it could answer. long, short: it would
    be in that position now; stay_long, stay_short: it would not leave one. strength: float64, how sure it is, in [0, 1]."""

    known: Bools
    long: Bools
    short: Bools
    stay_long: Bools
    stay_short: Bools
    strength: Floats


class ServedModel(Protocol):
    """A loaded model. warm_up: bars before its first answer, memory included. trained_until: nothing that closes at or before
    it (UTC us) may be asked about. symbols: instruments it has learnt from."""

    @property
    def registered(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def model_hash(self) -> str: ...
    @property
    def schema_hash(self) -> str: ...
    @property
    def data_hash(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def timeframe(self) -> Timeframe: ...
    @property
    def symbols(self) -> tuple[str, ...]: ...
    @property
    def warm_up(self) -> int: ...
    @property
    def trained_until(self) -> int: ...
    @property
    def margin(self) -> float: ...

    def wanted(self, windows: Sequence[tuple[Bars, Instrument, int]], margin: float) -> list[Wanted]:
        """What it wants at rows ``first`` and later of each (bars, instrument, first), computed over exactly those bars."""
        ...


@dataclass(frozen=True, slots=True)
class ModelStrategy(Strategy):
    """A compiled model strategy. written: revision of its file alone; `revision` covers the model, too, once it is bound.
    refusal: why it has no model; role: champion or challenger."""

    served: Any = None
    written: str = ""
    refusal: str = ""
    role: Role = "champion"

    @property
    def rule(self) -> ModelRule:
        return cast(ModelRule, self.rules.model)

    @property
    def model_record(self) -> dict[str, str]:
        """What a signal says of the model that made it: from here the chain leads to MLflow's run and the training data."""
        m = self.served
        if m is None:
            return {}
        return {
            "name": m.registered, "version": m.version, "role": self.role, "hash": m.model_hash, "schema": m.schema_hash,
            "data": m.data_hash, "run": m.run_id,
        }  # fmt: skip

    def refused(self, symbol: str) -> str:
        """``CODE: key=value`` of why there is no answer for `symbol`, "" when there is one."""
        if self.served is None:
            missing = refuse(RefusalCode.MODEL_MISSING, model=self.rule.name, reason="no champion")
            return self.refusal or str(missing)
        if symbol not in self.served.symbols:
            return str(refuse(RefusalCode.MODEL_SCHEMA, model=self.rule.name, reason="not trained on", symbol=symbol))
        return ""

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What the model wants at each primary bar (see Strategy.evaluate); not ready where it has no answer.

        bars may state how many of the newest rows are asked about (BarWindow.tail): the others are then not ready.
        """
        check_bars(self, bars, instrument)
        frame, rules, rule = Frame(bars, self.timeframe), self.rules, self.rule
        n, primary = len(frame), bars[self.timeframe]
        wishes = np.zeros((6, n), bool)
        strength = np.zeros(n)
        if not self.refused(instrument.symbol):
            first = self._first(primary, getattr(bars, "tail", None))
            said = self._ask(frame, primary, instrument, first)
            for row, name in enumerate(("known", "long", "short", "stay_long", "stay_short")):
                wishes[row, first:] = getattr(said, name)
            strength[first:] = said.strength
        known, long, short, stay_long, stay_short, never = wishes
        context = {key: count for key, count in self.context.items() if key[0] != instrument.symbol}
        ready = readiness(frame, self.warm_up, context) & known
        allowed = ready & in_windows(primary, rules.windows, instrument) & (strength >= rule.min_strength)
        exits = rules.exits.rules
        leaves = ready if rule.leave == "forecast" else never
        return assemble(
            frame, instrument, ready, self.max_bars,
            enter_long=allowed & long if rule.rise == "long" else never,
            enter_short=allowed & short if rule.fall == "short" else never,
            exit_long=(leaves & ~stay_long) | (ready & conditions.evaluate(exits.long if exits else None, frame)),
            exit_short=(leaves & ~stay_short) | (ready & conditions.evaluate(exits.short if exits else None, frame)),
            stop=rules.exits.stop, target=rules.exits.target, session_end=rules.exits.session_end, strength=strength,
        )  # fmt: skip

    def ask_together(self, windows: Sequence[tuple[Mapping[Any, Bars], Instrument]]) -> None:
        """Ask about the newest bar of several instruments at once and keep the answers in the windows' shared cache: asking
        one by one costs a model more than asking a hundred times as much."""
        if self.served is None:
            return
        asked = []
        for bars, instrument in windows:
            frame = Frame(bars, self.timeframe)
            primary = bars[self.timeframe]
            first = self._first(primary, getattr(bars, "tail", None))
            if first < len(primary) and primary.symbol in self.served.symbols:
                asked.append((frame, primary, instrument, first))
        said = self.served.wanted([rest for _, *rest in asked], self._margin)
        for (frame, primary, _, first), answer in zip(asked, said, strict=True):
            frame.cache.get(self._key(first), primary, lambda answer=answer: answer, self.served)

    def reason(self, action: Action) -> str:
        """The model and its version."""
        if self.served is None:
            return f"model {self.rule.name}"
        return f"model {self.rule.name} version {self.served.version} wants {'long' if action is Action.ENTER_LONG else 'short'}"

    @property
    def _margin(self) -> float:
        return float(self.served.margin if self.rule.margin is None else self.rule.margin)

    def _first(self, primary: Bars, tail: int | None) -> int:
        """First row worth asking about: past the warm-up, later than the training, among the newest `tail`."""
        later = int(np.searchsorted(primary.close_time, self.served.trained_until, side="right"))
        newest = 0 if tail is None else len(primary) - tail
        return min(max(later, self.served.warm_up - 1, newest, 0), len(primary))

    def _key(self, first: int) -> tuple[Any, ...]:
        return "model", self.served.model_hash, self.served.version, self._margin, first

    def _ask(self, frame: Frame, primary: Bars, instrument: Instrument, first: int) -> Wanted:
        def make() -> Wanted:
            return cast(Wanted, self.served.wanted([(primary, instrument, first)], self._margin)[0])

        return cast(Wanted, frame.cache.get(self._key(first), primary, make, self.served))


def build(parsed: ModelFile, text: str) -> ModelStrategy:
    """The strategy of its file, without a model yet."""
    warm_up, context = needs_of(parsed, ())
    fields = common(parsed, text, warm_up, context)
    return ModelStrategy(**fields, written=fields["revision"])


def bound(strategy: ModelStrategy, served: ServedModel) -> ModelStrategy:
    """`strategy` with its model: another model is another revision. One that does not fit is refused, not used."""
    why = misfit(strategy, served)
    if why:
        return unbound(strategy, why)
    warm_up, _ = needs_of(strategy.rules, ())  # of the file alone: what was bound before leaves no trace
    conditions.merge_warm_up(warm_up, {strategy.timeframe: served.warm_up})
    revision = file_revision(" ".join([strategy.written, served.version, served.model_hash]))
    return replace(strategy, served=served, refusal="", warm_up=warm_up, revision=revision)


def unbound(strategy: ModelStrategy, why: str) -> ModelStrategy:
    """`strategy` without a model. why: the refusal, printed."""
    return replace(strategy, served=None, refusal=why, revision=strategy.written)


def misfit(strategy: ModelStrategy, served: ServedModel) -> str:
    """The refusal where `served` cannot be asked at this strategy's bars; "" when it can."""
    if served.timeframe is not strategy.timeframe:
        refusal = refuse(
            RefusalCode.MODEL_SCHEMA, model=strategy.rule.name, version=served.version, reason="timeframe",
            model_timeframe=served.timeframe, strategy_timeframe=strategy.timeframe,
        )  # fmt: skip
        return str(refusal)
    return ""


def as_challenger(strategy: ModelStrategy, served: ServedModel) -> ModelStrategy:
    """The same strategy with the newest version of its model, in shadow under a name of its own."""
    name = strategy.name[: 64 - len(CHALLENGER_SUFFIX)] + CHALLENGER_SUFFIX
    mode = Mode.SHADOW if strategy.mode is not Mode.BACKTEST else Mode.BACKTEST
    return bound(replace(strategy, name=name, mode=mode, role="challenger"), served)


def in_shadow_only(signal: Signal) -> bool:
    """Was it made by a challenger? Then it is a record, whatever else it says, and never an order."""
    return signal.model.get("role") == "challenger"


def champion_of(signal: Signal) -> str:
    """Name of the strategy a challenger's signal stands beside; its own name for every other signal."""
    return signal.strategy.removesuffix(CHALLENGER_SUFFIX) if in_shadow_only(signal) else signal.strategy


def model_strategies(evaluables: Mapping[str, Evaluable]) -> dict[str, ModelStrategy]:
    """The model strategies among `evaluables`, by name."""
    return {name: e for name, e in sorted(evaluables.items()) if isinstance(e, ModelStrategy)}
