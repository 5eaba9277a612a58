"""Backtest: strategies or evaluations over their bars become trades, equity and refusals, with the rules the live desk keeps.

The events of bar k of one slot, a (strategy, instrument), in this order:

0. Before the open, by itself: borrow cost of a short held over the night, splits, dividends, spin-offs and rolls of the
   session (quantities and levels are adjusted, a roll closes the old contract and opens the new one, with costs).
1. At the open, what was decided at the close of bar k-1 fills as a market order: an exit, else a market entry. Limit, stop
   and stop-limit entries work inside the bar (trading.matching).
2. During the bar, the open position's stop is tried, then its targets, in the bar of a market entry, too; in the bar of an
   entry inside it only the stop. A bar that reaches both is decided for the stop and counted in ambiguous_bars.
3. After the last bar of a delisted instrument the position is closed at its last price and the instrument refused.
4. At the close the account is marked; where the equity is below the maintenance margin, entries are canceled and positions
   exit at their next open, the largest first, until what is left is covered.
5. If the position is still open: the exit rule, then max_bars, then the session's end, decide an exit for the next open.
   Then, if the slot holds nothing and has nothing pending, an entry wish passes the gates given, stop_required and
   reward_to_risk, is sized and checked against limits and margin, and becomes an order for the next bar. Otherwise the
   wish is refused with POSITION_OPEN: one position per strategy and instrument, so a reversal is an exit and, at a later
   close, an entry. A trailing stop moves at the close, for the next bar. A plan's own functions are asked after the exit
   rule, where that did not end the trade: an exit, else where the stop stands and which parts are closed at the next open.

Sizes and limits see the equity at that close: cash plus every position marked at its newest close, after the fills of
the bar. Slots whose bars close at the same time are handled in the order they were given, all fills before all
decisions. A wish for both sides at once, or while not ready, is none. Levels and the reference price (the close, or the
entry's level) are on the tick grid, as a signal's are. Nothing is closed at the end: an open position is marked and reported
as an open trade. An exit under way takes the stop and the targets back; any exit cancels what is pending of the entry.
Amounts are in account currency; another quote currency needs an fx series, and a wish without a known rate is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trading import engine_execution, engine_host, engine_inputs, engine_signals
from trading import engine_records as er
from trading.backtest_result import EXIT_REASONS, BacktestResult, Trades
from trading.bars import Bars
from trading.conflict_policy import ConflictRule
from trading.corporate_actions import CorporateAction
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.execution.spec import parse as parse_execution
from trading.gates.settings import budget_of
from trading.instruments import Instrument
from trading.limits import Limits
from trading.order_rules import FxSeries, Margin, Margins, OrderRules, Target
from trading.risk_history import RiskHistory, is_needed, past_of
from trading.sizing import FIXED, NOTIONAL
from trading.strategy import legs_of
from trading.strategy_slots import Evaluable, evaluate_all
from trading.trade_paths import TradePaths

__all__ = [
    "EXIT_REASONS", "BacktestResult", "FxSeries", "Margin", "OrderRules", "Target", "Trades", "backtest",
]  # fmt: skip

Gates = Mapping[str, Any]


def backtest(
    what: Evaluation | Evaluable | Sequence[Evaluation] | Sequence[Evaluable],
    bars: Any,
    instrument: Instrument | Sequence[Instrument] | Mapping[str, Instrument],
    *,
    cash: float,
    sizing: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    costs: Costs | Mapping[str, Costs] | Sequence[Costs] | None = None,
    limits: Limits | None = None,
    strategy: str | Sequence[str] = "",
    require_stop: bool = False,
    min_reward_to_risk: float | Sequence[float] | None = None,
    orders: OrderRules | Sequence[OrderRules] | None = None,
    gates: Gates | Sequence[Gates] | None = None,
    margins: Margins | None = None,
    currency: str | None = None,
    fx: Mapping[str, FxSeries] | None = None,
    actions: Mapping[str, Sequence[CorporateAction]] | None = None,
    managed: Sequence[TradePaths | None] | None = None,
    risk_budget: float | Sequence[float | None] | None = None,
    once: bool | Sequence[bool] | None = None,
    conflicts: ConflictRule | None = None,
    files: Sequence[Evaluable] | None = None,
    history: RiskHistory | None = None,
    resume: str = "next_session",
    detail: bool = False,
) -> BacktestResult:
    """Run evaluations, or strategies and plans, over their bars as one portfolio (see the module for the rules).

    what: evaluations, one slot each, or strategies and plans, which are evaluated on anchored windows as the live desk does
    (each brings its own sizing, reward to risk and name; a slot per instrument of theirs that has bars). The order is the
    order of decisions at the same close. bars, instrument: one per slot in the same order, or by symbol; bars of the
    evaluation's timeframe with exactly its close times; for strategies {symbol: {timeframe: bars}}. cash: start, account
    currency. sizing, strategy, min_reward_to_risk, orders: one for all, or one per slot. costs: for all, by symbol or one per
    slot; None is free. limits: None checks none; a limit missing in given ones refuses, as it does on the desk. require_stop:
    refuse entries without a protective stop, as the desk does. gates: {name: bool (T,) passes}, for all slots or one per slot;
    refused wishes are counted by name. margins: initial and maintenance, for all, by symbol or asset class; None: no margin
    is checked. currency, fx: the account's, and rates of the others by currency. actions: by symbol. managed: one per slot, how
    its open trades are managed; plans bring theirs. once: a slot enters one time only; plans bring it, too.
    conflicts: the policy that resolves opposite signals of one close on an instrument, as the trade run does; wishes that other
    gates refuse take part; None: each strategy is asked by itself. files: of evaluations, the strategy or plan each is of, for
    how its entries are worked and which legs go together; strategies bring themselves. history: prices that value at risk,
    correlation and the circuit breaker are measured on; None: the bars given, and daily closes of theirs. resume: when the
    operator lifts what a breaker latched (a day's loss, a drawdown, an abnormal move): next_session, at its first close;
    at_once, so that it only cancels and flattens; never. detail: keep fills, entry orders and exposures of simple runs, too
    (slower).
    Raises ValueError naming the symbol when the parts do not fit together, UnknownFactor for an action that cannot be
    carried.
    """
    if not (cash > 0 and math.isfinite(cash)):
        raise ValueError(f"cash {cash!r}: expected a positive amount")
    found = evaluate_all(what, bars, instrument, actions, apart=conflicts is not None)
    evaluations, own_bars, own_instruments, its, brought = found[:5]
    count = len(evaluations)
    files = files if files is not None else its
    if files is not None and len(files) != count:
        raise ValueError(f"files: {len(files)} given for {count} evaluations")
    managed = list(managed) if managed is not None else brought or [None] * count
    if len(managed) != count:
        raise ValueError(f"managed: {len(managed)} given for {count} evaluations")
    if its is not None:
        once = [e.once for e in its] if once is None else once
        sizing = sizing if sizing is not None else [e.sizing for e in its]
        strategy = strategy or [e.name for e in its]
        min_reward_to_risk = [e.min_reward_to_risk for e in its] if min_reward_to_risk is None else min_reward_to_risk
    if sizing is None:
        raise ValueError("sizing: expected a rule such as {'kind': 'risk_percent', 'percent': 0.5}")
    sizings: list[Mapping[str, Any]] = _each("sizing", sizing, Mapping, count)
    strategies: list[str] = _each("strategy", strategy, str, count)
    minimums: list[float] = _each("min_reward_to_risk", min_reward_to_risk or 0.0, (int, float), count)
    rules: list[OrderRules] = _each("orders", orders or engine_inputs.PLAIN_RULES, OrderRules, count)
    if files is not None:  # a strategy's file says how its entries are worked
        rules = [
            replace(r, execution=parse_execution(said)) if (said := getattr(e, "execution", None)) and r.execution is None else r
            for r, e in zip(rules, files, strict=True)
        ]
    for r, paths, e in zip(rules, managed, evaluations, strict=True):
        if r.targets and paths is not None and paths.scale_outs:
            raise ValueError(f"{e.symbol}: orders.targets would take the place of the parts its scale-outs close")
    its_gates: list[Gates] = _each("gates", gates or {}, Mapping, count)
    its_gates = [{**judged, **given} for judged, given in zip(found[5], its_gates, strict=True)] if found[5] else its_gates
    for one, b, i in zip(evaluations, own_bars, own_instruments, strict=True):
        _check_fit(one, b, i)
    records = engine_inputs.slots_of(
        own_instruments, strategies, sizings, costs, evaluations, require_stop, minimums, rules, margins,
        _each("once", once or False, bool, count),
    )  # fmt: skip
    if its is not None and risk_budget is None:
        risk_budget = [budget_of(e) for e in its]
    engine_inputs.add_budgets(records, risk_budget)
    legs = [legs_of(e) for e in files] if files is not None else [()] * count
    together = engine_signals.add_together(records, strategies, legs, conflicts)
    rates = engine_inputs.add_rates(records, own_instruments, own_bars, currency, fx)
    wishes: list[er.Records] = []
    heard: list[er.Records] = []
    refused: dict[str, int] = {}
    by_slot: list[dict[str, int]] = []
    for e, b, i, rule, passes in zip(evaluations, own_bars, own_instruments, rules, its_gates, strict=True):
        if together.any:
            made, _ = engine_inputs.wishes_of(e, b, i, rule)
            barred, gated = engine_signals.first_refusals(made, passes, len(b))
            heard.append(engine_signals.signals_of(made, e, barred))
        else:
            made, gated = engine_inputs.wishes_of(e, b, i, rule, passes)
        finer = getattr(files[len(wishes)], "finer_bars", None) if files is not None else None
        engine_inputs.scale_wishes(made, sizings[len(wishes)], b, i, actions, finer, _held_of(bars, i.symbol))
        wishes.append(made)
        by_slot.append(dict(gated))
        for name, n in gated.items():
            refused[name] = refused.get(name, 0) + n
    weights = engine_execution.add_executions(
        records, wishes, [r.execution for r in rules], own_instruments, own_bars,
        [e.valid_bars for e in files] if files else [0] * count,
        [(e.name, e.revision) for e in files] if files else [(name, "") for name in strategies],
        [bool(r.targets or e.targets) for r, e in zip(rules, evaluations, strict=True)],
    )  # fmt: skip
    slots = engine_host.Slots(
        evaluations, own_bars, wishes, records,
        engine_inputs.bounds_of(limits, strategies, own_instruments), float(cash), rates=rates,
        weights=weights, paths=managed, heard=heard, together=together,
    )  # fmt: skip
    plain = _is_plain(slots, rules, limits, actions, detail)
    if not plain:
        _add_rules(slots, rules, own_instruments, actions)
        if history is None:
            history = RiskHistory.of(_all_bars(bars, own_bars), actions) if is_needed(limits) else RiskHistory()
        first = min((int(b.close_time[0]) for b in own_bars if len(b)), default=0)
        symbols = list(dict.fromkeys(i.symbol for i in own_instruments))
        slots.past = past_of(limits, symbols, history, first, count, resume)
    raw = engine_host.run_apart(slots) if plain else engine_host.run_together(slots)
    for name, n in zip(er.REFUSAL_NAMES, raw.refused, strict=True):
        if n:
            refused[name] = refused.get(name, 0) + int(n)
    for counts, its_refused in zip(by_slot, raw.by_slot if raw.by_slot is not None else (), strict=raw.by_slot is not None):
        for name, n in zip(er.REFUSAL_NAMES, its_refused, strict=True):
            if n:
                counts[name] = counts.get(name, 0) + int(n)
    return BacktestResult(
        trades=Trades(tuple(e.symbol for e in evaluations), tuple(strategies), **raw.trades),
        orders=int(raw.book["orders"]),
        close_time=raw.times,
        equity=raw.equity,
        cash=float(cash),
        refusals=refused,
        halts_made=raw.halts,
        slot_refusals=tuple(by_slot) if raw.by_slot is not None else (refused,) if count == 1 else (),
        ambiguous_bars=int(raw.book["ambiguous"]),
        traded_value=raw.book["traded_value"],
        bars=sum(len(b) for b in own_bars),
        margin_calls=int(raw.book["margin_calls"]),
        liquidations=int(raw.book["liquidations"]),
        rolled_out=int(raw.book["rolled_out"]),
        borrow_paid=raw.book["borrow_paid"],
        dividends=raw.book["dividends"],
        fills_made=raw.fills,
        orders_made=raw.orders,
        gross=raw.gross,
        net=raw.net,
        slot_bars=tuple(own_bars),
        instruments=tuple(own_instruments),
    )


def _is_plain(
    slots: engine_host.Slots, rules: list[OrderRules], limits: Limits | None,
    actions: Mapping[str, Sequence[CorporateAction]] | None, detail: bool,
) -> bool:  # fmt: skip
    """May the slots run one after the other in the plain lane? Only where none can feel another."""
    records = slots.records
    if detail or limits is not None or actions or slots.together.any or not all(rule.plain for rule in rules):
        return False
    if any(e.targets for e in slots.evaluations) or any(paths is not None for paths in slots.paths):
        return False
    special = (records["fx_at"] >= 0) | (records["participation"] > 0) | (records["borrow_rate"] > 0)
    if special.any() or np.isfinite(records["initial_margin"]).any():
        return False
    if np.isfinite(records["risk_budget"]).any() or (records["kelly_fraction"] > 0).any():
        return False
    return len(records) == 1 or bool(((records["sizing_kind"] == FIXED) | (records["sizing_kind"] == NOTIONAL)).all())


def _add_rules(
    slots: engine_host.Slots, rules: list[OrderRules], instruments: list[Instrument],
    actions: Mapping[str, Sequence[CorporateAction]] | None,
) -> None:  # fmt: skip
    """Targets, session ends and corporate actions of every slot, for the general lane."""
    width = max([1, *(len(rule.targets) for rule in rules), *(len(e.targets) for e in slots.evaluations)])
    for s, (rule, instrument) in enumerate(zip(rules, instruments, strict=True)):
        levels, parts = engine_inputs.targets_of(slots.wishes[s], rule, slots.evaluations[s], instrument, width)
        slots.levels.append(levels)
        slots.parts.append(parts)
        if rule.flat_at_session_end:
            slots.last_call[s] = engine_inputs.last_calls(slots.bars[s], instrument)
        slots.actions[s] = engine_inputs.actions_of((actions or {}).get(instrument.symbol, ()), slots.bars[s])


def _all_bars(given: Any, own: Sequence[Bars]) -> list[Bars]:
    """Every series given, those that strategies read beside their own included."""
    found = list(own)
    for part in given.values() if isinstance(given, Mapping) else ():
        found += [one for one in part.values() if isinstance(one, Bars)] if isinstance(part, Mapping) else []
    return found


def _each(name: str, given: Any, kind: Any, count: int) -> list[Any]:
    """One value per slot."""
    values = [given] * count if isinstance(given, kind) else list(given)
    if len(values) != count:
        raise ValueError(f"{name}: {len(values)} given for {count} evaluations")
    return values


def _held_of(bars: Any, symbol: str) -> tuple[Bars, ...]:
    """The series of a symbol, where bars are given by symbol and timeframe."""
    own = bars.get(symbol) if isinstance(bars, Mapping) else None
    return tuple(one for one in own.values() if isinstance(one, Bars)) if isinstance(own, Mapping) else ()


def _check_fit(evaluation: Evaluation, bars: Bars, instrument: Instrument) -> None:
    symbol = evaluation.symbol
    if bars.symbol != symbol or instrument.symbol != symbol:
        raise ValueError(f"{symbol}: got bars of {bars.symbol} and instrument {instrument.symbol}")
    if bars.timeframe != evaluation.timeframe:
        raise ValueError(f"{symbol}: bars are {bars.timeframe}, the evaluation is {evaluation.timeframe}")
    if bars.close_time is not evaluation.close_time and not np.array_equal(bars.close_time, evaluation.close_time):
        raise ValueError(f"{symbol}: bars and evaluation have different close times")
