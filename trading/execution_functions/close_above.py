"""close_above: the bar closes above a price."""

from __future__ import annotations

from typing import ClassVar, Literal

from trading.config_text import Positive
from trading.execution_functions.base import Bools, Frame, Trigger, beyond, register
from trading.timeframes import Timeframe


@register
class CloseAbove(Trigger):
    """``{kind: close_above, level: 1.195, timeframe: 1h}``; timeframe: default the plan's own."""

    NAME: ClassVar[str] = "close_above"
    kind: Literal["close_above"] = "close_above"
    level: Positive
    timeframe: Timeframe | None = None

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: 1}

    def fixed_price(self) -> float | None:
        return self.level

    def holds(self, frame: Frame) -> Bools:
        return beyond(frame, self.timeframe, self.level, above=True, count=1)
