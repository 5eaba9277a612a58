"""What a strategy file, or a file of data/config/research, asks research for: a grid of variants, and how much of the rest.

    research:
      grid:
        fast: {match: ["*.cross_*.0.params.period"], values: [5, 8, 13]}
        stop: {match: [exits.stop.multiple], values: [1.5, 2, 3]}
      walk_forward: {folds: 8}
      monte_carlo: {paths: 5000}
      perturbed: {runs: 2000, noise: 0.1}
      random_entries: {seeds: 100}
      cost_factors: [0, 1, 2, 5, 10]

`match` are patterns of dotted keys of the strategy's file (numbers count list items, ``*`` stands for anything), and
every key they match takes the value. Each combination of values is one trial: a strategy of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from trading.config_text import ConfigModel, Name, Number, Path, Problem, Text, Whole, YamlDocument, custom_error, nearest

LARGEST_GRID: Final = 500
"""Trials of one grid: more of them find nothing but luck."""

NOT_RULES: Final = frozenset({"name", "description", "owner", "status", "mode", "universe", "research", "limits"})
"""Keys of a strategy file that change nothing of what a backtest does."""

NOT_VARIED: Final = NOT_RULES | {"kind", "symbols", "timeframe", "confirm", "sizing", "costs", "gates", "members"}
"""Keys a grid does not reach: every trial sees the same bars with the same sizes and costs, so that they can be compared."""

NO_GRID: Final = frozenset({"ensemble", "python"})
"""Kinds of strategy that have no grid: an ensemble's rules are its members' files, a Python strategy's are code."""


class Axis(ConfigModel):
    """One thing that is varied."""

    match: list[Text] = Field(min_length=1, description="patterns of dotted keys of the strategy file")
    values: list[Any] = Field(min_length=2, description="what every matched key becomes, one trial each")


class WalkForward(ConfigModel):
    """Parameters chosen on the past, tested on what came after; anchored and rolling."""

    folds: Whole = Field(6, ge=2, le=100, description="test spans")


class MonteCarlo(ConfigModel):
    """Histories resampled in blocks, trades in random order."""

    paths: Whole = Field(2_000, ge=100, le=100_000)
    block: Annotated[Number, Field(ge=1, le=10_000)] | None = Field(
        None, description="mean length of a block, sessions; empty: chosen from the returns (Politis and White)"
    )


class Perturbed(ConfigModel):
    """Runs on bars moved by noise, with random costs."""

    runs: Whole = Field(1_000, ge=1, le=100_000)
    noise: Number = Field(0.1, ge=0, le=5, description="in deviations of a bar's return")


class RandomEntries(ConfigModel):
    """The strategy's own exits and sizes with entries thrown to random bars."""

    seeds: Whole = Field(50, ge=0, le=10_000, description="runs")


Factor = Annotated[Number, Field(ge=0, le=1_000)]


class Research(ConfigModel):
    """What is asked of one strategy. What is not stated is done as research does it for all."""

    grid: dict[Name, Axis] = Field(default_factory=dict, description="what parameter_grids varies")
    walk_forward: WalkForward | None = None
    monte_carlo: MonteCarlo | None = None
    perturbed: Perturbed | None = None
    random_entries: RandomEntries | None = None
    cost_factors: list[Factor] = Field(default_factory=list, max_length=20, description="rungs of the cost ladder")

    @model_validator(mode="after")
    def _something(self) -> Research:
        if not self.model_fields_set - {"strategy"}:
            raise custom_error("asks for nothing", "grid, walk_forward, monte_carlo, perturbed, random_entries or cost_factors")
        return self


class ResearchFile(Research):
    """One file of data/config/research."""

    strategy: Name


Targets = dict[str, list[Path]]
"""The keys each axis reaches, by its name."""


def reached(
    grid: Mapping[str, Axis], strategy: YamlDocument, asked_in: YamlDocument, at: Path = ("grid",)
) -> tuple[Targets, list[Problem]]:
    """The keys of `strategy` that each axis varies, and every problem of the grid: a pattern that matches nothing, too many
    trials. asked_in, at: the document the grid stands in, and where: what problems name."""
    leaves = dict(leaves_of(strategy.data))
    problems: list[Problem] = []
    targets: Targets = {}
    for name, axis in grid.items():
        for i, pattern in enumerate(axis.match):
            found = [path for key, path in leaves.items() if fnmatchcase(key, pattern)]
            if not found:
                expected = "a pattern of keys like " + ", ".join(list(leaves)[:3])
                message = f"{pattern!r} matches no key of the strategy"
                problems.append(asked_in.problem((*at, name, "match", i), message, expected, nearest(pattern, leaves)))
            targets.setdefault(name, []).extend(found)
    trials = math.prod(len(axis.values) for axis in grid.values())
    if trials > LARGEST_GRID:
        problems.append(asked_in.problem(at, f"makes {trials} trials", f"at most {LARGEST_GRID}"))
    return targets, problems


def check_own(research: Research | None, kind: str, document: YamlDocument) -> list[Problem]:
    """Problems of the key ``research`` of a strategy file of that kind."""
    if research is None or not research.grid:
        return []
    if kind in NO_GRID:
        message = "an ensemble and a Python strategy have no grid: vary its members, or the settings by hand"
        return [document.problem(("research", "grid"), message, "the other keys of research")]
    return reached(research.grid, document, document, ("research", "grid"))[1]


def leaves_of(value: Any, path: Path = ()) -> Iterator[tuple[str, Path]]:
    """(dotted key, path) of every plain value that a grid may reach."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not path and key in NOT_VARIED:
                continue
            yield from leaves_of(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from leaves_of(item, (*path, i))
    else:
        yield ".".join(str(step) for step in path), path


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a file of data/config/research."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ResearchFile.model_json_schema(by_alias=True)}
