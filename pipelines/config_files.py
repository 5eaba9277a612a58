"""Every configuration file that market data depends on, each read for itself, so that all mistakes are told at once.

The configuration as a whole stops at a universe that cannot be used; what is wrong in the other files is told all the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trading.config_text import Problem

if TYPE_CHECKING:
    from resources.settings import Settings


def data_files(own: Settings) -> tuple[list[str], list[Problem]]:
    """(files that are good, every problem of the others): calendars, quality thresholds, the universe, feed profiles,
    corporate actions, retention, models."""
    from resources.config import define_calendars
    from resources.corporate_actions import read_config
    from resources.feeds._profiles import load_profiles
    from resources.lake.retention import FILE, parse_retention
    from resources.model_files import read_model_files
    from trading.calendar_files import parse_calendar
    from trading.quality_thresholds import parse_quality
    from trading.universe import parse_universe

    folder = own.config
    problems = define_calendars(folder)
    for path in sorted((folder / "calendars").glob("*.yaml")):  # one that is only described is built when an instrument asks
        if not any(p.file == f"calendars/{path.name}" for p in problems):
            text = _text(path, f"calendars/{path.name}", problems)
            problems += parse_calendar(text, f"calendars/{path.name}")[1] if text is not None else []
    shared, wrong = None, list[Problem]()
    if (text := _text(folder / "quality" / "default.yaml", "quality/default.yaml", problems)) is not None:
        shared, wrong = parse_quality(text, "quality/default.yaml")
    problems += wrong
    universe = None
    shown = f"universe/{own.universe}.yaml"
    if (text := _text(folder / shown, shown, problems)) is not None:
        universe, wrong = parse_universe(text, shown, shared)
        problems += wrong
    profiles, wrong = load_profiles(folder)
    problems += wrong
    problems += read_config(folder / "actions", universe.instruments if universe is not None else {})[1]
    if (text := _text(folder / FILE, FILE, problems)) is not None:
        problems += parse_retention(text, FILE)[1]
    models = read_model_files(folder / "models")
    problems += models.problems
    good = [f"{p.path} (feed profile {name})" for name, p in sorted(profiles.items())]
    good += [f"model {name} ({file.kind})" for name, file in sorted(models.trainings.items())]
    bad = {p.file for p in problems}
    for kind in ("actions", "lake", "quality"):
        found = sorted(p for p in (folder / kind).glob("*") if p.suffix in (".yaml", ".yml", ".csv"))
        good += [f"{kind}/{p.name}" for p in found if f"{kind}/{p.name}" not in bad and not p.name.startswith(".")]
    return good, problems


def _text(path: Path, shown: str, problems: list[Problem]) -> str | None:
    """The file's text; None when it is not there, or cannot be read, which is a problem."""
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(shown, 0, "", f"cannot be read: {error}", "a UTF-8 text file"))
        return None
