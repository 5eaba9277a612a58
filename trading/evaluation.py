"""What a strategy or a plan says over bars, as arrays: the one form that backtest, trade run and desk read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trading.timeframes import Timeframe


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """T rows, one per bar of the primary timeframe; row i uses only bars with close_time <= close_time[i].

    close_time: int64 (T,), UTC us. ready: bool (T,), every input is past its warm-up; where False, all wishes are False.
    enter_long, enter_short, exit_long, exit_short: bool (T,). stop_*, target_*: float64 (T,), price levels an entry
    decided at this bar would use; NaN = none. strength: float64 (T,) in [0, 1].
    max_bars: close the position at the open after this many closed bars since entry; 0 = never. scale: float64 (T,), what
    the amount of the sizing rule is multiplied by at this bar (the hedge ratio of a pair's second leg); None = 1.
    targets: (share of the quantity, levels float64 (T,)) of the parts a position is closed in, NaN: only the stop guards that
    part; empty: one target for all of it. parts: float64 (T,) by ``long/NAME`` or ``short/NAME``: what an entry's strength is
    made of, for people and gates.
    """

    symbol: str
    timeframe: Timeframe
    close_time: NDArray[np.int64]
    ready: NDArray[np.bool_]
    enter_long: NDArray[np.bool_]
    enter_short: NDArray[np.bool_]
    exit_long: NDArray[np.bool_]
    exit_short: NDArray[np.bool_]
    stop_long: NDArray[np.float64]
    stop_short: NDArray[np.float64]
    target_long: NDArray[np.float64]
    target_short: NDArray[np.float64]
    strength: NDArray[np.float64]
    max_bars: int = 0
    scale: NDArray[np.float64] | None = None
    parts: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    targets: tuple[tuple[float, NDArray[np.float64]], ...] = ()
