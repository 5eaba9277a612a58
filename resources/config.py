"""The files people edit, loaded together: universe, strategies, plans and risk limits.

One bad file never stops the others: it becomes problems, its strategy does not trade. Only a bad universe stops
everything, because nothing can be known without instruments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from resources.settings import Settings
from trading.config_text import Problem, load_yaml, nearest
from trading.ids import file_revision
from trading.limits import Limits, parse_limits
from trading.name_checks import other_universe
from trading.plans import Plan, parse_plan
from trading.strategy import Evaluable, Strategy, parse_strategy
from trading.universe import Universe, parse_universe

T = TypeVar("T")


class ConfigInvalid(Exception):
    """The universe cannot be used. `problems` says why, file and line first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file as it was read: path relative to the config folder, kind, name inside ("" when it does not validate).

    other_universe: the universe it is written for, when that is not the loaded one and the file is therefore not used.
    """

    path: str
    kind: str
    name: str
    revision: str
    problems: tuple[Problem, ...] = ()
    other_universe: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the edited files say: strategies and plans by name, those without problems.

    limits: without any limit when the risk file is missing or unreadable, so that every order is refused with
    LIMIT_MISSING. problems: of all files. files: every file read, the unused ones included.
    """

    universe: Universe
    strategies: dict[str, Strategy]
    plans: dict[str, Plan]
    limits: Limits
    problems: list[Problem]
    files: list[ConfigFile] = field(default_factory=list)

    def evaluables(self) -> dict[str, Evaluable]:
        """Strategies and plans by name."""
        return {**self.strategies, **self.plans}

    def active(self) -> list[Evaluable]:
        """Those that may enter, ordered by name."""
        return [e for _, e in sorted(self.evaluables().items()) if e.status == "active"]


def load_config(settings: Settings) -> Config:
    """Read and check every file below settings.config. Raises ConfigInvalid when the universe is missing or bad."""
    folder = settings.config
    files: list[ConfigFile] = []
    universe = _universe(folder, settings.universe, files)
    strategies = _load(folder, "strategies", universe, parse_strategy, files)
    plans = _load(folder, "plans", universe, parse_plan, files)
    limits = _limits(folder, files)
    taken = _twice(files)
    return Config(
        universe,
        {s.name: s for path, s in strategies.items() if path not in taken},
        {p.name: p for path, p in plans.items() if path not in taken},
        limits,
        [problem for file in files for problem in file.problems],
        files,
    )


def _read(path: Path, shown: str) -> tuple[str | None, list[Problem]]:
    try:
        return path.read_text(encoding="utf-8"), []
    except UnicodeDecodeError as error:
        return None, [Problem(shown, 1, "", f"not UTF-8 text (byte {error.start})", "a UTF-8 text file")]
    except OSError as error:
        return None, [Problem(shown, 0, "", f"cannot be read: {error.strerror}", "a readable file")]


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))


def _universe(folder: Path, name: str, files: list[ConfigFile]) -> Universe:
    path, shown = folder / "universe" / f"{name}.yaml", f"universe/{name}.yaml"
    if not path.is_file():
        known = _universes(folder)
        expected = "TAPELINE_UNIVERSE one of " + ", ".join(known) if known else f"a file {shown} in {folder}"
        raise ConfigInvalid([Problem(shown, 0, "", "there is no such universe file", expected, nearest(name, known))])
    text, unreadable = _read(path, shown)
    if text is None:
        raise ConfigInvalid(unreadable)
    universe, problems = parse_universe(text, shown)
    if universe is None:
        raise ConfigInvalid(problems)
    if universe.name != name:
        line = load_yaml(text, shown).line_of(("name",))
        raise ConfigInvalid([Problem(shown, line, "name", f"is {universe.name!r}", f"the file's name, {name}")])
    files.append(ConfigFile(shown, "universe", universe.name, file_revision(text)))
    return universe


def _universes(folder: Path) -> list[str]:
    return [p.stem for p in _yaml_files(folder / "universe")]


def _load(
    folder: Path,
    kind: str,
    universe: Universe,
    parse: Callable[[str, str, Universe], tuple[T | None, list[Problem]]],
    files: list[ConfigFile],
) -> dict[str, T]:
    """Every file of folder/kind that parses, by its path."""
    good: dict[str, T] = {}
    for path in _yaml_files(folder / kind):
        shown = f"{kind}/{path.name}"
        text, found = _read(path, shown)
        parsed, elsewhere = None, ""
        if text is not None:
            parsed, found = parse(text, shown, universe)
            document = load_yaml(text, shown)
            elsewhere = other_universe(document, universe)
            if elsewhere and elsewhere not in _universes(folder):
                # Without this a slip of the pen would switch a strategy off in silence.
                known = _universes(folder)
                found = [
                    *found,
                    document.problem(
                        ("universe",), f"no universe {elsewhere!r}", "one of " + ", ".join(known), nearest(elsewhere, known)
                    ),
                ]
        if parsed is not None and not found:
            good[shown] = parsed
        name = getattr(parsed, "name", "")
        files.append(ConfigFile(shown, kind, name, file_revision(text or ""), tuple(found), elsewhere))
    return good


def _twice(files: list[ConfigFile]) -> set[str]:
    """Paths of strategies and plans that share a name: none of them is used, because each could be meant.

    The problem is added to every file concerned.
    """
    by_name: dict[str, list[int]] = {}
    for at, file in enumerate(files):
        if file.name and file.kind in ("strategies", "plans"):
            by_name.setdefault(file.name, []).append(at)
    taken: set[str] = set()
    for name, places in by_name.items():
        if len(places) < 2:
            continue
        for at in places:
            others = ", ".join(files[o].path for o in places if o != at)
            message = f"the name {name!r} is also that of {others}"
            problem = Problem(files[at].path, 1, "name", message, "a name no other file has")
            files[at] = replace(files[at], problems=(*files[at].problems, problem))
            taken.add(files[at].path)
    return taken


def _limits(folder: Path, files: list[ConfigFile]) -> Limits:
    """The one risk file's limits; limits without a number, which refuse every order, when there is no such file."""
    nothing = Limits()  # type: ignore[call-arg]
    paths = _yaml_files(folder / "risk")
    if len(paths) != 1:
        names = ", ".join(p.name for p in paths) or "none"
        problem = Problem("risk", 0, "", f"found {names}: no order can pass without limits", "exactly one file in risk/")
        files.append(ConfigFile("risk", "risk", "", "", (problem,)))
        return nothing
    shown = f"risk/{paths[0].name}"
    text, found = _read(paths[0], shown)
    limits = None
    if text is not None:
        limits, found = parse_limits(text, shown)
    files.append(ConfigFile(shown, "risk", paths[0].stem, file_revision(text or ""), tuple(found)))
    return limits if limits is not None else nothing
