"""What a plan asks of its open trade at a bar close: where the stop stands, which parts are closed, whether it ends.

Pure and computed from the anchored window alone, so that a desk that was stopped asks for the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trading.bars import Bars
from trading.execution_functions.managing import StopMove, Trade, TradeExit, stop_path
from trading.frame import Frame
from trading.instruments import Instrument
from trading.plans import Plan


@dataclass(frozen=True, slots=True)
class Asked:
    """stop: level on the tick grid. scale_outs: numbers (0-based, in the file's order) of the scale-outs that are due.
    leave: name of the function that ends the trade, "" while none does."""

    stop: float
    scale_outs: tuple[int, ...] = ()
    leave: str = ""


def manages(plan: Any) -> bool:
    """Does the plan do more with an open trade than wait for its stop and target?"""
    rules = getattr(plan, "rules", None)
    return bool(getattr(rules, "manage", None))


def ask(plan: Plan, bars: Mapping[Any, Bars], instrument: Instrument, trade: Trade) -> Asked:
    """What the plan asks for at the newest bar of `bars` (the window of trading.evaluable.live_window), of a trade that is
    open then."""
    frame = Frame(bars, plan.timeframe)
    if len(frame) == 0:
        return Asked(trade.stop)
    manage = plan.rules.manage
    path = stop_path([m for m in manage if isinstance(m, StopMove)], frame, trade, instrument)
    due = tuple(i for i, s in enumerate(plan.rules.scale_outs) if bool(s.due(frame, trade)[-1]))
    leave = ""
    for function in manage:
        if isinstance(function, TradeExit) and bool(np.asarray(function.leaves(frame, trade, instrument))[-1]):
            leave = function.NAME
            break
    return Asked(float(path[-1]), due, leave)
