"""What each gate refused over a history, and what the refused signals would have earned.

Three answers, because one would mislead:

* each refused signal on its own, as if nothing else were traded: trades, share of winners, mean result in multiples of what
  was risked (R) and its standard error. Overlapping ones are counted twice here, and their results are not independent;
* those of them that could have been taken one after the other beside what was traded: `free`;
* the whole backtest with this gate alone switched off, on the same account: what really would have changed.

Fills, costs, stops and targets are the backtest's. A signal that another gate refuses, too, would not have been traded
without this gate: `alone` counts those that only this gate refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trading.backtest import BacktestResult
from trading.bars import Bars
from trading.calendars import calendar
from trading.decisions import verdict_of
from trading.evaluable import Evaluable, evaluate_anchored
from trading.evaluation import Evaluation
from trading.experiment import Experiment
from trading.gated import HOSTED, Gated, Judged, without
from trading.gates.base import GATES
from trading.instruments import Instrument
from trading.signals import Action

LEVEL_GATES: Final = ("stop_required", "reward_to_risk")
"""Gates the backtest's loop judges by the levels of a wish."""
_BUDGET: Final = "budget"
_PASSES: Final = 200


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Results of signals traded each on its own. count: how many closed; open: still open at the end; lost_way: never entered
    (no fill, less than a lot); mean_r, error_r: mean in multiples of the risk, and its standard error; total_r: their sum."""

    count: int
    open: int
    lost_way: int
    win_rate: float
    mean_r: float
    error_r: float
    total_r: float


@dataclass(frozen=True, slots=True)
class GateLine:
    """One gate of one strategy. wishes: signals judged; refused: by this gate, whatever the others said; first: it was the
    first to refuse; alone: only it refused. each, free: see the module. trades_without, net_without: trades and net profit
    more (or less) with this gate off; NaN where it was not run."""

    gate: str
    wishes: int
    refused: int
    first: int
    alone: int
    each: Outcomes
    free: Outcomes
    trades_without: float
    net_without: float


@dataclass(frozen=True, slots=True, eq=False)
class GateReport:
    """Lines of one strategy in the order of its gates. taken: closed trades and net profit with every gate on."""

    strategy: str
    lines: tuple[GateLine, ...]
    taken_trades: int
    taken_net: float
    taken: Outcomes


@dataclass(frozen=True, slots=True)
class SignalTrade:
    """One entry with all its parts. Times in UTC us; r: profit over what was risked, NaN without a stop."""

    slot: int
    signal_time: int
    entry_time: int
    exit_time: int
    r: float
    closed: bool


def gate_report(evaluable: Evaluable, experiment: Experiment, windows: Mapping[str, Mapping[Any, Bars]]) -> GateReport:
    """The report of a strategy or plan as it was prepared for a backtest. windows: bars it reads, by symbol.

    experiment: with its gates on, or without any. Raises ValueError when the parts do not fit together.
    """
    plain = evaluable.plain if isinstance(evaluable, Gated) else evaluable
    evaluations = [
        evaluate_anchored(plain, windows[i.symbol], i, calendar(i.calendar)) for i in experiment.instruments
    ]  # fmt: skip
    judged = [
        _judge(evaluable, e, windows[i.symbol], b, i, experiment)
        for e, i, b in zip(evaluations, experiment.instruments, experiment.bars, strict=True)
    ]
    ungated = experiment.but(evaluations=tuple(evaluations), managed=experiment.managed, of=experiment.of)
    actual = experiment.run()
    taken = _trades(actual, experiment.bars, experiment.instruments, evaluations)
    names = [*(HOSTED if isinstance(evaluable, Gated) else ()), *LEVEL_GATES]
    used = [n for n in names if any(_refused(j, n).any() for j in judged)]
    lines = [_line(name, judged, ungated, actual, taken) for name in used]
    if experiment.risk_budget is not None:
        lines.append(_budget_line(experiment, actual, judged))
    closed = [t for t in taken if t.closed]
    return GateReport(experiment.name, tuple(lines), len(closed), _net(actual), outcomes(taken, len(taken)))


def _judge(
    evaluable: Evaluable, evaluation: Evaluation, windows: Mapping[Any, Bars], bars: Bars, instrument: Instrument, of: Experiment
) -> Judged:
    """Verdicts of the gates over histories, then those that read levels only."""
    if isinstance(evaluable, Gated):
        judged = evaluable.judge(evaluation, windows, instrument, calendar(instrument.calendar))
    else:
        wanted = (np.asarray(evaluation.enter_long) != np.asarray(evaluation.enter_short)) & evaluation.ready
        rows = np.flatnonzero(wanted).astype(np.int64)
        side = np.where(np.asarray(evaluation.enter_long)[rows], 1, -1).astype(np.int8)
        judged = Judged(rows, side, tuple(() for _ in rows))
    gates = dict(GATES.ordered())
    verdicts = []
    for row, side_, its in zip(judged.rows.tolist(), judged.side.tolist(), judged.verdicts, strict=True):
        snapshot = {"signal": _levels(evaluation, bars, instrument, row, side_), "min_reward_to_risk": of.min_reward_to_risk}
        verdicts.append((*its, *(verdict_of(name, gates[name], snapshot) for name in LEVEL_GATES)))
    return replace(judged, verdicts=tuple(verdicts))


def _levels(evaluation: Evaluation, bars: Bars, instrument: Instrument, row: int, side: int) -> dict[str, Any]:
    def price(value: float) -> float | None:
        return instrument.round_price(float(value)) if math.isfinite(value) else None

    stop = (evaluation.stop_long if side > 0 else evaluation.stop_short)[row]
    target = (evaluation.target_long if side > 0 else evaluation.target_short)[row]
    action = Action.ENTER_LONG if side > 0 else Action.ENTER_SHORT
    return {
        "symbol": instrument.symbol, "action": action.value, "reference_price": price(bars.close[row]), "stop_price": price(stop),
        "target_price": price(target),
    }  # fmt: skip


def _refused(judged: Judged, gate: str) -> NDArray[np.bool_]:
    return np.array([any(v.gate == gate and not v.passed for v in its) for its in judged.verdicts], bool)


def _line(
    name: str, judged: Sequence[Judged], ungated: Experiment, actual: BacktestResult, taken: Sequence[SignalTrade]
) -> GateLine:  # fmt: skip
    wishes = refused = first = alone = 0
    rows: list[NDArray[np.int64]] = []
    kept: list[NDArray[np.int64]] = []
    for its in judged:
        mine = _refused(its, name)
        said = [[v.gate for v in verdicts if not v.passed] for verdicts in its.verdicts]
        wishes += len(mine)
        refused += int(mine.sum())
        first += sum(bool(s) and s[0] == name for s in said)
        alone += sum(s == [name] for s in said)
        rows.append(its.rows[mine])
        kept.append(its.rows[[not s or s == [name] for s in said]] if len(said) else its.rows)
    each, missing = _each(ungated, rows)
    free = _free(each, taken)
    changed: dict[str, Any] = {"min_reward_to_risk": 0.0} if name == "reward_to_risk" else {}
    changed |= {"require_stop": False} if name == "stop_required" else {}
    result = _only(ungated, kept).but(**changed).run()
    trades = len(_trades(result, ungated.bars, ungated.instruments, ungated.evaluations, closed=True))
    before = len([t for t in taken if t.closed])
    return GateLine(
        name, wishes, refused, first, alone, outcomes(each, len(each) + missing), outcomes(free, len(free)),
        float(trades - before), _net(result) - _net(actual),
    )  # fmt: skip


def _budget_line(experiment: Experiment, actual: BacktestResult, judged: Sequence[Judged]) -> GateLine:
    """The budget depends on what is held at the time: only the whole backtest without it says what it cost."""
    result = experiment.but(risk_budget=None).run()
    nothing = Outcomes(0, 0, 0, math.nan, math.nan, math.nan, 0.0)
    count = int(actual.refusals.get("RISK_BUDGET", 0))
    trades = [_trades(r, experiment.bars, experiment.instruments, experiment.evaluations, closed=True) for r in (result, actual)]
    return GateLine(
        _BUDGET, sum(len(j.rows) for j in judged), count, count, count, nothing, nothing, float(len(trades[0]) - len(trades[1])),
        _net(result) - _net(actual),
    )  # fmt: skip


def _only(of: Experiment, rows: Sequence[NDArray[np.int64]]) -> Experiment:
    """The same with no entry wish but those at `rows`."""
    evaluations = []
    for evaluation, wanted in zip(of.evaluations, rows, strict=True):
        every = np.flatnonzero(np.asarray(evaluation.enter_long) | np.asarray(evaluation.enter_short))
        evaluations.append(without(evaluation, np.setdiff1d(every, wanted)))
    return of.but(evaluations=tuple(evaluations), managed=of.managed, of=of.of)


def _each(of: Experiment, rows: Sequence[NDArray[np.int64]]) -> tuple[list[SignalTrade], int]:
    """(trades of the wishes at `rows`, each as if it were the only one; how many were never entered).

    Sizes that ignore the account make trades independent of each other: wishes that overlap are run again until every one had
    its turn.
    """
    free = of.but(
        sizing={"kind": "notional", "amount": of.cash}, limits=None, risk_budget=None, once=False, min_reward_to_risk=0.0,
        require_stop=False, managed=of.managed, of=of.each_leg,
    )  # fmt: skip
    left = [set(r.tolist()) for r in rows]
    done: list[SignalTrade] = []
    for _ in range(_PASSES):
        if not any(left):
            break
        wanted = [np.array(sorted(its), np.int64) for its in left]
        run = _only(free, wanted)
        made = _trades(run.run(), of.bars, of.instruments, of.evaluations)
        if not made:
            break
        for trade in made:
            row = int(np.searchsorted(of.bars[trade.slot].close_time, trade.signal_time))
            left[trade.slot].discard(row)
        done += made
    return done, sum(len(its) for its in left)


def each_alone(
    evaluable: Evaluable, experiment: Experiment, windows: Mapping[str, Mapping[Any, Bars]], rows: Sequence[NDArray[np.int64]]
) -> tuple[list[SignalTrade], int]:
    """(trades of the wishes at `rows` of each slot, each as if it were the only one; how many were no wish or never entered)."""
    plain = evaluable.plain if isinstance(evaluable, Gated) else evaluable
    evaluations = tuple(
        evaluate_anchored(plain, windows[i.symbol], i, calendar(i.calendar)) for i in experiment.instruments
    )  # fmt: skip
    return _each(experiment.but(evaluations=evaluations, managed=experiment.managed, of=experiment.of), rows)


def _trades(
    result: BacktestResult, bars: Sequence[Bars], instruments: Sequence[Instrument], evaluations: Sequence[Evaluation],
    closed: bool = False,
) -> list[SignalTrade]:  # fmt: skip
    """Entries with all their parts, by entry; r: profit over what was risked, NaN without a stop. closed: those only."""
    t = result.trades
    parts: dict[tuple[int, int], list[int]] = {}
    for at in range(len(t)):
        parts.setdefault((int(t.slot[at]), int(t.trade[at])), []).append(at)
    found: list[SignalTrade] = []
    for (slot, _), rows in parts.items():
        row = int(np.searchsorted(bars[slot].close_time, t.signal_time[rows[0]]))
        e, multiplier = evaluations[slot], float(instruments[slot].multiplier)
        quantity, entry = float(np.sum(t.quantity[rows])), float(t.entry_price[rows[0]])
        stop = float((e.stop_long if quantity > 0 else e.stop_short)[row])
        risked = abs(quantity) * abs(entry - stop) * multiplier
        r = float(np.sum(t.pnl[rows])) / risked if risked > 0 and math.isfinite(risked) else math.nan
        is_closed = bool(np.all(t.closed[rows]))
        if closed and not is_closed:
            continue
        found.append(
            SignalTrade(
                slot, int(t.signal_time[rows[0]]), int(t.entry_time[rows[0]]), int(np.max(t.exit_time[rows])), r, is_closed
            )
        )
    return sorted(found, key=lambda x: (x.entry_time, x.slot))


def _free(each: Sequence[SignalTrade], taken: Sequence[SignalTrade]) -> list[SignalTrade]:
    """Those that could have been taken one after the other beside the trades taken: one position per instrument."""
    busy: dict[int, list[tuple[int, int]]] = {}
    for trade in taken:
        busy.setdefault(trade.slot, []).append((trade.entry_time, trade.exit_time))
    kept: list[SignalTrade] = []
    for trade in sorted(each, key=lambda x: (x.entry_time, x.slot)):
        spans = busy.setdefault(trade.slot, [])
        if all(trade.exit_time < begin or trade.entry_time > end for begin, end in spans):
            kept.append(trade)
            spans.append((trade.entry_time, trade.exit_time))
    return kept


def outcomes(trades: Sequence[SignalTrade], wished: int) -> Outcomes:
    """Figures of `trades`, which `wished` signals became."""
    closed = [t for t in trades if t.closed]
    results = np.array([t.r for t in closed if math.isfinite(t.r)])
    count = len(results)
    error = float(results.std(ddof=1) / math.sqrt(count)) if count > 1 else math.nan
    return Outcomes(
        len(closed), len(trades) - len(closed), wished - len(trades),
        float(np.mean(results > 0)) if count else math.nan, float(results.mean()) if count else math.nan, error,
        float(results.sum()),
    )  # fmt: skip


def _net(result: BacktestResult) -> float:
    """Profit of the whole backtest, open positions at their mark."""
    return float(result.equity[-1] - result.cash) if len(result.equity) else 0.0
