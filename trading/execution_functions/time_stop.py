"""time_stop: an idea that has not worked after some time is closed."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from trading.config_text import Number, Whole
from trading.execution_functions.base import Bools, Frame, register
from trading.execution_functions.managing import Trade, TradeExit
from trading.instruments import Instrument
from trading.timeframes import Timeframe


@register
class TimeStop(TradeExit):
    """``{kind: time_stop, bars: 20, unless_r: 0.5}``: after so many closed bars since the entry, unless the close then
    lies `unless_r` times the risk or more in favour (default: whatever it earns)."""

    NAME: ClassVar[str] = "time_stop"
    kind: Literal["time_stop"] = "time_stop"
    bars: Whole = Field(ge=1, le=100_000)
    unless_r: Number | None = None
    timeframe: Timeframe | None = None

    def leaves(self, frame: Frame, trade: Trade, instrument: Instrument) -> Bools:
        timeframe, bars = self.timeframe or frame.primary, frame.series(self.timeframe)
        over = np.cumsum(trade.held(frame, timeframe)) >= self.bars
        if self.unless_r is not None:
            over &= (bars.close - trade.entry_price) * trade.side < self.unless_r * trade.risk
        return (frame.on_primary(over.astype(np.float64), timeframe) == 1.0) & trade.held(frame)
