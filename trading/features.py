"""Features: numbers per bar that models learn from, defined once, point-in-time, versioned by the hash of their definition.

Row i uses bars up to i only. A value is NaN until its indicator has settled (trading.indicators: warm_up).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from inspect import unwrap
from typing import Any

import numpy as np
import talib
from numpy.typing import NDArray

from trading import ids, indicators, windows
from trading.bars import Bars
from trading.calendars import Calendar
from trading.timeframes import Timeframe

Floats = NDArray[np.float64]

TIMEFRAMES = (Timeframe.M1, Timeframe.H1, Timeframe.D1)
"""Timeframes features are made of, as far as the universe has them."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One column. source: an indicator's name or a formula's below; output: of the indicator; unit: for the catalogue."""

    name: str
    source: str
    params: dict[str, Any] = field(default_factory=dict)
    output: str = "value"
    unit: str = "price"
    description: str = ""


class Window:
    """The bars one computation sees: its columns, how far each can be used, and every TA-Lib result once."""

    def __init__(self, bars: Bars) -> None:
        self.n = len(bars)
        self._bars = bars
        self._columns: dict[str, Floats] = {}
        self._good: dict[tuple[str, ...], int] = {}
        self._results: dict[int, tuple[Floats, ...]] = {}

    def column(self, name: str) -> Floats:
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = indicators.column(self._bars, name)
        return found

    def good(self, names: tuple[str, ...]) -> int:
        """Rows before the first one in which one of the columns is not finite: TA-Lib would carry it along unseen."""
        found = self._good.get(names)
        if found is None:
            if len(names) == 1:
                finite = np.isfinite(self.column(names[0]))
                found = self.n if finite.all() else int(np.argmin(finite))
            else:
                found = min(self.good((name,)) for name in names)
            self._good[names] = found
        return found

    def call(self, call: _Call) -> tuple[Floats, ...]:
        """The outputs of a TA-Lib function over the good rows; only those from its lookback on mean anything."""
        found = self._results.get(id(call))  # calls are made once and kept (_Call.of)
        if found is None:
            good = self.good(call.inputs)
            columns = [self.column(name) for name in call.inputs]
            if good < self.n:
                columns = [c[:good] for c in columns]
            result = call.function(*columns, **call.arguments)
            found = self._results[id(call)] = result if isinstance(result, tuple) else (result,)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One TA-Lib function with its inputs and arguments."""

    function: Callable[..., Any]
    inputs: tuple[str, ...]
    arguments: dict[str, float]
    lookback: int

    @staticmethod
    @cache  # as many as there are features
    def of(source: str, params: tuple[tuple[str, Any], ...]) -> _Call:
        indicator = indicators.get(source)
        complete = indicator.complete(dict(params))
        inputs = tuple("close" if name == "source" else name for name in indicator.inputs)
        # kwargs, because TA-Lib's parameters have a fixed order that ours need not follow
        arguments = {p.talib_name: complete[p.name] for p in indicator.parameters}
        # without the wrapper that looks for data frames among the arguments
        function = unwrap(getattr(talib, indicator.function))
        return _Call(function, inputs, arguments, indicator.lookback(complete))


Formula = Callable[[Window, int, int, Floats], int]
"""(window, period, first row wanted, out): writes rows first.. into out and returns the first row it has no value for."""


def _returns(window: Window, period: int, first: int, out: Floats) -> int:
    close = window.column("close")
    np.divide(close[first:], close[first - period : window.n - period], out=out)
    np.subtract(out, 1.0, out=out)
    return window.n


def _log_volatility(window: Window, period: int, first: int, out: Floats) -> int:
    close = window.column("close")
    positive = close > 0
    good = window.n if bool(positive.all()) else int(np.argmin(positive))
    if good <= max(period, first):
        return first
    # TA-Lib's logarithm, not numpy's: numpy's vector lanes may round differently from its scalar tail
    logs = talib.LN(close[:good])
    out[: good - first] = talib.STDDEV(logs[1:] - logs[:-1], timeperiod=period)[first - 1 :]
    return good


def _band_width(window: Window, period: int, first: int, out: Floats) -> int:
    call = _Call.of("bollinger", (("period", period), ("deviations_up", 2.0), ("deviations_down", 2.0)))
    good = window.good(call.inputs)
    if good <= max(call.lookback, first):
        return first
    upper, middle, lower = (values[first:good] for values in window.call(call))
    np.divide(upper - lower, middle, out=out[: good - first])
    return good


def _obv_change(window: Window, period: int, first: int, out: Floats) -> int:
    call = _Call.of("obv", ())
    good = window.good(call.inputs)
    if good <= max(period, first):
        return first
    (obv,) = window.call(call)
    total = talib.SUM(window.column("volume"), timeperiod=period)
    part = out[: good - first]
    np.divide(obv[first:good] - obv[first - period : good - period], total[first:good], out=part)
    part[~np.isfinite(part)] = np.nan
    return good


# formula -> (its function, bars it needs for a period)
FORMULAS: dict[str, tuple[Formula, Callable[[int], int]]] = {
    "return": (_returns, lambda n: n + 1),
    "log_volatility": (_log_volatility, lambda n: n + 1),
    "bollinger_width": (_band_width, lambda n: n),
    "obv_change": (_obv_change, lambda n: n + 1),
}

CANDLE_FEATURES = (
    "doji", "engulfing", "hammer", "shootingstar", "morningstar", "eveningstar", "harami", "piercing", "darkcloudcover",
    "3whitesoldiers",
)  # fmt: skip

_BOLLINGER = {"period": 20, "deviations_up": 2.0, "deviations_down": 2.0}
_MACD = {"fast": 12, "slow": 26, "signal": 9}
_STOCHASTIC = {"fast_k": 14, "slow_k": 3, "slow_d": 3}

FEATURES: tuple[Feature, ...] = (
    *(Feature(f"sma_{n}", "sma", {"period": n}, description=f"simple moving average of {n} closes") for n in (10, 20, 50)),
    *(Feature(f"ema_{n}", "ema", {"period": n}, description=f"exponential moving average of {n} closes") for n in (12, 26)),
    Feature("rsi_14", "rsi", {"period": 14}, unit="0..100", description="relative strength index"),
    Feature("macd", "macd", _MACD, "macd", description="EMA 12 minus EMA 26"),
    Feature("macd_signal", "macd", _MACD, "signal", description="EMA 9 of macd"),
    Feature("macd_histogram", "macd", _MACD, "histogram", description="macd minus its signal"),
    Feature("bollinger_upper", "bollinger", _BOLLINGER, "upper", description="20-bar mean plus 2 deviations"),
    Feature("bollinger_middle", "bollinger", _BOLLINGER, "middle", description="20-bar mean"),
    Feature("bollinger_lower", "bollinger", _BOLLINGER, "lower", description="20-bar mean minus 2 deviations"),
    Feature("bollinger_width", "bollinger_width", {"period": 20}, unit="ratio", description="band width over its middle"),
    Feature("atr_14", "atr", {"period": 14}, description="average true range"),
    Feature("stochastic_k", "stochastic", _STOCHASTIC, "k", "0..100", "slow stochastic %K"),
    Feature("stochastic_d", "stochastic", _STOCHASTIC, "d", "0..100", "slow stochastic %D"),
    Feature("adx_14", "adx", {"period": 14}, unit="0..100", description="average directional index"),
    Feature("obv", "obv", unit="volume", description="on-balance volume since the first bar of the anchored window"),
    Feature("obv_change_20", "obv_change", {"period": 20}, unit="ratio", description="OBV change over 20 bars over their volume"),
    *(Feature(f"candle_{n}", f"candle_{n}", unit="-100..100", description=f"candlestick pattern {n}") for n in CANDLE_FEATURES),
    *(Feature(f"return_{n}", "return", {"period": n}, unit="ratio", description=f"close over the close {n} bars before, minus 1")
      for n in (1, 5, 20)),
    Feature("volatility_20", "log_volatility", {"period": 20}, unit="per bar",
            description="population deviation of the last 20 one-bar log returns, not annualised"),
)  # fmt: skip
"""The columns, in their order."""

NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)

_COMPUTATION = 1  # raise it when a formula above changes what it gives


def _version() -> str:
    rows = [{k: v for k, v in asdict(f).items() if k in ("name", "source", "params", "output")} for f in FEATURES]
    settled = [warm_up_of(f) for f in FEATURES]
    return ids.content_hash([_COMPUTATION, talib.__version__, rows, settled])[:12]


def warm_up_of(feature: Feature) -> int:
    """Bars needed, the current one included, before the feature has a value."""
    if feature.source in FORMULAS:
        return FORMULAS[feature.source][1](int(feature.params["period"]))
    return indicators.get(feature.source).warm_up(feature.params)


FEATURES_VERSION: str = _version()
"""12 hex digits: the same definitions and TA-Lib version give the same one on any machine."""

WARM_UP: int = max(warm_up_of(f) for f in FEATURES)
"""Bars after which every feature has a value."""


@cache
def _plan() -> list[tuple[int, int, _Call | None, int, str, int]]:
    """Per column: (column, first row with a value, TA-Lib call or None, its output, formula, period)."""
    plan: list[tuple[int, int, _Call | None, int, str, int]] = []
    for at, feature in enumerate(FEATURES):
        known = warm_up_of(feature) - 1
        if feature.source in FORMULAS:
            plan.append((at, known, None, 0, feature.source, int(feature.params["period"])))
        else:
            call = _Call.of(feature.source, tuple(feature.params.items()))
            plan.append((at, known, call, indicators.get(feature.source).outputs.index(feature.output), "", 0))
    return plan


def _fill(bars: Bars, first: int, out: Floats) -> None:
    """Write rows `first` and later of every feature over `bars` into `out` (F, T - first)."""
    window = Window(bars)
    n = window.n
    with np.errstate(divide="ignore", invalid="ignore"):
        for at, known, call, output, formula, period in _plan():
            row = out[at]
            begin = known if known > first else first
            good = begin
            if begin < n:
                if call is None:
                    good = FORMULAS[formula][0](window, period, begin, row[begin - first :])
                elif (good := window.good(call.inputs)) > begin:
                    row[begin - first : good - first] = window.call(call)[output][begin:good]
                good = max(good, begin)
            if begin > first:
                row[: begin - first] = np.nan
            if good < n:
                row[good - first :] = np.nan


def compute(bars: Bars) -> tuple[list[str], Floats]:
    """(names, float64 (T, F)) over exactly the bars given; NaN where a feature is not known yet.

    The values lie column by column in memory, which is how they are computed, stored and learnt from.
    """
    columns = np.empty((len(FEATURES), len(bars)))
    _fill(bars, 0, columns)
    return list(NAMES), columns.T


def compute_from(bars: Bars, first: int) -> Floats:
    """Rows `first` and later of `compute`, float64 (T - first, F): the same numbers, the others not written."""
    columns = np.empty((len(FEATURES), len(bars) - first))
    _fill(bars, first, columns)
    return columns.T


def compute_anchored(bars: Bars, calendar: Calendar) -> tuple[list[str], Floats]:
    """As `compute`, each row from its anchored window: equal, bit for bit, to computing it live (see trading.windows)."""
    columns = np.empty((len(FEATURES), len(bars)))
    spans: list[tuple[int, int, int]] = []
    for start, lo, hi in windows.blocks(bars.session, bars.timeframe, WARM_UP, calendar):
        if spans and spans[-1][0] == start:  # what comes later changes no row: one computation serves both
            spans[-1] = (start, spans[-1][1], hi)
        else:
            spans.append((start, lo, hi))
    for start, lo, hi in spans:
        _fill(bars.rows(slice(start, hi)), lo - start, columns[:, lo:hi])
    return list(NAMES), columns.T


def definitions() -> list[dict[str, Any]]:
    """The catalogue: name, source, parameters, output, unit, description, warm_up of every feature."""
    return [{**asdict(f), "warm_up": warm_up_of(f)} for f in FEATURES]
