"""What strategies and plans have in common: the protocol, evaluation on anchored windows, and the signal of a bar.

`evaluate_anchored` cuts a long history into the windows a live evaluation would see, and `signal_at` makes the Signal of
one bar. A strategy that reads other instruments names them in ``context``; their bars stand in the window under
(symbol, timeframe), begin at the session where the instrument's own bars of that timeframe begin, and end at the same
moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from trading import windows
from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.evaluation import Evaluation
from trading.execution_functions import Level
from trading.frame import Bools, Floats, Frame
from trading.instruments import Instrument, Mode
from trading.price_grid import on_grid
from trading.session_flat import flat_from
from trading.signals import Action, PartitionRef, Signal
from trading.strategy_schema import DAYS, Window
from trading.timeframes import Timeframe
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

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What it says at each bar of the primary timeframe. Raises ValueError when a timeframe's bars are not given."""
        ...

    def reason(self, action: Action) -> str:
        """Why it would take `action`, as text for reports."""
        ...


def check_bars(evaluable: Evaluable, bars: Mapping[Any, Bars], instrument: Instrument) -> None:
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
    for symbol, timeframe in context_of(evaluable, instrument.symbol):
        other = bars.get((symbol, timeframe))
        if other is None:
            raise ValueError(f"{evaluable.kind} {evaluable.name} on {instrument.symbol} needs {timeframe} bars of {symbol}, too")
        if other.symbol != symbol or other.timeframe is not timeframe:
            raise ValueError(f"{evaluable.name}: {other.symbol} {other.timeframe} bars given as {symbol} {timeframe}")


def context_of(evaluable: Evaluable, symbol: str) -> tuple[tuple[str, Timeframe], ...]:
    """Series of other instruments (symbol, timeframe) that `evaluable` reads when it looks at `symbol`.

    Their timeframes are among the evaluable's own.
    """
    return tuple(key for key in getattr(evaluable, "context", ()) if key[0] != symbol)


def legs_of(evaluable: Evaluable) -> tuple[str, ...]:
    """Symbols that are entered together or not at all; empty for every strategy that is not a pair."""
    return tuple(getattr(evaluable, "legs", ()))


def readiness(
    frame: Frame, warm_up: Mapping[Timeframe, int], context: Mapping[tuple[str, Timeframe], int] | None = None
) -> Bools:
    """bool (T,): every timeframe has as many bars as `warm_up` asks for, and every series of another instrument as many as
    `context` says."""
    ready = np.ones(len(frame), bool)
    for (symbol, timeframe), bars in (context or {}).items():
        ready &= frame.align(timeframe, symbol) + 1 >= bars
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
    strength: Floats | None = None, scale: Floats | None = None, parts: Mapping[str, Floats] | None = None,
    session_end: int | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluation with stops and targets on the instrument's tick grid.

    strength: of an entry at each bar, default 1; scale, parts: see Evaluation. session_end: minutes before the venue's close
    from which on positions are closed and none is opened, None: they are held over it. An entry without a stop, without the
    target its file asks for, or wanted on both sides at once is no entry.
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

    if session_end is not None:
        over = flat_from(bars, instrument, session_end)
        enter_long, enter_short = enter_long & ~over, enter_short & ~over
        exit_long, exit_short = exit_long | over, exit_short | over
    stop_long, target_long, long_known = levels(1)
    stop_short, target_short, short_known = levels(-1)
    both = enter_long & enter_short
    enter_long = enter_long & long_known & ~both
    enter_short = enter_short & short_known & ~both
    return Evaluation(
        symbol=bars.symbol, timeframe=frame.primary, close_time=bars.close_time, ready=ready,
        enter_long=enter_long, enter_short=enter_short, exit_long=exit_long, exit_short=exit_short,
        stop_long=stop_long, stop_short=stop_short, target_long=target_long, target_short=target_short,
        strength=np.where(enter_long | enter_short, 1.0 if strength is None else np.clip(strength, 0.0, 1.0), 0.0),
        max_bars=max_bars, scale=scale, parts=parts or {},
    )  # fmt: skip


def _positive(prices: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return np.where(prices > 0, prices, np.nan)


_ARRAYS = (
    "ready", "enter_long", "enter_short", "exit_long", "exit_short", "stop_long", "stop_short", "target_long",
    "target_short", "strength",
)  # fmt: skip


def evaluate_anchored(evaluable: Evaluable, bars: Mapping[Any, Bars], instrument: Instrument, venue: Calendar) -> Evaluation:
    """Evaluation of a whole history, each row computed from the window a live evaluation of it would read.

    bars: every timeframe of `evaluable`, and under (symbol, timeframe) what `context_of` names. Row i equals, bit for
    bit, the last row of ``evaluable.evaluate`` over `live_window` at its close_time.
    """
    check_bars(evaluable, bars, instrument)
    primary = bars[evaluable.timeframe]
    if len(primary) == 0:
        return evaluable.evaluate(bars, instrument)
    own = {t: b for t, b in bars.items() if isinstance(t, Timeframe)}
    parts: dict[str, list[Any]] = {name: [] for name in _ARRAYS}
    scales: list[Floats] = []
    details: list[Mapping[str, Floats]] = []
    targets: list[tuple[tuple[float, Floats], ...]] = []
    lengths: list[int] = []
    for window, offset, lo, hi in windows.slices(own, evaluable.timeframe, evaluable.warm_up, venue):
        given: dict[Any, Bars] = dict(window)
        until = int(primary.close_time[hi - 1])
        starts = window_starts(evaluable, int(primary.session[lo]), venue)
        for key in context_of(evaluable, instrument.symbol):
            given[key] = _between(bars[key], starts[key[1]], until)
        evaluation = evaluable.evaluate(given, instrument)
        rows = slice(lo - offset, hi - offset)
        for name in _ARRAYS:
            parts[name].append(getattr(evaluation, name)[rows])
        lengths.append(hi - lo)
        if evaluation.scale is not None:
            scales.append(evaluation.scale[rows])
        targets.append(tuple((share, levels[rows]) for share, levels in evaluation.targets))
        details.append({name: values[rows] for name, values in evaluation.parts.items()})
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    named = {
        name: np.concatenate([d.get(name, np.full(n, np.nan)) for d, n in zip(details, lengths, strict=True)])
        for name in dict.fromkeys(name for d in details for name in d)
    }
    evaluation = Evaluation(
        primary.symbol, evaluable.timeframe, primary.close_time, max_bars=evaluable.max_bars, **joined,
        scale=np.concatenate(scales) if len(scales) == len(lengths) else None, parts=named,
        targets=tuple((part[0][0], np.concatenate([levels for _, levels in part])) for part in zip(*targets, strict=True)),
    )  # fmt: skip
    judged = getattr(evaluable, "gate_history", None)  # trading.gated.Gated
    return evaluation if judged is None else judged(evaluation, bars, instrument, venue)


def _between(bars: Bars, start: int, until: int) -> Bars:
    """Bars from session number `start` on that are known at `until`."""
    first = int(np.searchsorted(bars.session, start, side="left"))
    last = int(np.searchsorted(bars.close_time, until, side="right"))
    return bars.rows(slice(first, max(first, last)))


def window_starts(evaluable: Evaluable, session: int, venue: Calendar) -> dict[Timeframe, int]:
    """First session number to read of each timeframe for a live evaluation of a bar of `session`; other instruments'
    bars of a timeframe start there, too."""
    return windows.window_starts(session, evaluable.warm_up, venue)


def live_window(
    evaluable: Evaluable, bars: Mapping[Any, Bars], close_time: int, session: int, venue: Calendar, symbol: str = ""
) -> dict[Any, Bars]:
    """The part of `bars` a live evaluation at the bar of `session` closing at `close_time` (UTC us) computes from.

    symbol: the instrument looked at; needed when the strategy trades one of those it reads as context, too.
    """
    starts = window_starts(evaluable, session, venue)
    window: dict[Any, Bars] = {t: _between(bars[t], start, close_time) for t, start in starts.items()}
    for key in context_of(evaluable, symbol or bars[evaluable.timeframe].symbol):
        window[key] = _between(bars[key], starts[key[1]], close_time)
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
    scale = 1.0 if evaluation.scale is None else float(evaluation.scale[row])
    if not np.isfinite(stop) or not np.isfinite(reference) or not np.isfinite(scale) or scale <= 0:
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
        sizing=scaled(evaluable.sizing, scale),
        features_version=features_version,
        partitions=tuple(partitions),
        reason=evaluable.reason(action) + parts_text(evaluation, row, action),
        mode=str(mode),
        targets=tuple((s, float(p[row]) if np.isfinite(p[row]) else None) for s, p in evaluation.targets),
        execution=dict(getattr(evaluable, "execution", {})),
        model=getattr(evaluable, "model_record", {}),
    )


def scaled(sizing: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """`sizing` with its amount (quantity, amount or percent) times `scale`."""
    if scale == 1.0:
        return dict(sizing)
    return {k: v * scale if k in ("quantity", "amount", "percent") else v for k, v in sizing.items()}


def parts_text(evaluation: Evaluation, row: int, action: Action) -> str:
    """`` [score 0.75: 4h trend 0.50, sweep 0.25, gap 0]`` of the parts recorded for that side at the row; else empty."""
    side = "long/" if action is Action.ENTER_LONG else "short/"
    shares = {k[len(side) :]: float(v[row]) for k, v in evaluation.parts.items() if k.startswith(side)}
    if not shares:
        return ""
    shown = ", ".join(f"{name} {value:.3g}" for name, value in shares.items())
    return f" [{evaluation.strength[row]:.3g}: {shown}]"
