"""points: a level a fixed distance in price away from the entry."""

from __future__ import annotations

from typing import ClassVar, Literal

from trading.config_text import Positive
from trading.execution_functions.base import Floats, Frame, Level, register


@register
class PointsLevel(Level):
    """``{kind: points, points: 0.0035}``: in units of price, not ticks."""

    NAME: ClassVar[str] = "points"
    kind: Literal["points"] = "points"
    points: Positive

    def at(self, frame: Frame, direction: int, reference: Floats, risk: Floats) -> Floats:
        return reference + direction * self.points
