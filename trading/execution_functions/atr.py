"""atr: a level some average true ranges away from the entry."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trading import indicators
from trading.config_text import Positive, Whole
from trading.execution_functions.base import Floats, Frame, Level, register
from trading.timeframes import Timeframe


@register
class AtrLevel(Level):
    """``{kind: atr, period: 14, multiple: 2.0}``: the entry plus or minus multiple x ATR(period)."""

    NAME: ClassVar[str] = "atr"
    kind: Literal["atr"] = "atr"
    period: Whole = Field(14, ge=1, le=5000)
    multiple: Positive
    timeframe: Timeframe | None = None

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: indicators.get("atr").warm_up({"period": self.period})}

    def at(self, frame: Frame, direction: int, reference: Floats, risk: Floats) -> Floats:
        return reference + direction * self.multiple * frame.indicator("atr", {"period": self.period}, timeframe=self.timeframe)
