"""The indicators TA-Lib has not: z-score, what belongs to the session, and rolling relations of two columns.

Sums that could drift are taken anew for every row, so that a value depends on its own bars only, not on where the window
began.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.bars import Bars
from trading.indicator_base import PRICE_NAMES, Floats, Indicator, Parameter


@njit(cache=True)
def _zscore(values: Floats, period: int) -> Floats:
    out = np.full(len(values), np.nan)
    for i in range(period - 1, len(values)):
        total = 0.0
        for j in range(i - period + 1, i + 1):
            total += values[j]
        mean = total / period
        squares = 0.0
        for j in range(i - period + 1, i + 1):
            squares += (values[j] - mean) ** 2
        deviation = np.sqrt(squares / (period - 1))
        # a flat window has no scale: its value is where its mean is
        out[i] = (values[i] - mean) / deviation if deviation > 0.0 else 0.0
    return out


@njit(cache=True)
def _session_vwap(price: Floats, volume: Floats, session: NDArray[np.int32], deviations: float) -> tuple[Floats, Floats, Floats]:
    n = len(price)
    value, upper, lower = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    total, weighted, squares = 0.0, 0.0, 0.0
    anchor = 0.0
    for i in range(n):
        if i == 0 or session[i] != session[i - 1]:
            total, weighted, squares = 0.0, 0.0, 0.0
            anchor = price[i]  # offsets from it keep the squares small, whatever the price level
        offset = price[i] - anchor
        total += volume[i]
        weighted += volume[i] * offset
        squares += volume[i] * offset * offset
        if total > 0.0:
            mean = weighted / total
            spread = deviations * np.sqrt(max(squares / total - mean * mean, 0.0))
        else:  # nobody has traded yet in this session
            mean, spread = offset, 0.0
        value[i] = anchor + mean
        upper[i] = value[i] + spread
        lower[i] = value[i] - spread
    return value, upper, lower


@njit(cache=True)
def _session_levels(
    open_: Floats, high: Floats, low: Floats, close: Floats, session: NDArray[np.int32]
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats]:
    n = len(close)
    first, top, bottom = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    before_top, before_bottom, before_close = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    gap = np.full(n, np.nan)
    last_top, last_bottom, last_close = np.nan, np.nan, np.nan
    for i in range(n):
        if i == 0 or session[i] != session[i - 1]:
            if i > 0:
                last_top, last_bottom, last_close = top[i - 1], bottom[i - 1], close[i - 1]
            first[i], top[i], bottom[i] = open_[i], high[i], low[i]
        else:
            first[i] = first[i - 1]
            top[i] = max(top[i - 1], high[i])
            bottom[i] = min(bottom[i - 1], low[i])
        before_top[i], before_bottom[i], before_close[i] = last_top, last_bottom, last_close
        gap[i] = (first[i] - last_close) / last_close * 100.0
    return first, top, bottom, before_top, before_bottom, before_close, gap


@njit(cache=True)
def _opening_range(high: Floats, low: Floats, session: NDArray[np.int32], bars: int) -> tuple[Floats, Floats]:
    n = len(high)
    top, bottom = np.full(n, np.nan), np.full(n, np.nan)
    count, highest, lowest = 0, np.nan, np.nan
    whole = False  # the first session may have begun before the window: its opening range is not known
    for i in range(n):
        if i > 0 and session[i] != session[i - 1]:
            count, whole = 0, True
        count += 1
        if count == 1:
            highest, lowest = high[i], low[i]
        elif count <= bars:
            highest, lowest = max(highest, high[i]), min(lowest, low[i])
        if whole and count >= bars:
            top[i], bottom[i] = highest, lowest
    return top, bottom


@njit(cache=True)
def _bars_since_open(session: NDArray[np.int32]) -> Floats:
    out = np.full(len(session), np.nan)
    count, whole = 0, False
    for i in range(len(session)):
        if i > 0 and session[i] != session[i - 1]:
            count, whole = 0, True
        count += 1
        if whole:
            out[i] = count
    return out


def _f_zscore(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    return (_zscore(columns[0], int(p["period"])),)


def _f_session_vwap(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    high, low, close, volume = columns
    return _session_vwap((high + low + close) / 3.0, volume, bars.session, float(p["deviations"]))


def _f_session(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    open_, high, low, close = columns
    return (*_session_levels(open_, high, low, close, bars.session), _bars_since_open(bars.session))


def _f_opening_range(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    return _opening_range(columns[0], columns[1], bars.session, int(p["bars"]))


def _f_return(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    values, period = columns[0], int(p["period"])
    out = np.full(len(values), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        out[period:] = values[period:] / values[:-period] - 1.0
    return (out,)


DEFINITIONS: tuple[Indicator, ...] = (
    Indicator(
        "zscore", "", ("source",), (Parameter("period", "", 20, 2, 5000),), formula=_f_zscore,
        bars_before=lambda p: int(p["period"]) - 1,
        description="distance to the mean of the last `period` values in their sample deviations; 0 where all are equal",
    ),
    Indicator(
        "return", "", ("source",), (Parameter("period", "", 1, 1, 5000),), formula=_f_return,
        bars_before=lambda p: int(p["period"]), sparse=True, description="value over the value `period` bars ago, minus 1",
    ),
    Indicator(
        "session_vwap", "", ("high", "low", "close", "volume"), (Parameter("deviations", "", 2.0, 0.1, 20, whole=False),),
        ("value", "upper", "lower"), formula=_f_session_vwap,
        description="volume-weighted mean of (high + low + close) / 3 since the session's first bar, and its deviation bands",
    ),
    Indicator(
        "session", "", PRICE_NAMES, (),
        ("open", "high", "low", "previous_high", "previous_low", "previous_close", "gap", "bars"),
        formula=_f_session, sparse=True,
        description="open, high and low of the session so far, the session before, the gap at the open in percent, bars so far",
    ),
    Indicator(
        "opening_range", "", ("high", "low"), (Parameter("bars", "", 6, 1, 5000),), ("high", "low"), formula=_f_opening_range,
        sparse=True, description="highest high and lowest low of the session's first `bars` bars, known after them",
    ),
)  # fmt: skip
