"""The trials that a grid stands for, each a strategy file of its own; what is asked: trading.research_schema."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from trading.config_text import Problem, YamlDocument, errors, load_yaml, validate
from trading.ids import content_hash
from trading.research_schema import NOT_RULES, Axis, Research, ResearchFile, reached
from trading.sweep import combinations

__all__ = ["Axis", "Research", "ResearchFile", "Variant", "parse_research", "rules_hash", "variants"]


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


def variants(
    text: str, research: Research, file: str = "strategy", asked_in: YamlDocument | None = None
) -> tuple[list[Variant], list[Problem]]:
    """Every trial of `research` on the strategy file `text`; none and problems where a pattern matches no key or the grid
    is too large. asked_in: the file of data/config/research that asks; None: the strategy's own key ``research``."""
    document = load_yaml(text, file)
    own = ("research", "grid")
    targets, problems = reached(research.grid, document, asked_in or document, ("grid",) if asked_in is not None else own)
    if problems:
        return [], problems
    combined = combinations({name: axis.values for name, axis in research.grid.items()})
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
