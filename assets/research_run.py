"""Backtests without Dagster: one strategy or plan over the whole history in the lake, with its costs and the desk's limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from resources.config import Config
from resources.lake import Lake, LakeError
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.calendars import calendar
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import Instrument, Mode
from trading.metrics import Metrics
from trading.strategy import Evaluable, evaluate_anchored
from trading.timeframes import US_PER_DAY

DEFAULT_COSTS: Final = Costs("per_value", rate=0.0001, slippage_kind="fixed", value=1.0)
"""Costs of a file that names none: one basis point and one tick each way, so that nothing looks free."""


@dataclass(frozen=True, slots=True, eq=False)
class StrategyRun:
    """One backtest. ignored: instrument -> why it took no part. wishes: bars that wanted to enter, before any refusal."""

    evaluable: Evaluable
    symbols: tuple[str, ...]
    result: BacktestResult
    metrics: Metrics
    costs: Costs
    wishes: int
    ignored: dict[str, str]


@dataclass(frozen=True, slots=True)
class NotRun:
    """A strategy or plan that could not be tested, and why."""

    name: str
    kind: str
    reason: str


def run_all(config: Config, lake: Lake, cash: float) -> tuple[list[StrategyRun], list[NotRun]]:
    """Every strategy and plan by name, each on its own account; one that cannot be tested does not stop the others."""
    runs: list[StrategyRun] = []
    failed: list[NotRun] = []
    for name, evaluable in sorted(config.evaluables().items()):
        try:
            outcome = run_one(evaluable, config, lake, cash)
        except (LakeError, ValueError) as error:
            failed.append(NotRun(name, evaluable.kind, f"{type(error).__name__}: {error}"))
            continue
        if isinstance(outcome, NotRun):
            failed.append(outcome)
        else:
            runs.append(outcome)
    return runs, failed


def run_one(evaluable: Evaluable, config: Config, lake: Lake, cash: float) -> StrategyRun | NotRun:
    """One strategy or plan over all bars of its instruments. Raises LakeError or ValueError on unreadable bars."""
    evaluations: list[Evaluation] = []
    bars: list[Bars] = []
    instruments: list[Instrument] = []
    ignored: dict[str, str] = {}
    for symbol in evaluable.symbols:
        instrument = config.universe.instruments[symbol]
        if Mode.BACKTEST not in instrument.tradable_in:
            ignored[symbol] = "NOT_TRADABLE in backtest"
            continue
        windows = {t: lake.read_bars(f"bars_{t}", symbol) for t in evaluable.timeframes}
        missing = [f"bars_{t}" for t, b in windows.items() if not len(b)]
        if missing:
            ignored[symbol] = f"no {', '.join(missing)} in the lake"
            continue
        evaluations.append(evaluate_anchored(evaluable, windows, instrument, calendar(instrument.calendar)))
        bars.append(windows[evaluable.timeframe])
        instruments.append(instrument)
    if not evaluations:
        why = "; ".join(f"{s}: {r}" for s, r in ignored.items()) or "it names no instrument"
        return NotRun(evaluable.name, evaluable.kind, why)
    costs = Costs.from_dict(evaluable.costs) if evaluable.costs is not None else DEFAULT_COSTS

    def run() -> BacktestResult:
        return backtest(
            evaluations, bars, instruments, cash=cash, sizing=evaluable.sizing, costs=costs, limits=config.limits,
            strategy=evaluable.name, require_stop=True, min_reward_to_risk=evaluable.min_reward_to_risk,
        )  # fmt: skip

    result = run()
    if evaluable.once and len(result.trades) > 1:
        entered = int(result.trades.signal_time.min())
        evaluations[:] = [_until(e, entered) for e in evaluations]
        result = run()
    wishes = sum(int(np.sum((e.enter_long != e.enter_short) & e.ready)) for e in evaluations)
    symbols = tuple(i.symbol for i in instruments)
    return StrategyRun(evaluable, symbols, result, result.metrics(_per_year(result)), costs, wishes, ignored)


def _until(evaluation: Evaluation, last: int) -> Evaluation:
    """The same without entries after `last` (UTC us): a plan enters once."""
    allowed = evaluation.close_time <= last
    return replace(evaluation, enter_long=evaluation.enter_long & allowed, enter_short=evaluation.enter_short & allowed)


def _per_year(result: BacktestResult) -> float:
    """Equity values in a year, from how many there are and how long they span."""
    span = int(result.close_time[-1] - result.close_time[0]) if len(result.close_time) else 0
    years = span / (365.25 * US_PER_DAY)
    return len(result.close_time) / years if years > 0 else 252.0


METRICS_HEADER: Final = (
    "strategy", "kind", "instruments", "timeframe", "return", "CAGR", "Sharpe", "max drawdown", "trades", "win rate",
    "profit factor", "exposure", "wishes", "refused", "costs paid",
)  # fmt: skip


def metrics_row(run: StrategyRun) -> list[Any]:
    """One row under METRICS_HEADER."""
    m, e = run.metrics, run.evaluable

    def percent(value: float) -> str:
        return f"{100 * value:+.2f} %" if np.isfinite(value) else "–"

    def number(value: float) -> str:
        return f"{value:.2f}" if np.isfinite(value) else "–"

    still_open = int(np.sum(~run.result.trades.closed))
    trades = f"{m.trades} + {still_open} open" if still_open else str(m.trades)
    return [
        e.name, e.kind, ", ".join(run.symbols), str(e.timeframe), percent(m.total_return), percent(m.cagr), number(m.sharpe),
        percent(-m.max_drawdown), trades, percent(m.win_rate).lstrip("+"), number(m.profit_factor),
        percent(m.exposure).lstrip("+"), run.wishes, sum(run.result.refusals.values()),
        f"{float(run.result.trades.commission.sum()):,.2f}",
    ]  # fmt: skip


def trade_rows(runs: Sequence[StrategyRun], newest: int) -> list[list[Any]]:
    """The newest trades of every run, newest first, for a table."""
    rows = [row for run in runs for row in run.result.trades.rows()[-newest:]]
    rows.sort(key=lambda r: (r["exit_time"], r["strategy"], r["symbol"]), reverse=True)
    return [
        [r["strategy"], r["symbol"], r["side"], f"{r['quantity']:g}", r["entry_time"], r["entry_price"], r["exit_time"],
         r["exit_price"], r["reason"], f"{r['pnl']:+,.2f}"]
        for r in rows
    ]  # fmt: skip
