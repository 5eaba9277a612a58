"""chandelier: the stop hangs some average true ranges below the highest high of the last bars."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trading import indicators
from trading.config_text import Positive, Whole
from trading.execution_functions.base import Floats, Frame, register
from trading.execution_functions.managing import StopMove, Trade
from trading.frame import rolling
from trading.timeframes import Timeframe


@register
class Chandelier(StopMove):
    """``{kind: chandelier, period: 22, multiple: 3.0}``: highest high (a short: lowest low) of `period` bars less
    multiple x ATR(period); ``of: close`` reads closes instead of highs and lows.

    Chuck LeBeau's exit as Alexander Elder prints it (Come Into My Trading Room, 2002). A new high moves the level at its
    bar's close, not before.
    """

    NAME: ClassVar[str] = "chandelier"
    kind: Literal["chandelier"] = "chandelier"
    period: Whole = Field(22, ge=1, le=5000)
    multiple: Positive = 3.0
    of: Literal["extreme", "close"] = "extreme"
    timeframe: Timeframe | None = None

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: max(self.period, indicators.get("atr").warm_up({"period": self.period}))}

    def levels(self, frame: Frame, trade: Trade) -> Floats:
        timeframe, bars = self.timeframe or frame.primary, frame.series(self.timeframe)
        source = bars.close if self.of == "close" else bars.high if trade.side > 0 else bars.low
        best = rolling(source, self.period, 0 if trade.side > 0 else 1)
        atr = frame.own_values(indicators.get("atr"), {"period": self.period}, None, None, timeframe)
        return frame.on_primary(best - trade.side * self.multiple * atr, timeframe)
