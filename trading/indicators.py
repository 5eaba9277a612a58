"""Indicators by name: TA-Lib's batch functions behind checked parameters, with the warm-up each needs.

One definition serves research and live. Arrays in, float64 arrays of the same length out, NaN where the value is not
known yet; a value at row i uses rows up to i only. An input that is not finite makes every output NaN from that row on:
TA-Lib's running sums would carry it along unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

PRICE_NAMES = ("open", "high", "low", "close")
SOURCES = (*PRICE_NAMES, "volume", "hl2", "hlc3", "ohlc4")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One number of an indicator: TA-Lib's name of it, default, and the range that makes sense."""

    name: str
    talib_name: str
    default: float
    low: float
    high: float
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Indicator:
    """One indicator. inputs: bar columns, "source" where the writer may choose; outputs: our names, first is the default.

    settle: bars beyond TA-Lib's lookback after which the start of a recursion no longer matters (weight below 0.1 %).
    """

    name: str
    function: str
    inputs: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    outputs: tuple[str, ...] = ("value",)
    settle: Settle = field(default=lambda _: 0)
    description: str = ""

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
        """Rows before the first value TA-Lib can give."""
        complete = self.complete(params)
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
        # kwargs, because TA-Lib's parameters have a fixed order that ours need not follow
        arguments = {p.talib_name: complete[p.name] for p in self.parameters}
        result = getattr(talib, self.function)(*(c[:good] for c in columns), **arguments)
        arrays = result if isinstance(result, tuple) else (result,)
        outputs = []
        for array in arrays[: len(self.outputs)]:
            values = np.full(n, np.nan)
            values[lookback:good] = array[lookback:]  # candlestick functions give 0 where they cannot know yet
            outputs.append(values)
        return tuple(outputs)


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


def _period(default: int, name: str = "period", talib_name: str = "timeperiod", low: int = 2) -> Parameter:
    return Parameter(name, talib_name, default, low, 5000)


def _ema(times: int = 4, name: str = "period") -> Settle:
    # weight of the start after n bars is (1 - 2/(N+1))^n: 0.03 % at n = 4 N
    return lambda p: times * int(p[name])


def _wilder(times: int = 7) -> Settle:
    # weight (1 - 1/N)^n: 0.09 % at n = 7 N
    return lambda p: times * int(p["period"])


_HLC = ("high", "low", "close")
_SOURCE = ("source",)
_DEVIATIONS = (
    Parameter("deviations_up", "nbdevup", 2.0, 0.1, 20, whole=False),
    Parameter("deviations_down", "nbdevdn", 2.0, 0.1, 20, whole=False),
)
_BANDS = ("upper", "middle", "lower")

_DEFINITIONS = (
    Indicator("sma", "SMA", _SOURCE, (_period(20),), description="simple moving average"),
    Indicator("ema", "EMA", _SOURCE, (_period(20),), settle=_ema(), description="exponential moving average"),
    Indicator("wma", "WMA", _SOURCE, (_period(20),), description="weighted moving average"),
    Indicator("dema", "DEMA", _SOURCE, (_period(20),), settle=_ema(), description="double exponential moving average"),
    Indicator("tema", "TEMA", _SOURCE, (_period(20),), settle=_ema(), description="triple exponential moving average"),
    Indicator("kama", "KAMA", _SOURCE, (_period(20),), settle=_ema(20), description="Kaufman adaptive moving average"),
    Indicator("rsi", "RSI", _SOURCE, (_period(14),), settle=_wilder(), description="relative strength index, 0 to 100"),
    Indicator(
        "macd", "MACD", _SOURCE,
        (_period(12, "fast", "fastperiod"), _period(26, "slow", "slowperiod"), _period(9, "signal", "signalperiod", 1)),
        ("macd", "signal", "histogram"), lambda p: 4 * (max(int(p["slow"]), int(p["fast"])) + int(p["signal"])),
        "moving average convergence divergence",
    ),
    Indicator("bollinger", "BBANDS", _SOURCE, (_period(20), *_DEVIATIONS), _BANDS, description="Bollinger bands"),
    Indicator("atr", "ATR", _HLC, (_period(14, low=1),), settle=_wilder(), description="average true range, in price"),
    Indicator("natr", "NATR", _HLC, (_period(14, low=1),), settle=_wilder(), description="average true range, percent of close"),
    Indicator("true_range", "TRANGE", _HLC, description="true range, in price"),
    Indicator(
        "stochastic", "STOCH", _HLC,
        (_period(14, "fast_k", "fastk_period", 1), _period(3, "slow_k", "slowk_period", 1),
         _period(3, "slow_d", "slowd_period", 1)),
        ("k", "d"), description="slow stochastic, 0 to 100",
    ),
    Indicator("adx", "ADX", _HLC, (_period(14),), settle=_wilder(14), description="average directional index, 0 to 100"),
    Indicator("plus_di", "PLUS_DI", _HLC, (_period(14),), settle=_wilder(), description="plus directional indicator"),
    Indicator("minus_di", "MINUS_DI", _HLC, (_period(14),), settle=_wilder(), description="minus directional indicator"),
    Indicator("cci", "CCI", _HLC, (_period(14),), description="commodity channel index"),
    Indicator("williams_r", "WILLR", _HLC, (_period(14),), description="Williams %R, -100 to 0"),
    Indicator("mfi", "MFI", (*_HLC, "volume"), (_period(14),), description="money flow index, 0 to 100"),
    Indicator("obv", "OBV", ("source", "volume"), description="on-balance volume since the window's first bar"),
    Indicator("roc", "ROC", _SOURCE, (_period(10, low=1),), description="rate of change, percent"),
    Indicator("momentum", "MOM", _SOURCE, (_period(10, low=1),), description="difference to the value `period` bars ago"),
    Indicator(
        "stddev", "STDDEV", _SOURCE, (_period(20), Parameter("deviations", "nbdev", 1.0, 0.01, 100, whole=False)),
        description="standard deviation",
    ),
    Indicator("highest", "MAX", _SOURCE, (_period(20),), description="highest of the last `period` bars, this one included"),
    Indicator("lowest", "MIN", _SOURCE, (_period(20),), description="lowest of the last `period` bars, this one included"),
    Indicator("donchian", "DONCHIAN", ("high", "low"), (_period(20),), _BANDS, description="Donchian channel"),
    Indicator("aroon", "AROON", ("high", "low"), (_period(14),), ("down", "up"), description="Aroon, 0 to 100"),
    Indicator(
        "sar", "SAR", ("high", "low"),
        (Parameter("acceleration", "acceleration", 0.02, 0.001, 1, whole=False),
         Parameter("maximum", "maximum", 0.2, 0.001, 1, whole=False)),
        settle=lambda _: 100, description="parabolic stop and reverse",
    ),
    Indicator("trix", "TRIX", _SOURCE, (_period(15),), settle=_ema(), description="1-day rate of change of a triple EMA"),
    Indicator("linear_slope", "LINEARREG_SLOPE", _SOURCE, (_period(14),), description="slope of the regression line, per bar"),
)  # fmt: skip

CANDLES = (
    "doji", "engulfing", "hammer", "shootingstar", "morningstar", "eveningstar", "harami", "piercing", "darkcloudcover",
    "3whitesoldiers", "3blackcrows", "hangingman", "invertedhammer", "marubozu", "spinningtop", "dragonflydoji",
    "gravestonedoji", "3inside", "3outside", "haramicross",
)  # fmt: skip
"""Candlestick patterns offered as ``candle_<name>``: 100 bullish, -100 bearish, 0 absent."""

INDICATORS: dict[str, Indicator] = {d.name: d for d in _DEFINITIONS} | {
    f"candle_{name}": Indicator(
        f"candle_{name}", f"CDL{name.upper()}", PRICE_NAMES, description=f"candlestick pattern {name}: 100, 0 or -100"
    )
    for name in CANDLES
}
"""Every indicator a file may name."""


def get(name: str) -> Indicator:
    """Indicator `name`. Raises KeyError naming the valid ones."""
    if name not in INDICATORS:
        raise KeyError(f"no indicator {name!r}: expected one of {', '.join(INDICATORS)}")
    return INDICATORS[name]
