"""Bars with a known truth: a planted edge the features show, or none at all."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import numpy as np

from ml.dataset import SourceSpan, TrainingSet, label_matrix
from ml.matrix import FeaturePart, assemble
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument, Mode
from trading.timeframes import Timeframe

NAMES = ("edge", "noise_1", "noise_2", "noise_3", "noise_4")


def daily_bars(symbol: str, edge: np.ndarray, *, strength: float, seed: int) -> Bars:
    """XNYS daily bars whose return of day t + 1 leans by `strength` daily deviations towards the sign of edge[t].

    Each open is the close before, so a trade decided at t and entered at the next open earns that return.
    """
    n = len(edge)
    cal = calendar("XNYS")
    at = cal.position(date(2005, 1, 3))
    lean = np.concatenate([[0.0], strength * 0.01 * np.sign(edge[:-1])])
    close = 100 * np.exp(np.cumsum(lean + 0.01 * np.random.default_rng(seed).standard_normal(n)))
    open_ = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(open_, close) * 1.002, np.minimum(open_, close) * 0.998
    rows = slice(at, at + n)
    return Bars(
        symbol, Timeframe.D1, cal.close_time[rows].copy(), cal.number[rows].copy(), open_, high, low, close, np.full(n, 1e6)
    )


def training_set(*, strength: float, seed: int = 1, rows: int = 1500, symbols: int = 3, horizon: int = 1) -> TrainingSet:
    return with_bars(strength=strength, seed=seed, rows=rows, symbols=symbols, horizon=horizon)[0]


def with_bars(
    *, strength: float, seed: int = 1, rows: int = 1500, symbols: int = 3, horizon: int = 1
) -> tuple[TrainingSet, dict[str, Bars]]:
    """Training set of `symbols` instruments over `rows` days, and its bars. strength 0: nothing to learn."""
    rng = np.random.default_rng(seed)
    bars, parts = {}, {}
    for i in range(symbols):
        values = rng.standard_normal((rows, len(NAMES)))
        symbol = f"S{i}"
        bars[symbol] = b = daily_bars(symbol, values[:, 0], strength=strength, seed=seed * 100 + i)
        values[:20] = np.nan  # warm-up
        parts[symbol] = FeaturePart(b.close_time, b.session, values)
    matrix = assemble(parts, NAMES, Timeframe.D1, "features-test", 20)
    sources = [SourceSpan.of("bars_1d", s, [("2005-01-03", bars[s].content_hash())]) for s in bars]
    return label_matrix(matrix, bars, horizon, "synthetic", sources), bars


def instrument(symbol: str) -> Instrument:
    """A stock that a backtest may trade."""
    return Instrument(
        symbol, AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "sample_stocks", symbol, Timeframe.D1,
        tradable_in=frozenset({Mode.BACKTEST}),
    )  # fmt: skip
