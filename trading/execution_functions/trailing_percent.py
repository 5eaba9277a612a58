"""trailing_percent: the stop follows the best close at a percentage of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trading.config_text import Positive
from trading.execution_functions.base import Floats, Frame, register
from trading.execution_functions.managing import StopMove, Trade, best_since
from trading.timeframes import Timeframe


@register
class TrailingPercent(StopMove):
    """``{kind: trailing_percent, percent: 1.5}``

    Follows the best close since the entry; bars of `timeframe`, default the plan's own.
    """

    NAME: ClassVar[str] = "trailing_percent"
    kind: Literal["trailing_percent"] = "trailing_percent"
    percent: Positive = Field(lt=100)
    timeframe: Timeframe | None = None

    def levels(self, frame: Frame, trade: Trade) -> Floats:
        timeframe, bars = self.timeframe or frame.primary, frame.series(self.timeframe)
        best = best_since(trade, bars.close, trade.held(frame, timeframe))
        return frame.on_primary(best * (1.0 - trade.side * self.percent / 100.0), timeframe)
