"""percent: a level some percent away from the entry."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trading.config_text import Positive
from trading.execution_functions.base import Floats, Frame, Level, register


@register
class PercentLevel(Level):
    """``{kind: percent, percent: 1.5}``"""

    NAME: ClassVar[str] = "percent"
    kind: Literal["percent"] = "percent"
    percent: Positive = Field(lt=100)

    def at(self, frame: Frame, direction: int, reference: Floats, risk: Floats) -> Floats:
        return reference * (1.0 + direction * self.percent / 100.0)
