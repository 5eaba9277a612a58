"""Ensembles: strategies that vote, each with the weight its regime gives it.

At each primary bar the market is in one regime; a member's wish counts with the member's weight in that regime, for
`memory` bars. The vote of a side is the weight of the members that want it, less that of those that want the other side,
over the weight of all members in that regime. An entry is the bar at which the vote reaches the threshold. Members are
strategies of the same folder; what they do themselves is a matter of their own status.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from trading import conditions
from trading.bars import Bars
from trading.conditions import Bools, Floats, Frame
from trading.config_text import ConfigModel, Name, Number, Problem, Text, Whole, YamlDocument, custom_error, nearest
from trading.evaluable import assemble, check_bars, in_windows, readiness
from trading.evaluation import Evaluation
from trading.ids import file_revision
from trading.instruments import Instrument
from trading.models import ModelStrategy
from trading.regime import Regime, RegimeRules, markov_regimes, rule_regimes
from trading.signals import Action
from trading.strategy_base import Context, Strategy, common, needs_of
from trading.strategy_schema import Filed
from trading.timeframes import Timeframe

REGIMES: Final = (Regime.RANGING, Regime.TRENDING, Regime.VOLATILE)
"""Regimes in which members have weights; in an unknown one no member votes."""


class RegimeModel(Protocol):
    """What labels a market: int8 (T,) of trading.regime.Regime, row i from bars up to i only."""

    def labels(self, bars: Bars) -> NDArray[np.int8]: ...

    @property
    def warm_up(self) -> int:
        """Bars before the labels count."""
        ...


@dataclass(frozen=True, slots=True)
class RuleRegime:
    """Regimes by the rules of trading.regime."""

    rules: RegimeRules = field(default_factory=RegimeRules)

    @property
    def warm_up(self) -> int:
        return self.rules.warm_up + 1

    def labels(self, bars: Bars) -> NDArray[np.int8]:
        return rule_regimes(bars, self.rules)


@dataclass(frozen=True, slots=True)
class MarkovRegime:
    """Regimes by the hidden Markov model of trading.regime, filtered probabilities only."""

    train: int = 1_000

    @property
    def warm_up(self) -> int:
        return self.train + 1

    def labels(self, bars: Bars) -> NDArray[np.int8]:
        return markov_regimes(bars, train=self.train)


REGIME_MODELS: dict[str, Callable[[], RegimeModel]] = {"rules": RuleRegime, "markov": MarkovRegime}
"""Regime models a file may name."""


class Weights(ConfigModel):
    """Weight of a member in each regime; 0: it has no vote there."""

    trending: Number = Field(1.0, ge=0, le=100)
    ranging: Number = Field(1.0, ge=0, le=100)
    volatile: Number = Field(1.0, ge=0, le=100)


class Member(ConfigModel):
    """One strategy of the ensemble."""

    strategy: Name
    weights: Weights = Field(default_factory=Weights)  # type: ignore[arg-type]


class EnsembleFile(Filed):
    """An ensemble of strategies."""

    kind: Literal["ensemble"]
    members: list[Member] = Field(min_length=2)
    regime: Text = Field("rules", description="the model that labels the market")
    threshold: Annotated[Number, Field(gt=0, le=1)] = Field(0.5, description="vote at which it enters")
    memory: Whole = Field(1, ge=1, le=500, description="bars a member's wish counts")

    @field_validator("members")
    @classmethod
    def _distinct(cls, value: list[Member]) -> list[Member]:
        if len({m.strategy for m in value}) < len(value):
            raise custom_error("a strategy is a member twice", "each strategy once")
        if not any(getattr(m.weights, str(r)) > 0 for m in value for r in REGIMES):
            raise custom_error("no member has a weight in any regime", "a weight above 0")
        return value

    @field_validator("regime")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in REGIME_MODELS:
            raise custom_error(f"no regime model {value!r}", "one of " + ", ".join(REGIME_MODELS), nearest(value, REGIME_MODELS))
        return value


@dataclass(frozen=True, slots=True)
class Ensemble(Strategy):
    """A compiled ensemble; it can be evaluated once `bind` has given it its members."""

    members: tuple[Strategy, ...] = field(default=(), repr=False)

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """The vote of its members; bars of every timeframe any of them reads. Raises ValueError before it is bound."""
        if not self.members:
            raise ValueError(f"ensemble {self.name} has not been given its members")
        check_bars(self, bars, instrument)
        rules: EnsembleFile = self.rules
        frame = Frame(bars, self.timeframe)
        primary = bars[self.timeframe]
        labels = REGIME_MODELS[rules.regime]().labels(primary)
        total, votes = np.zeros(len(frame)), np.zeros(len(frame))
        parts: dict[str, Floats] = {}
        for member, stated in zip(self.members, rules.members, strict=True):
            table = np.array([*(getattr(stated.weights, str(r)) for r in REGIMES), 0.0])
            weight = table[labels]  # UNKNOWN is -1: the last one
            said = member.evaluate(bars, instrument)
            wish = np.where(_recent(said.enter_long, rules.memory), 1.0, 0.0)
            wish = wish - np.where(_recent(said.enter_short, rules.memory), 1.0, 0.0)
            total += weight
            votes += weight * wish
            parts[member.name] = weight * wish
        with np.errstate(invalid="ignore", divide="ignore"):
            vote = np.where(total > 0, votes / total, 0.0)
            shares = {name: np.where(total > 0, part / total, 0.0) for name, part in parts.items()}
        ready = readiness(frame, self.warm_up, self.context)
        allowed = ready & in_windows(primary, rules.windows, instrument)
        exits = rules.exits.rules
        return assemble(
            frame, instrument, ready, self.max_bars,
            enter_long=allowed & _reaches(vote, rules.threshold), enter_short=allowed & _reaches(-vote, rules.threshold),
            exit_long=ready & conditions.evaluate(exits.long if exits else None, frame),
            exit_short=ready & conditions.evaluate(exits.short if exits else None, frame),
            stop=rules.exits.stop, target=rules.exits.target, session_end=rules.exits.session_end, strength=np.abs(vote),
            parts={f"{side}/{name}": sign * share for side, sign in (("long", 1.0), ("short", -1.0))
                   for name, share in shares.items()},
        )  # fmt: skip

    def reason(self, action: Action) -> str:
        return f"vote of {', '.join(m.strategy for m in self.rules.members)} reaches {self.rules.threshold:g}"


def _recent(wish: Bools, bars: int) -> Bools:
    """bool (T,): wished at this bar or one of the `bars` - 1 before."""
    count = np.cumsum(wish, dtype=np.int64)
    held = count.copy()
    held[bars:] -= count[:-bars]
    return held > 0


def _reaches(vote: Floats, threshold: float) -> Bools:
    high = np.asarray(vote >= threshold - 1e-9, np.bool_)
    before = np.zeros(len(high), bool)
    before[1:] = high[:-1]
    return high & ~before


def build(parsed: EnsembleFile, text: str) -> Ensemble:
    """The ensemble of its file, without its members yet."""
    warm_up, context = needs_of(parsed, (), {parsed.timeframe: REGIME_MODELS[parsed.regime]().warm_up})
    return Ensemble(**common(parsed, text, warm_up, context))


def bind(ensemble: Ensemble, strategies: Mapping[str, Strategy], document: YamlDocument) -> tuple[Ensemble | None, list[Problem]]:
    """`ensemble` with its members, or None and why some cannot be one.

    Its revision then covers theirs; what it reads is what any of them reads.
    """
    problems: list[Problem] = []
    members: list[Strategy] = []
    for at, stated in enumerate(ensemble.rules.members):
        path = ("members", at, "strategy")
        member = strategies.get(stated.strategy)
        if member is None or isinstance(member, (Ensemble, ModelStrategy)) or member.legs:
            valid = [n for n, s in strategies.items() if not isinstance(s, (Ensemble, ModelStrategy)) and not s.legs]
            near = nearest(stated.strategy, valid)
            message = f"no strategy {stated.strategy!r} in use that can be a member (ensembles, pairs and models cannot)"
            problems.append(document.problem(path, message, "one of " + ", ".join(valid), near))
            continue
        missing = [s for s in ensemble.symbols if s not in member.symbols]
        if missing:
            message = f"{member.name} does not trade {', '.join(missing)}"
            problems.append(document.problem(path, message, "members that trade every symbol of the ensemble"))
        elif member.timeframe is not ensemble.timeframe:
            message = f"{member.name} is evaluated at {member.timeframe} bars, the ensemble at {ensemble.timeframe}"
            problems.append(document.problem(path, message, f"a strategy of timeframe {ensemble.timeframe}"))
        else:
            members.append(member)
    if problems:
        return None, problems
    warm_up = conditions.merge_warm_up(dict(ensemble.warm_up), *(m.warm_up for m in members))
    # a member's wish of `memory` bars ago is part of the vote, and one more tells that the vote has just got there
    warm_up = {t: bars + ensemble.rules.memory for t, bars in warm_up.items()}
    context: Context = dict(ensemble.context)
    for member in members:
        for key, bars in member.context.items():
            context[key] = max(context.get(key, 0), bars)
    others: list[Timeframe] = sorted((t for t in warm_up if t is not ensemble.timeframe), key=lambda t: t.minutes)
    revision = file_revision(" ".join([ensemble.revision, *(m.revision for m in members)]))
    bound = replace(
        ensemble, members=tuple(members), warm_up=warm_up, context=context, timeframes=(ensemble.timeframe, *others),
        revision=revision,
    )  # fmt: skip
    return bound, []
