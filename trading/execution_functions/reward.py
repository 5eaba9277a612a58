"""reward: a target at a multiple of the distance to the stop."""

from __future__ import annotations

from typing import ClassVar, Literal

from trading.config_text import Positive
from trading.execution_functions.base import Floats, Frame, Level, register


@register
class RewardLevel(Level):
    """``{kind: reward, ratio: 2.0}``; a target only, because a stop has no risk to measure by."""

    NAME: ClassVar[str] = "reward"
    kind: Literal["reward"] = "reward"
    ratio: Positive

    def at(self, frame: Frame, direction: int, reference: Floats, risk: Floats) -> Floats:
        return reference + direction * self.ratio * risk
