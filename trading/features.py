"""Features: numbers per bar that models learn from, defined once, point-in-time, versioned by the hash of their definition.

Row i uses bars up to i only. A value is NaN until its indicator has settled (trading.indicators: warm_up).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import talib
from numpy.typing import NDArray

from trading import ids, indicators, windows
from trading.bars import Bars
from trading.calendars import Calendar

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Feature:
    """One column. source: an indicator's name or a formula's below; output: of the indicator; unit: for the catalogue."""

    name: str
    source: str
    params: dict[str, Any] = field(default_factory=dict)
    output: str = "value"
    unit: str = "price"
    description: str = ""


def _returns(bars: Bars, period: int) -> Floats:
    close = indicators.column(bars, "close")
    result = np.full(len(close), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        result[period:] = close[period:] / close[:-period] - 1.0
    return result


def _log_volatility(bars: Bars, period: int) -> Floats:
    close = indicators.column(bars, "close")
    good = int(np.argmin(close > 0)) if not bool(np.all(close > 0)) else len(close)
    result = np.full(len(close), np.nan)
    if good <= period:
        return result
    # TA-Lib's logarithm, not numpy's: numpy's vector lanes may round differently from its scalar tail
    logs = talib.LN(close[:good])
    result[1:good] = talib.STDDEV(np.ascontiguousarray(logs[1:] - logs[:-1]), timeperiod=period)
    return result


def _band_width(bars: Bars, period: int) -> Floats:
    upper, middle, lower = indicators.get("bollinger").compute(bars, {"period": period})
    with np.errstate(divide="ignore", invalid="ignore"):
        return (upper - lower) / middle


def _obv_change(bars: Bars, period: int) -> Floats:
    (obv,) = indicators.get("obv").compute(bars)
    result = np.full(len(obv), np.nan)
    if len(obv) <= period:
        return result
    total = talib.SUM(indicators.column(bars, "volume"), timeperiod=period)
    with np.errstate(divide="ignore", invalid="ignore"):
        result[period:] = (obv[period:] - obv[:-period]) / total[period:]
    return np.where(np.isfinite(result), result, np.nan)


# formula -> (function of bars and period, bars it needs for a period)
FORMULAS: dict[str, tuple[Callable[[Bars, int], Floats], Callable[[int], int]]] = {
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


def compute(bars: Bars) -> tuple[list[str], Floats]:
    """(names, float64 (T, F)) over exactly the bars given; NaN where a feature is not known yet."""
    values = np.full((len(bars), len(FEATURES)), np.nan)
    computed: dict[tuple[Any, ...], tuple[Floats, ...]] = {}
    for at, feature in enumerate(FEATURES):
        key = (feature.source, tuple(feature.params.items()))
        if key not in computed:
            if feature.source in FORMULAS:
                computed[key] = (FORMULAS[feature.source][0](bars, int(feature.params["period"])),)
            else:
                computed[key] = indicators.get(feature.source).compute(bars, feature.params)
        outputs = () if feature.source in FORMULAS else indicators.get(feature.source).outputs
        column = computed[key][outputs.index(feature.output) if outputs else 0]
        known = warm_up_of(feature) - 1
        values[known:, at] = column[known:]
    return list(NAMES), values


def compute_anchored(bars: Bars, calendar: Calendar) -> tuple[list[str], Floats]:
    """As `compute`, each row from its anchored window: equal, bit for bit, to computing it live (see trading.windows)."""
    values = np.full((len(bars), len(FEATURES)), np.nan)
    for start, lo, hi in windows.blocks(bars.session, bars.timeframe, WARM_UP, calendar):
        _, block = compute(bars.rows(slice(start, hi)))
        values[lo:hi] = block[lo - start :]
    return list(NAMES), values


def definitions() -> list[dict[str, Any]]:
    """The catalogue: name, source, parameters, output, unit, description, warm_up of every feature."""
    return [{**asdict(f), "warm_up": warm_up_of(f)} for f in FEATURES]
