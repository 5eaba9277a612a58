"""The look-ahead audit: what is said of a bar must not change when the bars after it are taken away.

Every feature, indicator, pattern, execution function, strategy and plan is computed on all bars given, then again on what
was known at sampled times. Rows up to the sampled time must be equal bit for bit. Sampled are random bars and, because a
leak shows where something is said, bars at which the whole computation says something.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from trading import execution_functions, features, indicators, patterns
from trading.bars import Bars
from trading.calendars import calendar
from trading.conditions import Condition
from trading.evaluation import Evaluation
from trading.execution_functions import Level, Trigger
from trading.execution_functions.managing import Trade
from trading.frame import Frame
from trading.instruments import Instrument
from trading.strategy import Evaluable, evaluate_anchored, live_window
from trading.timeframes import Timeframe, iso

Columns = Mapping[str, NDArray[Any]]
Compute = Callable[[Mapping[Any, Bars]], Columns]
"""compute(bars by series) -> columns over the bars of the first series, one value per bar."""

EVALUATED = (
    "ready", "enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "stop_short", "target_long",
    "target_short", "strength",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Leak:
    """The first row that differs. row, time: of it (UTC us); cut: the time at which the bars were cut. whole: the value
    with the bars after the cut, known: the value without them."""

    column: str
    row: int
    time: int
    cut: int
    whole: str
    known: str

    def __str__(self) -> str:
        return (
            f"{self.column} at {iso(self.time)} (row {self.row}) is {self.known} when nothing after {iso(self.cut)} is known, "
            f"and {self.whole} once it is"
        )


@dataclass(frozen=True, slots=True)
class Audited:
    """One subject's verdict. kind: feature, indicator, pattern, function, strategy or plan. cuts: how many times it was
    recomputed; rows: how many rows it was judged on. error: why it could not be computed: that is no pass."""

    kind: str
    name: str
    symbol: str
    cuts: int
    rows: int
    leak: Leak | None = None
    error: str = ""

    @property
    def passed(self) -> bool:
        """Recomputed at least once, without a difference."""
        return self.leak is None and not self.error and self.cuts > 0


def first_difference(whole: Columns, known: Columns, times: NDArray[np.int64], cut: int) -> Leak | None:
    """The earliest row up to `cut` at which a column of `known` differs from `whole`, None when there is none.

    NaN equals NaN; a column that is missing on one side differs at its first row.
    """
    rows = int(np.searchsorted(times, cut, side="right"))
    found: Leak | None = None
    for name in dict.fromkeys([*whole, *known]):
        if name not in whole or name not in known:
            there = ["there" if name in side else "missing" for side in (whole, known)]
            return Leak(name, 0, int(times[0]), cut, *there)
        a, b = np.asarray(whole[name])[:rows], np.asarray(known[name])[:rows]
        if len(a) != len(b):
            short = min(len(a), len(b), rows - 1)
            return Leak(name, short, int(times[short]), cut, f"{len(a)} rows", f"{len(b)} rows")
        same = a == b
        if a.dtype.kind == "f" and b.dtype.kind == "f":
            same |= np.isnan(a) & np.isnan(b)
        if not same.all():
            row = int(np.argmin(same))
            if found is None or row < found.row:
                found = Leak(name, row, int(times[row]), cut, repr(a[row].item()), repr(b[row].item()))
    return found


def sampled_rows(whole: Columns, count: int, seed: int, *, first: int = 0) -> list[int]:
    """Rows to cut after, ascending: half of them where a column of `whole` changes to something that is neither False,
    0 nor NaN, the rest anywhere from `first` on; never the last row, after which nothing can be taken away."""
    length = len(next(iter(whole.values()))) if whole else 0
    if length < 2:
        return []
    random = np.random.default_rng(seed)
    events: list[NDArray[np.int64]] = []
    for values in whole.values():
        v = np.asarray(values)
        known = np.isfinite(v) if v.dtype.kind == "f" else np.ones(length, np.bool_)
        speaks = known & (v != 0)
        speaks[:first] = False
        speaks[-1] = False
        if 0 < speaks.sum() < 0.9 * length:  # a column that always speaks says nothing about where to look
            events.append(np.flatnonzero(speaks))
    chosen: set[int] = set()
    for rows in events:  # each column its share: rare entries must not drown among frequent exits
        share = max(1, count // 2 // len(events))
        chosen |= set(random.choice(rows, min(len(rows), share), replace=False).tolist())
    begin = min(first, length - 2)
    chosen |= set(random.integers(begin, length - 1, max(1, count - len(chosen))).tolist())
    return sorted(chosen)


def audit(
    kind: str, name: str, compute: Compute, bars: Mapping[Any, Bars], *, cuts: int = 12, seed: int = 0, first: int = 0
) -> Audited:
    """Recompute `compute` on `bars` as known at sampled times of the first series. Errors of the computation are told."""
    primary = next(iter(bars.values()))
    try:
        whole = compute(bars)
        rows = sampled_rows(whole, cuts, seed, first=first)
        for row in rows:
            cut = int(primary.close_time[row])
            known = compute({key: b.known_at(cut) for key, b in bars.items()})
            leak = first_difference(whole, known, primary.close_time, cut)
            if leak is not None:
                return Audited(kind, name, primary.symbol, len(rows), len(primary), leak)
    except Exception as error:  # noqa: BLE001 a subject that breaks is reported beside the others
        return Audited(kind, name, primary.symbol, 0, len(primary), None, f"{type(error).__name__}: {error}")
    said = "" if rows else f"{len(primary)} bars are too few to cut"
    return Audited(kind, name, primary.symbol, len(rows), len(primary), None, said)


def audit_catalogue(bars: Bars, instrument: Instrument, *, cuts: int = 12, seed: int = 0) -> list[Audited]:
    """Every feature, indicator, pattern and execution function known, on bars of one instrument and timeframe."""
    given = {bars.timeframe: bars}
    own = next(iter(given))
    venue = calendar(instrument.calendar)
    made = [
        audit("feature", "all features", lambda b: _named(features.compute(b[own])), given, cuts=cuts, seed=seed),
        audit("feature", "all features, anchored", lambda b: _named(features.compute_anchored(b[own], venue)), given,
              cuts=max(2, cuts // 4), seed=seed),
    ]  # fmt: skip
    catalogues = (("indicator", indicators.INDICATORS), ("pattern", patterns.patterns()))
    for kind, catalogue in catalogues:
        for name, definition in sorted(catalogue.items()):
            if definition.needs_volume and not instrument.has_volume:
                continue
            made.append(audit(kind, name, _outputs(definition, own), given, cuts=cuts, seed=seed))
    execution_functions.load()
    for name, function in sorted(execution_functions.REGISTRY.items()):
        made.append(_audit_function(name, function, given, instrument, cuts, seed))
    return made


def _named(computed: tuple[list[str], NDArray[np.float64]]) -> Columns:
    names, values = computed
    return {name: values[:, i] for i, name in enumerate(names)}


def _outputs(definition: Any, timeframe: Timeframe) -> Compute:
    return lambda b: dict(zip(definition.outputs, definition.compute(b[timeframe]), strict=True))


# -- execution functions ---------------------------------------------------------------------------------------------------


def _audit_function(
    name: str, function: type[Any], bars: Mapping[Any, Bars], instrument: Instrument, cuts: int, seed: int
) -> Audited:
    primary = next(iter(bars.values()))
    try:
        example = example_of(function, primary)
    except Exception as error:  # noqa: BLE001 told, and no pass
        said = f"no example could be made ({type(error).__name__}): give its docstring one as ``{{kind: {name}, ...}}``"
        return Audited("function", name, primary.symbol, 0, len(primary), None, said)
    trade = _a_trade(primary)

    def compute(b: Mapping[Any, Bars]) -> Columns:
        frame = Frame(b, primary.timeframe)
        if isinstance(example, Trigger):
            return {"holds": example.holds(frame)}
        if isinstance(example, Level):
            close = b[primary.timeframe].close
            risk = np.abs(close) * 0.01
            return {"above": example.at(frame, 1, close, risk), "below": example.at(frame, -1, close, risk)}
        if hasattr(example, "levels"):
            return {"levels": example.levels(frame, trade)}
        if hasattr(example, "leaves"):
            return {"leaves": example.leaves(frame, trade, instrument)}
        return {"due": example.due(frame, trade)}

    return audit("function", name, compute, bars, cuts=cuts, seed=seed, first=len(primary) // 4)


def _a_trade(bars: Bars) -> Trade:
    """A long trade entered in the first quarter of the bars, for functions that manage one."""
    row = max(0, len(bars) // 4 - 1)
    price = float(bars.close[row])
    targets = (price * 1.01, price * 1.02)
    return Trade(1, price, price * 0.99, int(bars.close_time[row]), targets)


def example_of(function: type[Any], bars: Bars) -> Any:
    """An instance of an execution function: plain values for what it requires (the middle of the bars' closes for numbers,
    a rule on the close for conditions), or, where those do not do, the example of its docstring. Raises ValueError when
    there is neither."""
    import yaml

    try:
        return function.model_validate(_required(function, bars))
    except ValueError as error:
        for text in re.findall(r"``(\{kind:.*?\})``", function.__doc__ or "", re.DOTALL):
            try:
                return function.model_validate(yaml.safe_load(text))
            except (ValueError, yaml.YAMLError):
                continue
        raise error


def _required(model: type[BaseModel], bars: Bars) -> dict[str, Any]:
    name = getattr(model, "NAME", "")
    values: dict[str, Any] = {"kind": name} if name else {}
    for key, field in model.model_fields.items():
        if key != "kind" and field.is_required():
            values[field.alias or key] = _plain_value(field.annotation, bars)
    return values


def _plain_value(annotation: Any, bars: Bars) -> Any:
    middle = float(np.nanmedian(bars.close)) if len(bars) else 1.0
    origin = typing.get_origin(annotation)
    if origin is list:
        return [_plain_value(typing.get_args(annotation)[0], bars)]
    if origin is typing.Literal:
        return typing.get_args(annotation)[0]
    if origin is not None:
        return _plain_value(typing.get_args(annotation)[0], bars)
    if annotation is Timeframe:
        return str(bars.timeframe)
    if isinstance(annotation, type) and issubclass(annotation, Condition):
        return {">": ["close", {"price": "close", "lookback": 5}]}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _required(annotation, bars)
    return {bool: True, int: 3}.get(annotation, middle)


# -- strategies and plans --------------------------------------------------------------------------------------------------


def audit_evaluable(
    evaluable: Evaluable, bars: Mapping[Any, Bars], instrument: Instrument, *, cuts: int = 12, whole_cuts: int = 2, seed: int = 0
) -> Audited:
    """Look-ahead audit of a strategy or plan on one instrument.

    bars: every series it reads (see evaluate_anchored). At `cuts` bars, half of them those at which it says something, the
    bar's row of the whole evaluation must equal the newest row of what a live evaluation computes from what is known then;
    at `whole_cuts` of them the whole history is evaluated again on the bars known and compared row by row.
    """
    # Gates are judged after the evaluation, live and in a history; a wish that one refused is no difference between the two.
    evaluable = getattr(evaluable, "plain", evaluable)
    primary = bars[evaluable.timeframe]
    venue = calendar(instrument.calendar)
    ordered: dict[Any, Bars] = {evaluable.timeframe: primary, **bars}

    def anchored(given: Mapping[Any, Bars]) -> Columns:
        return _columns(evaluate_anchored(evaluable, given, instrument, venue))

    try:
        whole = anchored(ordered)
        ready = whole["ready"]
        first = int(np.argmax(ready)) if ready.any() else 0
        wishes = {name: whole[name] for name in EVALUATED if whole[name].dtype == np.bool_ and name != "ready"}
        rows = sampled_rows(wishes, cuts, seed, first=first)
        for row in rows:
            cut, session = int(primary.close_time[row]), int(primary.session[row])
            window = live_window(evaluable, ordered, cut, session, venue, instrument.symbol)
            newest = _columns(evaluable.evaluate(window, instrument))
            mine = {name: values[row : row + 1] for name, values in whole.items()}
            live = {name: values[-1:] for name, values in newest.items()}
            leak = first_difference(mine, live, primary.close_time[row : row + 1], cut)
            if leak is not None:
                told = Leak(leak.column, row, leak.time, cut, leak.whole, leak.known)
                return Audited(evaluable.kind, evaluable.name, instrument.symbol, len(rows), len(primary), told)
        for row in _spread(rows, whole_cuts):
            cut = int(primary.close_time[row])
            known = anchored({key: b.known_at(cut) for key, b in ordered.items()})
            leak = first_difference(whole, known, primary.close_time, cut)
            if leak is not None:
                return Audited(evaluable.kind, evaluable.name, instrument.symbol, len(rows), len(primary), leak)
    except Exception as error:  # noqa: BLE001 a strategy that breaks is reported beside the others
        said = f"{type(error).__name__}: {error}"
        return Audited(evaluable.kind, evaluable.name, instrument.symbol, 0, len(primary), None, said)
    said = "" if rows else f"{len(primary)} bars are too few to cut"
    return Audited(evaluable.kind, evaluable.name, instrument.symbol, len(rows), len(primary), None, said)


def _columns(e: Evaluation) -> Columns:
    columns: dict[str, NDArray[Any]] = {name: getattr(e, name) for name in EVALUATED}
    if e.scale is not None:
        columns["scale"] = e.scale
    columns |= {f"target of part {i}": levels for i, (_, levels) in enumerate(e.targets, 1)}
    return {**columns, **{f"part {name}": share for name, share in e.parts.items()}}


def _spread(rows: Sequence[int], count: int) -> list[int]:
    if not rows or count < 1:
        return []
    return [rows[int(i)] for i in np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]
