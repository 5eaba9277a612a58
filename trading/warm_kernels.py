"""Compile the backtest's kernels ahead of their first use: ``python -m trading.warm_kernels``.

numba keeps machine code beside the modules (``__pycache__``), valid for their content; whoever runs this after an
installation or an update finds the first backtest as fast as the second.
"""

from __future__ import annotations

import math
import sys
from decimal import Decimal

import numpy as np

from trading.backtest import backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import AssetClass, Instrument
from trading.timeframes import US_PER_DAY, Timeframe


def warm_kernels() -> None:
    """Run a tiny backtest through the plain and the general lane, which compiles both unless the cache has them."""
    n = 8
    at = np.arange(1, n + 1, dtype=np.int64)
    price = np.full(n, 100.0)
    bars = Bars("X", Timeframe.D1, at * US_PER_DAY, at.astype(np.int32), price, price, price, price, np.full(n, 1000.0))
    never, nothing = np.zeros(n, np.bool_), np.full(n, math.nan)
    enter, leave = never.copy(), never.copy()
    enter[1], leave[4] = True, True
    evaluation = Evaluation(
        "X", Timeframe.D1, bars.close_time, ~never, enter, never, leave, never, nothing, nothing, nothing, nothing, price
    )
    instrument = Instrument("X", AssetClass.EQUITY, "24/7", Decimal("0.01"), "USD", "none", "X", Timeframe.D1)
    for detail in (False, True):
        backtest(
            evaluation, bars, instrument, cash=10_000.0, sizing={"kind": "fixed", "quantity": 1.0}, costs=Costs(), detail=detail
        )


if __name__ == "__main__":
    warm_kernels()
    sys.stdout.write("backtest kernels compiled\n")
