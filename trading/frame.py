"""Bars of several timeframes, and of other instruments, seen from the primary one.

A value of another series at a primary bar is that of its last bar with close_time <= the primary close, never of a
forming one. A series of another instrument that has not moved for days is unknown, not old.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading import indicators, patterns
from trading.bars import Bars
from trading.indicators import Indicator
from trading.timeframes import Timeframe

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SeriesKey = Timeframe | tuple[str, Timeframe]
"""Where a series stands in a window: a timeframe of the instrument itself, or (symbol, timeframe) of another one."""

CONTEXT_DAYS = 5
CONTEXT_DAYS_WEEKLY = 12
"""Calendar days after which the last bar of another instrument no longer says anything (weekly bars: the second figure)."""


class SeriesCache:
    """What was computed on bars, kept for the next strategy that asks for the same on the same bars.

    The bars are identified by the object: whoever wants to share hands the same Bars to several strategies.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self.computed = 0
        self.reused = 0

    def outputs(self, definition: Indicator, params: Mapping[str, float], source: str, bars: Bars) -> tuple[Floats, ...]:
        """Outputs of `definition` over `bars`; params complete."""
        return self.get(
            (id(definition), tuple(params.items()), source), bars, lambda: definition.compute(bars, params, source), definition
        )

    def get(self, key: tuple[Any, ...], bars: Bars, make: Any, owner: Any = None) -> Any:
        """make(), once per `key` and bars. owner: kept alive with the entry when the key holds its id."""
        full = (id(bars), *key)
        found = self._kept.get(full)
        if found is None:
            self.computed += 1
            found = self._kept[full] = ((bars, owner), make())
        else:
            self.reused += 1
        return found[1]


class BarWindow(dict[Any, Bars]):
    """Bars by SeriesKey with a cache that strategies evaluated on the same bars share. tail: how many of the newest rows are
    asked about, None: all; what is costly to compute (a model) need not be for the others."""

    def __init__(self, bars: Mapping[Any, Bars], cache: SeriesCache | None = None) -> None:
        super().__init__(bars)
        self.cache = cache or SeriesCache()
        self.tail: int | None = None


@dataclass(slots=True)
class Frame:
    """The series a strategy reads. bars: by SeriesKey; a BarWindow brings its cache along."""

    bars: Mapping[Any, Bars]
    primary: Timeframe
    cache: SeriesCache = field(default=None)  # type: ignore[assignment]
    _aligned: dict[tuple[str | None, Timeframe], NDArray[np.int64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cache is None:
            self.cache = getattr(self.bars, "cache", None) or SeriesCache()

    def __len__(self) -> int:
        return len(self.bars[self.primary])

    def series(self, timeframe: Timeframe | None = None, symbol: str | None = None) -> Bars:
        """Bars of a timeframe (None: primary) of the instrument, or of another one. Raises KeyError when not given."""
        own = self.bars[self.primary]
        if symbol is None or symbol == own.symbol:
            return self.bars[timeframe or self.primary]
        return self.bars[symbol, timeframe or self.primary]

    def align(self, timeframe: Timeframe, symbol: str | None = None) -> NDArray[np.int64]:
        """int64 (T,): position of the last bar of that series closed at or before each primary close; -1 = none."""
        key = (symbol, timeframe)
        if key not in self._aligned:
            own, other = self.bars[self.primary], self.series(timeframe, symbol)
            at = (np.searchsorted(other.close_time, own.close_time, side="right") - 1).astype(np.int64)
            if other.symbol != own.symbol and len(other):
                days = CONTEXT_DAYS_WEEKLY if timeframe is Timeframe.W1 else CONTEXT_DAYS
                age = own.session.astype(np.int64) - other.session[np.maximum(at, 0)]
                at[age > days] = -1
            self._aligned[key] = at
        return self._aligned[key]

    def on_primary(self, values: Floats, timeframe: Timeframe, lookback: int = 0, symbol: str | None = None) -> Floats:
        """`values` of a series, `lookback` of its bars before, as float64 (T,) over primary bars; NaN where none."""
        result = np.full(len(self), np.nan)
        if timeframe is self.primary and symbol in (None, self.bars[self.primary].symbol):
            # its own bars are where they are: close times are unique and ascending
            result[lookback:] = values[: max(len(values) - lookback, 0)]
            return result
        at = self.align(timeframe, symbol)
        at = np.where(at >= 0, at - lookback, -1)
        known = at >= 0
        result[known] = values[at[known]]
        return result

    def indicator(
        self, name: str, params: Mapping[str, Any], output: str | None = None, source: str | None = None,
        timeframe: Timeframe | None = None, lookback: int = 0, symbol: str | None = None,
    ) -> Floats:  # fmt: skip
        """One output of an indicator over primary bars."""
        values = self.own_values(indicators.get(name), params, output, source, timeframe, symbol)
        return self.on_primary(values, timeframe or self.primary, lookback, symbol)

    def pattern(
        self, name: str, params: Mapping[str, Any], output: str | None = None, timeframe: Timeframe | None = None,
        lookback: int = 0, symbol: str | None = None,
    ) -> Floats:  # fmt: skip
        """One output of a price-action pattern over primary bars; its signal when none is named."""
        values = self.own_values(patterns.get(name), params, output, None, timeframe, symbol)
        return self.on_primary(values, timeframe or self.primary, lookback, symbol)

    def price(self, name: str, timeframe: Timeframe | None = None, lookback: int = 0, symbol: str | None = None) -> Floats:
        """A price column over primary bars."""
        timeframe = timeframe or self.primary
        return self.on_primary(indicators.column(self.series(timeframe, symbol), name), timeframe, lookback, symbol)

    def operand(self, operand: Any) -> Floats:
        """Values of a strategy file's operand over primary bars, float64 (T,)."""
        from trading.conditions import value_of

        return value_of(operand, self)

    def own_values(
        self, definition: Indicator, params: Mapping[str, Any], output: str | None, source: str | None,
        timeframe: Timeframe | None, symbol: str | None = None,
    ) -> Floats:  # fmt: skip
        """One output of `definition` over the bars of its own series, not yet aligned."""
        outputs = self.cache.outputs(definition, definition.complete(params), source or "close", self.series(timeframe, symbol))
        return outputs[definition.outputs.index(output) if output else 0]


@njit(cache=True)
def rolling(values: Floats, bars: int, kind: int) -> Floats:
    """Highest (kind 0), lowest (1) or mean (2) of the last `bars` values, this one included; NaN where one is missing."""
    n = len(values)
    out = np.full(n, np.nan)
    missing = 0
    for i in range(n):
        missing += np.isnan(values[i])
        if i >= bars:
            missing -= np.isnan(values[i - bars])
        if i < bars - 1 or missing:
            continue
        result = values[i]
        for j in range(i - bars + 1, i):
            if kind == 0:
                result = max(result, values[j])
            elif kind == 1:
                result = min(result, values[j])
            else:
                result += values[j]
        out[i] = result / bars if kind == 2 else result
    return out
