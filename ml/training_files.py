"""What is trained: one readable file for each model in data/config/models.

    name: forecaster
    kind: forecaster            # or agent
    data: market                # or planted: a market made up with a known edge, labelled synthetic
    horizon: 5                  # bars ahead
    members: [linear, boosting, lstm, transformer]
    settings: {window: 16, hidden: 16, epochs: 8}

An agent's file names the agent (``recurrent_ppo``, or one of a plug-in), its steps, seeds and settings.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from ml.agent_training import AgentConfig
from ml.decisions import DEFAULT_COSTS, Terms
from ml.drift_reference import WINDOW, Limits
from ml.forecasters import KINDS, Settings
from ml.forecasting import ForecastConfig
from trading import ids
from trading.config_text import ConfigModel, Count, Name, Positive, Problem, Text, custom_error, load_yaml, nearest, validate
from trading.costs import Costs

HORIZONS: Final = (1, 5, 10)
"""Bars ahead for which the training sets hold forward returns."""

Share = Annotated[float, Field(gt=0, lt=1)]


class CostsPart(ConfigModel):
    """Costs of one side of a trade, as trading.costs has them."""

    commission: Literal["per_value", "per_share", "per_contract"] = "per_value"
    rate: Annotated[float, Field(ge=0)] = DEFAULT_COSTS.rate
    minimum: Annotated[float, Field(ge=0)] = 0.0
    ticks: Annotated[float, Field(ge=0)] = DEFAULT_COSTS.value

    def costs(self) -> Costs:
        return Costs(self.commission, self.rate, self.minimum, "fixed", self.ticks)


class DriftPart(ConfigModel):
    """When the newest bars and results are no longer those the model was trained on, and what then."""

    then: Literal["alert", "half_size", "halt"] = Field("alert", description="what its strategies do while it has drifted")
    window: Annotated[int, Field(ge=10, le=1000)] = Field(WINDOW, description="closes judged together; holds from a training on")
    psi: Positive = Field(0.25, description="population stability index from which a column counts as moved")
    level: Share = Field(0.05, description="chance of calling a window like the training part drifted")
    share: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="share of the features that must have moved")
    slack: Annotated[float, Field(ge=0)] = Field(0.1, description="fall of the mean result let pass, in its deviations")
    performance_level: Share = Field(0.01, description="chance of a false alarm of the results")
    max_age_days: Positive = Field(5.0, description="an older verdict is none, and half_size and halt take no new risk")
    retrain: bool = Field(True, description="ask for a training when it drifts")
    cooldown_days: Annotated[float, Field(ge=0)] = Field(7.0, description="between two trainings asked for by drift")

    def limits(self) -> Limits:
        return Limits(self.psi, self.level, self.share, self.slack, self.performance_level)


class CombinatorialPart(ConfigModel):
    """Combinatorial purged cross-validation beside the walk forward (ml.combinatorial)."""

    groups: Annotated[int, Field(ge=3, le=12)] = Field(6, description="spans the time before the locked slice is cut into")
    tested: Annotated[int, Field(ge=1, le=6)] = Field(2, description="spans forecast at once; fewer than groups")
    members: tuple[str, ...] = Field((), description="what is trained on every choice; none: the model's own members")

    @field_validator("members")
    @classmethod
    def _known(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        return _members(members)

    @model_validator(mode="after")
    def _fewer(self) -> CombinatorialPart:
        if self.tested >= self.groups:
            raise custom_error(f"{self.tested} of {self.groups} groups are tested", "fewer tested than groups")
        return self


def _members(members: tuple[str, ...]) -> tuple[str, ...]:
    for member in members:
        if member not in KINDS:
            raise custom_error(f"no forecaster {member!r}", "some of " + ", ".join(KINDS), nearest(member, KINDS))
    return members


class _Training(ConfigModel):
    name: Name
    description: Text = ""
    data: Literal["market", "planted"] = "market"
    horizon: Literal[1, 5, 10] = 5
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.02
    costs: CostsPart = CostsPart()
    final_fraction: Share = 0.15
    embargo: Count = 10
    seed: Count = 20170103
    in_job: bool = Field(True, description="false: trained when asked for, not by the train job")
    drift: DriftPart = DriftPart()  # type: ignore[call-arg]

    def terms(self, cash: float) -> Terms:
        return Terms(cash, self.costs.costs(), self.margin)


class ForecasterFile(_Training):
    """A forecaster: an ensemble of members."""

    kind: Literal["forecaster"]
    members: Annotated[tuple[str, ...], Field(min_length=1)] = KINDS
    margins: tuple[Share, ...] = (0.01, 0.04)
    folds: Annotated[int, Field(ge=1, le=20)] = 4
    first_train: Share = 0.4
    validation: Share = 0.25
    combinatorial: CombinatorialPart | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("members")
    @classmethod
    def _known(cls, members: tuple[str, ...]) -> tuple[str, ...]:
        return _members(members)

    @field_validator("settings")
    @classmethod
    def _fit(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return _checked(settings)

    def config(self) -> ForecastConfig:
        """How it is trained."""
        return ForecastConfig(
            tuple(self.members), self.folds, self.first_train, self.validation, self.final_fraction, self.embargo, seed=self.seed,
            settings=Settings(**self.settings),
        )  # fmt: skip


class AgentFile(_Training):
    """An agent of ml.agents or of a plug-in."""

    kind: Literal["agent"]
    agent: Name = "recurrent_ppo"
    steps: Annotated[int, Field(ge=1)] = 65_536
    seeds: Annotated[int, Field(ge=1, le=100)] = 5
    folds: Annotated[int, Field(ge=1, le=20)] = 2
    first_train: Share = 0.5
    max_steps: Annotated[int, Field(ge=2)] = 256
    reward: Literal["log_equity", "pnl", "drawdown_penalised"] = "log_equity"
    size: Positive = 0.95
    settings: dict[str, Any] = Field(default_factory=dict)

    def config(self) -> AgentConfig:
        """How it is trained."""
        return AgentConfig(
            self.agent, self.settings, self.steps, self.seeds, self.folds, self.first_train, self.final_fraction, self.embargo,
            max_steps=self.max_steps, reward=self.reward, size=self.size, costs=self.costs.costs(), seed=self.seed,
        )  # fmt: skip


TrainingFile = ForecasterFile | AgentFile
_FILES: Final[dict[str, Any]] = {"forecaster": ForecasterFile, "agent": AgentFile}


def parse_training(text: str, file: str) -> tuple[TrainingFile | None, list[Problem]]:
    """A model file, or None and every problem it has."""
    document = load_yaml(text, file)
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    if isinstance(document.data, dict) and kind not in _FILES:
        near = nearest(kind, _FILES)
        return None, [*document.problems, document.problem(("kind",), f"is {kind!r}", "forecaster or agent", near)]
    parsed, problems = validate(_FILES.get(str(kind), ForecasterFile), document)
    return parsed, problems


def revision(file: TrainingFile) -> str:
    """Hash of everything that changes what is trained; the description, further evaluation, and what is done about drift, do
    not."""
    return ids.content_hash(file.model_dump(mode="json", exclude={"description", "in_job", "drift", "combinatorial"}))[:12]


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` as Settings take them; levels become a tuple."""
    known = set(Settings.__slots__)
    for name in settings:
        if name not in known:
            raise custom_error(f"no setting {name!r}", "some of " + ", ".join(sorted(known)), nearest(name, known))
    out: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    try:
        Settings(**out)
    except (TypeError, ValueError) as error:
        raise custom_error(str(error), "settings a forecaster can be trained with") from None
    return out


__all__ = ["HORIZONS", "AgentFile", "DriftPart", "ForecasterFile", "TrainingFile", "parse_training", "revision"]
