"""All strategies and plans together on one account, without Dagster: what the whole desk would have done.

Decisions, conflicts, legs, budgets and limits are the trade run's and the desk's; each strategy keeps its own costs and sizes.
Strategies in shadow or alert send nothing, and what they want stands against the others all the same, as it does live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from assets.research_run import NotRun, Prepared
from resources.config import Config
from trading.backtest import BacktestResult, backtest
from trading.calendars import calendar
from trading.conflict_policy import ConflictRule
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.experiment import Experiment, per_year
from trading.gated import Gated
from trading.gates.settings import budget_of
from trading.instruments import Mode
from trading.metrics import Metrics
from trading.risk_history import RiskHistory
from trading.strategy import Evaluable, evaluate_anchored

When = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
NOT_SENT: Final = "NOT_SENT"
"""Under which wishes of shadow and alert are counted: heard, never ordered."""


@dataclass(frozen=True, slots=True, eq=False)
class Portfolio:
    """One backtest of many. traded, heard: names; left_out: name (and instrument) -> why it took no part. slots: (strategy,
    symbol) in the order of decisions; alone: net result of each strategy on an account of its own."""

    result: BacktestResult
    metrics: Metrics
    conflicts: ConflictRule
    traded: tuple[str, ...]
    heard: tuple[str, ...]
    slots: tuple[tuple[str, str], ...]
    alone: Mapping[str, float]
    left_out: dict[str, str] = field(default_factory=dict)


def portfolio(
    prepared: Sequence[Prepared], failed: Iterable[NotRun], config: Config, cash: float, currency: str, all_trade: bool = False,
    when: When | None = None, costs_of: Callable[[str], Costs] | None = None,
) -> Portfolio:  # fmt: skip
    """Backtest what was prepared on one account. all_trade: every one trades, whatever its status and mode; else those that are
    active in paper or live do, and those in shadow or alert are heard. when: close times of bars (T,) -> bool (T,), at which
    wishes are asked for at all; None: at all of them. costs_of: costs by symbol, as the paper broker has them; None: each file's.

    Raises ValueError when nothing of it trades.
    """
    left_out = {one.name: one.reason for one in failed}
    slots: list[_Slot] = []
    for one in sorted(prepared, key=lambda p: p.evaluable.name):
        role = _role(one.evaluable, all_trade)
        if role is None:
            left_out[one.evaluable.name] = f"status {one.evaluable.status}, mode {one.evaluable.mode}"
            continue
        left_out |= {f"{one.evaluable.name}/{symbol}": why for symbol, why in one.ignored.items()}
        slots += [_slot(one, s, role, when) for s in range(len(one.experiment.instruments))]
    if not any(slot.trades for slot in slots):
        raise ValueError("nothing trades: expected an active strategy or plan in paper or live, or names of those to test")
    experiments = [slot.of.experiment for slot in slots]
    first = experiments[0]
    result = backtest(
        [slot.evaluation for slot in slots], [e.bars[s.at] for e, s in zip(experiments, slots, strict=True)],
        [e.instruments[s.at] for e, s in zip(experiments, slots, strict=True)], cash=cash,
        sizing=[e.sizing for e in experiments], limits=first.limits,
        costs=[costs_of(s.evaluation.symbol) if costs_of else s.of.experiment.costs for s in slots],
        strategy=[slot.of.evaluable.name for slot in slots], require_stop=True,
        min_reward_to_risk=[e.min_reward_to_risk for e in experiments], gates=[slot.gates for slot in slots], currency=currency,
        fx={name: series for e in experiments for name, series in (e.fx or {}).items()},
        actions={symbol: its for e in experiments for symbol, its in e.actions.items()} or None,
        managed=[e.managed[s.at] if e.managed else None for e, s in zip(experiments, slots, strict=True)],
        risk_budget=[budget_of(slot.of.evaluable) for slot in slots], once=[e.once for e in experiments],
        conflicts=config.universe.conflicts, files=[slot.of.evaluable for slot in slots], history=_history(experiments),
        detail=True,
    )  # fmt: skip
    traded = tuple(dict.fromkeys(s.of.evaluable.name for s in slots if s.trades))
    heard = tuple(dict.fromkeys(s.of.evaluable.name for s in slots if not s.trades))
    alone = {one.evaluable.name: _net(one.result) for one in prepared if one.evaluable.name in traded}
    return Portfolio(
        result, result.metrics(per_year(result.close_time)), config.universe.conflicts, traded, heard,
        tuple((s.of.evaluable.name, s.evaluation.symbol) for s in slots), alone, left_out,
    )  # fmt: skip


def _history(experiments: Sequence[Experiment]) -> RiskHistory | None:
    """What the limits are measured on, of all of them."""
    found: RiskHistory | None = None
    for one in experiments:
        if one.history is not None:
            found = one.history if found is None else found.joined(one.history)
    return found


def _role(evaluable: Evaluable, all_trade: bool) -> bool | None:
    """True: it trades; False: it is heard; None: neither."""
    if all_trade:
        return True
    if evaluable.status != "active" or evaluable.mode is Mode.BACKTEST:
        return None
    return evaluable.mode in (Mode.PAPER, Mode.LIVE)


@dataclass(frozen=True, slots=True, eq=False)
class _Slot:
    of: Prepared
    at: int
    evaluation: Evaluation
    gates: dict[str, Any]
    trades: bool


def _slot(one: Prepared, at: int, trades: bool, when: When | None) -> _Slot:
    """One instrument of a strategy: every wish, with the gates beside it, so that a refused one is a signal all the same."""
    evaluable, evaluation, instrument = one.evaluable, one.experiment.evaluations[at], one.experiment.instruments[at]
    gates: dict[str, Any] = {}
    if isinstance(evaluable, Gated):
        windows, venue = one.windows[instrument.symbol], calendar(instrument.calendar)
        evaluation = evaluate_anchored(evaluable.plain, windows, instrument, venue)
        gates |= evaluable.judge(evaluation, windows, instrument, venue).passes(len(evaluation.close_time))
    if when is not None:
        asked = when(evaluation.close_time)
        evaluation = replace(evaluation, ready=np.asarray(evaluation.ready) & asked)
    if not trades:
        gates[NOT_SENT] = np.zeros(len(evaluation.close_time), bool)
    return _Slot(one, at, evaluation, gates, trades)


def _net(result: BacktestResult) -> float:
    return float(result.equity[-1] - result.cash) if len(result.equity) else 0.0


HEADER: Final = ("strategy", "instrument", "entries", "winners", "net", "share of gross", "alone: net")
REFUSED_HEADER: Final = ("strategy", "instrument", "code", "refused")


def rows(found: Portfolio) -> list[list[Any]]:
    """Rows under HEADER: a line per strategy and instrument that traded, in the order of decisions, then the account's."""
    t = found.result.trades
    out: list[list[Any]] = []
    total = float(np.abs(t.pnl).sum()) or 1.0
    for s, (name, symbol) in enumerate(found.slots):
        if name not in found.traded:
            continue
        mine = t.slot == s
        entries = len(np.unique(t.trade[mine]))
        won = sum(float(t.pnl[mine & (t.trade == number)].sum()) > 0 for number in np.unique(t.trade[mine]))
        share = f"{100 * float(np.abs(t.pnl[mine]).sum()) / total:.0f} %"
        out.append([name, symbol, entries, won, f"{float(t.pnl[mine].sum()):+,.2f}", share, ""])
    for name, net in found.alone.items():
        if len({symbol for n, symbol in found.slots if n == name}) > 1:
            together = sum(float(t.pnl[t.slot == s].sum()) for s, (n, _) in enumerate(found.slots) if n == name)
            out.append([name, "all", "", "", f"{together:+,.2f}", "", f"{net:+,.2f}"])
        else:
            next(row for row in out if row[0] == name)[6] = f"{net:+,.2f}"
    m = found.metrics
    out.append(["the account", "", m.trades, f"{100 * m.win_rate:.0f} %" if np.isfinite(m.win_rate) else "–",
                f"{_net(found.result):+,.2f}", "", f"{sum(found.alone.values()):+,.2f}"])  # fmt: skip
    return out


def refused_rows(found: Portfolio) -> list[list[Any]]:
    """Rows under REFUSED_HEADER: which strategy was refused what, conflicts and missing legs included."""
    return [
        [name, symbol, code, count]
        for (name, symbol), refusals in zip(found.slots, found.result.slot_refusals, strict=True)
        for code, count in sorted(refusals.items())
    ]
