"""Performance figures of an equity curve and its trades, each with its formula. Single trades: trading/trade_metrics.py.

Annualisation is never guessed: `periods_per_year` says how many equity values make a year (252 for daily bars of a
stock, 252 * 390 for its minutes), or they are counted (`per_year`). Rates without a value (no trades, no variance, no
drawdown) are NaN, not 0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.timeframes import US_PER_DAY

Floats = NDArray[np.float64]

_NO_VARIANCE = 1e-15
"""A constant series keeps a rounding residue of this size relative to its values; that is no variance."""


def simple_returns(equity: Floats, start: float) -> Floats:
    """r_t = E_t / E_{t-1} - 1, (T,), with E_{-1} = `start`. Where the equity before is not positive: NaN."""
    before = np.concatenate(([start], equity[:-1])) if len(equity) else equity
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before > 0, equity / np.where(before > 0, before, 1.0) - 1.0, np.nan)


def total_return(equity: Floats, start: float) -> float:
    """E_T / E_start - 1."""
    return float(equity[-1] / start - 1.0) if len(equity) and start > 0 else math.nan


def per_year(times: NDArray[np.int64]) -> float:
    """How many of `times` (UTC us, ascending) there are in a year; 252 where they span nothing."""
    span = int(times[-1] - times[0]) if len(times) else 0
    years = span / (365.25 * US_PER_DAY)
    return len(times) / years if years > 0 else 252.0


def cagr(equity: Floats, start: float, periods_per_year: float) -> float:
    """(E_T / E_start) ** (periods_per_year / T) - 1; -1 when nothing is left."""
    if not len(equity) or start <= 0:
        return math.nan
    if equity[-1] <= 0:
        return -1.0
    with np.errstate(over="ignore"):
        return float(np.float64(equity[-1] / start) ** (periods_per_year / len(equity)) - 1.0)


def sharpe(returns: Floats, periods_per_year: float) -> float:
    """mean(r) / std(r, ddof=1) * sqrt(periods_per_year), risk-free rate 0; NaN without variance."""
    if len(returns) < 2:
        return math.nan
    deviation = float(np.std(returns, ddof=1))
    if not deviation > _NO_VARIANCE * max(1.0, float(np.max(np.abs(returns)))):
        return math.nan
    return float(np.mean(returns)) / deviation * math.sqrt(periods_per_year)


def sortino(returns: Floats, periods_per_year: float) -> float:
    """mean(r) / sqrt(mean(min(r, 0) ** 2)) * sqrt(periods_per_year), target 0; NaN without a losing period."""
    if len(returns) < 2:
        return math.nan
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    return float(np.mean(returns)) / downside * math.sqrt(periods_per_year) if downside > 0 else math.nan


def drawdowns(equity: Floats, start: float) -> Floats:
    """1 - E_t / max(E_start, E_0 ... E_t), (T,): 0 at a high, 0.2 a fifth below it."""
    if not len(equity):
        return equity
    peak = np.maximum.accumulate(np.maximum(equity, start))
    return 1.0 - equity / peak


def max_drawdown(equity: Floats, start: float) -> tuple[float, int]:
    """(deepest drawdown as a fraction, longest time below a high in bars)."""
    if not len(equity):
        return math.nan, 0
    below = drawdowns(equity, start)
    at_high = np.flatnonzero(below <= 0)
    edges = np.concatenate(([-1], at_high, [len(equity)]))
    return float(max(below.max(), 0.0)), int(np.diff(edges).max() - 1)


def calmar(annual_return: float, drawdown: float) -> float:
    """CAGR / max drawdown; NaN without a drawdown."""
    return annual_return / drawdown if drawdown > 0 else math.nan


_BLOCK = 64


@njit(cache=True, nogil=True)
def _falls(equity: Floats, start: float) -> tuple[float, int]:
    """(deepest drawdown, longest time below a high). A block without a new high is only searched for its lowest, four values at a
    time."""
    rows = len(equity)
    peak, lowest, high_at, deepest, longest, i = start, start, -1, 0.0, 0, 0
    while i < rows:
        end = min(i + _BLOCK, rows)
        low0, low1, low2, low3 = lowest, lowest, lowest, lowest
        high0, high1, high2, high3 = -math.inf, -math.inf, -math.inf, -math.inf
        k = i
        while k + 4 <= end:
            a, b, c, d = equity[k], equity[k + 1], equity[k + 2], equity[k + 3]
            low0, low1, low2, low3 = min(low0, a), min(low1, b), min(low2, c), min(low3, d)
            high0, high1, high2, high3 = max(high0, a), max(high1, b), max(high2, c), max(high3, d)
            k += 4
        while k < end:
            low0, high0 = min(low0, equity[k]), max(high0, equity[k])
            k += 1
        if max(max(high0, high1), max(high2, high3)) < peak:
            lowest = min(min(low0, low1), min(low2, low3))
            i = end
            continue
        while i < end:
            value = equity[i]
            if value >= peak:
                if lowest < peak:
                    deepest = max(deepest, 1.0 - lowest / peak)
                longest = max(longest, i - high_at - 1)
                peak, lowest, high_at = value, value, i
            lowest = min(lowest, value)
            i += 1
    if lowest < peak:
        deepest = max(deepest, 1.0 - lowest / peak)
    return deepest, max(longest, rows - high_at - 1)


@njit(cache=True, nogil=True)
def _curve(equity: Floats, start: float) -> tuple[int, float, float, float, float, float, int, float]:
    """Of an equity curve of finite values: how many returns, their mean, deviation (ddof 1), largest size, downside deviation;
    deepest drawdown, longest time below a high; mean equity."""
    count, total, largest, downside, sum_equity, squares, before = 0, 0.0, 0.0, 0.0, 0.0, 0.0, start
    for i in range(len(equity)):
        value = equity[i]
        sum_equity += value
        if value == before:  # a return of 0: most bars without a position
            if before > 0.0:
                count += 1
            continue
        if before > 0.0:
            r = value / before - 1.0
            count += 1
            total += r
            squares += r * r
            largest = max(largest, abs(r))
            loss = 0.5 * (r - abs(r))  # min(r, 0) to the bit, without a branch that no one can foresee
            downside += loss * loss
        before = value
    deepest, longest = _falls(equity, start)
    mean = total / count if count else math.nan
    spread = squares - count * mean * mean
    if not (spread > 1e-6 * squares):  # the mean is nearly all of it: sum the deviations themselves
        spread, before = 0.0, start
        for i in range(len(equity)):
            value = equity[i]
            if before > 0.0:
                r = value / before - 1.0
                spread += (r - mean) * (r - mean)
            before = value
    deviation = math.sqrt(spread / (count - 1)) if count > 1 else math.nan
    down = math.sqrt(downside / count) if count > 1 else math.nan
    return count, mean, deviation, largest, down, deepest, longest, sum_equity / len(equity) if len(equity) else math.nan


@dataclass(frozen=True, slots=True)
class TradeFigures:
    """Of closed trades' net P&L: count, win_rate = wins / trades, average_win, average_loss (negative),
    profit_factor = sum of wins / -sum of losses, expectancy = mean P&L, net_profit = their sum. A P&L of exactly 0 is
    neither win nor loss."""

    trades: int
    win_rate: float
    average_win: float
    average_loss: float
    profit_factor: float
    expectancy: float
    net_profit: float = 0.0


def trade_figures(pnl: Floats) -> TradeFigures:
    """Figures of closed trades from their net P&L (N,)."""
    if not len(pnl):
        return TradeFigures(0, math.nan, math.nan, math.nan, math.nan, math.nan)
    wins, losses, won, lost = _sums(np.ascontiguousarray(pnl, np.float64))
    return TradeFigures(
        trades=len(pnl),
        win_rate=wins / len(pnl),
        average_win=won / wins if wins else math.nan,
        average_loss=lost / losses if losses else math.nan,
        profit_factor=won / -lost if losses else math.nan,
        expectancy=(won + lost) / len(pnl),
        net_profit=won + lost,
    )


@njit(cache=True, nogil=True)
def _sums(pnl: Floats) -> tuple[int, int, float, float]:
    """How many gains and losses, and the sum of each."""
    wins, losses, won, lost = 0, 0, 0.0, 0.0
    for value in pnl:
        if value > 0.0:
            wins += 1
            won += value
        elif value < 0.0:
            losses += 1
            lost += value
    return wins, losses, won, lost


@dataclass(frozen=True, slots=True)
class Metrics:
    """Figures of one backtest. Returns and drawdown as fractions, duration in bars, money in account currency.

    exposure: share of bars with an open position, averaged over the slots; turnover: traded value over mean equity,
    per year; net_profit: of the closed trades, profit: equity at the end less the start, open positions included.
    """

    total_return: float
    cagr: float
    sharpe: float
    sortino: float
    calmar: float
    max_drawdown: float
    max_drawdown_bars: int
    trades: int
    win_rate: float
    profit_factor: float
    average_win: float
    average_loss: float
    expectancy: float
    exposure: float
    turnover: float
    periods_per_year: float
    net_profit: float = 0.0
    profit: float = 0.0

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


def measure(
    equity: Floats,
    start: float,
    pnl: Floats,
    *,
    periods_per_year: float,
    bars_held: int,
    bars_total: int,
    traded_value: float,
) -> Metrics:
    """All figures of an equity curve (T,) that began at `start` and of its closed trades' net P&L (N,).

    bars_held: bars with an open position, bars_total: all bars, summed over the slots; traded_value: sum of
    |quantity * price * multiplier| of all fills. Raises ValueError on a periods_per_year that is not positive.
    """
    if not periods_per_year > 0:
        raise ValueError(f"periods_per_year {periods_per_year!r}: expected how many equity values make a year")
    curve = np.ascontiguousarray(equity, np.float64)
    count, mean, deviation, largest, downside, deepest, longest, mean_equity = _curve(curve, float(start))
    annual = cagr(equity, start, periods_per_year)
    figures = trade_figures(pnl)
    years = len(equity) / periods_per_year
    root = math.sqrt(periods_per_year)
    varies = count > 1 and deviation > _NO_VARIANCE * max(1.0, largest)
    deepest = deepest if len(equity) else math.nan
    return Metrics(
        total_return=total_return(equity, start),
        cagr=annual,
        sharpe=mean / deviation * root if varies else math.nan,
        sortino=mean / downside * root if count > 1 and downside > 0 else math.nan,
        calmar=calmar(annual, deepest),
        max_drawdown=deepest,
        max_drawdown_bars=longest,
        trades=figures.trades,
        win_rate=figures.win_rate,
        profit_factor=figures.profit_factor,
        average_win=figures.average_win,
        average_loss=figures.average_loss,
        expectancy=figures.expectancy,
        exposure=bars_held / bars_total if bars_total else math.nan,
        turnover=traded_value / mean_equity / years if mean_equity > 0 and years > 0 else math.nan,
        periods_per_year=periods_per_year,
        net_profit=figures.net_profit,
        profit=float(equity[-1] - start) if len(equity) else 0.0,
    )
