"""What a strategy or a plan says over bars, as arrays: the one form that backtest, trade run and desk read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading.timeframes import Timeframe


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """T rows, one per bar of the primary timeframe; row i uses only bars with close_time <= close_time[i].

    close_time: int64 (T,), UTC us. ready: bool (T,), every input is past its warm-up; where False, all wishes are False.
    enter_long, enter_short, exit_long, exit_short: bool (T,). stop_*, target_*: float64 (T,), price levels an entry
    decided at this bar would use; NaN = none. strength: float64 (T,) in [0, 1].
    max_bars: close the position at the open after this many closed bars since entry; 0 = never.
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
