"""Labels: what happened after a bar close, and until when it was happening.

A label's event runs from the close it is decided at to the bar that ends the holding period. Two rows whose events
overlap share information, which is why splits purge by event end. Every label is of a trade that can be made: decided at
the close, entered at the next open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars

NEVER: Final = int(np.iinfo(np.int64).max)
"""Event end of a label that is not known yet."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """T labels, one per bar.

    forward_return: float64 (T,), as a fraction. direction: int8 (T,), 1 when forward_return > 0, else 0.
    event_start, event_end: int64 (T,), UTC us; the label is known at event_end. valid: bool (T,), False where the
    holding period runs past the last bar.
    """

    direction: NDArray[np.int8]
    forward_return: NDArray[np.float64]
    event_start: NDArray[np.int64]
    event_end: NDArray[np.int64]
    valid: NDArray[np.bool_]


def forward_direction(bars: Bars, horizon: int) -> Labels:
    """Direction of the return a trade decided at each close would have earned over `horizon` bars.

    Entry at the open of the next bar, exit at the open `horizon` bars later: the prices a decision made at the close can
    get. event_end is the close of the bar of the exit. Raises ValueError when horizon < 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon} bars, expected at least 1")
    n = len(bars)
    forward = np.full(n, np.nan)
    end = np.full(n, NEVER, np.int64)
    m = n - horizon - 1
    if m > 0:
        forward[:m] = bars.open[1 + horizon :] / bars.open[1 : 1 + m] - 1.0
        end[:m] = bars.close_time[1 + horizon :]
    valid = np.isfinite(forward)
    return Labels((forward > 0).astype(np.int8), forward, bars.close_time.astype(np.int64), end, valid)


def forward_returns(bars: Bars, horizons: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(returns float64 (T, H), event ends int64 (T, H)) of `forward_direction` for several horizons, NaN and NEVER where the
    holding period runs past the last bar. Raises ValueError when a horizon is below 1."""
    labels = [forward_direction(bars, h) for h in horizons]
    if not labels:
        return np.empty((len(bars), 0)), np.empty((len(bars), 0), np.int64)
    return np.column_stack([one.forward_return for one in labels]), np.column_stack([one.event_end for one in labels])


@dataclass(frozen=True, slots=True)
class BarrierRule:
    """upper, lower: distance of the barriers from the entry in deviations of the recent returns. window: bars the deviation
    is measured over. max_bars: the third barrier, in bars after the entry."""

    upper: float = 1.5
    lower: float = 1.5
    window: int = 20
    max_bars: int = 10

    def __post_init__(self) -> None:
        if not (self.upper > 0 and self.lower > 0) or self.window < 2 or self.max_bars < 1:
            raise ValueError(f"{self}: expected barriers above 0, a window of at least 2 and at least one bar")


@dataclass(frozen=True, slots=True, eq=False)
class BarrierLabels:
    """T labels. touched: int8 (T,), 1 the upper barrier came first, -1 the lower one, 0 neither within max_bars, or both in
    one bar. returns: float64 (T,), what the trade earned at the barrier (at the last close, when none was touched).
    events: int64 (T, 2), UTC us: decided at, known at. valid: bool (T,)."""

    touched: NDArray[np.int8]
    returns: NDArray[np.float64]
    events: NDArray[np.int64]
    valid: NDArray[np.bool_]


def triple_barrier(bars: Bars, rule: BarrierRule | None = None) -> BarrierLabels:
    """Which barrier a trade entered at the next open reaches first (Lopez de Prado 2018, chapter 3).

    The deviation is that of the log returns of the `window` bars up to the decision. A bar that spans both barriers says
    nothing of their order and counts as neither. A trade that no barrier ended before the data does has no label.
    """
    rule = rule or BarrierRule()
    n = len(bars)
    touched, returns, ends = np.zeros(n, np.int8), np.full(n, np.nan), np.full(n, NEVER, np.int64)
    deviation = np.full(n, np.nan)
    if n > rule.window + 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.diff(np.log(bars.close))
        deviation[rule.window :] = np.lib.stride_tricks.sliding_window_view(logs, rule.window).std(axis=1, ddof=1)
        _barriers(
            bars.open, bars.high, bars.low, bars.close, bars.close_time, deviation, rule.upper, rule.lower, rule.max_bars,
            touched, returns, ends,
        )  # fmt: skip
    events = np.stack([bars.close_time.astype(np.int64), ends], axis=1)
    return BarrierLabels(touched, returns, events, ends != NEVER)


@numba.njit(cache=True)
def _barriers(open_, high, low, close, times, deviation, upper, lower, max_bars, touched, returns, ends):  # type: ignore[no-untyped-def]
    n = len(close)
    for t in range(n - 1):
        if not deviation[t] > 0.0:
            continue
        entry = open_[t + 1]
        if not entry > 0.0:
            continue
        top = entry * np.exp(upper * deviation[t])
        bottom = entry * np.exp(-lower * deviation[t])
        for k in range(t + 1, min(t + max_bars, n - 1) + 1):
            up = high[k] >= top
            down = low[k] <= bottom
            last = k == t + max_bars
            if not (up or down or last):
                continue
            ends[t] = times[k]
            if up and down:
                returns[t] = 0.0
            elif up:
                touched[t] = 1
                returns[t] = max(open_[k], top) / entry - 1.0 if k > t + 1 else top / entry - 1.0
            elif down:
                touched[t] = -1
                returns[t] = min(open_[k], bottom) / entry - 1.0 if k > t + 1 else bottom / entry - 1.0
            else:
                returns[t] = close[k] / entry - 1.0
            break
