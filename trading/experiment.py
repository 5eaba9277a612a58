"""One strategy ready to be backtested again and again: the same bars, sizes, limits and costs, with one thing changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading import metrics
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.corporate_actions import CorporateAction
from trading.costs import Costs
from trading.evaluable import Evaluable, legs_of
from trading.evaluation import Evaluation
from trading.instruments import Instrument
from trading.limits import Limits
from trading.metrics import per_year as per_year  # asked for here by everything that judges experiments
from trading.order_rules import FxSeries
from trading.risk_history import RiskHistory
from trading.trade_paths import TradePaths

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """A backtest before it is run. evaluations, bars, instruments: one per slot, in the order of decisions.

    limits, require_stop and min_reward_to_risk are the desk's; once: a plan, which enters one time only.
    actions: corporate actions by symbol that positions are carried across; bars are raw. managed: one per slot, how open
    trades are managed, empty: they are not. currency, fx, risk_budget: of trading.backtest. of: the strategy or plan, for how its
    entries are worked and which legs go together; None: market orders, each leg by itself. history: prices that
    the portfolio limits are measured on; None: those of the bars.
    """

    name: str
    evaluations: tuple[Evaluation, ...]
    bars: tuple[Bars, ...]
    instruments: tuple[Instrument, ...]
    cash: float
    sizing: Mapping[str, Any]
    costs: Costs
    limits: Limits | None = None
    min_reward_to_risk: float = 0.0
    require_stop: bool = True
    once: bool = False
    actions: Mapping[str, Sequence[CorporateAction]] = field(default_factory=dict)
    managed: tuple[TradePaths | None, ...] = ()
    currency: str | None = None
    fx: Mapping[str, FxSeries] | None = None
    risk_budget: float | None = None
    of: Evaluable | None = None
    history: RiskHistory | None = None

    def run(self) -> BacktestResult:
        """The backtest. Raises ValueError when the parts do not fit together."""
        return backtest(
            list(self.evaluations), list(self.bars), list(self.instruments), cash=self.cash, sizing=self.sizing,
            costs=self.costs, limits=self.limits, strategy=self.name, require_stop=self.require_stop,
            min_reward_to_risk=self.min_reward_to_risk, managed=self.managed or None, once=self.once,
            actions=self.actions or None,
            currency=self.currency, fx=self.fx, risk_budget=self.risk_budget,
            files=None if self.of is None else [self.of] * len(self.evaluations), history=self.history,
        )  # fmt: skip

    def but(self, **changes: Any) -> Experiment:
        """The same with some fields changed. With other evaluations, trades are not managed unless `managed` is given, too, and
        not worked nor held together as the strategy's unless `of` is."""
        if "evaluations" in changes:
            changes.setdefault("managed", ())
            changes.setdefault("of", None)
        return replace(self, **changes)

    @property
    def each_leg(self) -> Evaluable | None:
        """`of` for entries of which each stands by itself: None where it enters legs together."""
        return None if self.of is None or legs_of(self.of) else self.of

    @property
    def wishes(self) -> int:
        """Bars that want to enter, before any refusal."""
        return sum(int(np.sum((e.enter_long != e.enter_short) & e.ready)) for e in self.evaluations)

    @property
    def session_ends(self) -> Ints:
        """Close time of each session's last bar over all slots, int64 (D,), ascending."""
        last: dict[int, int] = {}
        for b in self.bars:
            ends = np.flatnonzero(np.diff(b.session, append=b.session[-1:] + 1))
            for number, time in zip(b.session[ends].tolist(), b.close_time[ends].tolist(), strict=True):
                last[number] = max(last.get(number, time), time)
        return np.array(sorted(last.values()), np.int64)


def session_returns(result: BacktestResult, ends: Ints) -> Floats:
    """Simple returns of the equity from session to session, float64 (D,): what the statistics of luck are made of, because
    returns of single bars are mostly zero and depend on each other. Where nothing is left: 0."""
    if not len(result.equity):
        return np.zeros(len(ends))
    at = np.searchsorted(result.close_time, ends, side="right") - 1
    equity = np.where(at >= 0, result.equity[np.maximum(at, 0)], result.cash)
    return np.nan_to_num(metrics.simple_returns(equity, result.cash), nan=0.0)


def longest_holding(result: BacktestResult, ends: Ints) -> int:
    """Sessions the longest trade lasted, the one of its entry counted: how far a decision's outcome reaches."""
    if not len(result.trades):
        return 1
    first = np.searchsorted(ends, result.trades.signal_time, side="left")
    last = np.searchsorted(ends, result.trades.exit_time, side="left")
    return int((last - first).max()) + 1
