"""close_back_inside: a close outside a range, and then one back inside: a break that failed."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from trading.config_text import Positive, Whole, custom_error
from trading.execution_functions.base import Bools, Frame, Trigger, register
from trading.timeframes import Timeframe


@register
class CloseBackInside(Trigger):
    """``{kind: close_back_inside, upper: 1.195, lower: 1.185, within: 3}``; one of the two may be left out.

    Holds at a close inside the range when one of the `within` closes before it was outside and the last one was.
    """

    NAME: ClassVar[str] = "close_back_inside"
    kind: Literal["close_back_inside"] = "close_back_inside"
    upper: Positive | None = None
    lower: Positive | None = None
    within: Whole = Field(1, ge=1, le=1000, description="at least one and at most this many closes outside, in a row")
    timeframe: Timeframe | None = None

    @model_validator(mode="after")
    def _a_range(self) -> CloseBackInside:
        if self.upper is None and self.lower is None:
            raise custom_error("has neither upper nor lower", "upper, lower or both")
        if self.upper is not None and self.lower is not None and self.lower >= self.upper:
            raise custom_error(f"lower {self.lower:g} is not below upper {self.upper:g}", f"a price below {self.upper:g}")
        return self

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return {self.timeframe or primary: self.within + 2}

    def _inside(self, closes: np.ndarray) -> Bools:
        with np.errstate(invalid="ignore"):
            low = np.isfinite(closes) if self.lower is None else closes >= self.lower
            high = np.isfinite(closes) if self.upper is None else closes <= self.upper
        return np.asarray(low & high, np.bool_)

    def holds(self, frame: Frame) -> Bools:
        closes = frame.series(self.timeframe).close
        inside, outside = self._inside(closes), np.isfinite(closes) & ~self._inside(closes)
        back = np.zeros(len(closes), bool)
        back[1:] = inside[1:] & outside[:-1]
        # Longer outside than `within` closes is a break that held for a time, not one that failed.
        if len(closes) > self.within + 1:
            too_long = np.ones(len(closes), bool)
            for n in range(1, self.within + 2):
                too_long[n:] &= outside[:-n]
                too_long[:n] = False
            back &= ~too_long
        return frame.on_primary(back.astype(np.float64), self.timeframe or frame.primary) == 1.0
