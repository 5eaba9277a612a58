"""Plug-ins read: Python files in data/config/plugins, and entry points ``tapeline.plugins`` of installed packages.

A plug-in may hold one strategy (trading.plugins.PythonStrategy) and may register gates, execution functions, patterns,
indicators, risk rules, regime models and trading agents. A file is run when its content is new; what an older content of it
registered is taken back first. A file that fails leaves nothing behind.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from trading import plugins
from trading.config_text import Problem, errors
from trading.ids import file_revision
from trading.plugins import PluginStrategy, PythonStrategy
from trading.universe import Universe

GROUP: Final = "tapeline.plugins"
_PACKAGE: Final = "tapeline_plugins"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plug-in as it was read. strategy: None when it has none, it is for another universe, or a problem forbids it."""

    path: str
    revision: str
    strategy: PluginStrategy | None
    problems: tuple[Problem, ...]
    registered: tuple[str, ...] = ()
    other_universe: str = ""


@dataclass(slots=True)
class _Run:
    """What running one plug-in left: its classes, or why it failed, and what it registered, as (registry, name)."""

    revision: str
    classes: list[type[PythonStrategy]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    added: list[tuple[str, str]] = field(default_factory=list)


_runs: dict[str, _Run] = {}
_built: dict[tuple[str, str, str, str], tuple[PluginStrategy | None, list[Problem]]] = {}


def load_plugins(folder: Path, universe: Universe) -> list[Plugin]:
    """Every plug-in of `folder` (it need not exist), then those of installed packages. Never raises what one of them does."""
    found: list[Plugin] = []
    seen: set[str] = set()
    for path in sorted(folder.glob("*.py")) if folder.is_dir() else ():
        if path.name.startswith((".", "_")):
            continue
        shown = f"plugins/{path.name}"
        seen.add(shown)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            _forget(shown)
            problem = Problem(shown, 0, "", f"cannot be read: {error}", "a readable UTF-8 file")
            found.append(Plugin(shown, "", None, (problem,)))
            continue
        found.append(_plugin(shown, text, universe, lambda p=path, t=text: _execute(p, t)))  # type: ignore[misc]
    for entry in _entry_points():
        shown = f"package:{entry.name}"
        seen.add(shown)
        found.append(_plugin(shown, _source(entry.module), universe, lambda e=entry: importlib.import_module(e.module)))  # type: ignore[misc]
    for gone in [name for name in _runs if name not in seen]:
        _forget(gone)
    return found


@lru_cache(maxsize=1)
def _entry_points() -> list[EntryPoint]:
    """What installed packages offer; a package installed meanwhile counts after a restart."""
    return sorted(entry_points(group=GROUP), key=lambda e: e.name)


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module) if module else None
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    return origin.read_text(encoding="utf-8") if origin is not None and origin.is_file() else ""


def _plugin(shown: str, text: str, universe: Universe, make: Any) -> Plugin:
    revision = file_revision(text)
    run = _runs.get(shown)
    if run is None or run.revision != revision:
        _forget(shown)
        run = _runs[shown] = _run(shown, revision, make)
    names = tuple(f"{registry}: {name}" for registry, name in run.added)
    if run.problems or not run.classes:
        return Plugin(shown, revision, None, tuple(run.problems), names)
    if len(run.classes) > 1:
        problem = Problem(shown, 1, "", f"holds {len(run.classes)} strategies", "one strategy a file")
        return Plugin(shown, revision, None, (problem,), names)
    code = run.classes[0]
    elsewhere = code.settings.get("universe") if isinstance(code.settings, dict) else None
    key = (shown, revision, universe.name, universe.revision)
    if key not in _built:
        _built[key] = plugins.build(code, text, shown, universe)
    strategy, problems = _built[key]
    other = elsewhere if isinstance(elsewhere, str) and elsewhere != universe.name else ""
    return Plugin(shown, revision, None if errors(problems) else strategy, tuple(problems), names, other)


def _execute(path: Path, text: str) -> ModuleType:
    name = f"{_PACKAGE}.{path.stem}"
    module = ModuleType(name)
    module.__file__ = str(path)
    code = compile(text, f"plugins/{path.name}", "exec")
    sys.modules.setdefault(_PACKAGE, ModuleType(_PACKAGE))
    sys.modules[name] = module  # dataclasses and pydantic look their module up
    exec(code, module.__dict__)  # noqa: S102 - running the operator's own code is what this is for
    return module


def _run(shown: str, revision: str, make: Any) -> _Run:
    run = _Run(revision)
    before = {name: dict(entries) for name, entries in _registries()}
    try:
        module = make()
        run.classes = [
            c for _, c in inspect.getmembers(module, inspect.isclass)
            if issubclass(c, PythonStrategy) and c is not PythonStrategy and c.__module__ == module.__name__
        ]  # fmt: skip
    except SyntaxError as error:
        run.problems.append(Problem(shown, error.lineno or 1, "", f"not Python: {error.msg}", "Python"))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        run.problems.append(_problem(shown, error))
    for name, entries in _registries():
        for key in list(entries):
            if key not in before[name]:
                run.added.append((name, key))
            elif entries[key] is not before[name][key]:
                entries[key] = before[name][key]
                said = f"{name}: {key!r} exists already, and a plug-in must not replace it"
                run.problems.append(Problem(shown, 1, "", said, "a name of its own"))
        for key in before[name].keys() - entries.keys():
            entries[key] = before[name][key]
            run.problems.append(Problem(shown, 1, "", f"{name}: {key!r} was removed, which a plug-in must not do"))
    if run.problems:
        _take_back(run)
        run.classes = []
    return run


def _problem(shown: str, error: BaseException) -> Problem:
    place, _, rest = plugins.where(error, shown).removeprefix(shown).partition(": ")
    line = place.removeprefix(":")
    return Problem(shown, int(line) if line.isdigit() else 1, "", rest, "a file that can be run")


def _forget(shown: str) -> None:
    run = _runs.pop(shown, None)
    if run is not None:
        _take_back(run)
    for key in [k for k in _built if k[0] == shown]:
        del _built[key]


def _take_back(run: _Run) -> None:
    registries = dict(_registries())
    for name, key in run.added:
        registries[name].pop(key, None)
    run.added = []


def _registries() -> Iterator[tuple[str, MutableMapping[str, Any]]]:
    """What a plug-in may add to, each with everything of ours already in it."""
    from ml import agents
    from trading import ensembles, execution_functions, indicators, patterns
    from trading.gates.base import GATES

    GATES.names()
    execution_functions.load()
    yield "gate", GATES._entries
    yield "execution function", execution_functions.REGISTRY
    yield "pattern", patterns.patterns()
    yield "indicator", indicators.INDICATORS
    yield "regime", ensembles.REGIME_MODELS
    yield "agent", agents.REGISTRY
    rules = _risk_rules()
    if rules is not None:
        yield "risk rule", rules


def _risk_rules() -> MutableMapping[str, Any] | None:
    from trading import risk

    registry = getattr(risk, "RISK_RULES", None) or getattr(risk, "RULES", None)
    if registry is None or not hasattr(registry, "names"):
        return None
    registry.names()
    entries: MutableMapping[str, Any] = registry._entries
    return entries
