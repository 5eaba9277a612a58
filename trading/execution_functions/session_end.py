"""session_end: flat before the venue closes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trading.config_text import Whole
from trading.execution_functions.base import Bools, Frame, register
from trading.execution_functions.managing import Trade, TradeExit
from trading.instruments import Instrument
from trading.session_flat import near_end


@register
class SessionEnd(TradeExit):
    """``{kind: session_end, minutes: 15}``: at the first close with at most `minutes` of the session left, half days
    included; default: when only the session's last bar of the plan's timeframe is left."""

    NAME: ClassVar[str] = "session_end"
    kind: Literal["session_end"] = "session_end"
    minutes: Whole | None = Field(None, ge=0, le=1440)

    def leaves(self, frame: Frame, trade: Trade, instrument: Instrument) -> Bools:
        minutes = frame.primary.minutes if self.minutes is None else self.minutes
        return near_end(frame.series(), instrument, minutes) & trade.held(frame)
