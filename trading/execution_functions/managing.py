"""What execution functions that manage an open trade have in common: the trade they see, and how their answers join.

They answer at bar closes only, from bars that closed since the entry, so that a wick alone moves nothing; row i of an
answer uses rows up to i. A stop is never loosened, and never put on the wrong side of the close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydantic

from trading import execution_functions, matching
from trading.compiled import kernel
from trading.config_text import custom_error, nearest
from trading.execution_functions.base import Bools, ExecutionFunction, Floats, Frame, Trigger
from trading.instruments import Instrument
from trading.matching import snap_against
from trading.timeframes import Timeframe


@dataclass(frozen=True, slots=True)
class Trade:
    """An open trade. side: +1 long, -1 short; entry_price: average of the fills; stop: protective level at the entry;
    opened_time: of the first fill, UTC us; targets: levels of its targets in the file's order, NaN where not known."""

    side: int
    entry_price: float
    stop: float
    opened_time: int
    targets: tuple[float, ...] = ()

    @property
    def risk(self) -> float:
        """Distance of the entry to its first stop, price units."""
        return (self.entry_price - self.stop) * self.side

    def held(self, frame: Frame, timeframe: Timeframe | None = None) -> Bools:
        """bool over the bars of `timeframe` (None: primary): closed after the entry."""
        return np.asarray(frame.series(timeframe).close_time > self.opened_time, np.bool_)


class StopMove(ExecutionFunction):
    """Says where the stop of an open trade should be."""

    def levels(self, frame: Frame, trade: Trade) -> Floats:
        """float64 (T,) over primary bars: the stop it asks for at each close, NaN where it asks for none."""
        raise NotImplementedError


class TradeExit(ExecutionFunction):
    """Says when an open trade ends, from what the trade itself has been through."""

    def leaves(self, frame: Frame, trade: Trade, instrument: Instrument) -> Bools:
        """bool (T,) over primary bars: close at the next open."""
        raise NotImplementedError


def best_since(trade: Trade, values: Floats, held: Bools) -> Floats:
    """Running best of `values` (highest for a long) over the bars held; NaN before the first."""
    masked = np.where(held & np.isfinite(values), values * trade.side, -np.inf)
    best = np.maximum.accumulate(masked) if len(masked) else masked
    return np.where(np.isfinite(best), best * trade.side, np.nan)


def stop_path(moves: Sequence[StopMove], frame: Frame, trade: Trade, instrument: Instrument) -> Floats:
    """float64 (T,): the stop in force after each primary close, on the tick grid; `trade.stop` before the first move.

    Of several moves the tightest counts. A level on or beyond the close is no stop and is left out.
    """
    tick = float(instrument.tick_size)
    stop = float(snap_against(trade.stop, -trade.side, tick))
    asked = [np.asarray(move.levels(frame, trade), np.float64) for move in moves]
    if not asked:
        return np.full(len(frame), stop)
    return np.asarray(_tightest(np.vstack(asked), trade.held(frame), frame.price("close"), stop, trade.side, tick), np.float64)


@kernel(matching)
def _tightest(asked: Floats, held: Bools, close: Floats, stop: float, side: int, tick: float) -> Floats:
    """float64 (T,): `stop`, tightened row by row to the levels asked for, (M, T), that are known and short of the close."""
    result = np.empty(len(close))
    for row in range(len(close)):
        if held[row]:
            for k in range(len(asked)):
                level = snap_against(asked[k, row], -side, tick)
                if np.isfinite(level) and (level - stop) * side > 0 and (close[row] - level) * side > 0:
                    stop = level
        result[row] = stop
    return result


def as_trigger(value: Any) -> Trigger:
    """The trigger a mapping with ``kind`` writes. For pydantic: raises a custom error naming what was expected."""
    if isinstance(value, Trigger):
        return value
    kind = value.get("kind") if isinstance(value, Mapping) else None
    known = execution_functions.triggers()
    if not isinstance(kind, str) or kind not in known:
        what = "has no kind" if kind is None else f"no trigger {kind!r}"
        raise custom_error(what, "kind: one of " + ", ".join(known), "" if kind is None else nearest(kind, known))
    try:
        return known[kind].model_validate(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise custom_error(f"{kind}: {where}: {first['msg']}", "the keys of " + kind) from None
