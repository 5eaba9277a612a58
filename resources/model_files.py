"""Model files read: data/config/models/*.yaml, each a training (ml.training_files)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trading.config_text import Problem

if TYPE_CHECKING:
    from ml.training_files import TrainingFile


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Trainings by name, and every problem of the files that are not used."""

    trainings: dict[str, TrainingFile] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_model_files(folder: Path) -> ModelFiles:
    """Every model file of `folder` (it need not exist). A bad file is a problem and stops no other."""
    from ml.training_files import parse_training

    found = ModelFiles()
    where: dict[str, str] = {}
    for path in sorted(folder.glob("*.y*ml")):
        shown = f"models/{path.name}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            found.problems.append(Problem(shown, 0, "", f"cannot be read: {error}", "a readable UTF-8 file"))
            continue
        parsed, problems = parse_training(text, shown)
        found.problems.extend(problems)
        if parsed is None:
            continue
        if parsed.name in where:
            problem = Problem(
                shown, 1, "name", f"{parsed.name!r} is the model of {where[parsed.name]} already", "a name of its own"
            )
            found.problems.append(problem)
            continue
        where[parsed.name] = shown
        found.trainings[parsed.name] = parsed
    return found
