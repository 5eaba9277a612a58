"""scale_out: part of the position is closed where a trigger begins to hold."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from trading.config_text import Positive
from trading.execution_functions.base import Bools, ExecutionFunction, Frame, Trigger, register
from trading.execution_functions.managing import Trade, as_trigger
from trading.timeframes import Timeframe

AnyTrigger = Annotated[SerializeAsAny[Trigger], BeforeValidator(as_trigger, json_schema_input_type=dict)]


@register
class ScaleOut(ExecutionFunction):
    """``{kind: scale_out, share: 0.25, when: {kind: close_above, level: 1.2}}``: closes `share` of the entered quantity at
    the open after the first close since the entry where `when` holds; once."""

    NAME: ClassVar[str] = "scale_out"
    kind: Literal["scale_out"] = "scale_out"
    share: Positive = Field(le=1, description="of the entered quantity")
    when: AnyTrigger

    @property
    def label(self) -> str:
        return f"scale_out({self.share:g} when {self.when.label})"

    def warm_up(self, primary: Timeframe) -> dict[Timeframe, int]:
        return self.when.warm_up(primary)

    def due(self, frame: Frame, trade: Trade) -> Bools:
        """bool (T,): from the first close since the entry on where `when` holds."""
        held = self.when.holds(frame) & trade.held(frame)
        return held if not len(held) else held.cumsum() > 0
