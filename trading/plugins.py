"""Python strategies: one file, one class, the life cycle of every other strategy.

A class derives from PythonStrategy, states its settings as a mapping with the keys of a strategy file (without ``entry``),
and says in `wishes` where it would enter and leave, as arrays over closed bars. Stops, targets, sizing, gates, windows and
limits are the settings' matter. Its revision is the content hash of its file.

Reading files is the matter of resources.plugin_files; here is what they are made into, and the audit every one must pass:
a strategy whose answers for past bars change when later bars are hidden looks ahead, and is refused.
"""

from __future__ import annotations

import ast
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from trading import conditions
from trading.bars import Bars
from trading.conditions import Bools, Floats, Frame
from trading.config_text import ConfigModel, Count, Path, Problem, Text, YamlDocument, errors, validate
from trading.conflicts import check_timeframes, check_windows
from trading.evaluable import assemble, check_bars, in_windows, readiness
from trading.evaluation import Evaluation
from trading.execution.checks import check_execution
from trading.frame import BarWindow
from trading.gate_checks import check_gates
from trading.instruments import Instrument
from trading.name_checks import check_names
from trading.research_schema import check_own
from trading.sample_bars import sample_window
from trading.signals import Action
from trading.strategy_base import Strategy, common, needs_of
from trading.strategy_schema import Filed
from trading.timeframes import Timeframe, iso
from trading.universe import Universe

_CUTS = 16


class PluginError(ValueError):
    """A plug-in raised, or answered what cannot be used. The text names its file and line."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a Python strategy says at each primary bar: bool (T,) each; strength float64 (T,) in [0, 1], default 1."""

    long: Bools
    short: Bools | None = None
    exit_long: Bools | None = None
    exit_short: Bools | None = None
    strength: Floats | None = None


class PythonStrategy:
    """Base of strategies written in Python.

    settings: name, symbols, timeframe, exits, sizing and the other keys of a strategy file, as plain values, written as a
    literal. warm_up: bars of the primary timeframe before it may enter, or by timeframe. context: other instruments it
    reads, as (symbol, timeframe).
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    warm_up: ClassVar[int | Mapping[str, int]] = 1
    context: ClassVar[tuple[tuple[str, str], ...]] = ()

    def wishes(self, frame: Frame) -> Wishes:
        """Where it would enter and leave; row i from rows up to i only.

        `frame` gives values over primary bars: ``frame.price("close")``, ``frame.indicator("rsi", {"period": 14})``,
        ``frame.pattern("swing", {}, "high")``; and the bars themselves, ``frame.series()``, which cannot be changed.
        """
        raise NotImplementedError

    def reason(self, side: str) -> str:
        """Why it enters on that side (long or short), for reports."""
        return f"{type(self).__name__} {side}"


class _Series(ConfigModel):
    symbol: Text
    timeframe: Timeframe


class PluginFile(Filed):
    """Settings of a Python strategy, and what its class states beside them."""

    kind: Literal["python"] = "python"
    warm_up: dict[Timeframe, Count] = Field(default_factory=dict)
    context: list[_Series] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PluginStrategy(Strategy):
    """A Python strategy as the desk knows it."""

    code: type[PythonStrategy] = field(default=PythonStrategy, repr=False)
    file: str = ""

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What the class says (see Strategy.evaluate). Raises PluginError when it raises or answers nonsense."""
        check_bars(self, bars, instrument)
        frame, rules = Frame(bars, self.timeframe), self.rules
        said = self._ask(Frame(BarWindow({key: _read_only(b) for key, b in bars.items()}), self.timeframe))
        nothing = np.zeros(len(frame), bool)
        columns = {
            name: nothing if getattr(said, name) is None else self._bools(getattr(said, name), name, len(frame))
            for name in ("long", "short", "exit_long", "exit_short")
        }
        context = {key: n for key, n in self.context.items() if key[0] != instrument.symbol}
        ready = readiness(frame, self.warm_up, context)
        allowed = ready & in_windows(bars[self.timeframe], rules.windows, instrument)
        exits = rules.exits.rules
        return assemble(
            frame, instrument, ready, self.max_bars, enter_long=allowed & columns["long"], enter_short=allowed & columns["short"],
            exit_long=ready & (columns["exit_long"] | conditions.evaluate(exits.long if exits else None, frame)),
            exit_short=ready & (columns["exit_short"] | conditions.evaluate(exits.short if exits else None, frame)),
            stop=rules.exits.stop, target=rules.exits.target, strength=self._strength(said, len(frame)),
        )  # fmt: skip

    def _ask(self, frame: Frame) -> Wishes:
        try:
            said = self.code().wishes(frame)  # a new object each time: nothing is carried from bar to bar
        except Exception as error:
            raise PluginError(where(error, self.file)) from error
        if not isinstance(said, Wishes):
            raise PluginError(f"{self.file}: wishes() gave {type(said).__name__}, expected Wishes")
        return said

    def _bools(self, values: Any, name: str, rows: int) -> Bools:
        array = np.asarray(values)
        if array.dtype != np.bool_ or array.shape != (rows,):
            raise PluginError(f"{self.file}: {name} is {array.dtype} {array.shape}, expected bool ({rows},)")
        return array

    def _strength(self, said: Wishes, rows: int) -> Floats | None:
        if said.strength is None:
            return None
        array = np.asarray(said.strength, np.float64)
        if array.shape != (rows,):
            raise PluginError(f"{self.file}: strength is {array.shape}, expected ({rows},)")
        return np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0)

    def reason(self, action: Action) -> str:
        try:
            return str(self.code().reason("long" if action is Action.ENTER_LONG else "short"))
        except Exception as error:  # noqa: BLE001 - a reason is for reading only
            return where(error, self.file)


def where(error: BaseException, file: str) -> str:
    """``plugins/x.py:12: ValueError: ...`` of an error raised in `file`."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(file)]
    place = f"{file}:{lines[-1]}" if lines else file
    return f"{place}: {type(error).__name__}: {error}"


def _read_only(bars: Bars) -> Bars:
    """The same bars, so that whoever holds them cannot change what others read."""

    def view(values: Any) -> Any:
        shown = values.view()
        shown.flags.writeable = False
        return shown

    return Bars(
        bars.symbol, bars.timeframe, view(bars.close_time), view(bars.session),
        *(view(getattr(bars, name)) for name in ("open", "high", "low", "close", "volume")),
        **{name: view(getattr(bars, name)) for name in bars.extras},
    )  # fmt: skip


def document_of(text: str, file: str, code: type[PythonStrategy]) -> YamlDocument:
    """The settings of `code` as a document whose lines are those of `text`, so that a problem names the right one."""
    lines: dict[Path, int] = {(): 1}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == code.__name__:
            lines[()] = node.lineno
            for statement in node.body:
                target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
                if isinstance(target, ast.Name) and target.id in ("settings", "warm_up", "context"):
                    at: Path = () if target.id == "settings" else (target.id,)
                    lines[at] = statement.lineno
                    _lines(getattr(statement, "value", None), at, lines)
    data = dict(code.settings) if isinstance(code.settings, Mapping) else None
    return YamlDocument(file, text, data, (), lines)


def _lines(node: ast.AST | None, path: Path, lines: dict[Path, int]) -> None:
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, (str, int)):
                lines[(*path, key.value)] = key.lineno
                _lines(value, (*path, key.value), lines)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        for keyword in node.keywords:
            if keyword.arg is not None:
                lines[(*path, keyword.arg)] = keyword.value.lineno
                _lines(keyword.value, (*path, keyword.arg), lines)
    elif isinstance(node, (ast.List, ast.Tuple)):
        for at, item in enumerate(node.elts):
            lines[(*path, at)] = item.lineno
            _lines(item, (*path, at), lines)


def build(code: type[PythonStrategy], text: str, file: str, universe: Universe) -> tuple[PluginStrategy | None, list[Problem]]:
    """The strategy of a class, or None and every problem of it; None and no problem when it is for another universe."""
    document = document_of(text, file, code)
    if document.data is None:
        return None, [document.problem((), "settings is no mapping", "a mapping with the keys of a strategy file")]
    if document.data.get("universe") not in (None, universe.name):
        return None, []
    warm_up = code.warm_up if isinstance(code.warm_up, Mapping) else {str(document.data.get("timeframe")): code.warm_up}
    stated = [{"symbol": c[0], "timeframe": c[1]} if isinstance(c, tuple) and len(c) == 2 else c for c in code.context]
    data = {**document.data, "warm_up": dict(warm_up), "context": stated}
    whole = YamlDocument(file, text, data, (), document.lines)
    parsed, problems = validate(PluginFile, whole)
    named = data["symbols"] if isinstance(data.get("symbols"), list) else []
    symbols: dict[Path, Any] = {("symbols", i): s for i, s in enumerate(named)}
    problems += check_names(whole, symbols, universe)
    if parsed is None or errors(problems):
        return None, problems
    problems += check_own(parsed.research, parsed.kind, whole)
    problems += check_timeframes(YamlDocument(file, text, {**data, "kind": "ensemble"}, (), document.lines),
                                 parsed.timeframe, parsed.confirm)  # fmt: skip
    for symbol in parsed.symbols:
        problems += check_windows(whole, parsed.windows, parsed.timeframe, universe.instruments[symbol])
    needs, context = needs_of(parsed, (), {t: max(1, n) for t, n in parsed.warm_up.items()})
    for series in parsed.context:
        context[series.symbol, series.timeframe] = max(1, parsed.warm_up.get(series.timeframe, 1))
    problems += check_gates(whole, parsed.gates, parsed.symbols, parsed.timeframe, universe)
    problems += check_execution(whole, parsed, parsed.symbols, universe)
    strategy = PluginStrategy(**common(parsed, text, needs, context), code=code, file=file)
    undeclared = [t for t in needs if t not in strategy.timeframes]
    if undeclared:
        path: Path = ("warm_up", undeclared[0].value)
        problems.append(whole.problem(path, f"timeframe {undeclared[0]} is not declared", "timeframe or one under confirm"))
    if errors(problems):
        return None, list(dict.fromkeys(problems))
    leak = audit_sample(strategy, universe)
    if leak:
        problems.append(Problem(file, document.line_of(()), "wishes", leak, "answers that no later bar changes"))
        return None, problems
    return strategy, list(dict.fromkeys(problems))


def audit_sample(strategy: Strategy, universe: Universe) -> str:
    """Why `strategy` fails on made-up bars of its first instrument: it raises, or it looks ahead; "" when it passes."""
    instrument = universe.instruments[strategy.symbols[0]]
    bars = sample_window(strategy, universe)
    try:
        return audit(strategy, bars, instrument)
    except PluginError as error:
        return str(error)


def audit(strategy: Strategy, bars: Mapping[Any, Bars], instrument: Instrument) -> str:
    """At which row an answer changes when later bars are hidden, as text; "" when none does at the rows tried.

    Cuts at rows spread over those that are ready, the last one included. Raises what the strategy raises.
    """
    whole = strategy.evaluate(bars, instrument)
    primary = bars[strategy.timeframe]
    if not len(primary):
        return ""
    first = int(np.argmax(whole.ready)) if whole.ready.any() else 0
    for cut in sorted({int(c) for c in np.linspace(first, len(primary) - 1, _CUTS)}):
        known = int(primary.close_time[cut])
        part = strategy.evaluate({key: b.known_at(known) for key, b in bars.items()}, instrument)
        for name in ("enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "stop_short", "target_long",
                     "target_short", "strength"):  # fmt: skip
            before, after = getattr(whole, name)[: cut + 1], getattr(part, name)
            same = (before == after) | (_nan(before) & _nan(after))
            if not same.all():
                row = int(np.argmin(same))
                at = iso(int(primary.close_time[row]))
                return f"looks ahead: {name} at row {row} ({at}) is another when the bars after row {cut} are hidden"
    return ""


def _nan(values: Any) -> Any:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
