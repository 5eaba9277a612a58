"""Volume profile: at which prices the last bars traded, its point of control and its value area."""

from __future__ import annotations

import numpy as np
from numba import njit

from trading.patterns.base import Bars, Floats, Mapping, Parameter, Sequence, pattern, whole


@njit(cache=True)
def _profile(high: Floats, low: Floats, volume: Floats, period: int, bins: int, share: float) -> tuple[Floats, Floats, Floats]:
    """(point of control, value area high, value area low), float64 (T,)."""
    n = len(high)
    control, upper, lower = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    traded = np.zeros(bins)
    for i in range(period - 1, n):
        bottom, top, total = low[i], high[i], 0.0
        for j in range(i - period + 1, i + 1):
            bottom, top = min(bottom, low[j]), max(top, high[j])
            total += volume[j]
        if not total > 0.0:
            continue
        width = (top - bottom) / bins
        if not width > 0.0:
            control[i], upper[i], lower[i] = bottom, bottom, bottom
            continue
        traded[:] = 0.0
        for j in range(i - period + 1, i + 1):
            first = min(int((low[j] - bottom) / width), bins - 1)
            last = min(int((high[j] - bottom) / width), bins - 1)
            if first == last:
                traded[first] += volume[j]
                continue
            for b in range(first, last + 1):
                overlap = min(high[j], bottom + (b + 1) * width) - max(low[j], bottom + b * width)
                traded[b] += volume[j] * max(overlap, 0.0) / (high[j] - low[j])
        most = 0
        for b in range(1, bins):
            if traded[b] > traded[most]:
                most = b
        least, greatest, inside = most, most, traded[most]
        while inside < share * total and (least > 0 or greatest < bins - 1):
            above = traded[greatest + 1] if greatest < bins - 1 else -1.0
            below = traded[least - 1] if least > 0 else -1.0
            if above >= below:
                greatest += 1
                inside += above
            else:
                least -= 1
                inside += below
        control[i] = bottom + (most + 0.5) * width
        upper[i] = bottom + (greatest + 1) * width
        lower[i] = bottom + least * width
    return control, upper, lower


@pattern(
    "volume_profile", ("high", "low", "close", "volume"), ("poc", "value_high", "value_low"),
    (whole("period", 60, 2, 2000), whole("bins", 24, 4, 200), Parameter("value_area", "", 70.0, 1, 100, whole=False)),
    before=lambda p: int(p["period"]), what="volume profile of the last bars: point of control and value area",
    definition="the range from the lowest low to the highest high of the last `period` bars in `bins` equal parts; a bar's "
    "volume spreads evenly over its range. poc: middle of the part with the most volume (the lowest of equals). Value area: "
    "from there the fuller neighbour is added (the upper of equals) until it holds `value_area` percent. signal: 1 when the "
    "close goes above the value area of the bar before, -1 below, 0 when it was there already.",
    reference='J. Peter Steidlmayer, market profile; James Dalton, "Mind over Markets"',
)  # fmt: skip
def _volume_profile(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    high, low, close, volume = columns
    control, upper, lower = _profile(high, low, volume, int(p["period"]), int(p["bins"]), float(p["value_area"]) / 100.0)
    signal = np.zeros(len(close))
    with np.errstate(invalid="ignore"):
        above = (close[1:] > upper[:-1]) & (close[:-1] <= upper[:-1])
        below = (close[1:] < lower[:-1]) & (close[:-1] >= lower[:-1])
    signal[1:] = above.astype(np.float64) - below
    return signal, control, upper, lower
