"""The backtest against a hand-written numba loop, on the same bars, with the same fills.

w1: 1M bars of one instrument, SMA 10/30 cross, next-open fills, trades and equity. w2: 100 instruments of 100k bars.
w3: 500 pairs of periods over 100k bars, each with its figures (trading.sweep on one core against the reference on one core;
an average of one period is computed once). w3_cores: both on every core. Each includes the averages, the crosses and
everything backtest() returns; averages, fills and equity are compared with the reference's and must be the same to the bit,
or the benchmark fails. full_engine: stop, target, volume slippage, gates, risk limits and percent-of-equity sizes over many
instruments at once; bars per second. every_feature: the same with a limit entry, two targets, a trailing stop, a cap on the
volume, margins and borrow cost on top. first_call: seconds of a backtest in a fresh process whose kernels are compiled.
Synthetic one-minute bars: a seeded geometric walk on a tick grid, not a market.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import talib
from numpy.typing import NDArray

from bench import reference
from bench.core import Row, at_least, at_most, best_of, best_of_pair, ratio_at_most
from trading.averages import fast_above_slow
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import AssetClass, Instrument
from trading.limits import DailyLoss, Limits
from trading.order_rules import Margin, OrderRules, Target
from trading.orders import OrderType
from trading.sweep import Columns, SweepResult, sweep
from trading.timeframes import US_PER_MINUTE, Timeframe

QUANTITY = 100.0
RATE = 0.0001  # 1 basis point of the traded value
CASH = 1_000_000.0
BARS_A_SESSION = 390
TICK = Decimal("0.01")
SIZING = {"kind": "fixed", "quantity": QUANTITY}
COSTS = Costs("per_value", RATE)


def synthetic_bars(symbol: str, rows: int, seed: int) -> Bars:
    """`rows` one-minute bars: a geometric walk of closes, opens at the close before, highs and lows around both."""
    random = np.random.default_rng(seed)
    tick = float(TICK)
    close = np.round(100 * np.exp(np.cumsum(random.normal(0, 2e-4, rows))), 2)
    open_ = np.round(np.concatenate(([100.0], close[:-1])) + tick * random.integers(-1, 2, rows), 2)
    high = np.round(np.maximum(open_, close) + tick * random.integers(0, 4, rows), 2)
    low = np.round(np.minimum(open_, close) - tick * random.integers(0, 4, rows), 2)
    at = np.arange(rows, dtype=np.int64)
    volume = random.integers(100, 10_000, rows).astype(np.float64)
    return Bars(
        symbol, Timeframe.M1, (at + 1) * US_PER_MINUTE, (at // BARS_A_SESSION).astype(np.int32), open_, high, low, close, volume
    )


def instrument(symbol: str) -> Instrument:
    return Instrument(symbol, AssetClass.EQUITY, "XNYS", TICK, "USD", "synthetic", symbol, Timeframe.M1)


def known_from(row: int, rows: int) -> NDArray[np.bool_]:
    """bool (rows,): False before `row`."""
    ready = np.ones(rows, np.bool_)
    ready[:row] = False
    return ready


def cross(bars: Bars, fast: int, slow: int, distance: float = 0.0, columns: Columns | None = None) -> Evaluation:
    """SMA cross as an evaluation; distance > 0: a stop that far below the close, a target twice as far above.

    columns: averages that trials of a sweep share; without them both are walked at once, and only their order is kept.
    """
    shared = columns or Columns()

    def average(period: int) -> NDArray[np.float64]:
        return shared((bars.symbol, period), lambda: talib.SMA(bars.close, period))

    above = fast_above_slow(bars.close, fast, slow) if columns is None else average(fast) > average(slow)
    ready = shared((len(bars), slow), lambda: known_from(slow - 1, len(bars)))
    enter = above.copy()
    np.greater(above[1:], above[:-1], out=enter[1:])  # above now and not at the bar before
    never = shared((len(bars), "never"), lambda: np.broadcast_to(np.False_, len(bars)))
    none = shared((len(bars), "none"), lambda: np.broadcast_to(np.float64(np.nan), len(bars)))
    stop = bars.close - distance if distance else none
    target = bars.close + 2 * distance if distance else none
    full = shared((len(bars), "full"), lambda: np.broadcast_to(np.float64(1.0), len(bars)))
    return Evaluation(
        bars.symbol, bars.timeframe, bars.close_time, ready, enter, never, ~above, never, stop, none, target, none, full
    )  # fmt: skip


def run_cross(bars: Sequence[Bars], instruments: Sequence[Instrument], fast: int, slow: int) -> BacktestResult:
    """Averages, crosses and backtest, as the reference does them in one loop."""
    return backtest([cross(b, fast, slow) for b in bars], bars, instruments, cash=CASH, sizing=SIZING, costs=COSTS)


def run_reference(bars: Sequence[Bars], fast: int, slow: int) -> tuple[list[reference.Ledger], NDArray[np.float64]]:
    """The reference over each instrument, and the portfolio's equity."""
    ledgers, total = [], np.full(len(bars[0]), CASH)
    for one in bars:
        ledger = reference.sma_cross(one.open, one.close, fast=fast, slow=slow, quantity=QUANTITY, rate=RATE, cash=0.0)
        total += ledger.equity
        ledgers.append(ledger._replace(equity=total[:0]))
    return ledgers, total


def check_same(
    result: BacktestResult, bars: Sequence[Bars], ledgers: Sequence[reference.Ledger], equity: NDArray[np.float64]
) -> None:
    """Raises AssertionError unless every fill and every equity value is the reference's, to the bit."""
    closed = result.trades.closed
    for slot, (one, ledger) in enumerate(zip(bars, ledgers, strict=True)):
        mine = (result.trades.slot == slot) & closed
        np.testing.assert_array_equal(result.trades.entry_time[mine], one.close_time[ledger.entry_row])
        np.testing.assert_array_equal(result.trades.exit_time[mine], one.close_time[ledger.exit_row])
        np.testing.assert_array_equal(result.trades.entry_price[mine], ledger.entry_price)
        np.testing.assert_array_equal(result.trades.exit_price[mine], ledger.exit_price)
        still_open = (result.trades.slot == slot) & ~closed
        assert still_open.sum() == (ledger.open_row >= 0), f"slot {slot}: open position differs"
    np.testing.assert_array_equal(result.equity, equity)


def check_averages(bars: Bars, periods: Sequence[int]) -> None:
    """Raises AssertionError unless the averages are the reference's running means, to the bit."""
    for period in periods:
        np.testing.assert_array_equal(talib.SMA(bars.close, period), reference.running_mean(bars.close, period))


def run(quick: bool) -> Iterator[Row]:
    """Rows w1, w2, w2_peak_memory, w3, w3_cores, first_call, full_engine and every_feature."""
    repeats = 2 if quick else 7
    yield _row("w1", *_compare(1, 20_000 if quick else 1_000_000, repeats))
    yield _row("w2", *_compare(5 if quick else 100, 2_000 if quick else 100_000, 2 if quick else 3))
    yield _peak_memory(5 if quick else 100, 2_000 if quick else 100_000)
    pairs, rows = (10, 5_000) if quick else (500, 100_000)
    yield _row("w3", *_sweep(pairs, rows, 1))
    yield _row("w3_cores", *_sweep(pairs, rows, os.cpu_count() or 1))
    yield _first_call()
    yield from _full_engine(5 if quick else 20, 2_000 if quick else 100_000, 2 if quick else 3)


def _row(name: str, seconds: float, reference_seconds: float) -> Row:
    ratio = round(seconds / reference_seconds, 3)
    return Row(name, round(seconds, 6), "s", round(reference_seconds, 6), ratio, goal=ratio_at_most(3.0))


def _compare(count: int, rows: int, repeats: int) -> tuple[float, float]:
    bars = [synthetic_bars(f"S{i:03d}", rows, seed=i) for i in range(count)]
    instruments = [instrument(b.symbol) for b in bars]
    check_averages(bars[0], (10, 30))
    check_same(run_cross(bars, instruments, 10, 30), bars, *run_reference(bars, 10, 30))
    return best_of_pair(lambda: run_cross(bars, instruments, 10, 30), lambda: run_reference(bars, 10, 30), repeats)


def _peak_memory(count: int, rows: int) -> Row:
    """Peak memory of a process that only makes the bars and runs w2: bars, evaluations, result, libraries."""
    program = f"from bench.backtest import portfolio; portfolio({count}, {rows})"
    subprocess.run([sys.executable, "-c", program], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Row("w2_peak_memory", round(peak, 1), "MB", 1000.0, round(peak / 1000.0, 3), goal=at_most(1000.0))


def portfolio(count: int, rows: int) -> BacktestResult:
    """Synthetic bars of `count` instruments and their SMA cross as one portfolio."""
    bars = [synthetic_bars(f"S{i:03d}", rows, seed=i) for i in range(count)]
    return run_cross(bars, [instrument(b.symbol) for b in bars], 10, 30)


def _sweep(pairs: int, rows: int, workers: int) -> tuple[float, float]:
    bars = [synthetic_bars("S000", rows, seed=0)]
    instruments = [instrument("S000")]
    grid = [(fast, slow) for fast in range(5, 30) for slow in range(fast + 5, fast + 105, 5)][:pairs]
    trials = [{"fast": fast, "slow": slow} for fast, slow in grid]
    check_averages(bars[0], sorted({period for pair in grid for period in pair}))

    def ours() -> SweepResult:
        return sweep(
            lambda columns, fast, slow: cross(bars[0], fast, slow, columns=columns), trials, bars, instruments, cash=CASH,
            periods_per_year=252.0 * BARS_A_SESSION, sizing=SIZING, costs=COSTS, keep_returns=None, workers=workers,
        )  # fmt: skip

    def one(pair: tuple[int, int]) -> float:
        return float(run_reference(bars, *pair)[1][-1])

    def theirs() -> list[float]:
        if workers == 1:
            return [one(pair) for pair in grid]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, grid))

    np.testing.assert_array_equal(ours().final_equity, theirs())
    for fast, slow in grid[:: max(1, pairs // 10)]:
        check_same(run_cross(bars, instruments, fast, slow), bars, *run_reference(bars, fast, slow))
    return best_of_pair(ours, theirs, 3)


def _first_call() -> Row:
    """A first backtest in a fresh process, imports not counted: what compilation costs where the kernels were warmed."""
    program = (
        "import time; from trading.warm_kernels import warm_kernels\n"
        "start = time.perf_counter(); warm_kernels(); print(time.perf_counter() - start)"
    )
    for _ in range(2):  # the first fills the cache
        said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    return Row("first_call", round(float(said), 3), "s", 3.0, round(float(said) / 3.0, 3), goal=at_most(3.0))


def _full_engine(count: int, rows: int, repeats: int) -> Iterator[Row]:
    bars = [synthetic_bars(f"S{i:03d}", rows, seed=1000 + i) for i in range(count)]
    instruments = [instrument(b.symbol) for b in bars]
    limits = Limits(
        max_order_quantity=10_000, max_notional=100_000, max_position_notional=100_000, max_concurrent_positions=count // 2,
        daily_loss=DailyLoss(percent=2.0), price_collar_percent=5, max_gross_leverage=4,
    )  # fmt: skip
    costs = Costs("per_share", 0.005, 1.0, "volume", 0.001)

    def call() -> BacktestResult:
        evaluations = [cross(b, 10, 30, distance=0.2) for b in bars]
        return backtest(
            evaluations, bars, instruments, cash=CASH, sizing={"kind": "risk_percent", "percent": 0.01}, costs=costs,
            limits=limits, require_stop=True, min_reward_to_risk=1.5,
        )  # fmt: skip

    call()
    seconds, result = best_of(call, repeats)
    if not len(result.trades) or "CONCURRENT_POSITIONS" not in result.refusals:
        raise AssertionError("the full engine traded nothing or met no limit: the benchmark measures nothing")
    speed = count * rows / seconds
    yield Row("full_engine", round(speed), "bars/s", 500_000.0, round(500_000.0 / speed, 3), goal=at_least(500_000.0))
    shaped = OrderRules(
        entry=OrderType.LIMIT, limit=0.02, valid_bars=5, trail=0.3, targets=(Target(0.5, reward=1.0), Target(0.5, reward=3.0))
    )
    dear = Costs("per_share", 0.005, 1.0, "sqrt_volume", 0.001, participation=0.05, borrow=0.03)

    def everything() -> BacktestResult:
        evaluations = [cross(b, 10, 30, distance=0.2) for b in bars]
        return backtest(
            evaluations, bars, instruments, cash=CASH, sizing={"kind": "risk_percent", "percent": 0.01}, costs=dear,
            limits=limits, require_stop=True, min_reward_to_risk=1.5, orders=shaped, margins=Margin(0.5, 0.25),
        )  # fmt: skip

    everything()
    seconds, result = best_of(everything, repeats)
    if len(result.trades) <= len(result.trades.round_trips()[0]):
        raise AssertionError("no trade was closed in parts: the benchmark measures nothing")
    speed = count * rows / seconds
    yield Row("every_feature", round(speed), "bars/s", 500_000.0, round(500_000.0 / speed, 3), goal=at_least(500_000.0))
