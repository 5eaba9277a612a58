"""Many backtests of one idea over a grid of parameters: a table of figures, the returns of every trial, how many there were.

The number of trials is part of the result because the statistics of the best one mean nothing without it. Trials run in
threads on every core: the compiled loops and numpy let go of the interpreter while they work. What trials share (an
indicator of one period) is computed once, see `Columns`.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trading import metrics as figures
from trading.backtest import backtest
from trading.bars import Bars
from trading.engine_host import give_back, known_whole

T = TypeVar("T")
Parameters = Mapping[str, Any]
Progress = Callable[[int, int], None]
"""progress(done, of all): called from the thread that called sweep."""


class Columns:
    """Arrays that trials share, each computed once whichever thread asks first: ``columns(("sma", 30), lambda: SMA(c, 30))``.

    The key says what the array is; the same key must always mean the same array, which nobody may change.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._locks: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, key: Hashable, make: Callable[[], T]) -> T:
        try:
            return self._made[key]
        except KeyError:
            pass
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._made:
                self._made[key] = make()
        return self._made[key]


Make = Callable[..., Any]
"""make(columns, **parameters) -> an evaluation, a list of them, or a strategy: what `backtest` takes first."""


@dataclass(frozen=True, slots=True, eq=False)
class SweepResult:
    """N trials of one sweep.

    parameters: of each trial, in the order of the grid. metrics: of each, None where it failed. failed: trial number -> why.
    returns: float64 (T, N), simple returns by session (or bar) of each trial, NaN in a failed one's column; (0, N) when not
    kept. close_time: int64 (T,), UTC us, of the rows. final_equity: float64 (N,). trials: how many there were, failed ones
    included: the N that deflated statistics must know.
    """

    parameters: tuple[dict[str, Any], ...]
    metrics: tuple[figures.Metrics | None, ...]
    returns: NDArray[np.float64]
    close_time: NDArray[np.int64]
    final_equity: NDArray[np.float64]
    trials: int
    refusals: tuple[dict[str, int], ...] = ()
    failed: dict[int, str] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """One row per trial: its parameters, then its figures; a failed one has `error`."""
        out = []
        for i, (parameters, measured) in enumerate(zip(self.parameters, self.metrics, strict=True)):
            row: dict[str, Any] = {"trial": i, **parameters}
            out.append(row | (measured.to_dict() if measured is not None else {"error": self.failed.get(i, "")}))
        return out

    def best(self, by: str = "sharpe") -> int:
        """Number of the trial with the largest figure `by`. Raises ValueError when none has one."""
        values = np.array([np.nan if m is None else float(getattr(m, by)) for m in self.metrics])
        if not np.isfinite(values).any():
            raise ValueError(f"no trial has a {by}")
        return int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))


def combinations(grid: Mapping[str, Sequence[Any]] | Sequence[Parameters]) -> list[dict[str, Any]]:
    """Every combination of {name: values}, the last name varying fastest; a list of parameters as it is."""
    if isinstance(grid, Mapping):
        names = list(grid)
        return [dict(zip(names, values, strict=True)) for values in itertools.product(*grid.values())]
    return [dict(one) for one in grid]


def sweep(
    make: Make,
    grid: Mapping[str, Sequence[Any]] | Sequence[Parameters],
    bars: Any,
    instrument: Any,
    *,
    cash: float,
    periods_per_year: float | None = None,
    keep_returns: str | None = "session",
    workers: int | None = None,
    progress: Progress | None = None,
    keep_going: bool = False,
    **options: Any,
) -> SweepResult:
    """Backtest every combination of `grid` (see `combinations`).

    make(columns, **parameters): what to test (see Make); every trial gets the same bars, so that their returns line up.
    bars, instrument, cash and options: of trading.backtest. periods_per_year: how many equity values make a
    year, one a bar, whatever returns are kept; None: as many as there were.
    keep_returns: session (equity at each session's last close), bar, or None. workers: threads, all cores when not given.
    keep_going: a trial that raises ValueError is reported in `failed` instead of ending the sweep.
    """
    trials = combinations(grid)
    if not trials:
        raise ValueError("nothing to sweep: the grid has no combination")
    if keep_returns not in ("session", "bar", None):
        raise ValueError(f"keep_returns {keep_returns!r}: expected session, bar or None")
    columns = Columns()
    found = _Collected(len(trials), keep_returns, _session_ends(bars) if keep_returns == "session" else None)

    def one(number: int) -> None:
        try:
            result = backtest(make(columns, **trials[number]), bars, instrument, cash=cash, **options)
        except ValueError as error:
            if not keep_going:
                raise ValueError(f"trial {number} {trials[number]}: {error}") from error
            found.failed[number] = str(error)
            return
        found.take(number, result.metrics(periods_per_year), result.close_time, result.equity, cash, result.refusals)
        give_back(result.equity)

    with known_whole(_all_bars(bars)):
        _run(one, len(trials), workers or os.cpu_count() or 1, progress)
    return found.result(trials)


def _run(one: Callable[[int], None], count: int, workers: int, progress: Progress | None) -> None:
    """Every trial in a few threads; the first error ends it."""
    if workers == 1:
        for number in range(count):
            one(number)
            if progress:
                progress(number + 1, count)
        return
    # Each thread takes its next trial itself: a future for every trial would cost a wake-up of this thread a trial.
    numbers, taking, ended = iter(range(count)), threading.Lock(), threading.Event()
    done: SimpleQueue[bool] = SimpleQueue()

    def work() -> None:
        try:
            while not ended.is_set():
                with taking:
                    number = next(numbers, None)
                if number is None:
                    return
                one(number)
                if progress:
                    done.put(True)
        finally:
            ended.set()  # there is no trial left, or one failed
            done.put(False)

    with ThreadPoolExecutor(workers) as pool:
        threads = [pool.submit(work) for _ in range(workers)]
        try:
            working, finished = workers, 0
            while working:
                if not done.get():
                    working -= 1
                elif progress:
                    finished += 1
                    progress(finished, count)
            for thread in threads:
                thread.result()
        finally:
            ended.set()


def _all_bars(bars: Any) -> list[Bars]:
    if isinstance(bars, Bars):
        return [bars]
    found: list[Bars] = []
    for part in bars.values() if isinstance(bars, Mapping) else bars:
        found += [part] if isinstance(part, Bars) else list(part.values())
    return found


def _session_ends(bars: Any) -> NDArray[np.int64]:
    """Close time of each session's last bar over all bars, ascending."""
    last: dict[int, int] = {}
    for b in _all_bars(bars):
        ends = np.flatnonzero(np.diff(b.session, append=b.session[-1:] + 1))
        for number, time in zip(b.session[ends].tolist(), b.close_time[ends].tolist(), strict=True):
            last[number] = max(last.get(number, time), time)
    return np.array(sorted(last.values()), np.int64)


class _Collected:
    """What trials leave, kept by number, so that the order in which they end does not matter."""

    def __init__(self, count: int, keep: str | None, ends: NDArray[np.int64] | None) -> None:
        self.keep, self.ends, self.count = keep, ends, count
        self.metrics: list[figures.Metrics | None] = [None] * count
        self.refusals: list[dict[str, int]] = [{}] * count
        self.final = np.full(count, np.nan)
        self.failed: dict[int, str] = {}
        self.returns: NDArray[np.float64] | None = None
        self.times: NDArray[np.int64] | None = None
        self.lock = threading.Lock()

    def take(
        self, number: int, measured: figures.Metrics, times: NDArray[np.int64], equity: NDArray[np.float64], cash: float,
        refusals: dict[str, int],
    ) -> None:  # fmt: skip
        self.metrics[number], self.refusals[number] = measured, refusals
        self.final[number] = equity[-1] if len(equity) else cash
        if self.keep is None:
            return
        rows = times
        if self.ends is not None:
            at = np.searchsorted(times, self.ends, side="right") - 1
            known = at >= 0
            rows, equity = self.ends, np.where(known, equity[np.maximum(at, 0)], cash) if len(equity) else np.full(len(at), cash)
        with self.lock:
            if self.returns is None:
                self.returns, self.times = np.full((len(rows), self.count), np.nan), rows
        if len(rows) != len(self.returns):
            raise ValueError(f"trial {number} has {len(rows)} equity values, others {len(self.returns)}: keep_returns='session'")
        self.returns[:, number] = figures.simple_returns(equity, cash)

    def result(self, trials: Sequence[dict[str, Any]]) -> SweepResult:
        returns = self.returns if self.returns is not None else np.empty((0, self.count))
        times = self.times if self.times is not None else np.empty(0, np.int64)
        return SweepResult(
            tuple(dict(t) for t in trials), tuple(self.metrics), returns, times, self.final, self.count, tuple(self.refusals),
            dict(sorted(self.failed.items())),
        )  # fmt: skip
