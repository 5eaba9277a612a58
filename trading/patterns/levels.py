"""Support and resistance: prices where several confirmed swings met."""

from __future__ import annotations

import numpy as np
from numba import njit

from trading.patterns.base import Bars, Floats, Mapping, Parameter, Sequence, pattern, whole
from trading.patterns.swings import LEFT_RIGHT, Rows, confirmed, span

_RANGE_BARS = 14


@njit(cache=True)
def _levels(
    high: Floats, low: Floats, close: Floats, high_at: Rows, low_at: Rows, swings: int, touches: int, tolerance: float
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    n = len(close)
    signal = np.zeros(n)
    support, resistance = np.full(n, np.nan), np.full(n, np.nan)
    under, over = np.full(n, np.nan), np.full(n, np.nan)
    prices = np.zeros(swings)
    count = 0
    for i in range(n):
        for at, is_high in ((high_at[i], True), (low_at[i], False)):
            if at >= 0:
                if count == swings:
                    prices[:-1] = prices[1:].copy()
                    count -= 1
                prices[count] = high[at] if is_high else low[at]
                count += 1
        if i < _RANGE_BARS - 1:
            continue
        total = 0.0
        for j in range(i - _RANGE_BARS + 1, i + 1):
            total += high[j] - low[j]
        width = tolerance * total / _RANGE_BARS
        if i > 0:
            from_support = low[i] <= support[i - 1] + width and close[i] > support[i - 1]
            from_resistance = high[i] >= resistance[i - 1] - width and close[i] < resistance[i - 1]
            if from_support and not from_resistance:
                signal[i] = 1.0
            elif from_resistance and not from_support:
                signal[i] = -1.0
        for g in range(count):
            near, number = 0.0, 0
            for h in range(count):
                if abs(prices[h] - prices[g]) <= width:
                    near += prices[h]
                    number += 1
            if number < touches:
                continue
            level = near / number
            if level <= close[i] and not support[i] >= level:
                support[i], under[i] = level, number
            if level >= close[i] and not resistance[i] <= level:
                resistance[i], over[i] = level, number
    return signal, support, resistance, under, over


@pattern(
    "support_resistance", ("high", "low", "close"), ("support", "resistance", "support_touches", "resistance_touches"),
    (*LEFT_RIGHT, whole("swings", 20, 2, 200), whole("touches", 2, 1, 20), Parameter("tolerance", "", 0.5, 0.0, 10, whole=False)),
    before=lambda p: max(span(p), _RANGE_BARS - 1), settle=lambda p: int(p["swings"]) * span(p),
    what="support and resistance from swings that met",
    definition="of the newest `swings` confirmed swing highs and lows, those within `tolerance` times the mean range of the last "
    f"{_RANGE_BARS} bars of one of them are a level when they are at least `touches`; its price is their mean. support: the "
    "highest level at or below the close; resistance: the lowest at or above it. signal: 1 when the bar's low came within the "
    "tolerance of the support of the bar before and it closed above that support, -1 for resistance, 0 when both.",
    reference="horizontal support and resistance; Edwards and Magee, \"Technical Analysis of Stock Trends\"",
)  # fmt: skip
def _support(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    high, low, close = columns
    at = confirmed(high, low, int(p["left"]), int(p["right"]))
    return _levels(high, low, close, *at, int(p["swings"]), int(p["touches"]), float(p["tolerance"]))
