"""Strategies and plans across a split: evaluated in one price unit, answered in today's.

A strategy has no prices of its own: the bars before a split are brought to today's level, as if it had always been so. A
plan's file names prices of the day it was written: the bars since a split are brought back to that level, the plan is
evaluated as written, and its levels are brought to today's on the tick grid. Either way no window shows a step that no
market made.

A weekly bar is stored as it was traded; one whose week holds an ex session has rows on both sides of the step. It is made
again from shorter bars, each on its own session's level, before it is used in one unit (`to_unit`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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

Finer = Callable[[str, int, int], Bars]
"""Bars shorter than a week of a symbol, sessions from first to last (numbers), as traded."""

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

    splits: by symbol. written: those after the plan was written, by symbol (a strategy has none). finer: what weekly bars
    across a split are made of, where the windows do not hold it.
    """

    def __init__(
        self,
        evaluable: Evaluable,
        splits: Mapping[str, Sequence[SplitAt]],
        written: Mapping[str, Sequence[SplitAt]] | None = None,
        finer: Finer | None = None,
    ) -> None:
        self._evaluable = evaluable
        self._splits = splits
        self._written = written or {}
        self._finer = finer

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
        held = tuple(bars.values())
        in_unit = {
            key: to_unit(b, after, written, held, self._finer)
            if b.symbol == own
            else to_unit(b, self._splits.get(b.symbol, ()), (), held, self._finer)
            for key, b in bars.items()
        }
        return in_unit, _factor(np.asarray(bars[self._evaluable.timeframe].session), after, written)


def across_splits(
    evaluable: Evaluable,
    splits: Mapping[str, Sequence[SplitAt]],
    written: Mapping[str, Sequence[SplitAt]] | None = None,
    finer: Finer | None = None,
) -> Evaluable:
    """`evaluable`, wrapped when one of its symbols was split. finer: as in AcrossSplits."""
    if not any(splits.get(symbol) for symbol in evaluable.symbols):
        return evaluable
    return cast(Evaluable, AcrossSplits(evaluable, splits, written, finer))


def _factor(session: NDArray[np.int32], after: Sequence[SplitAt], written: Sequence[SplitAt]) -> NDArray[np.float64]:
    """What a price of each session is multiplied by to stand in the unit of evaluation."""
    factor = np.ones(len(session))
    for split in after:
        factor[session < split.session] /= float(exact_factor(split.factor))
    for split in written:
        factor[session >= split.session] *= float(exact_factor(split.factor))
    return factor


def to_unit(
    bars: Bars,
    after: Sequence[SplitAt],
    written: Sequence[SplitAt] = (),
    held: Iterable[Bars] = (),
    finer: Finer | None = None,
) -> Bars:
    """`bars` at the price level after all of `after` and before any of `written`.

    A weekly bar across one of them is made again of shorter bars in that unit: those in `held`, else of `finer`, provided
    they fold to the very bar. Where they do not, it keeps both levels (`weeks_across` names such rows).
    """
    across = weeks_across(bars, [s.session for s in (*after, *written)])
    again = {row: week for row in across.tolist() if (week := _sessions_of(bars, row, held, finer)) is not None}
    factor = _factor(bars.session, after, written)
    if not again and (not len(bars) or bool(np.all(factor == 1.0))):
        return bars
    units = _factor(bars.session, [s for s in after if s.units], [s for s in written if s.units])
    columns = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close")}
    columns["volume"] = bars.volume / units
    for row, week in again.items():
        for name, value in folded(to_unit(week, after, written)).items():
            columns[name][row] = value
    return replace(bars, **columns)


def weeks_across(bars: Bars, ex_sessions: Iterable[int]) -> NDArray[np.int64]:
    """Rows of weekly `bars` whose week begins before one of `ex_sessions` (numbers) and ends at or after it: as traded they
    stand on two price levels. None of bars of other timeframes, which never hold more than a session."""
    across = np.zeros(len(bars), bool)
    if bars.timeframe is Timeframe.W1:
        monday = _monday(bars.session)
        for ex in ex_sessions:
            across |= (monday < ex) & (ex <= bars.session)
    return np.flatnonzero(across)


def parts_of_weeks(
    bars: Bars, ex_sessions: Iterable[int], held: Iterable[Bars] = (), finer: Finer | None = None
) -> dict[int, Bars | None]:
    """Of every row of `weeks_across` the shorter bars as traded that fold to it, from `finer`, else from `held`; None: there
    are none. What they make on another level is `folded`."""
    known = tuple(held)
    return {
        row: _sessions_of(bars, row, (), finer) or _sessions_of(bars, row, known, None)
        for row in weeks_across(bars, ex_sessions).tolist()
    }


def _monday(session: Any) -> Any:
    return session - (session + 3) % 7  # 1970-01-01 was a Thursday


def _sessions_of(bars: Bars, row: int, held: Iterable[Bars], finer: Finer | None) -> Bars | None:
    """The shorter bars that the weekly bar at `row` was made of, None where there are none that fold to it."""
    last = int(bars.session[row])
    first = int(_monday(last))
    known = [b for b in held if b.symbol == bars.symbol and b.timeframe is not Timeframe.W1]
    longest_first = sorted(known, key=lambda b: -b.timeframe.minutes)
    parts = (b.rows(slice(*np.searchsorted(b.session, [first, last + 1]).tolist())) for b in longest_first)
    for part in parts:
        if _folds_to(part, bars, row):
            return part
    if finer is None:
        return None
    read = finer(bars.symbol, first, last)
    return read if _folds_to(read, bars, row) else None


def _folds_to(part: Bars, bars: Bars, row: int) -> bool:
    names = ("open", "high", "low", "close")
    return len(part) > 0 and all(value == getattr(bars, name)[row] for name, value in folded(part).items() if name in names)


def folded(part: Bars) -> dict[str, float]:
    """open, high, low, close and volume of the one bar that `part` makes."""
    return {
        "open": float(part.open[0]), "high": float(part.high.max()), "low": float(part.low.min()),
        "close": float(part.close[-1]), "volume": float(part.volume.sum()),
    }  # fmt: skip
