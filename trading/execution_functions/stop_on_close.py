"""stop_on_close: the idea is wrong where the market closes beyond a price, not where it touches it."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from trading.config_text import Positive, custom_error
from trading.execution_functions.base import Bools, Frame, register
from trading.execution_functions.managing import Trade, TradeExit
from trading.instruments import Instrument
from trading.timeframes import Timeframe


@register
class StopOnClose(TradeExit):
    """``{kind: stop_on_close, level: 1.1900}``: at the first close on or beyond the level, against the trade; or `points` or
    `percent` away from its entry price. What rests at the broker is the plan's `stop`, or its `disaster_stop`."""

    NAME: ClassVar[str] = "stop_on_close"
    kind: Literal["stop_on_close"] = "stop_on_close"
    level: Positive | None = None
    points: Positive | None = None
    percent: Positive | None = Field(None, lt=100)
    timeframe: Timeframe | None = None

    @model_validator(mode="after")
    def _one(self) -> StopOnClose:
        if sum(x is not None for x in (self.level, self.points, self.percent)) != 1:
            raise custom_error("says where in none or several ways", "one of level, points and percent")
        return self

    def price(self, trade: Trade) -> float:
        """The stop of `trade`, price units of the frame."""
        if self.level is not None:
            return self.level
        away = self.points if self.points is not None else trade.entry_price * float(self.percent or 0.0) / 100.0
        return trade.entry_price - trade.side * away

    def leaves(self, frame: Frame, trade: Trade, instrument: Instrument) -> Bools:
        timeframe, bars = self.timeframe or frame.primary, frame.series(self.timeframe)
        # Half a tick, because a close and a level on the same tick may differ by the last bit of a float.
        half = float(instrument.tick_size) / 2.0
        beyond = ((bars.close - self.price(trade)) * trade.side <= half) & trade.held(frame, timeframe)
        known = frame.on_primary(np.maximum.accumulate(beyond).astype(np.float64), timeframe) == 1.0
        return np.asarray(known & trade.held(frame), np.bool_)
