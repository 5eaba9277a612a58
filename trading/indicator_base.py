"""What an indicator is: a function of TA-Lib, or a formula of ours, behind checked parameters, with the warm-up it needs.

One definition serves research and live. Arrays in, float64 arrays of the same length out, NaN where the value is not
known yet; a value at row i uses rows up to i only. An input that is not finite makes every output NaN from that row on:
TA-Lib's running sums would carry it along unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import talib
from numpy.typing import NDArray
from talib import abstract

from trading.bars import Bars

Floats = NDArray[np.float64]
Settle = Callable[[Mapping[str, Any]], int]
Formula = Callable[[Bars, Sequence[Floats], Mapping[str, float]], tuple[Floats, ...]]
"""(bars, input columns, complete parameters) -> outputs, each float64 (T,); every input is finite."""

PRICE_NAMES = ("open", "high", "low", "close")
SOURCES = (*PRICE_NAMES, "volume", "hl2", "hlc3", "ohlc4")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number of an indicator: TA-Lib's name of it ("" in a formula of ours), default, and the range that makes sense."""

    name: str
    talib_name: str
    default: float
    low: float
    high: float
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator. inputs: bar columns, "source" where the writer may choose; outputs: our names, first is the default.

    settle: bars beyond the lookback after which the start of a recursion no longer matters (weight below 0.1 %).
    formula: computes it instead of TA-Lib's `function`; bars_before: its lookback. sparse: outputs may be unknown (NaN) in
    rows after the lookback, where what they tell of has not happened yet. definition, reference: how it is defined exactly,
    and after whom.
    """

    name: str
    function: str
    inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    outputs: tuple[str, ...] = ("value",)
    settle: Settle = field(default=lambda _: 0)
    description: str = ""
    formula: Formula | None = None
    bars_before: Settle = field(default=lambda _: 0)
    sparse: bool = False
    definition: str = ""
    reference: str = ""

    @property
    def needs_volume(self) -> bool:
        return "volume" in self.inputs

    @property
    def takes_source(self) -> bool:
        return "source" in self.inputs

    def complete(self, params: Mapping[str, Any]) -> dict[str, float]:
        """`params` with the defaults filled in. Raises ValueError naming the parameter that is unknown or out of range."""
        known = {p.name: p for p in self.parameters}
        for name in params:
            if name not in known:
                raise ValueError(f"{self.name} has no parameter {name!r}: expected one of {', '.join(known) or 'none'}")
        values: dict[str, float] = {}
        for name, parameter in known.items():
            value = params.get(name, parameter.default)
            problem = parameter_problem(parameter, value)
            if problem:
                raise ValueError(f"{self.name} {name} {problem}")
            values[name] = int(value) if parameter.whole else float(value)
        return values

    def lookback(self, params: Mapping[str, Any]) -> int:
        """Rows before the first value it can give."""
        complete = self.complete(params)
        if self.formula is not None:
            return self.bars_before(complete)
        return _lookback(self.function, tuple((p.talib_name, complete[p.name]) for p in self.parameters))

    def warm_up(self, params: Mapping[str, Any]) -> int:
        """Bars needed, the current one included, before a value counts."""
        return self.lookback(params) + 1 + self.settle(self.complete(params))

    def compute(self, bars: Bars, params: Mapping[str, Any] | None = None, source: str = "close") -> tuple[Floats, ...]:
        """Outputs in the order of `outputs`, each float64 (T,), NaN where unknown."""
        columns = [column(bars, source if name == "source" else name) for name in self.inputs]
        complete = self.complete(params or {})
        n, lookback = len(bars), self.lookback(complete)
        if n <= lookback:
            return tuple(np.full(n, np.nan) for _ in self.outputs)
        finite = np.isfinite(columns[0])
        for one in columns[1:]:
            finite &= np.isfinite(one)
        good = n if bool(finite.all()) else int(np.argmin(finite))
        if good == 0:
            return tuple(np.full(n, np.nan) for _ in self.outputs)
        if self.formula is not None:
            result: Any = self.formula(bars if good == n else bars.rows(slice(0, good)), [c[:good] for c in columns], complete)
            return tuple(_padded(values, lookback, good, n) for values in result)
        # kwargs, because TA-Lib's parameters have a fixed order that ours need not follow
        arguments = {p.talib_name: complete[p.name] for p in self.parameters}
        result = getattr(talib, self.function)(*(c[:good] for c in columns), **arguments)
        arrays = result if isinstance(result, tuple) else (result,)
        # candlestick functions give 0 where they cannot know yet
        return tuple(_known(array, lookback, good, n) for array in arrays[: len(self.outputs)])


def _padded(array: NDArray[Any], lookback: int, good: int, n: int) -> Floats:
    values = np.empty(n)
    values[:lookback] = np.nan
    values[lookback:good] = array[lookback:]
    values[good:] = np.nan
    return values


def _known(array: NDArray[Any], lookback: int, good: int, n: int) -> Floats:
    """_padded for an array that TA-Lib made for this call: a whole one of floats is nobody else's and need not be copied."""
    if good < n or array.dtype != np.float64:
        return _padded(array, lookback, good, n)
    array[:lookback] = np.nan
    return array


def parameter_problem(parameter: Parameter, value: Any) -> str:
    """What is wrong with `value`, as a sentence's end, or ""."""
    kind = "a whole number" if parameter.whole else "a number"
    span = f"{kind} from {parameter.low:g} to {parameter.high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (parameter.whole and value != int(value)):
        return f"is {value!r}: expected {span}"
    return "" if parameter.low <= value <= parameter.high else f"is {value!r}: expected {span}"


@lru_cache(maxsize=1024)
def _lookback(function: str, arguments: tuple[tuple[str, float], ...]) -> int:
    handle = abstract.Function(function)  # type: ignore[attr-defined]
    if arguments:
        handle.parameters = dict(arguments)
    return int(handle.lookback)


def column(bars: Bars, name: str) -> Floats:
    """Column `name` of SOURCES as a contiguous float64 array."""
    if name in (*PRICE_NAMES, "volume"):
        return np.ascontiguousarray(getattr(bars, name), np.float64)
    if name == "hl2":
        return (bars.high + bars.low) / 2.0
    if name == "hlc3":
        return (bars.high + bars.low + bars.close) / 3.0
    if name == "ohlc4":
        return (bars.open + bars.high + bars.low + bars.close) / 4.0
    raise ValueError(f"no source {name!r}: expected one of {', '.join(SOURCES)}")
