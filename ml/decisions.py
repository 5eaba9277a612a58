"""What a model decides, bar by bar, as the backtest reads it: one form for forecasters, agents and their baselines.

A forecast becomes a decision by a plain threshold rule: enter when the probability is clearly above (below) what the class
prior alone says, leave when it is back at it. An agent's actions are decisions already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ml.environment.kernel import BUY_LONG, CLOSE_LONG, CLOSE_SHORT, SELL_SHORT
from trading.bars import Bars
from trading.costs import Costs
from trading.evaluation import Evaluation
from trading.experiment import Experiment
from trading.instruments import Instrument

Bools = NDArray[np.bool_]
DEFAULT_COSTS: Final = Costs("per_value", rate=0.0002, slippage_kind="fixed", value=1.0)
"""Two basis points of the value and one tick, each way."""


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """Of one instrument over T bars. enter_long, enter_short, exit_long, exit_short: bool (T,), decided at each close."""

    bars: Bars
    enter_long: Bools
    enter_short: Bools
    exit_long: Bools
    exit_short: Bools


@dataclass(frozen=True, slots=True)
class Terms:
    """What decisions are judged with. cash: account currency, split evenly over the instruments. margin: distance from the
    prior's side of 0.5 that a probability needs before a position is opened."""

    cash: float = 100_000.0
    costs: Costs = field(default_factory=lambda: DEFAULT_COSTS)
    margin: float = 0.02


def of_forecasts(
    bars: Mapping[str, Bars],
    symbols: Sequence[str],
    symbol: NDArray[np.int32],
    times: NDArray[np.int64],
    probability: NDArray[np.float64],
    prior: NDArray[np.float64],
    margin: float,
    span: tuple[int, int],
) -> dict[str, Decisions]:
    """Decisions from forecasts of N rows. symbol: index into `symbols`; times: close of the row. span: first and last close
    (UTC us) that is judged: the bars from the first one on, and no new position at or after the last."""
    out: dict[str, Decisions] = {}
    for code, name in enumerate(symbols):
        if name not in bars:
            continue
        own = bars[name].rows((bars[name].close_time >= span[0]) & (bars[name].close_time <= span[1]))
        n = len(own)
        if n < 2:
            continue
        rows = np.flatnonzero(symbol == code)
        columns = np.zeros((4, n), bool)
        at = np.searchsorted(own.close_time, times[rows])
        high, low = np.maximum(prior[rows], 0.5), np.minimum(prior[rows], 0.5)
        p = probability[rows]
        columns[0, at], columns[1, at] = p > high + margin, p < low - margin
        columns[2, at], columns[3, at] = p <= high, p >= low
        columns[:2, -2:] = False  # what is opened now could not be closed any more
        columns[2:, -2:] = True
        out[name] = Decisions(own, *columns)
    return out


def of_actions(bars: Bars, actions: NDArray[np.int64]) -> Decisions:
    """Decisions from an agent's actions int64 (T,), one per bar (see ml.environment)."""
    return Decisions(
        bars, actions == BUY_LONG, actions == SELL_SHORT, actions == CLOSE_LONG, actions == CLOSE_SHORT
    )  # fmt: skip


def experiment(name: str, decisions: Mapping[str, Decisions], instruments: Mapping[str, Instrument], terms: Terms) -> Experiment:
    """The decisions as a backtest before it is run, an equal part of the cash for each instrument.

    Raises ValueError when none of the instruments may be traded.
    """
    symbols = [s for s in decisions if s in instruments]
    if not symbols:
        raise ValueError(f"none of {', '.join(decisions) or 'no instrument'} may be traded: nothing to judge")
    evaluations = []
    for symbol in symbols:
        d = decisions[symbol]
        n = len(d.bars)
        never = np.full(n, np.nan)
        evaluations.append(
            Evaluation(
                symbol=symbol, timeframe=d.bars.timeframe, close_time=d.bars.close_time, ready=np.ones(n, bool),
                enter_long=d.enter_long, enter_short=d.enter_short, exit_long=d.exit_long, exit_short=d.exit_short,
                # Formal stops no price reaches: the random baseline enters only where there is one.
                stop_long=d.bars.close * 0.01, stop_short=d.bars.close * 100.0, target_long=never, target_short=never,
                strength=np.ones(n),
            )
        )  # fmt: skip
    return Experiment(
        name, tuple(evaluations), tuple(decisions[s].bars for s in symbols), tuple(instruments[s] for s in symbols), terms.cash,
        {"kind": "notional", "amount": terms.cash / len(symbols)}, terms.costs, require_stop=False,
    )  # fmt: skip
