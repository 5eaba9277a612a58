"""indicator_condition: any condition of the strategy grammar."""

from __future__ import annotations

from typing import ClassVar, Literal

from trading import conditions
from trading.execution_functions.base import Bools, Condition, Frame, Trigger, register
from trading.timeframes import Timeframe


@register
class IndicatorCondition(Trigger):
    """``{kind: indicator_condition, condition: {cross_above: [close, {indicator: ema, params: {period: 20}}]}}``"""

    NAME: ClassVar[str] = "indicator_condition"
    kind: Literal["indicator_condition"] = "indicator_condition"
    condition: Condition

    @property
    def label(self) -> str:
        return self.condition.label

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return conditions.warm_up(self.condition, primary)

    def holds(self, frame: Frame) -> Bools:
        return conditions.evaluate(self.condition, frame)
