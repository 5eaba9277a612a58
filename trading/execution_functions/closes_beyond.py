"""closes_beyond: several closes in a row on one side of a price."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trading.config_text import Positive, Whole
from trading.execution_functions.base import Bools, Frame, Trigger, beyond, register
from trading.timeframes import Timeframe


@register
class ClosesBeyond(Trigger):
    """``{kind: closes_beyond, direction: above, level: 1.195, count: 3}``: the last `count` closes all lie beyond it."""

    NAME: ClassVar[str] = "closes_beyond"
    kind: Literal["closes_beyond"] = "closes_beyond"
    direction: Literal["above", "below"]
    level: Positive
    count: Whole = Field(2, ge=1, le=1000)
    timeframe: Timeframe | None = None

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: self.count}

    def fixed_price(self) -> float | None:
        return self.level

    def holds(self, frame: Frame) -> Bools:
        return beyond(frame, self.timeframe, self.level, self.direction == "above", self.count)
