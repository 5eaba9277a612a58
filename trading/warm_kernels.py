"""Compile the backtest's kernels ahead of their first use: ``python -m trading.warm_kernels``.

numba keeps machine code beside the modules (``__pycache__``), valid for their content; whoever runs this after an
installation or an update finds the first backtest as fast as the second.
"""

from __future__ import annotations

import math
import sys
from decimal import Decimal

import numpy as np

from trading.averages import fast_above_slow
from trading.backtest import backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.gate_inputs import measure
from trading.gates.settings import OptionalGates
from trading.instruments import AssetClass, Instrument
from trading.limits import CircuitBreaker, Correlation, Limits, ValueAtRisk
from trading.timeframes import US_PER_DAY, Timeframe


def warm_kernels() -> None:
    """Run a tiny backtest and its figures through the plain and the general lane, which compiles all unless the cache has it."""
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
    measured = Limits(
        value_at_risk=ValueAtRisk(percent=5), correlation=Correlation(percent=50),
        circuit_breaker=CircuitBreaker(percent=5, minutes=10, pause_minutes=30),
    )  # fmt: skip
    for limits in (None, measured):
        result = backtest(
            evaluation, bars, instrument, cash=10_000.0, sizing={"kind": "fixed", "quantity": 1.0}, costs=Costs(), limits=limits
        )
        result.metrics(252.0)
    fast_above_slow(price, 1, 2)
    _warm_gates(instrument)


def _warm_gates(instrument: Instrument) -> None:
    """Measure every gate and size once on a wave: else the first signal of a morning would wait for the compiler."""
    n = 260
    at = np.arange(10_000, 10_000 + n, dtype=np.int64)
    close = np.round(100 + 5 * np.sin(np.arange(n) / 7) + np.arange(n) % 3, 2).astype(np.float64)
    bars = Bars(
        "X", Timeframe.D1, (at + 1) * US_PER_DAY, at.astype(np.int32), close, close + 1, close - 1, close, np.full(n, 1000.0)
    )
    gates = OptionalGates.model_validate(
        {"regime": {"allowed": ["trending"], "by": "both", "history": 60, "train": 150, "refit": 50},
         "volatility": {"atr": {"max_percent": 9.0}, "volume": {"min_ratio": 0.1}}}
    )  # fmt: skip
    target = {"kind": "volatility_target", "percent": 10.0, "bars": 20, "max_percent": 100.0}
    measure(gates, target, {Timeframe.D1: bars}, Timeframe.D1, instrument, calendar("CRYPTO"))


if __name__ == "__main__":
    warm_kernels()
    sys.stdout.write("backtest kernels compiled\n")
