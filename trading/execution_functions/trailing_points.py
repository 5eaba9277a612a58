"""trailing_points: the stop follows the best close at a fixed distance in price."""

from __future__ import annotations

from typing import ClassVar, Literal

from trading.config_text import Positive
from trading.execution_functions.base import Floats, Frame, register
from trading.execution_functions.managing import StopMove, Trade, best_since
from trading.timeframes import Timeframe


@register
class TrailingPoints(StopMove):
    """``{kind: trailing_points, points: 0.0030}``

    Follows the best close since the entry; bars of `timeframe`, default the plan's own.
    """

    NAME: ClassVar[str] = "trailing_points"
    kind: Literal["trailing_points"] = "trailing_points"
    points: Positive
    timeframe: Timeframe | None = None

    def levels(self, frame: Frame, trade: Trade) -> Floats:
        timeframe, bars = self.timeframe or frame.primary, frame.series(self.timeframe)
        best = best_since(trade, bars.close, trade.held(frame, timeframe))
        return frame.on_primary(best - trade.side * self.points, timeframe)
