"""Liquidity sweeps: price trades through swings where stops rest, and closes back on its side."""

from __future__ import annotations

import numpy as np
from numba import njit

from trading.patterns.base import Bars, Floats, Mapping, Sequence, pattern, whole
from trading.patterns.swings import LEFT_RIGHT, Rows, confirmed, span


@njit(cache=True)
def _sweeps(high: Floats, low: Floats, close: Floats, high_at: Rows, low_at: Rows, levels: int) -> tuple[Floats, Floats]:
    n = len(close)
    signal, swept = np.zeros(n), np.full(n, np.nan)
    tops, bottoms = np.zeros(levels), np.zeros(levels)
    n_tops, n_bottoms = 0, 0
    for i in range(n):
        top_level, top_ok, kept = np.nan, True, 0
        for g in range(n_tops):
            if high[i] > tops[g]:
                if not top_level >= tops[g]:
                    top_level = tops[g]
                top_ok = top_ok and close[i] < tops[g]
            else:
                tops[kept] = tops[g]
                kept += 1
        n_tops = kept
        bottom_level, bottom_ok, kept = np.nan, True, 0
        for g in range(n_bottoms):
            if low[i] < bottoms[g]:
                if not bottom_level <= bottoms[g]:
                    bottom_level = bottoms[g]
                bottom_ok = bottom_ok and close[i] > bottoms[g]
            else:
                bottoms[kept] = bottoms[g]
                kept += 1
        n_bottoms = kept
        down = not np.isnan(top_level) and top_ok
        up = not np.isnan(bottom_level) and bottom_ok
        if down and not up:
            signal[i], swept[i] = -1.0, top_level
        elif up and not down:
            signal[i], swept[i] = 1.0, bottom_level
        if high_at[i] >= 0:
            if n_tops == levels:
                tops[:-1] = tops[1:].copy()
                n_tops -= 1
            tops[n_tops] = high[high_at[i]]
            n_tops += 1
        if low_at[i] >= 0:
            if n_bottoms == levels:
                bottoms[:-1] = bottoms[1:].copy()
                n_bottoms -= 1
            bottoms[n_bottoms] = low[low_at[i]]
            n_bottoms += 1
    return signal, swept


@pattern(
    "liquidity_sweep", ("high", "low", "close"), ("level",), (*LEFT_RIGHT, whole("levels", 3, 1, 50)), before=span,
    settle=lambda p: 10 * span(p), what="liquidity sweep: through a swing and back by the close",
    definition="the bar trades above at least one of the newest `levels` confirmed swing highs that no bar has traded above "
    "yet, and closes below every one of those: signal -1. Through swing lows and back above: 1. Both at once: 0. level: the "
    "farthest swing swept. A swing counts once, whether swept or broken.",
    reference='stop runs; Wyckoff spring and upthrust; Michael Huddleston ("ICT"), liquidity sweep',
)  # fmt: skip
def _sweep(bars: Bars, columns: Sequence[Floats], p: Mapping[str, float]) -> tuple[Floats, ...]:
    high, low, close = columns
    return _sweeps(high, low, close, *confirmed(high, low, int(p["left"]), int(p["right"])), int(p["levels"]))
