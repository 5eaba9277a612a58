"""break_even: the stop goes to the entry once the trade has earned its risk, or a target is done."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from trading.config_text import Number, Positive, Whole, custom_error
from trading.execution_functions.base import Floats, Frame, register
from trading.execution_functions.managing import StopMove, Trade, best_since
from trading.timeframes import Timeframe


@register
class BreakEven(StopMove):
    """``{kind: break_even, after_r: 1.0}`` or ``{kind: break_even, after_target: 1}``; ``offset`` beyond the entry.

    after_r: from the first close on that lies this multiple of the risk beyond the entry. after_target: from the close of
    the first bar on that reached the target of that number (targets are limit orders: a touch is enough there).
    """

    NAME: ClassVar[str] = "break_even"
    kind: Literal["break_even"] = "break_even"
    after_r: Positive | None = None
    after_target: Whole | None = Field(None, ge=1, le=20)
    offset: Number = Field(0.0, ge=0, description="price units in the trade's favour, for costs")
    timeframe: Timeframe | None = None

    @model_validator(mode="after")
    def _one(self) -> BreakEven:
        if (self.after_r is None) == (self.after_target is None):
            raise custom_error("needs one of after_r and after_target", "after_r: 1.0, or after_target: 1")
        return self

    def levels(self, frame: Frame, trade: Trade) -> Floats:
        timeframe, bars = self.timeframe or frame.primary, frame.series(self.timeframe)
        held = trade.held(frame, timeframe)
        if self.after_r is not None:
            reached, needed = bars.close, trade.entry_price + trade.side * self.after_r * trade.risk
        else:
            number = self.after_target or 1
            reached = bars.high if trade.side > 0 else bars.low
            needed = trade.targets[number - 1] if number <= len(trade.targets) else np.nan
        best = best_since(trade, reached, held)
        with np.errstate(invalid="ignore"):
            done = (best - needed) * trade.side >= 0
        asked = np.where(done, trade.entry_price + trade.side * self.offset, np.nan)
        return frame.on_primary(asked, timeframe)
