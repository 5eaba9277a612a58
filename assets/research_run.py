"""Backtests without Dagster: one strategy or plan over the whole history in the lake, with its costs and the desk's limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np

from assets.research_inputs import doubts_of, history_of, quality_of, rates_of, without_rate
from resources.config import Config
from resources.gate_history import gated_from_lake
from resources.lake import Lake, LakeError
from resources.price_view import carried, native_bars, research_actions
from resources.settings import settings
from trading.backtest import BacktestResult
from trading.bars import Bars
from trading.calendars import calendar
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.experiment import Experiment, per_year
from trading.gates.settings import budget_of
from trading.ids import content_hash
from trading.instruments import Instrument, Mode
from trading.metrics import Metrics
from trading.price_view import point_in_time
from trading.strategy import Evaluable, context_of, evaluate_anchored
from trading.trade_paths import TradePaths, paths_of

DEFAULT_COSTS: Final = Costs("per_value", rate=0.0001, slippage_kind="fixed", value=1.0)
"""Costs of a file that names none: one basis point and one tick each way, so that nothing looks free."""


@dataclass(frozen=True, slots=True, eq=False)
class StrategyRun:
    """One backtest. ignored: instrument -> why it took no part. wishes: bars that wanted to enter, before any refusal. doubts:
    why the result on an instrument may not be real."""

    evaluable: Evaluable
    symbols: tuple[str, ...]
    result: BacktestResult
    metrics: Metrics
    costs: Costs
    wishes: int
    ignored: dict[str, str]
    doubts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NotRun:
    """A strategy or plan that could not be tested, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class Prepared:
    """A strategy or plan with the bars it reads. windows: by symbol, as evaluate_anchored reads them. doubts: why the result on
    an instrument may not be real."""

    evaluable: Evaluable
    experiment: Experiment
    windows: dict[str, dict[Any, Bars]]
    ignored: dict[str, str]
    doubts: dict[str, str] = field(default_factory=dict)

    @cached_property
    def result(self) -> BacktestResult:
        """The backtest."""
        return self.experiment.run()

    @cached_property
    def snapshot(self) -> str:
        """Hash of every bar read: two backtests with the same one saw the same history."""
        return content_hash(
            [[symbol, [[str(key), bars.content_hash()] for key, bars in read.items()]] for symbol, read in self.windows.items()]
            + [[s, [[a.id, repr(a.factor), a.amount] for a in found]] for s, found in (self.experiment.actions or {}).items()]
        )[:16]


def run_all(config: Config, lake: Lake, cash: float) -> tuple[list[StrategyRun], list[NotRun]]:
    """Every strategy and plan by name, each on its own account; one that cannot be tested does not stop the others."""
    return run_prepared(*prepare_all(config, lake, cash))


def run_prepared(prepared: Sequence[Prepared], failed: list[NotRun]) -> tuple[list[StrategyRun], list[NotRun]]:
    """Backtests of what is prepared; failed: what was not, returned with what cannot be run."""
    runs: list[StrategyRun] = []
    for one in prepared:
        try:
            runs.append(_run(one))
        except ValueError as error:
            failed.append(NotRun(one.evaluable.name, one.evaluable.kind, f"{type(error).__name__}: {error}"))
    return runs, failed


_last: dict[Any, tuple[list[Prepared], list[NotRun]]] = {}


def prepare_once(
    run: str, config: Config, lake: Lake, cash: float, names: Sequence[str] = ()
) -> tuple[list[Prepared], list[NotRun]]:
    """`prepare_all`, once for all assets of a run that execute in one process: they then judge the same history, too. A
    changed file is read again."""
    key = run, tuple(sorted(names)), tuple(sorted((n, e.revision) for n, e in config.evaluables().items())), cash
    if key not in _last:
        made = prepare_all(config, lake, cash, names)
        _last.clear()
        _last[key] = made
    prepared, failed = _last[key]
    return list(prepared), list(failed)


def prepare_all(config: Config, lake: Lake, cash: float, names: Sequence[str] = ()) -> tuple[list[Prepared], list[NotRun]]:
    """`prepare` for every strategy and plan, or those named; what cannot be tested is told beside the others.

    Raises ValueError naming the strategies there are when one of `names` is not among them.
    """
    known = config.evaluables()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no strategy or plan {', '.join(unknown)}: expected one of {', '.join(sorted(known))}")
    made: list[Prepared] = []
    failed: list[NotRun] = []
    for name, evaluable in sorted(known.items()):
        if names and name not in names:
            continue
        try:
            outcome = prepare(evaluable, config, lake, cash)
        except (LakeError, ValueError) as error:
            outcome = NotRun(name, evaluable.kind, f"{type(error).__name__}: {error}")
        if isinstance(outcome, NotRun):
            failed.append(outcome)
        else:
            made.append(outcome)
    return made, failed


def prepare(
    evaluable: Evaluable, config: Config, lake: Lake, cash: float, windows: Mapping[str, dict[Any, Bars]] | None = None,
    currency: str = "",
) -> Prepared | NotRun:  # fmt: skip
    """One strategy or plan with all bars of its instruments, evaluated. windows: bars read before, by symbol; they must hold
    what it reads. currency: the account's, default the settings'. Windows and positions cross splits and spin-offs as the
    setting `price_view` says. Raises LakeError or ValueError on unreadable bars and on an action whose factor nobody knows."""
    actions = research_actions(lake, evaluable, settings().price_view)
    evaluable = gated_from_lake(
        point_in_time(evaluable, actions, native_bars(lake, config.universe)), config.universe, config.news, lake, actions,
        quality_of(config.universe, lake),
    )  # fmt: skip
    currency = currency or settings().account_currency
    traded = {symbol: config.universe.instruments[symbol] for symbol in evaluable.symbols}
    fx = rates_of(config.universe, lake, {i.currency for i in traded.values()}, currency)
    unvalued = without_rate(traded, fx, currency)
    managed: list[TradePaths | None] = []
    doubts: dict[str, str] = {}
    evaluations: list[Evaluation] = []
    bars: list[Bars] = []
    instruments: list[Instrument] = []
    ignored: dict[str, str] = {}
    read: dict[str, dict[Any, Bars]] = {}
    for symbol in evaluable.symbols:
        instrument = config.universe.instruments[symbol]
        if Mode.BACKTEST not in instrument.tradable_in:
            ignored[symbol] = "NOT_TRADABLE in backtest"
            continue
        if symbol in unvalued:
            ignored[symbol] = unvalued[symbol]
            continue
        its = dict((windows or {}).get(symbol, {}))
        for timeframe in evaluable.timeframes:
            if timeframe not in its:
                its[timeframe] = lake.read_bars(f"bars_{timeframe}", symbol)
        missing = [f"bars_{t}" for t in evaluable.timeframes if not len(its[t])]
        for other, timeframe in context_of(evaluable, symbol):
            if (other, timeframe) not in its:
                its[other, timeframe] = lake.read_bars(f"bars_{timeframe}", other)
        if missing:
            ignored[symbol] = f"no {', '.join(missing)} in the lake"
            continue
        doubt = doubts_of(instrument, its[evaluable.timeframe], actions.get(symbol, ()))
        doubts |= {symbol: doubt} if doubt else {}
        evaluations.append(evaluate_anchored(evaluable, its, instrument, calendar(instrument.calendar)))
        managed.append(paths_of(evaluable, its, instrument))
        bars.append(its[evaluable.timeframe])
        instruments.append(instrument)
        read[symbol] = its
    if not evaluations:
        why = "; ".join(f"{s}: {r}" for s, r in ignored.items()) or "it names no instrument"
        return NotRun(evaluable.name, evaluable.kind, why)
    costs = Costs.from_dict(evaluable.costs) if evaluable.costs is not None else DEFAULT_COSTS
    experiment = Experiment(
        evaluable.name, tuple(evaluations), tuple(bars), tuple(instruments), cash, evaluable.sizing, costs, config.limits,
        evaluable.min_reward_to_risk, require_stop=True, once=evaluable.once,
        actions=carried(actions, zip(instruments, bars, strict=True)), managed=tuple(managed), currency=currency, fx=fx,
        risk_budget=budget_of(evaluable), of=evaluable, history=history_of(config.limits, instruments, read, actions, lake),
    )  # fmt: skip
    return Prepared(evaluable, experiment, read, ignored, doubts)


def run_one(evaluable: Evaluable, config: Config, lake: Lake, cash: float) -> StrategyRun | NotRun:
    """One strategy or plan over all bars of its instruments. Raises LakeError or ValueError on unreadable bars."""
    prepared = prepare(evaluable, config, lake, cash)
    return prepared if isinstance(prepared, NotRun) else _run(prepared)


def _run(prepared: Prepared) -> StrategyRun:
    experiment, result, evaluable = prepared.experiment, prepared.result, prepared.evaluable
    symbols = tuple(i.symbol for i in experiment.instruments)
    return StrategyRun(
        evaluable, symbols, result, result.metrics(per_year(result.close_time)), experiment.costs, experiment.wishes,
        prepared.ignored, prepared.doubts,
    )  # fmt: skip


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


HALTS_HEADER: Final = ("strategy", "time", "what is halted", "breaker", "what it does")


def halt_rows(results: Sequence[BacktestResult]) -> list[list[Any]]:
    """Breakers that tripped and halts that were lifted, the newest first, under HALTS_HEADER."""
    rows = [
        [", ".join(dict.fromkeys(r.trades.strategies)), h["time"], h["scope"], h["code"], h["level"]]
        for r in results
        for h in r.halt_rows()
    ]
    return sorted(rows, key=lambda row: row[1], reverse=True)


class Ran(Protocol):
    """Whatever has the result of a backtest."""

    @property
    def result(self) -> BacktestResult: ...


def trade_rows(runs: Sequence[Ran], newest: int) -> list[list[Any]]:
    """The newest trades of every run, newest first, for a table."""
    rows = [row for run in runs for row in run.result.trades.rows()[-newest:]]
    rows.sort(key=lambda r: (r["exit_time"], r["strategy"], r["symbol"]), reverse=True)
    return [
        [r["strategy"], r["symbol"], r["side"], f"{r['quantity']:g}", r["entry_time"], r["entry_price"], r["exit_time"],
         r["exit_price"], r["reason"], f"{r['pnl']:+,.2f}"]
        for r in rows
    ]  # fmt: skip
