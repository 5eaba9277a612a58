"""Backtest: evaluations over bars become trades, equity and refusals, with the rules the live desk keeps.

The events of bar k of one slot, a (strategy, instrument), in this order:

1. At the open, what was decided at the close of bar k-1 fills as a market order: a rule exit, else an entry.
2. During the bar, the open position's stop is tried, then its target, in the entry bar, too (trading.matching).
3. At the close, if the position is still open: the exit rule, then max_bars, decide an exit for the next open. Then, if
   the slot holds nothing and has nothing pending, an entry wish passes the gates stop_required and reward_to_risk, is
   sized and checked against the limits, and becomes a market order for the next open. Otherwise the wish is refused
   with POSITION_OPEN: one position per strategy and instrument, so a reversal is an exit and, at a later close, an entry.

Sizes and limits see the equity at that close: cash plus every position marked at its newest close, after the fills of
the bar. Slots whose bars close at the same time are handled in the order they were given, all fills before all
decisions. A wish for both sides at once, or while not ready, is none. Levels and the reference price (the close) are on
the tick grid, as a signal's are. Nothing is closed at the end: an open position is marked and reported as an open trade.
All amounts are in one currency: instruments must be quoted in the account's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading import engine, engine_host, metrics
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import Instrument
from trading.limits import Limits
from trading.sizing import FIXED, NOTIONAL
from trading.timeframes import iso

EXIT_REASONS = ("open", "stop", "target", "rule", "max_bars")
"""Why a trade ended, by engine code."""


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """N trades as columns, ascending by exit; open ones last, marked at their last close.

    slot: int64, index into symbols and strategies. quantity: signed. signal_time, entry_time, exit_time: int64 UTC us,
    close times of the bar that decided the entry, of the bar whose open or range filled it, of the bar that filled the
    exit. commission: of both fills; pnl: net of it. bars_held: closes seen, the exit bar counted when it ended inside
    it. reason: int64 codes into EXIT_REASONS.
    """

    symbols: tuple[str, ...]
    strategies: tuple[str, ...]
    slot: NDArray[np.int64]
    quantity: NDArray[np.float64]
    signal_time: NDArray[np.int64]
    entry_time: NDArray[np.int64]
    exit_time: NDArray[np.int64]
    entry_price: NDArray[np.float64]
    exit_price: NDArray[np.float64]
    commission: NDArray[np.float64]
    pnl: NDArray[np.float64]
    bars_held: NDArray[np.int64]
    reason: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.slot)

    @property
    def closed(self) -> NDArray[np.bool_]:
        """(N,): has the trade ended?"""
        return self.reason != engine.OPEN

    def rows(self) -> list[dict[str, Any]]:
        """Trades as plain mappings for tables and reports, times as ISO text."""
        return [
            {
                "strategy": self.strategies[self.slot[i]],
                "symbol": self.symbols[self.slot[i]],
                "side": "long" if self.quantity[i] > 0 else "short",
                "quantity": abs(float(self.quantity[i])),
                "signal_time": iso(self.signal_time[i]),
                "entry_time": iso(self.entry_time[i]),
                "entry_price": float(self.entry_price[i]),
                "exit_time": iso(self.exit_time[i]),
                "exit_price": float(self.exit_price[i]),
                "reason": EXIT_REASONS[self.reason[i]],
                "bars_held": int(self.bars_held[i]),
                "commission": float(self.commission[i]),
                "pnl": float(self.pnl[i]),
            }
            for i in range(len(self))
        ]


@dataclass(frozen=True, slots=True, eq=False)
class BacktestResult:
    """What a backtest gives. close_time int64 (G,) and equity float64 (G,): one value per distinct bar close, cash plus
    positions marked at it. orders: orders that would have been sent, protective legs included. refusals: refused entry
    wishes by RefusalCode name. ambiguous_bars: bars that reached both stop and target, decided for the stop.
    traded_value: sum of |quantity * price * multiplier| of all fills."""

    trades: Trades
    orders: int
    close_time: NDArray[np.int64]
    equity: NDArray[np.float64]
    cash: float
    refusals: dict[str, int]
    ambiguous_bars: int
    traded_value: float
    bars: int

    def metrics(self, periods_per_year: float) -> metrics.Metrics:
        """Figures of the run; periods_per_year: how many values of `equity` make a year (see trading.metrics)."""
        return metrics.measure(
            self.equity,
            self.cash,
            self.trades.pnl[self.trades.closed],
            periods_per_year=periods_per_year,
            bars_held=int(self.trades.bars_held.sum()),
            bars_total=self.bars,
            traded_value=self.traded_value,
        )


def backtest(
    evaluation: Evaluation | Sequence[Evaluation],
    bars: Bars | Sequence[Bars] | Mapping[str, Bars],
    instrument: Instrument | Sequence[Instrument] | Mapping[str, Instrument],
    *,
    cash: float,
    sizing: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    costs: Costs | Mapping[str, Costs] | None = None,
    limits: Limits | None = None,
    strategy: str | Sequence[str] = "",
    require_stop: bool = False,
    min_reward_to_risk: float | Sequence[float] = 0.0,
) -> BacktestResult:
    """Run evaluations over their bars as one portfolio (see the module for the rules).

    evaluation: one slot each; their order is the order of decisions at the same close. bars, instrument: one per slot in
    the same order, or by symbol; bars of the evaluation's timeframe with exactly its close times. cash: start, account
    currency. sizing, strategy, min_reward_to_risk: one for all, or one per slot. costs: for all, or by symbol; None is
    free. limits: None checks none; a limit missing in given ones refuses, as it does on the desk. require_stop: refuse
    entries without a protective stop, as the desk does.
    Raises ValueError naming the symbol when the parts do not fit together.
    """
    evaluations = [evaluation] if isinstance(evaluation, Evaluation) else list(evaluation)
    count = len(evaluations)
    if not count:
        raise ValueError("nothing to test: no evaluation given")
    if not (math.isfinite(cash) and cash > 0):
        raise ValueError(f"cash {cash!r}: expected a positive amount")
    own_bars = _per_slot(bars, evaluations, Bars, "bars")
    own_instruments = _per_slot(instrument, evaluations, Instrument, "instrument")
    sizings = [sizing] * count if isinstance(sizing, Mapping) else list(sizing)
    strategies = [strategy] * count if isinstance(strategy, str) else list(strategy)
    minimums = [float(min_reward_to_risk)] * count if isinstance(min_reward_to_risk, (int, float)) else list(min_reward_to_risk)
    for name, values in (("sizing", sizings), ("strategy", strategies), ("min_reward_to_risk", minimums)):
        if len(values) != count:
            raise ValueError(f"{name}: {len(values)} given for {count} evaluations")
    for one, its_bars, its_instrument in zip(evaluations, own_bars, own_instruments, strict=True):
        _check_fit(one, its_bars, its_instrument)
    slots = engine_host.slots_of(own_instruments, strategies, sizings, costs, evaluations, require_stop, minimums)
    bounds = engine_host.bounds_of(limits, strategies)
    coupled = limits is not None or not np.isin(slots["sizing_kind"], (FIXED, NOTIONAL)).all()
    run = engine_host.run_together if coupled and count > 1 else engine_host.run_apart
    wishes = [engine_host.wishes_of(e, b, i) for e, b, i in zip(evaluations, own_bars, own_instruments, strict=True)]
    raw = run(evaluations, own_bars, wishes, slots, bounds, float(cash))
    symbols = tuple(e.symbol for e in evaluations)
    return BacktestResult(
        trades=_trades(raw.trades, symbols, tuple(strategies)),
        orders=raw.orders,
        close_time=raw.times,
        equity=raw.equity,
        cash=float(cash),
        refusals={name: int(n) for name, n in zip(engine.REFUSAL_NAMES, raw.refused, strict=True) if n},
        ambiguous_bars=raw.ambiguous,
        traded_value=raw.traded,
        bars=sum(len(b) for b in own_bars),
    )


def _per_slot(given: Any, evaluations: list[Evaluation], kind: type, name: str) -> list[Any]:
    if isinstance(given, kind):
        given = [given]
    if isinstance(given, Mapping):
        missing = [e.symbol for e in evaluations if e.symbol not in given]
        if missing:
            raise ValueError(f"{name}: none given for {', '.join(missing)}")
        return [given[e.symbol] for e in evaluations]
    given = list(given)
    if len(given) != len(evaluations):
        raise ValueError(f"{name}: {len(given)} given for {len(evaluations)} evaluations")
    return given


def _check_fit(evaluation: Evaluation, bars: Bars, instrument: Instrument) -> None:
    symbol = evaluation.symbol
    if bars.symbol != symbol or instrument.symbol != symbol:
        raise ValueError(f"{symbol}: got bars of {bars.symbol} and instrument {instrument.symbol}")
    if bars.timeframe != evaluation.timeframe:
        raise ValueError(f"{symbol}: bars are {bars.timeframe}, the evaluation is {evaluation.timeframe}")
    if bars.close_time is not evaluation.close_time and not np.array_equal(bars.close_time, evaluation.close_time):
        raise ValueError(f"{symbol}: bars and evaluation have different close times")


def _trades(raw: engine.Records, symbols: tuple[str, ...], strategies: tuple[str, ...]) -> Trades:
    return Trades(symbols, strategies, **{name: np.ascontiguousarray(raw[name]) for name in raw.dtype.names or ()})
