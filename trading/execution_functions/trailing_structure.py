"""trailing_structure: the stop stands behind the last confirmed swing."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from trading import patterns
from trading.config_text import Number, Whole
from trading.execution_functions.base import Floats, Frame, register
from trading.execution_functions.managing import StopMove, Trade
from trading.timeframes import Timeframe


@register
class TrailingStructure(StopMove):
    """``{kind: trailing_structure, left: 3, right: 3, buffer: 0.0005}``: the newest swing low (a short: high) that is
    confirmed, less `buffer` price units."""

    NAME: ClassVar[str] = "trailing_structure"
    kind: Literal["trailing_structure"] = "trailing_structure"
    left: Whole = Field(3, ge=1, le=250)
    right: Whole = Field(3, ge=1, le=250)
    buffer: Number = Field(0.0, ge=0)
    timeframe: Timeframe | None = None

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: self.left + self.right + 1}

    def levels(self, frame: Frame, trade: Trade) -> Floats:
        timeframe, params = self.timeframe or frame.primary, {"left": self.left, "right": self.right}
        output = "low" if trade.side > 0 else "high"
        swing = frame.own_values(patterns.get("swing"), params, output, None, timeframe)
        level = swing - trade.side * self.buffer
        return frame.on_primary(np.where(trade.held(frame, timeframe), level, np.nan), timeframe)
