"""The files people edit, loaded together: universe, strategies, plug-ins, plans and risk limits.

One bad file never stops the others: it becomes problems, its strategy does not trade. Only a bad universe stops
everything, because nothing can be known without instruments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from resources.news_files import load_news
from resources.plugin_files import load_plugins
from resources.settings import Settings
from trading.calendar_files import describe_calendar
from trading.calendars import Described, define
from trading.config_text import Problem, errors, load_yaml, nearest, warnings
from trading.conflicts import check_together
from trading.ensembles import Ensemble, bind
from trading.gate_checks import check_news
from trading.gates.settings import gates_of
from trading.ids import file_revision
from trading.limits import Limits, StrategyLimits, parse_limits
from trading.models import ModelStrategy
from trading.name_checks import other_universe
from trading.news import NewsCalendar
from trading.plans import Plan, parse_plan
from trading.quality_thresholds import SharedThresholds, parse_quality
from trading.strategy import Evaluable, Strategy, parse_strategy
from trading.timeframes import US_PER_DAY, session_number
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
    problems: what keeps it from being used; warnings: what somebody should look at all the same.
    """

    path: str
    kind: str
    name: str
    revision: str
    problems: tuple[Problem, ...] = ()
    other_universe: str = ""
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the edited files say: strategies and plans by name, those without problems.

    limits: without any limit when the risk file is missing or unreadable, so that every order is refused with
    LIMIT_MISSING; limits that strategy files state are in it. problems: of all files. files: every file read, the unused
    ones included. news: None without a calendar, or when one of its files has a problem: then the gate refuses.
    """

    universe: Universe
    strategies: dict[str, Strategy]
    plans: dict[str, Plan]
    limits: Limits
    problems: list[Problem]
    files: list[ConfigFile] = field(default_factory=list)
    news: NewsCalendar | None = None

    @property
    def warnings(self) -> list[Problem]:
        """Of all files: they are used, and somebody should look."""
        return [warning for file in self.files for warning in file.warnings]

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
    broken = define_calendars(folder, files)
    try:
        universe = _universe(folder, settings, files)
    except ConfigInvalid as error:  # a calendar that cannot be read may be why
        raise ConfigInvalid([*broken, *error.problems]) from None
    strategies = _plugins(folder, universe, files)  # first: files may name what plug-ins register
    strategies |= _load(folder, "strategies", universe, parse_strategy, files)
    plans = _load(folder, "plans", universe, partial(parse_plan, templates=_templates(folder), today=_today(universe)), files)
    limits = _limits(folder, files)
    _notifications(folder, files)
    taken = _twice(files)
    usable = {s.name: s for path, s in strategies.items() if path not in taken}
    _bind(folder, usable, files)
    usable = _served(usable, universe, settings)
    _opposites(usable, files)
    planned = {p.name: p for path, p in plans.items() if path not in taken}
    news, read = load_news(folder / "news", universe)
    files += [ConfigFile(r.path, "news", r.name, r.revision, r.problems, "", r.warnings) for r in read]
    _news_warnings(folder, [*usable.values(), *planned.values()], news, _today(universe), files)
    _limits_warnings(folder, limits, files)
    return Config(
        universe,
        usable,
        planned,
        _with_own_limits(limits, [*usable.values(), *planned.values()]),
        [problem for file in files for problem in file.problems],
        files,
        news,
    )


def _news_warnings(
    folder: Path, evaluables: list[Any], news: NewsCalendar | None, today: date | None, files: list[ConfigFile]
) -> None:
    """Warn on its file where a news gate has no calendar, or one that has ended."""
    now = None if today is None else session_number(today) * US_PER_DAY
    for evaluable in evaluables:
        if gates_of(evaluable).news is None:
            continue
        at = next(
            (i for i, f in enumerate(files) if f.name == evaluable.name and f.kind in ("strategies", "plans", "plugins")), -1
        )
        if at < 0:
            continue
        text = "" if files[at].kind == "plugins" else _read(folder / files[at].path, files[at].path)[0] or ""
        found = check_news(load_yaml(text, files[at].path), evaluable, news, now)
        files[at] = replace(files[at], warnings=(*files[at].warnings, *found))


def _limits_warnings(folder: Path, limits: Limits, files: list[ConfigFile]) -> None:
    """Warn where the risk file limits a strategy or plan that no file is of: a mistyped name would limit nothing."""
    at = next((i for i, f in enumerate(files) if f.kind == "risk" and not f.problems), -1)
    own = [f for f in files if f.kind in ("strategies", "plans", "plugins")]
    known = {f.name for f in own if f.name} | {Path(f.path).stem for f in own}  # one of another universe has a file name only
    strange = [name for name in limits.strategies if name not in known]
    if at < 0 or not strange:
        return
    file = files[at]
    document = load_yaml(_read(folder / file.path, file.path)[0] or "", file.path)
    found = [
        Problem(
            file.path, document.line_of(("strategies", name)), f"strategies.{name}",
            "limits nothing: no strategy or plan has this name", "the name of one", nearest(name, known), "warning",
        )
        for name in strange
    ]  # fmt: skip
    files[at] = replace(file, warnings=(*file.warnings, *found))


def _templates(folder: Path) -> dict[str, tuple[str, str]]:
    """(file, text) of every plan template, by the name of its file; a plan that names a bad one says why."""
    found: dict[str, tuple[str, str]] = {}
    for path in _yaml_files(folder / "plans" / "templates"):
        shown = f"plans/templates/{path.name}"
        text, _ = _read(path, shown)
        found[path.stem] = (shown, text or "")
    return found


def _today(universe: Universe) -> date | None:
    """The day plans' sessions are held against; None where the history ends somewhere and is replayed."""
    return datetime.now(UTC).date() if universe.history_end is None and not universe.simulated else None


def _read(path: Path, shown: str) -> tuple[str | None, list[Problem]]:
    try:
        return path.read_text(encoding="utf-8"), []
    except UnicodeDecodeError as error:
        return None, [Problem(shown, 1, "", f"not UTF-8 text (byte {error.start})", "a UTF-8 text file")]
    except OSError as error:
        return None, [Problem(shown, 0, "", f"cannot be read: {error.strerror}", "a readable file")]


def _plugins(folder: Path, universe: Universe, files: list[ConfigFile]) -> dict[str, Strategy]:
    """Python strategies by their path."""
    good: dict[str, Strategy] = {}
    for plugin in load_plugins(folder / "plugins", universe):
        if plugin.strategy is not None:
            good[plugin.path] = plugin.strategy
        name = plugin.strategy.name if plugin.strategy is not None else ""
        wrong = errors(plugin.problems)
        elsewhere = plugin.other_universe
        if elsewhere and elsewhere not in _universes(folder):
            known = _universes(folder)
            expected = "one of " + ", ".join(known)
            wrong.append(Problem(plugin.path, 1, "universe", f"no universe {elsewhere!r}", expected, nearest(elsewhere, known)))
        noted = tuple(warnings(plugin.problems))
        files.append(ConfigFile(plugin.path, "plugins", name, plugin.revision, tuple(wrong), elsewhere, noted))
    return good


def _bind(folder: Path, strategies: dict[str, Strategy], files: list[ConfigFile]) -> None:
    """Give ensembles their members; one whose members are not all in use is not used either."""
    for name in [n for n, s in strategies.items() if isinstance(s, Ensemble)]:
        at = next(i for i, f in enumerate(files) if f.name == name)
        text, _ = _read(folder / files[at].path, files[at].path)
        ensemble = strategies.pop(name)
        assert isinstance(ensemble, Ensemble)
        bound, wrong = bind(ensemble, strategies, load_yaml(text or "", files[at].path))
        files[at] = replace(files[at], problems=(*files[at].problems, *wrong))
        if bound is not None:
            strategies[name] = bound


def _served(strategies: dict[str, Strategy], universe: Universe, settings: Settings) -> dict[str, Strategy]:
    """Model strategies with the champion kept on this disk, or with the reason why there is none."""
    if not any(isinstance(s, ModelStrategy) for s in strategies.values()):
        return strategies
    from resources.model_serving import offline

    return offline(strategies, universe.name, settings)


def _opposites(strategies: dict[str, Strategy], files: list[ConfigFile]) -> None:
    """Note on its file every strategy that always wants the opposite of another."""
    paths = {f.name: f.path for f in files if f.kind == "strategies" and f.name}
    for problem in check_together([s for s in strategies.values() if s.name in paths], paths):
        at = next(i for i, f in enumerate(files) if f.path == problem.file)
        files[at] = replace(files[at], warnings=(*files[at].warnings, problem))


def _with_own_limits(limits: Limits, evaluables: list[Any]) -> Limits:
    """`limits` with those that strategy and plan files state for themselves; of two the tighter one counts."""
    own = dict(limits.strategies)
    for evaluable in evaluables:
        stated = getattr(evaluable.rules, "limits", None)
        if stated is None:
            continue
        base = own.get(evaluable.name)
        own[evaluable.name] = stated if base is None else _tighter_of(base, stated)
    return limits if own == limits.strategies else limits.model_copy(update={"strategies": own})


def _tighter_of(one: StrategyLimits, other: StrategyLimits) -> StrategyLimits:
    """The tighter of each limit of two; a group of limits (a daily loss) likewise within."""
    return one.model_copy(update=_tighter_values(one, other))


def _tighter_values(one: Any, other: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in type(one).model_fields:
        a, b = getattr(one, name), getattr(other, name)
        if a is None or b is None:
            values[name] = b if a is None else a
        elif isinstance(a, BaseModel):
            values[name] = a.model_copy(update=_tighter_values(a, b))
        elif isinstance(a, (int, float)) and not isinstance(a, bool):
            values[name] = max(a, b) if name.endswith("_minutes") else min(a, b)  # the longer pause is the tighter one
    return values


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))


def _universe(folder: Path, settings: Settings, files: list[ConfigFile]) -> Universe:
    name = settings.universe
    path, shown = folder / "universe" / f"{name}.yaml", f"universe/{name}.yaml"
    if not path.is_file():
        known = _universes(folder)
        expected = "TAPELINE_UNIVERSE one of " + ", ".join(known) if known else f"a file {shown} in {folder}"
        raise ConfigInvalid([Problem(shown, 0, "", "there is no such universe file", expected, nearest(name, known))])
    text, unreadable = _read(path, shown)
    if text is None:
        raise ConfigInvalid(unreadable)
    universe, problems = parse_universe(text, shown, _shared_thresholds(folder, files))
    if universe is None:
        raise ConfigInvalid(problems)
    if universe.name != name:
        line = load_yaml(text, shown).line_of(("name",))
        raise ConfigInvalid([Problem(shown, line, "name", f"is {universe.name!r}", f"the file's name, {name}")])
    hidden = _simulated_feeds(universe, settings)
    if hidden and not universe.simulated:
        line = load_yaml(text, shown).line_of(("simulated",))
        said = f"is false, and the prices of {', '.join(hidden)} are simulated: they must never pass for real ones"
        raise ConfigInvalid([Problem(shown, line, "simulated", said, "true")])
    files.append(ConfigFile(shown, "universe", universe.name, file_revision(text)))
    return universe


def define_calendars(folder: Path, files: list[ConfigFile] | None = None) -> list[Problem]:
    """Make the calendars of folder/calendars known to this process; returns what is wrong with the others."""
    found: dict[str, Described] = {}
    problems: list[Problem] = []
    for path in _yaml_files(folder / "calendars"):
        shown = f"calendars/{path.name}"
        text, wrong = _read(path, shown)
        made = None
        if text is not None:
            made, wrong = describe_calendar(text, shown)
        if made is not None and made.name in found:
            wrong = [Problem(shown, load_yaml(text or "", shown).line_of(("name",)), "name", f"another file is {made.name} too")]
        elif made is not None:
            found[made.name] = made
        problems += wrong
        if files is not None:
            files.append(ConfigFile(shown, "calendars", made.name if made else "", file_revision(text or ""), tuple(wrong)))
    define(found.values())
    return problems


def _shared_thresholds(folder: Path, files: list[ConfigFile]) -> SharedThresholds | None:
    """Quality thresholds of every universe, None without such a file. Raises ConfigInvalid: a universe is judged by them."""
    path, shown = folder / "quality" / "default.yaml", "quality/default.yaml"
    if not path.exists():
        return None
    text, unreadable = _read(path, shown)
    if text is None:
        raise ConfigInvalid(unreadable)
    shared, problems = parse_quality(text, shown)
    if shared is None:
        raise ConfigInvalid(problems)
    files.append(ConfigFile(shown, "quality", path.stem, shared.revision))
    return shared


def _simulated_feeds(universe: Universe, settings: Settings) -> list[str]:
    """Symbols of `universe` whose feed is simulated. A feed that cannot be made is told when it is read."""
    from resources.feeds import get_feed
    from resources.feeds.protocol import FeedError

    simulated: dict[str, bool] = {}
    for name in {i.feed for i in universe.instruments.values()}:
        try:
            simulated[name] = get_feed(name, settings).capabilities().simulated
        except FeedError:
            simulated[name] = False
    return [symbol for symbol, i in universe.instruments.items() if simulated[i.feed]]


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
        if parsed is not None and not errors(found):
            good[shown] = parsed
        name = getattr(parsed, "name", "")
        noted = tuple(warnings(found))
        files.append(ConfigFile(shown, kind, name, file_revision(text or ""), tuple(errors(found)), elsewhere, noted))
    return good


def _twice(files: list[ConfigFile]) -> set[str]:
    """Paths of strategies and plans that share a name: none of them is used, because each could be meant.

    The problem is added to every file concerned.
    """
    by_name: dict[str, list[int]] = {}
    for at, file in enumerate(files):
        if file.name and file.kind in ("strategies", "plans", "plugins"):
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


def _notifications(folder: Path, files: list[ConfigFile]) -> None:
    """Note the file of channels and routes, and what is wrong with it: nothing else depends on it."""
    from resources.notifications import routing

    path = folder / routing.FILE_NAME
    if not path.exists():
        return
    text, found = _read(path, routing.FILE_NAME)
    if text is not None:
        found = list(routing.parse(text, routing.FILE_NAME).problems)
    noted = tuple(warnings(found))
    files.append(
        ConfigFile(routing.FILE_NAME, "notifications", path.stem, file_revision(text or ""), tuple(errors(found)), "", noted)
    )


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
