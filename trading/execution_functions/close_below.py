"""close_below: the bar closes below a price."""

from __future__ import annotations

from typing import ClassVar, Literal

from trading.config_text import Positive
from trading.execution_functions.base import Bools, Frame, Trigger, beyond, register
from trading.timeframes import Timeframe


@register
class CloseBelow(Trigger):
    """``{kind: close_below, level: 1.195, timeframe: 1h}``; timeframe: default the plan's own."""

    NAME: ClassVar[str] = "close_below"
    kind: Literal["close_below"] = "close_below"
    level: Positive
    timeframe: Timeframe | None = None

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: 1}

    def fixed_price(self) -> float | None:
        return self.level

    def holds(self, frame: Frame) -> Bools:
        return beyond(frame, self.timeframe, self.level, above=False, count=1)
