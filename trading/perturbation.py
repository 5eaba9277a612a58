"""The same strategy on slightly different prices and costs: a result that hangs on single ticks is no result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading.backtest import BacktestResult
from trading.bars import Bars
from trading.calendars import calendar
from trading.evaluation import Evaluation
from trading.experiment import Experiment
from trading.instruments import Instrument
from trading.price_grid import on_grid
from trading.resample import resample
from trading.strategy import Evaluable
from trading.timeframes import Timeframe
from trading.trade_paths import TradePaths, paths_of

Floats = NDArray[np.float64]
Windows = Mapping[Any, Bars]


@dataclass(frozen=True, slots=True, eq=False)
class Perturbed:
    """R runs. total_return, max_drawdown, trades: (R,). cost_factor: (R,), what the costs were multiplied by."""

    total_return: Floats
    max_drawdown: Floats
    trades: NDArray[np.int64]
    cost_factor: Floats

    def interval(self, name: str, confidence: float = 0.95) -> tuple[float, float]:
        """Percentile interval of ``total_return`` or ``max_drawdown``."""
        low, high = np.quantile(getattr(self, name), [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def perturbed_bars(bars: Bars, level: float, instrument: Instrument, random: np.random.Generator) -> Bars:
    """Bars whose four prices are moved together by noise of `level` times the bars' own volatility, on the tick grid.

    The noise of one bar is independent of the next: the path stays where it was, its ticks do not. The order
    low <= open, close <= high is kept.
    """
    if len(bars) < 3:
        return bars
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = np.diff(np.log(bars.close))
    sigma = float(np.nanstd(moves[np.isfinite(moves)])) if np.isfinite(moves).any() else 0.0
    factor = np.exp(level * sigma * random.standard_normal(len(bars)))
    o, h, l, c = (on_grid(p * factor, instrument) for p in (bars.open, bars.high, bars.low, bars.close))  # noqa: E741
    return replace(bars, open=o, high=np.fmax(h, np.fmax(o, c)), low=np.fmin(l, np.fmin(o, c)), close=c, turnover=None)


def perturbed_windows(windows: Windows, level: float, instrument: Instrument, random: np.random.Generator) -> dict[Any, Bars]:
    """Every series a strategy reads of its instrument, from one perturbed series: the finest is moved, coarser ones are made
    from it. Other instruments' series stay as they are."""
    own = {t: b for t, b in windows.items() if isinstance(t, Timeframe)}
    finest = min(own, key=lambda t: t.minutes)
    moved = perturbed_bars(own[finest], level, instrument, random)
    made: dict[Any, Bars] = dict(windows)
    for timeframe, bars in own.items():
        if timeframe is finest:
            made[timeframe] = moved
            continue
        coarse = resample(moved, timeframe, calendar(instrument.calendar))
        # Only bars that were there: the finer history may begin later or end inside a coarser bar.
        known = np.isin(coarse.close_time, bars.close_time)
        made[timeframe] = coarse.rows(known)
    return made


def perturbed_runs(
    of: Experiment,
    evaluable: Evaluable,
    windows: Mapping[str, Windows],
    *,
    runs: int = 1_000,
    level: float = 0.1,
    costs: tuple[float, float] = (0.5, 2.0),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Perturbed:
    """`runs` backtests on perturbed bars with costs times a random factor between `costs` (log-uniform).

    windows: by symbol of each slot of `of`. The strategy is evaluated over the whole history at once, not on the windows a
    live evaluation sees: for thousands of runs, and noise of a tick is larger than the difference.
    """
    random = np.random.default_rng(seed)
    out = np.empty((4, runs))
    for run in range(runs):
        bars: list[Bars] = []
        evaluations: list[Evaluation] = []
        managed: list[TradePaths | None] = []
        for instrument in of.instruments:
            given = perturbed_windows(windows[instrument.symbol], level, instrument, random)
            evaluations.append(evaluable.evaluate(given, instrument))
            bars.append(given[evaluable.timeframe])
            managed.append(paths_of(evaluable, given, instrument))
        factor = float(np.exp(random.uniform(np.log(costs[0]), np.log(costs[1]))))
        result = of.but(
            evaluations=tuple(evaluations), bars=tuple(bars), costs=of.costs.scaled(factor), managed=tuple(managed),
            of=of.of,
        ).run()  # fmt: skip
        out[:, run] = (*_figures(result), len(result.trades), factor)
        if progress:
            progress(run + 1, runs)
    return Perturbed(out[0], out[1], out[2].astype(np.int64), out[3])


def _figures(result: BacktestResult) -> tuple[float, float]:
    from trading.metrics import max_drawdown, total_return

    return total_return(result.equity, result.cash), max_drawdown(result.equity, result.cash)[0]
