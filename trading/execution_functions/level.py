"""level: a fixed price. As a trigger, it holds where the market touches or passes it."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from trading.config_text import Positive
from trading.execution_functions.base import Bools, Floats, Frame, Level, Trigger, register
from trading.timeframes import Timeframe


@register
class FixedLevel(Trigger, Level):
    """``{kind: level, price: 1.195}``, or just ``1.195``."""

    NAME: ClassVar[str] = "level"
    kind: Literal["level"] = "level"
    price: Positive

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {primary: 2}

    def fixed_price(self) -> float | None:
        return self.price

    def holds(self, frame: Frame) -> Bools:
        before, low, high = frame.price("close", None, 1), frame.price("low"), frame.price("high")
        with np.errstate(invalid="ignore"):
            # from the close before to this bar's range: a gap over the level counts as passing it
            return (np.minimum(before, low) <= self.price) & (np.maximum(before, high) >= self.price)

    def at(self, frame: Frame, direction: int, reference: Floats, risk: Floats) -> Floats:
        return np.full(len(frame), self.price)
