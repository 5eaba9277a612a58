"""Strategies and plans across a split: evaluated in one price unit, answered in today's.

A strategy has no prices of its own: the bars before a split are brought to today's level, as if it had always been so. A
plan's file names prices of the day it was written: the bars since a split are brought back to that level, the plan is
evaluated as written, and its levels are brought to today's on the tick grid. Either way no window shows a step that no
market made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.corporate_actions import exact_factor
from trading.evaluation import Evaluation
from trading.instruments import Instrument
from trading.price_grid import on_grid
from trading.strategy import Evaluable
from trading.timeframes import Timeframe

_LEVELS = ("stop_long", "stop_short", "target_long", "target_short")


@dataclass(frozen=True, slots=True)
class SplitAt:
    """A step of price that was applied: number of its ex session, new units per old unit. units: does it change how many
    units there are (a split), or the price alone (a spin-off)?"""

    session: int
    factor: float
    units: bool = True


class AcrossSplits:
    """An evaluable whose bars and levels are brought to one unit; everything else is the evaluable's own.

    splits: by symbol. written: those after the plan was written, by symbol (a strategy has none).
    """

    def __init__(
        self,
        evaluable: Evaluable,
        splits: Mapping[str, Sequence[SplitAt]],
        written: Mapping[str, Sequence[SplitAt]] | None = None,
    ) -> None:
        self._evaluable = evaluable
        self._splits = splits
        self._written = written or {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluable, name)

    def evaluate(self, bars: Mapping[Timeframe, Bars], instrument: Instrument) -> Evaluation:
        """What the evaluable says, levels in the unit of each bar's own session. Raises what the evaluable raises."""
        if not any(self._splits.get(b.symbol) for b in bars.values()):
            return self._evaluable.evaluate(bars, instrument)
        in_unit, unit = self.in_one_unit(bars, instrument)
        evaluation = self._evaluable.evaluate(in_unit, instrument)
        levels: dict[str, Any] = {name: on_grid(getattr(evaluation, name) / unit, instrument) for name in _LEVELS}
        levels["targets"] = tuple((share, on_grid(p / unit, instrument)) for share, p in evaluation.targets)
        return replace(evaluation, **levels)

    def in_one_unit(self, bars: Mapping[Any, Bars], instrument: Instrument) -> tuple[dict[Any, Bars], NDArray[np.float64]]:
        """(`bars` in the unit it is evaluated in, what a price of each primary bar's session is multiplied by for it).

        The unit is today's, or for a plan that of before the splits since it was written.
        """
        splits = self._splits.get(instrument.symbol, ())
        written = self._written.get(instrument.symbol, ())
        after = [s for s in splits if s not in written]
        own = instrument.symbol
        in_unit = {
            key: to_unit(b, after, written) if b.symbol == own else to_unit(b, self._splits.get(b.symbol, ()))
            for key, b in bars.items()
        }
        return in_unit, _factor(np.asarray(bars[self._evaluable.timeframe].session), after, written)


def across_splits(
    evaluable: Evaluable,
    splits: Mapping[str, Sequence[SplitAt]],
    written: Mapping[str, Sequence[SplitAt]] | None = None,
) -> Evaluable:
    """`evaluable`, wrapped when one of its symbols was split."""
    if not any(splits.get(symbol) for symbol in evaluable.symbols):
        return evaluable
    return cast(Evaluable, AcrossSplits(evaluable, splits, written))


def _factor(session: NDArray[np.int32], after: Sequence[SplitAt], written: Sequence[SplitAt]) -> NDArray[np.float64]:
    """What a price of each session is multiplied by to stand in the unit of evaluation."""
    factor = np.ones(len(session))
    for split in after:
        factor[session < split.session] /= float(exact_factor(split.factor))
    for split in written:
        factor[session >= split.session] *= float(exact_factor(split.factor))
    return factor


def to_unit(bars: Bars, after: Sequence[SplitAt], written: Sequence[SplitAt] = ()) -> Bars:
    """`bars` at the price level after all of `after` and before any of `written`."""
    factor = _factor(bars.session, after, written)
    if not len(bars) or bool(np.all(factor == 1.0)):
        return bars
    units = _factor(bars.session, [s for s in after if s.units], [s for s in written if s.units])
    return Bars(
        bars.symbol, bars.timeframe, bars.close_time, bars.session, bars.open * factor, bars.high * factor, bars.low * factor,
        bars.close * factor, bars.volume / units, **{name: getattr(bars, name) for name in bars.extras},
    )  # fmt: skip
