"""Strategies: files that turn bars into entries, stops, targets and exits; and what plans share with them.

`parse_strategy` reads a file, `Strategy.evaluate` computes over the arrays it is given, `evaluate_anchored` cuts a long
history into the windows a live evaluation would see, and `signal_at` makes the Signal of one bar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trading import conditions, windows
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.conditions import Bools, Floats, Frame
from trading.config_text import Path, Problem, load_yaml, validate
from trading.evaluation import Evaluation
from trading.execution_functions import Level
from trading.ids import file_revision
from trading.instruments import Instrument, Mode
from trading.name_checks import check_names, other_universe
from trading.price_grid import on_grid
from trading.signals import Action, PartitionRef, Signal
from trading.strategy_schema import DAYS, StrategyFile, Window, all_timeframes, with_indicator_rules
from trading.timeframes import Timeframe
from trading.universe import Universe
from trading.venue_time import minute_of_day, weekday


@runtime_checkable
class Evaluable(Protocol):
    """What the trade run, the desk and the backtest know of a strategy or a plan.

    kind: strategy or plan. timeframes: the primary one first, then every other it reads. valid_bars: bars of the primary
    timeframe a signal stays valid. quality_sessions: newest sessions whose verdicts must be good. once: enters one time
    only. warm_up: bars of every timeframe before it is ready. costs: of its backtest, None = the caller's.
    """

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def symbols(self) -> tuple[str, ...]: ...
    @property
    def timeframe(self) -> Timeframe: ...
    @property
    def timeframes(self) -> tuple[Timeframe, ...]: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def status(self) -> str: ...
    @property
    def sizing(self) -> dict[str, Any]: ...
    @property
    def valid_bars(self) -> int: ...
    @property
    def min_reward_to_risk(self) -> float: ...
    @property
    def quality_sessions(self) -> int: ...
    @property
    def once(self) -> bool: ...
    @property
    def max_bars(self) -> int: ...
    @property
    def warm_up(self) -> dict[Timeframe, int]: ...
    @property
    def costs(self) -> dict[str, Any] | None: ...

    def evaluate(self, bars: Mapping[Timeframe, Bars], instrument: Instrument) -> Evaluation:
        """What it says at each bar of the primary timeframe. Raises ValueError when a timeframe's bars are not given."""
        ...

    def reason(self, action: Action) -> str:
        """Why it would take `action`, as text for reports."""
        ...


@dataclass(frozen=True, slots=True)
class Strategy:
    """A compiled strategy file (see Evaluable)."""

    name: str
    revision: str
    symbols: tuple[str, ...]
    timeframe: Timeframe
    timeframes: tuple[Timeframe, ...]
    mode: Mode
    status: str
    sizing: dict[str, Any]
    valid_bars: int
    min_reward_to_risk: float
    quality_sessions: int
    max_bars: int
    warm_up: dict[Timeframe, int]
    costs: dict[str, Any] | None
    rules: StrategyFile = field(repr=False)
    description: str = ""
    owner: str = ""
    kind: str = "strategy"
    once: bool = False

    def evaluate(self, bars: Mapping[Timeframe, Bars], instrument: Instrument) -> Evaluation:
        """What the rules say at each primary bar, computed over exactly the arrays given (see Evaluation).

        bars: every timeframe of `timeframes`, of `instrument`. Raises ValueError when one is missing or of another symbol.
        """
        check_bars(self, bars, instrument)
        frame, rules = Frame(bars, self.timeframe), self.rules
        ready = readiness(frame, self.warm_up)
        allowed = ready & in_windows(bars[self.timeframe], rules.windows, instrument)
        exits = rules.exits.rules
        return assemble(
            frame, instrument, ready, self.max_bars,
            enter_long=allowed & conditions.evaluate(rules.entry.long, frame),
            enter_short=allowed & conditions.evaluate(rules.entry.short, frame),
            exit_long=ready & conditions.evaluate(exits.long if exits else None, frame),
            exit_short=ready & conditions.evaluate(exits.short if exits else None, frame),
            stop=rules.exits.stop, target=rules.exits.target,
        )  # fmt: skip

    def reason(self, action: Action) -> str:
        """The entry rule of that side as text."""
        rule = self.rules.entry.long if action is Action.ENTER_LONG else self.rules.entry.short
        return rule.label if rule is not None else ""


def check_bars(evaluable: Evaluable, bars: Mapping[Timeframe, Bars], instrument: Instrument) -> None:
    """Raises ValueError when `bars` lack a timeframe, or are not of an instrument this strategy trades."""
    if instrument.symbol not in evaluable.symbols:
        raise ValueError(f"{evaluable.kind} {evaluable.name} does not trade {instrument.symbol}: {', '.join(evaluable.symbols)}")
    for timeframe in evaluable.timeframes:
        if timeframe not in bars:
            given = ", ".join(str(t) for t in bars) or "none"
            raise ValueError(f"{evaluable.kind} {evaluable.name} needs {timeframe} bars of {instrument.symbol}, got {given}")
        part = bars[timeframe]
        if part.symbol != instrument.symbol or part.timeframe is not timeframe:
            raise ValueError(f"{evaluable.name}: {part.symbol} {part.timeframe} bars given as {instrument.symbol} {timeframe}")


def readiness(frame: Frame, warm_up: Mapping[Timeframe, int]) -> Bools:
    """bool (T,): every timeframe has as many bars as `warm_up` asks for."""
    ready = np.ones(len(frame), bool)
    for timeframe, bars in warm_up.items():
        ready &= frame.align(timeframe) + 1 >= bars
    return ready


def in_windows(bars: Bars, allowed: Sequence[Window], instrument: Instrument) -> Bools:
    """bool (T,): the bar closes inside one of the windows of the venue's wall clock; all where there are none."""
    if not allowed:
        return np.ones(len(bars), bool)
    minute = minute_of_day(bars.close_time, calendar(instrument.calendar).timezone)
    day = weekday(bars.session)
    result = np.zeros(len(bars), bool)
    for window in allowed:
        after, until = minute > window.from_, minute <= window.to
        midnight = minute == 0  # 24:00 of the day before
        if window.from_ < window.to:
            inside = (after & until) | (midnight & (window.to == 1440))
        else:
            inside = after | until
        result |= inside & np.isin(day, [DAYS.index(d) for d in window.days])
    return result


def assemble(
    frame: Frame, instrument: Instrument, ready: Bools, max_bars: int, *,
    enter_long: Bools, enter_short: Bools, exit_long: Bools, exit_short: Bools, stop: Level, target: Level | None,
) -> Evaluation:  # fmt: skip
    """Evaluation with stops and targets on the instrument's tick grid.

    An entry without a stop, without the target its file asks for, or wanted on both sides at once is no entry.
    """
    bars = frame.bars[frame.primary]
    close = bars.close
    nothing = np.full(len(frame), np.nan)

    def levels(side: int) -> tuple[Floats, Floats, Bools]:
        stops = _positive(on_grid(stop.at(frame, -side, close, nothing), instrument))
        targets, known = nothing, np.isfinite(stops) & np.isfinite(close)
        if target is not None:
            targets = _positive(on_grid(target.at(frame, side, close, np.abs(close - stops)), instrument))
            known = known & np.isfinite(targets)
        return stops, targets, known

    stop_long, target_long, long_known = levels(1)
    stop_short, target_short, short_known = levels(-1)
    both = enter_long & enter_short
    enter_long = enter_long & long_known & ~both
    enter_short = enter_short & short_known & ~both
    return Evaluation(
        symbol=bars.symbol, timeframe=frame.primary, close_time=bars.close_time, ready=ready,
        enter_long=enter_long, enter_short=enter_short, exit_long=exit_long, exit_short=exit_short,
        stop_long=stop_long, stop_short=stop_short, target_long=target_long, target_short=target_short,
        strength=(enter_long | enter_short).astype(np.float64), max_bars=max_bars,
    )  # fmt: skip


def _positive(prices: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where(prices > 0, prices, np.nan)


_ARRAYS = (
    "ready", "enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "stop_short", "target_long",
    "target_short", "strength",
)  # fmt: skip


def evaluate_anchored(
    evaluable: Evaluable, bars: Mapping[Timeframe, Bars], instrument: Instrument, venue: Calendar
) -> Evaluation:
    """Evaluation of a whole history, each row computed from the window a live evaluation of it would read.

    Row i equals, bit for bit, the last row of ``evaluable.evaluate`` over `live_window` at its close_time.
    """
    check_bars(evaluable, bars, instrument)
    primary = bars[evaluable.timeframe]
    parts: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
    for window, offset, lo, hi in windows.slices(bars, evaluable.timeframe, evaluable.warm_up, venue):
        evaluation = evaluable.evaluate(window, instrument)
        for name in _ARRAYS:
            parts[name].append(getattr(evaluation, name)[lo - offset : hi - offset])
    if len(primary) == 0:
        return evaluable.evaluate(bars, instrument)
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    return Evaluation(primary.symbol, evaluable.timeframe, primary.close_time, max_bars=evaluable.max_bars, **joined)


def window_starts(evaluable: Evaluable, session: int, venue: Calendar) -> dict[Timeframe, int]:
    """First session number to read of each timeframe for a live evaluation of a bar of `session`."""
    return windows.window_starts(session, evaluable.warm_up, venue)


def live_window(
    evaluable: Evaluable, bars: Mapping[Timeframe, Bars], close_time: int, session: int, venue: Calendar
) -> dict[Timeframe, Bars]:
    """The part of `bars` a live evaluation at the bar of `session` closing at `close_time` (UTC us) computes from."""
    window = {}
    for timeframe, start in window_starts(evaluable, session, venue).items():
        known = bars[timeframe].known_at(close_time)
        window[timeframe] = known.rows(slice(int(np.searchsorted(known.session, start, side="left")), None))
    return window


def signal_at(
    evaluable: Evaluable, evaluation: Evaluation, row: int, bars_primary: Bars, instrument: Instrument, *,
    features_version: str, partitions: Sequence[PartitionRef], mode: Mode | str,
) -> Signal | None:  # fmt: skip
    """The signal of one row of `evaluation`, or None when it wants nothing, or both sides, or is not active.

    row: may be negative, -1 = the newest. The stop may lie on the wrong side of the price: a gate refuses that, visibly.
    Raises ValueError when `bars_primary` do not hold the row's bar.
    """
    row = range(len(evaluation.close_time))[row]
    long, short = bool(evaluation.enter_long[row]), bool(evaluation.enter_short[row])
    if evaluable.status != "active" or long == short or not evaluation.ready[row]:
        return None
    close_time = int(evaluation.close_time[row])
    at = int(np.searchsorted(bars_primary.close_time, close_time))
    if at == len(bars_primary) or int(bars_primary.close_time[at]) != close_time:
        raise ValueError(f"{evaluable.name}: no {evaluable.timeframe} bar of {instrument.symbol} closes at {close_time}")
    action = Action.ENTER_LONG if long else Action.ENTER_SHORT
    stop = float((evaluation.stop_long if long else evaluation.stop_short)[row])
    target = float((evaluation.target_long if long else evaluation.target_short)[row])
    reference = float(bars_primary.close[at])
    if not np.isfinite(stop) or not np.isfinite(reference):
        return None
    return Signal(
        strategy=evaluable.name,
        strategy_revision=evaluable.revision,
        symbol=instrument.symbol,
        timeframe=evaluable.timeframe,
        close_time=close_time,
        action=action,
        strength=float(evaluation.strength[row]),
        reference_price=instrument.round_price(reference),
        stop_price=instrument.round_price(stop),
        target_price=instrument.round_price(target) if np.isfinite(target) else None,
        valid_until=windows.close_after(close_time, evaluable.timeframe, evaluable.valid_bars, calendar(instrument.calendar)),
        sizing=dict(evaluable.sizing),
        features_version=features_version,
        partitions=tuple(partitions),
        reason=evaluable.reason(action),
        mode=str(mode),
    )


def parse_strategy(text: str, file: str, universe: Universe) -> tuple[Strategy | None, list[Problem]]:
    """Strategy of the file's text, or None and every problem it has; None and no problem when it is for another universe."""
    document = load_yaml(text, file)
    if other_universe(document, universe):
        return None, list(document.problems)
    parsed, problems = validate(StrategyFile, document)
    symbols: dict[Path, Any] = {}
    if isinstance(document.data, Mapping) and isinstance(document.data.get("symbols"), list):
        symbols = {("symbols", i): s for i, s in enumerate(document.data["symbols"])}
    problems = sorted([*problems, *check_names(document, symbols, universe)], key=lambda p: p.line)
    if parsed is None or problems:
        return None, problems
    primary = parsed.timeframe
    needs = dict.fromkeys(all_timeframes(primary, parsed.confirm), 1)
    sides = [parsed.entry, *([parsed.exits.rules] if parsed.exits.rules else [])]
    for condition in (c for s in sides for c in (s.long, s.short)):
        conditions.merge_warm_up(needs, conditions.warm_up(condition, primary))
    for level in (parsed.exits.stop, parsed.exits.target):
        if level is not None:
            conditions.merge_warm_up(needs, level.warm_up(primary))
    return (
        Strategy(
            name=parsed.name,
            revision=file_revision(text),
            symbols=tuple(parsed.symbols),
            timeframe=primary,
            timeframes=all_timeframes(primary, parsed.confirm),
            mode=parsed.mode,
            status=parsed.status,
            sizing=parsed.sizing.model_dump(mode="json"),
            valid_bars=parsed.gates.valid_bars,
            min_reward_to_risk=parsed.gates.min_reward_to_risk,
            quality_sessions=parsed.gates.quality_sessions,
            max_bars=parsed.exits.max_bars,
            warm_up=needs,
            costs=parsed.costs.model_dump(mode="json") if parsed.costs else None,
            rules=parsed,
            description=parsed.description,
            owner=parsed.owner,
        ),
        [],
    )


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a strategy file, for editors and the docs."""
    return with_indicator_rules(StrategyFile.model_json_schema(by_alias=True))
