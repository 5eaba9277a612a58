"""Indicators by name: TA-Lib's batch functions behind checked parameters, with the warm-up each needs.

One definition serves research and live. Arrays in, float64 arrays of the same length out, NaN where the value is not
known yet; a value at row i uses rows up to i only. An input that is not finite makes every output NaN from that row on:
TA-Lib's running sums would carry it along unseen.
"""

from __future__ import annotations

from trading import indicators_own, indicators_talib
from trading.indicator_base import (
    PRICE_NAMES,
    SOURCES,
    Floats,
    Formula,
    Indicator,
    Parameter,
    Settle,
    column,
    parameter_problem,
)
from trading.indicators_talib import CANDLES

__all__ = [
    "CANDLES", "INDICATORS", "PRICE_NAMES", "SOURCES", "Floats", "Formula", "Indicator", "Parameter", "Settle", "column", "get",
    "parameter_problem", "register",
]  # fmt: skip

INDICATORS: dict[str, Indicator] = {
    d.name: d for d in (*indicators_talib.DEFINITIONS, *indicators_own.DEFINITIONS, *indicators_talib.CANDLESTICKS)
}
"""Every indicator a file may name."""


def get(name: str) -> Indicator:
    """Indicator `name`. Raises KeyError naming the valid ones."""
    if name not in INDICATORS:
        raise KeyError(f"no indicator {name!r}: expected one of {', '.join(INDICATORS)}")
    return INDICATORS[name]


def register(definition: Indicator) -> Indicator:
    """Make `definition` known under its name (a plug-in's own). Raises ValueError when the name is taken."""
    if definition.name in INDICATORS:
        raise ValueError(f"indicator {definition.name!r} exists already")
    INDICATORS[definition.name] = definition
    return definition
