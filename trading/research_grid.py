"""What people write about the research of a strategy: which of its numbers are varied, and how.

    strategy: ema_trend
    grid:
      fast: {match: ["*.cross_*.0.params.period"], values: [5, 8, 13]}
      stop: {match: [exits.stop.multiple], values: [1.5, 2, 3]}

`match` are patterns of dotted keys of the strategy's file (numbers count list items, ``*`` stands for anything), and
every key they match takes the value. Each combination of values is one trial: a strategy of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import yaml
from pydantic import Field

from trading.config_text import ConfigModel, Name, Problem, Text, errors, load_yaml, nearest, validate
from trading.ids import content_hash
from trading.sweep import combinations

LARGEST_GRID = 500
"""Trials of one grid: more of them find nothing but luck."""

NOT_RULES = frozenset({"name", "description", "owner", "status", "mode", "universe", "research", "limits"})
"""Keys of a strategy file that change nothing of what a backtest does."""

NOT_VARIED = NOT_RULES | {"kind", "symbols", "timeframe", "confirm", "sizing", "costs", "gates", "members"}
"""Keys a grid does not reach: every trial sees the same bars with the same sizes and costs, so that they can be compared."""


class Axis(ConfigModel):
    """One thing that is varied."""

    match: list[Text] = Field(min_length=1, description="patterns of dotted keys of the strategy file")
    values: list[Any] = Field(min_length=2, description="what every matched key becomes, one trial each")


class Research(ConfigModel):
    """What is varied of one strategy."""

    grid: dict[Name, Axis] = Field(min_length=1)


class ResearchFile(Research):
    """One file of data/config/research."""

    strategy: Name


@dataclass(frozen=True, slots=True)
class Variant:
    """One trial. parameters: by axis. text: the strategy file it stands for. content: hash of what its rules are: variants
    that trade alike count once, whatever file they come from."""

    parameters: dict[str, Any]
    text: str
    content: str


def parse_research(text: str, file: str) -> tuple[ResearchFile | None, list[Problem]]:
    """A research file, or None and every problem it has."""
    document = load_yaml(text, file)
    parsed, problems = validate(ResearchFile, document)
    return (None if errors(problems) else parsed), problems


def research_of(strategy_text: str, file: str) -> tuple[Research | None, list[Problem]]:
    """The key ``research`` of a strategy file, None where it has none."""
    document = load_yaml(strategy_text, file)
    said = document.data.get("research") if isinstance(document.data, Mapping) else None
    if said is None:
        return None, []
    parsed, problems = validate(Research, load_yaml(yaml.safe_dump(said), file))
    return (None if errors(problems) else parsed), problems


def rules_hash(text: str) -> str:
    """Hash of what a strategy file does: names, texts, status and mode left out."""
    data = load_yaml(text, "strategy").data
    return content_hash(_hashable({k: v for k, v in data.items() if k not in NOT_RULES} if isinstance(data, Mapping) else text))


def _hashable(value: Any) -> Any:
    """`value` with numbers that are equal written alike (2 and 2.0), so that they hash alike."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Mapping):
        return {str(k): _hashable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hashable(v) for v in value]
    return str(value)


def variants(text: str, research: Research, file: str = "strategy") -> tuple[list[Variant], list[Problem]]:
    """Every trial of `research` on the strategy file `text`; none and problems where a pattern matches no key or the grid
    is too large."""
    document = load_yaml(text, file)
    leaves = dict(_leaves(document.data))
    problems = []
    targets: dict[str, list[tuple[str | int, ...]]] = {}
    for name, axis in research.grid.items():
        for pattern in axis.match:
            found = [path for key, path in leaves.items() if fnmatchcase(key, pattern)]
            if not found:
                expected = "a pattern of keys like " + ", ".join(list(leaves)[:3])
                problems.append(Problem(file, 1, f"research.grid.{name}.match", f"{pattern!r} matches no key of the strategy",
                                        expected, nearest(pattern, leaves)))  # fmt: skip
            targets.setdefault(name, []).extend(found)
    combined = combinations({name: axis.values for name, axis in research.grid.items()})
    if len(combined) > LARGEST_GRID:
        problems.append(Problem(file, 1, "research.grid", f"makes {len(combined)} trials", f"at most {LARGEST_GRID}"))
    if problems:
        return [], problems
    made = []
    for parameters in combined:
        data = copy.deepcopy(document.data)
        data.pop("research", None)
        for name, value in parameters.items():
            for path in targets[name]:
                at = data
                for step in path[:-1]:
                    at = at[step]
                at[path[-1]] = value
        changed = yaml.safe_dump(data, sort_keys=False)
        made.append(Variant(parameters, changed, rules_hash(changed)))
    return made, []


def _leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """(dotted key, path) of every plain value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not path and key in NOT_VARIED:
                continue
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, (*path, i))
    else:
        yield ".".join(str(step) for step in path), path
