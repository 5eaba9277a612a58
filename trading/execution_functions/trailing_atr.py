"""trailing_atr: the stop follows the best close at some average true ranges."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trading import indicators
from trading.config_text import Positive, Whole
from trading.execution_functions.base import Floats, Frame, register
from trading.execution_functions.managing import StopMove, Trade, best_since
from trading.timeframes import Timeframe


@register
class TrailingAtr(StopMove):
    """``{kind: trailing_atr, period: 14, multiple: 2.5}``: best close since the entry less multiple x ATR(period) of now."""

    NAME: ClassVar[str] = "trailing_atr"
    kind: Literal["trailing_atr"] = "trailing_atr"
    period: Whole = Field(14, ge=1, le=5000)
    multiple: Positive
    timeframe: Timeframe | None = None

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: indicators.get("atr").warm_up({"period": self.period})}

    def levels(self, frame: Frame, trade: Trade) -> Floats:
        timeframe, bars = self.timeframe or frame.primary, frame.series(self.timeframe)
        best = best_since(trade, bars.close, trade.held(frame, timeframe))
        atr = frame.own_values(indicators.get("atr"), {"period": self.period}, None, None, timeframe)
        return frame.on_primary(best - trade.side * self.multiple * atr, timeframe)
