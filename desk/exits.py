"""Which open positions a bar close ends: the strategies' exit conditions and their longest holding time.

Stops and targets work at the broker; here is what only bars can say. The window is the anchored one of research, so
that both see the same numbers. Nothing in here refuses: bad data is logged and never keeps a position open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from desk.hot_bars import BarCache
from trading.bars import Bars
from trading.calendars import calendar
from trading.frame import BarWindow
from trading.instruments import Instrument
from trading.strategy import Evaluable, context_of, legs_of
from trading.timeframes import Timeframe, iso
from trading.windows import window_starts

RULE = "rule"
MAX_BARS = "max_bars"
LEG = "leg"


class OpenPosition(Protocol):
    """What is asked of a position."""

    @property
    def strategy(self) -> str: ...
    @property
    def symbol(self) -> str: ...
    @property
    def quantity(self) -> float: ...
    @property
    def opened_time(self) -> int | None: ...
    @property
    def exit_state(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class ExitCheck:
    """One position looked at. reason: ``rule``, ``max_bars`` or ``leg`` (the other leg of its pair is not held), empty: stays.
    trouble: why it could not be judged."""

    strategy: str
    symbol: str
    reason: str = ""
    bars_held: int = 0
    trouble: str = ""


def check_exits(
    positions: Sequence[OpenPosition],
    evaluables: Mapping[str, Evaluable],
    instruments: Mapping[str, Instrument],
    cache: BarCache,
    closed: Mapping[str, Mapping[Timeframe, Bars]],
    close_time: int,
    held: Collection[tuple[str, str]] | None = None,
) -> list[ExitCheck]:
    """Judge every position whose strategy's primary timeframe has a new bar at `close_time` (UTC us).

    closed: the new bars, by symbol and timeframe. held: (strategy, symbol) of every open position, those not judged now
    included; default: `positions`. One strategy's failure never keeps the others from their exits.
    """
    checks: list[ExitCheck] = []
    for position in positions:
        if position.strategy == "external":
            continue  # placed by hand at the broker: a person's, not ours to close
        evaluable = evaluables.get(position.strategy)
        instrument = instruments.get(position.symbol)
        if evaluable is None or instrument is None:
            missing = "its strategy file is missing or invalid" if evaluable is None else "its instrument left the universe"
            checks.append(ExitCheck(position.strategy, position.symbol, trouble=f"{missing}: only its stop and target guard it"))
            continue
        new = closed.get(position.symbol, {}).get(evaluable.timeframe)
        if new is None or len(new) == 0:
            continue
        if held is None:
            held = {(p.strategy, p.symbol) for p in positions}
        if any((position.strategy, leg) not in held for leg in legs_of(evaluable)):
            checks.append(ExitCheck(position.strategy, position.symbol, LEG))
            continue
        try:
            checks.append(_check(position, evaluable, instrument, cache, close_time, int(new.close_time[-1])))
        except Exception as error:  # noqa: BLE001 - whatever one strategy does, the other positions are looked at
            trouble = f"exit could not be judged ({type(error).__name__}: {error}): only its stop and target guard it"
            checks.append(ExitCheck(position.strategy, position.symbol, trouble=trouble))
    return checks


def windows(evaluable: Evaluable, instrument: Instrument, cache: BarCache, until: int) -> dict[Any, Bars]:
    """The anchored windows of every series `evaluable` reads, up to the bars known at `until` (UTC us): its timeframes, and
    other instruments' under (symbol, timeframe)."""
    venue = calendar(instrument.calendar)
    newest = int(venue.number[max(0, int(np.searchsorted(venue.close_time, until, side="left")))])
    warm_up = {t: evaluable.warm_up.get(t, 0) for t in evaluable.timeframes}
    starts = window_starts(newest, warm_up, venue)
    found: dict[Any, Bars] = {t: cache.bars(instrument.symbol, t, starts[t], until) for t in evaluable.timeframes}
    for symbol, timeframe in context_of(evaluable, instrument.symbol):
        found[symbol, timeframe] = cache.bars(symbol, timeframe, starts[timeframe], until)
    return found


def _only_counts(evaluable: Evaluable) -> bool:
    """Is it a plan without an exit condition? Its bars are counted; what it manages is asked of it elsewhere (managing)."""
    return getattr(evaluable, "kind", "") == "plan" and getattr(evaluable.rules, "exit", None) is None  # type: ignore[attr-defined]


def _check(
    position: OpenPosition, evaluable: Evaluable, instrument: Instrument, cache: BarCache, close_time: int, newest: int
) -> ExitCheck:
    bars = BarWindow(windows(evaluable, instrument, cache, close_time))
    bars.tail = 1
    primary = bars[evaluable.timeframe]
    if len(primary) == 0 or int(primary.close_time[-1]) != newest:
        raise ValueError(f"the window of bars_{evaluable.timeframe} does not end with the bar closing {iso(newest)}")
    opened = position.opened_time if position.opened_time is not None else close_time
    held = int(len(primary) - np.searchsorted(primary.close_time, opened, side="right"))
    if _only_counts(evaluable):
        reason = MAX_BARS if 0 < evaluable.max_bars <= held else ""
        return ExitCheck(position.strategy, position.symbol, reason, held)
    evaluation = evaluable.evaluate(bars, instrument)
    row = len(evaluation.close_time) - 1
    if row < 0 or int(evaluation.close_time[row]) != int(primary.close_time[-1]):
        raise ValueError("the evaluation does not end with the newest bar")
    wishes = evaluation.exit_long if position.quantity > 0 else evaluation.exit_short
    reason = RULE if bool(wishes[row]) else ""
    longest = evaluation.max_bars or evaluable.max_bars
    if not reason and longest > 0 and held >= longest:
        reason = MAX_BARS
    refused = getattr(evaluable, "refused", None)
    if not reason and refused is not None and (why := refused(position.symbol)):  # a model that cannot be asked
        return ExitCheck(position.strategy, position.symbol, bars_held=held, trouble=f"{why}: only its stop and target guard it")
    return ExitCheck(position.strategy, position.symbol, reason, held)
