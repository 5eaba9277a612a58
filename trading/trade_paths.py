"""What a plan asks of its open trade at every bar to come, computed once for a trade and window: for the backtest.

The answers are `trading.plan_management.ask`'s, of the anchored windows the desk reads, for all rows of a window at once;
a test holds desk and backtest together, trade for trade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from trading import engine_records as er
from trading import windows
from trading.bars import Bars
from trading.calendars import calendar
from trading.execution_functions.managing import StopMove, Trade, TradeExit, stop_path
from trading.frame import Frame
from trading.instruments import Instrument
from trading.plan_management import manages
from trading.strategy import Evaluable
from trading.timeframes import US_PER_MINUTE, Timeframe

_REASONS: Final = {"time_stop": er.TIME_STOP, "session_end": er.SESSION_END}
"""Exit code of a function by its name; a plug-in's own is MANAGED."""


@dataclass(frozen=True, slots=True)
class Entered:
    """An open trade as the backtest knows it at the close of `row`. levels in that row's price unit; inside: it was entered
    inside the bar `first_row`, not at its open. targets: levels by column, NaN where there is none."""

    row: int
    first_row: int
    inside: bool
    side: int
    entry_price: float
    first_stop: float
    targets: Sequence[float]


@dataclass(frozen=True, slots=True)
class Path:
    """Answers for the rows from the asked one on, (R,): stop float64, leave int64 (exit code, 0: stays), due int64 (bit j:
    scale-out j is due)."""

    stop: NDArray[np.float64]
    leave: NDArray[np.int64]
    due: NDArray[np.int64]


class TradePaths(Protocol):
    """Tells the backtest how open trades of one slot are managed."""

    @property
    def scale_outs(self) -> int:
        """How many scale-outs there are: the last parts of an entry."""
        ...

    def after(self, trade: Entered) -> Path:
        """What is asked of `trade` at its row and at some of the rows after it, at least one row."""
        ...


class PlanPaths:
    """The paths of one plan over its bars. bars: what `evaluate_anchored` reads of it.

    Splits and spin-offs are seen across where `plan` knows of them (trading/price_view.py). A roll ends the trade: the
    backtest asks nothing of it across one.
    """

    def __init__(self, plan: Evaluable, bars: Mapping[Any, Bars], instrument: Instrument) -> None:
        self._plan, self._instrument = plan, instrument
        self._primary = bars[plan.timeframe]
        rules: Any = plan.rules  # type: ignore[attr-defined]
        self._moves = [m for m in rules.manage if isinstance(m, StopMove)]
        self._exits = [m for m in rules.manage if isinstance(m, TradeExit)]
        self._scale_outs = list(rules.scale_outs)
        if len(self._scale_outs) > 60:
            raise ValueError(f"{plan.name}: {len(self._scale_outs)} scale-outs, expected at most 60")
        own = {t: b for t, b in bars.items() if isinstance(t, Timeframe)}
        self._slices = list(windows.slices(own, plan.timeframe, plan.warm_up, calendar(instrument.calendar)))

    @property
    def scale_outs(self) -> int:
        """How many scale-outs the plan has."""
        return len(self._scale_outs)

    def after(self, trade: Entered) -> Path:
        """Answers from `trade.row` to the end of its window."""
        window, offset, _, hi = next(s for s in self._slices if s[2] <= trade.row < s[3])
        bars: Mapping[Any, Bars] = window
        units = np.ones(len(window[self._plan.timeframe]))
        if hasattr(self._plan, "in_one_unit"):
            bars, units = self._plan.in_one_unit(window, self._instrument)
        at = trade.row - offset
        unit = float(units[at])
        frame = Frame(bars, self._plan.timeframe)
        seen = Trade(
            trade.side, trade.entry_price * unit, trade.first_stop * unit, self._opened(trade),
            tuple(float(level) * unit for level in trade.targets),
        )  # fmt: skip
        rows = slice(at, hi - offset)
        stop = stop_path(self._moves, frame, seen, self._instrument)[rows] / units[rows]
        leave, due = np.zeros(len(stop), np.int64), np.zeros(len(stop), np.int64)
        for function in reversed(self._exits):  # the first of the file counts
            leaves = np.asarray(function.leaves(frame, seen, self._instrument), np.bool_)[rows]
            leave[leaves] = _REASONS.get(function.NAME, er.MANAGED)
        for j, scale_out in enumerate(self._scale_outs):
            due |= np.asarray(scale_out.due(frame, seen), np.bool_)[rows].astype(np.int64) << j
        return Path(np.asarray(stop, np.float64), leave, due)

    def _opened(self, trade: Entered) -> int:
        """When the trade was opened, UTC us, as the paper broker tells it: the open of its bar, or for an entry inside it the
        close, as nothing better is known."""
        close = int(self._primary.close_time[trade.first_row])
        if trade.inside:
            return close
        begun, _ = calendar(self._instrument.calendar).bounds(int(self._primary.session[trade.first_row]))
        return max(begun, close - self._plan.timeframe.minutes * US_PER_MINUTE)


def paths_of(evaluable: Evaluable, bars: Mapping[Any, Bars], instrument: Instrument) -> TradePaths | None:
    """The paths of a plan that manages its trades; None for everything else."""
    return PlanPaths(evaluable, bars, instrument) if manages(evaluable) else None
