"""Thousands of conditions watched at once: which of them hold at a bar close.

Conditions on price levels become rows of arrays, and one compiled pass answers all of them; what needs more (indicators,
patterns, plug-ins) is evaluated as it is everywhere else, equal conditions once, with the indicator values shared. Both ways
answer what ``trigger.holds(frame)[-1]`` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.bars import Bars
from trading.conditions import Condition
from trading.execution_functions.base import Trigger
from trading.execution_functions.close_above import CloseAbove
from trading.execution_functions.close_back_inside import CloseBackInside
from trading.execution_functions.close_below import CloseBelow
from trading.execution_functions.closes_beyond import ClosesBeyond
from trading.execution_functions.indicator_condition import IndicatorCondition
from trading.execution_functions.level import FixedLevel
from trading.frame import BarWindow, Frame, SeriesCache
from trading.operands import Operand
from trading.timeframes import Timeframe

SeriesName = tuple[str, Timeframe]

_ABOVE: Final = 0  # the last `count` closes lie above the level
_BELOW: Final = 1
_TOUCH: Final = 2  # from the close before to this bar's range, the level is passed
_INSIDE: Final = 3  # the close before lies outside [level, upper], this one inside
_COMPARE: Final = 4  # and the three above: column > < >= <= level
_OPERATORS: Final = {">": 0, "<": 1, ">=": 2, "<=": 3}
_COLUMNS: Final = {"open": 0, "high": 1, "low": 2, "close": 3}


@dataclass(frozen=True, slots=True)
class Monitor:
    """A trigger to watch. key: names it in the answer; timeframe: the primary one, at whose closes it is asked."""

    key: str
    symbol: str
    timeframe: Timeframe
    trigger: Trigger


@dataclass(frozen=True, slots=True)
class _Compiled:
    series: SeriesName
    kind: int
    level: float
    upper: float
    count: int
    column: int


def compiled(monitor: Monitor) -> _Compiled | None:
    """The row of arrays that answers for `monitor`, None when its trigger needs more than prices of one series."""
    trigger = monitor.trigger
    own = (monitor.symbol, getattr(trigger, "timeframe", None) or monitor.timeframe)
    kind = type(trigger)
    if kind is CloseAbove or kind is CloseBelow:
        return _Compiled(own, _ABOVE if kind is CloseAbove else _BELOW, trigger.level, 0.0, 1, 3)  # type: ignore[attr-defined]
    if isinstance(trigger, ClosesBeyond) and kind is ClosesBeyond:
        return _Compiled(own, _ABOVE if trigger.direction == "above" else _BELOW, trigger.level, 0.0, trigger.count, 3)
    if isinstance(trigger, FixedLevel) and kind is FixedLevel:
        return _Compiled((monitor.symbol, monitor.timeframe), _TOUCH, trigger.price, 0.0, 2, 3)
    if isinstance(trigger, CloseBackInside) and kind is CloseBackInside and trigger.within == 1:
        lower = -np.inf if trigger.lower is None else trigger.lower
        return _Compiled(own, _INSIDE, lower, np.inf if trigger.upper is None else trigger.upper, 3, 3)
    if isinstance(trigger, IndicatorCondition) and kind is IndicatorCondition:
        return _comparison(monitor, trigger.condition)
    return None


def _comparison(monitor: Monitor, condition: Condition) -> _Compiled | None:
    """``{">": [close, 1.2]}``: a price of one series against a number."""
    if not condition.is_comparison or condition.within is not None or condition.for_ is not None:
        return None
    operator, (left, right) = condition.comparison()
    if operator not in _OPERATORS or left.price not in _COLUMNS or right.number is None:
        return None
    plain = Operand(price=left.price, timeframe=left.timeframe)
    if left != plain or right != Operand(number=right.number):
        return None
    code = _COMPARE + _OPERATORS[operator]
    return _Compiled((monitor.symbol, left.timeframe or monitor.timeframe), code, right.number, 0.0, 1, _COLUMNS[left.price])


@njit(cache=True)
def _pass(
    due: NDArray[np.bool_], group: NDArray[np.int64], series: NDArray[np.int64], kind: NDArray[np.int64],
    level: NDArray[np.float64], upper: NDArray[np.float64], count: NDArray[np.int64], column: NDArray[np.int64],
    closes: NDArray[np.float64], last: NDArray[np.float64],
) -> NDArray[np.bool_]:  # fmt: skip
    """bool (N,): which monitors of the due groups hold. closes: (S, K), newest first; last: (S, 4), the newest bar."""
    n = len(kind)
    held = np.zeros(n, np.bool_)
    for i in range(n):
        if not due[group[i]]:
            continue
        s, k, at = series[i], kind[i], level[i]
        if k in (_ABOVE, _BELOW):
            all_beyond = True
            for j in range(count[i]):
                price = closes[s, j]
                if (k == _ABOVE and not price > at) or (k == _BELOW and not price < at):
                    all_beyond = False
                    break
            held[i] = all_beyond
        elif k == _TOUCH:
            before, low, high = closes[s, 1], last[s, 2], last[s, 1]
            if not (np.isnan(before) or np.isnan(low) or np.isnan(high)):
                held[i] = min(before, low) <= at and max(before, high) >= at
        elif k == _INSIDE:
            now, before, earlier = closes[s, 0], closes[s, 1], closes[s, 2]
            was_out = not np.isnan(before) and not (at <= before <= upper[i])
            long_out = not np.isnan(earlier) and not (at <= earlier <= upper[i])
            held[i] = at <= now <= upper[i] and was_out and not long_out
        else:
            price = last[s, column[i]]
            if k == _COMPARE:
                held[i] = price > at
            elif k == _COMPARE + 1:
                held[i] = price < at
            elif k == _COMPARE + 2:
                held[i] = price >= at
            else:
                held[i] = price <= at
    return held


class Monitors:
    """Conditions compiled once, asked at every bar close."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        rows = [(m, compiled(m)) for m in monitors]
        self._level = [(m, c) for m, c in rows if c is not None]
        self._others = [(m, m.trigger.model_dump_json()) for m, c in rows if c is None]
        self._groups = {key: g for g, key in enumerate(dict.fromkeys((m.symbol, m.timeframe) for m, _ in self._level))}
        self._series = {key: s for s, key in enumerate(dict.fromkeys(c.series for _, c in self._level))}
        self._readers: dict[SeriesName, set[SeriesName]] = {}
        for m, c in self._level:
            self._readers.setdefault((m.symbol, m.timeframe), set()).add(c.series)
        ints = [[self._groups[m.symbol, m.timeframe], self._series[c.series], c.kind, c.count, c.column] for m, c in self._level]
        self._ints = np.array(ints, np.int64).reshape(-1, 5).T.copy()
        self._floats = np.array([[c.level, c.upper] for _, c in self._level], np.float64).reshape(-1, 2).T.copy()
        depth = max(3, int(self._ints[3].max(initial=1)))
        self._closes = np.full((max(1, len(self._series)), depth), np.nan)
        self._last = np.full((max(1, len(self._series)), 4), np.nan)
        self.keys = [m.key for m, _ in self._level]

    def __len__(self) -> int:
        return len(self._level) + len(self._others)

    def at_close(
        self,
        closed: Collection[SeriesName],
        newest: Callable[[str, Timeframe], Bars],
        window: Callable[[Monitor], Mapping[Any, Bars]],
    ) -> list[str]:
        """Keys of the monitors that hold now, of those whose primary series is among `closed`.

        newest(symbol, timeframe): bars of a series known now, at least as many as any trigger counts. window(monitor): the
        anchored window of a monitor that is no level, ending now.
        """
        held: list[str] = []
        due = np.array([key in closed for key in self._groups], np.bool_)
        if due.any():
            wanted = {series for key, on in zip(self._groups, due, strict=True) if on for series in self._readers[key]}
            for series in wanted:
                self._read(self._series[series], newest(*series))
            group, at, kind, count, column = self._ints
            level, upper = self._floats
            hits = _pass(due, group, at, kind, level, upper, count, column, self._closes, self._last)
            held += [self.keys[i] for i in np.flatnonzero(hits)]
        return held + self._evaluated(closed, window)

    def _read(self, row: int, bars: Bars) -> None:
        depth = self._closes.shape[1]
        last = bars.close[-depth:][::-1]
        self._closes[row] = np.nan
        self._closes[row, : len(last)] = last
        self._last[row] = (bars.open[-1], bars.high[-1], bars.low[-1], bars.close[-1]) if len(bars) else np.nan

    def _evaluated(self, closed: Collection[SeriesName], window: Callable[[Monitor], Mapping[Any, Bars]]) -> list[str]:
        """Those that are no level: equal ones over the same bars once, indicators once for all of them."""
        cache, known, held = SeriesCache(), {}, []
        for monitor, same in self._others:
            if (monitor.symbol, monitor.timeframe) not in closed:
                continue
            bars = window(monitor)
            key = (id(bars[monitor.timeframe]), monitor.timeframe, same)
            if key not in known:
                answer = monitor.trigger.holds(Frame(BarWindow(bars, cache), monitor.timeframe))
                known[key] = bool(len(answer) and answer[-1])
            if known[key]:
                held.append(monitor.key)
        return held
