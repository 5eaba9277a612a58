"""multi_timeframe: conditions of several timeframes, each seen on the closed bars of its own."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from trading import conditions
from trading.config_text import ConfigModel, Whole, custom_error
from trading.execution_functions.base import Bools, Condition, Frame, Trigger, merge_context, register
from trading.timeframes import Timeframe


class Seen(ConfigModel):
    """A condition on the bars of one timeframe."""

    timeframe: Timeframe
    condition: Condition


@register
class MultiTimeframe(Trigger):
    """``{kind: multi_timeframe, at_least: 2, of: [{timeframe: 4h, condition: {...}}, {timeframe: 1d, condition: {...}}]}``

    Holds where at least `at_least` of the conditions (default: all) hold at the last closed bar of their timeframe.
    """

    NAME: ClassVar[str] = "multi_timeframe"
    kind: Literal["multi_timeframe"] = "multi_timeframe"
    of: list[Seen] = Field(min_length=1)
    at_least: Whole | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _possible(self) -> MultiTimeframe:
        if self.at_least is not None and self.at_least > len(self.of):
            raise custom_error(f"at_least {self.at_least} of {len(self.of)} conditions", f"at most {len(self.of)}")
        return self

    @property
    def label(self) -> str:
        parts = ", ".join(f"{s.timeframe} {s.condition.label}" for s in self.of)
        return parts if self.at_least is None else f"{self.at_least} of ({parts})"

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        needs: dict[Timeframe, int] = {primary: 1}
        for seen in self.of:
            conditions.merge_warm_up(needs, conditions.warm_up(seen.condition, seen.timeframe))
        return needs

    def context(self, primary: Timeframe) -> dict[tuple[str, Timeframe], int]:
        found: dict[tuple[str, Timeframe], int] = {}
        for seen in self.of:
            merge_context(found, conditions.context(seen.condition, seen.timeframe))
        return found

    def holds(self, frame: Frame) -> Bools:
        count = np.zeros(len(frame))
        for seen in self.of:
            own = Frame(frame.bars, seen.timeframe, frame.cache)
            held = conditions.evaluate(seen.condition, own).astype(np.float64)
            count += frame.on_primary(held, seen.timeframe) == 1.0
        return np.asarray(count >= (self.at_least or len(self.of)), np.bool_)
