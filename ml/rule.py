"""What the forecast is worth in money: a plain threshold rule over its out-of-sample probabilities, after costs.

Buy when the probability is clearly above what the class prior alone says, sell short when clearly below, hold for the
label's horizon. The backtest is the desk's own (trading.backtest), compared with simply holding the same instruments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ml.baseline import OutOfSample
from ml.dataset import TrainingSet
from trading.backtest import BacktestResult, backtest
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.instruments import Instrument


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """margin: distance from the prior's side of 0.5 that a probability needs. cash: account currency, split evenly."""

    margin: float = 0.02
    cash: float = 100_000.0
    costs: Costs = field(default_factory=lambda: Costs("per_value", rate=0.0002, slippage_kind="fixed", value=1.0))


@dataclass(frozen=True, slots=True, eq=False)
class RuleResult:
    """Figures over the test windows. Returns and drawdown as fractions of the cash, net of all costs.

    holding_return: buying the same instruments at the start and holding them, with the same costs.
    """

    net_return: float
    trades: int
    win_rate: float
    max_drawdown: float
    commission: float
    holding_return: float
    close_time: NDArray[np.int64]
    equity: NDArray[np.float64]
    holding_equity: NDArray[np.float64]

    def metrics(self) -> dict[str, float]:
        out = {
            "rule_net_return": self.net_return, "rule_trades": float(self.trades), "rule_win_rate": self.win_rate,
            "rule_max_drawdown": self.max_drawdown, "rule_commission": self.commission,
            "holding_net_return": self.holding_return,
        }  # fmt: skip
        return {k: float(v) for k, v in out.items() if np.isfinite(v)}


def _evaluation(bars: Bars, long: NDArray[np.bool_], short: NDArray[np.bool_], max_bars: int) -> Evaluation:
    n = len(bars)
    never, level = np.zeros(n, bool), np.full(n, np.nan)
    return Evaluation(
        symbol=bars.symbol, timeframe=bars.timeframe, close_time=bars.close_time, ready=np.ones(n, bool), enter_long=long,
        enter_short=short, exit_long=never, exit_short=never, stop_long=level, stop_short=level, target_long=level,
        target_short=level, strength=(long | short).astype(np.float64), max_bars=max_bars,
    )  # fmt: skip


def evaluate_rule(
    data: TrainingSet,
    forecasts: OutOfSample,
    bars: Mapping[str, Bars],
    instruments: Mapping[str, Instrument],
    config: RuleConfig | None = None,
) -> RuleResult:
    """Trade the forecasts of every instrument in `instruments` over its bars from the first test row on.

    bars: symbol -> bars of the training set's timeframe; instruments: the tradable ones, the others are left out.
    Raises ValueError when none of the training set's instruments is given.
    """
    config = config or RuleConfig()
    symbols = [s for s in data.matrix.symbols if s in instruments]
    if not symbols:
        raise ValueError(f"none of {', '.join(data.matrix.symbols)} may be traded: no rule to evaluate")
    start = int(data.event_start[forecasts.row].min())
    wanted, held, cut, chosen = [], [], [], []
    for symbol in symbols:
        own = bars[symbol].rows(bars[symbol].close_time >= start)
        rows = data.matrix.symbol[forecasts.row] == data.matrix.symbols.index(symbol)
        at = np.searchsorted(own.close_time, data.event_start[forecasts.row][rows])
        p, prior = forecasts.probability[rows], forecasts.prior[rows]
        long, short = np.zeros(len(own), bool), np.zeros(len(own), bool)
        long[at] = p > np.maximum(prior, 0.5) + config.margin
        short[at] = p < np.minimum(prior, 0.5) - config.margin
        first = np.zeros(len(own), bool)
        first[:1] = True
        wanted.append(_evaluation(own, long, short, data.horizon))
        held.append(_evaluation(own, first, np.zeros(len(own), bool), 0))
        cut.append(own)
        chosen.append(instruments[symbol])
    sizing = {"kind": "notional", "amount": config.cash / len(symbols)}

    def run(evaluations: list[Evaluation]) -> BacktestResult:
        return backtest(evaluations, cut, chosen, cash=config.cash, sizing=sizing, costs=config.costs)

    result, hold = run(wanted), run(held)
    figures = result.metrics(252.0)  # only figures that do not depend on the number are read
    return RuleResult(
        figures.total_return, figures.trades, figures.win_rate, figures.max_drawdown, float(result.trades.commission.sum()),
        float(hold.equity[-1] / hold.cash - 1.0), result.close_time, result.equity, hold.equity,
    )  # fmt: skip
