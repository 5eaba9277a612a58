"""Which prices research sees: raw, or adjusted as of each row.

Back-adjusting a whole history by everything known today is the classic look-ahead trap: a rule such as "close above 100" is
then asked about a price nobody saw, divided by splits of years to come. Here a row sees earlier bars on the price level of
its own moment, by the splits and spin-offs that were known and effective then, and no later one. Live it is the same: at the
desk the newest bar's own level is the unit (trading/price_units.py).

The history is cut where an action takes effect. Within such an epoch one level holds, and its rows are computed from bars
brought to it; so the levels an evaluation names are those of its own bar, as traded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from operator import attrgetter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import Calendar
from trading.corporate_actions import ActionKind, CorporateAction, UnknownFactor, with_factors
from trading.evaluation import Evaluation
from trading.features import NAMES, compute_anchored
from trading.instruments import Instrument
from trading.price_units import AcrossSplits, Finer, SplitAt, to_unit
from trading.strategy import Evaluable
from trading.timeframes import Timeframe, session_date

SEEN = frozenset({ActionKind.SPLIT, ActionKind.SPIN_OFF})
"""Kinds a window is adjusted for. Dividends stay in the price, as on every chart of trades; a roll is the series' own."""


class PriceView(str, Enum):
    """adjusted: each row as of its own moment. raw: as traded, steps and all."""

    ADJUSTED = "adjusted"
    RAW = "raw"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Epoch:
    """Rows [first, after) of a series and the actions their windows are adjusted for."""

    first: int
    after: int
    actions: tuple[CorporateAction, ...]


def epochs(bars: Bars, actions: Iterable[CorporateAction]) -> list[Epoch]:
    """The stretches of `bars` on one price level. actions: of any symbol; an action counts from the first bar of its ex
    session, or from the first bar at or after the moment it became known where that is later."""
    starts: list[tuple[int, CorporateAction]] = []
    for action in sorted(actions, key=lambda a: (a.ex_session, a.id)):
        if action.kind not in SEEN or action.factor == 1.0:
            continue
        ex = int(np.searchsorted(bars.session, action.ex_session, side="left"))
        known = int(np.searchsorted(bars.close_time, action.known_time, side="left"))
        starts.append((max(ex, known), action))
    edges = sorted({0, *(row for row, _ in starts if 0 < row < len(bars))})
    return [
        Epoch(first, after, tuple(action for row, action in starts if row <= first))
        for first, after in zip(edges, [*edges[1:], len(bars)], strict=True)
    ]


def adjusted_rows(bars: Bars, actions: Iterable[CorporateAction], level: int | None = None) -> Bars:
    """`bars` on the price level of session `level` (number; None: of the last one), whoever knew what when: for outcomes that
    lie in the future anyway, such as the return a label is made of. Raises UnknownFactor."""
    at = int(bars.session[-1]) if level is None and len(bars) else (level or 0)
    used = with_factors([a for a in actions if a.kind in SEEN and a.symbol == bars.symbol and a.ex_session <= at], bars)
    return to_unit(bars, splits_of(used))


def splits_of(actions: Iterable[CorporateAction]) -> list[SplitAt]:
    """The steps of price and, for splits, of volume. Raises UnknownFactor."""
    return [SplitAt(a.ex_session, known_factor(a), a.kind is ActionKind.SPLIT) for a in actions]


def known_factor(action: CorporateAction) -> float:
    if math.isnan(action.factor):
        raise UnknownFactor(
            f"{action.symbol}: the factor of the {action.kind} on {session_date(action.ex_session)} is not known "
            f"({action.source or 'no source'}); confirm it with `tapeline actions confirm`"
        )
    return action.factor


# -- strategies and plans ----------------------------------------------------------------------------------------------


class PointInTime:
    """An evaluable that sees raw bars and answers each row as it would have then; everything else is the evaluable's own.

    A plan speaks in prices of the day it was written, taken as the first session it is valid in: bars since a split inside
    its validity are brought back to that level, as the desk does. finer: as in trading.price_units.AcrossSplits.
    """

    def __init__(
        self, evaluable: Evaluable, actions: Mapping[str, Sequence[CorporateAction]], finer: Finer | None = None
    ) -> None:
        self._evaluable = evaluable
        self._finer = finer
        self._actions = {symbol: tuple(found) for symbol, found in actions.items() if found}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._evaluable, name)

    @property
    def price_actions(self) -> Mapping[str, Sequence[CorporateAction]]:
        """What its windows are adjusted for, by symbol."""
        return self._actions

    @property
    def finer_bars(self) -> Finer | None:
        """What weekly bars across an action are made of."""
        return self._finer

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What it says at each bar, levels in the prices of that bar. Raises UnknownFactor across an action nobody knows the
        factor of, and what the evaluable raises."""
        known = self._known(bars)
        primary = bars.get(self._evaluable.timeframe)
        if primary is None or not any(known.values()):
            return self._evaluable.evaluate(bars, instrument)
        parts: list[tuple[Epoch, Evaluation]] = []
        for epoch in epochs(primary, (a for found in known.values() for a in found)):
            until = int(primary.close_time[epoch.after - 1]) if epoch.after else 0
            cut = {key: b.rows(slice(0, int(np.searchsorted(b.close_time, until, side="right")))) for key, b in bars.items()}
            splits: dict[str, list[SplitAt]] = {}
            for action in epoch.actions:
                splits.setdefault(action.symbol, []).extend(splits_of([action]))
            across = AcrossSplits(self._evaluable, splits, self._written(splits), self._finer)
            parts.append((epoch, across.evaluate(cut, instrument)))
        return _joined(parts) if parts else self._evaluable.evaluate(bars, instrument)

    def in_one_unit(self, bars: Mapping[Any, Bars], instrument: Instrument) -> tuple[dict[Any, Bars], NDArray[np.float64]]:
        """(`bars` in one unit, what a price of each primary bar is multiplied by for it), for what manages an open trade."""
        splits = {symbol: splits_of(found) for symbol, found in self._known(bars).items() if found}
        return AcrossSplits(self._evaluable, splits, self._written(splits), self._finer).in_one_unit(bars, instrument)

    def _known(self, bars: Mapping[Any, Bars]) -> dict[str, list[CorporateAction]]:
        """Actions of every series' symbol that lie inside it, factors told by an amount worked out from the longest one."""
        longest: dict[str, Bars] = {}
        for b in bars.values():
            if len(b) and (b.symbol not in longest or b.close_time[0] < longest[b.symbol].close_time[0]):
                longest[b.symbol] = b
        found = {}
        for symbol, b in longest.items():
            inside = [
                a
                for a in self._actions.get(symbol, ())
                if a.kind in SEEN and int(b.session[0]) < a.ex_session <= int(b.session[-1])
            ]
            found[symbol] = [told for a in inside for told in with_factors([a], self._before(a, b))]
        return found

    def _before(self, action: CorporateAction, longest: Bars) -> Bars:
        """Bars whose last close before the ex session measures an action told by its value: a week's close would be too old."""
        if longest.timeframe is not Timeframe.W1 or self._finer is None or action.factor_known:
            return longest
        near = self._finer(longest.symbol, action.ex_session - 10, action.ex_session - 1)
        return near if len(near) else longest

    def _written(self, splits: Mapping[str, Sequence[SplitAt]]) -> dict[str, list[SplitAt]]:
        span = getattr(self._evaluable, "valid_sessions", None)
        if self._evaluable.kind != "plan" or span is None:
            return {}
        first, last = span
        return {s: [x for x in found if first < session_date(x.session) <= last] for s, found in splits.items()}


def point_in_time(
    evaluable: Evaluable, actions: Mapping[str, Sequence[CorporateAction]], finer: Finer | None = None
) -> Evaluable:
    """`evaluable` on prices as of each row; itself when none of the actions moves a price. finer: what weekly bars across an
    action are made of, where the windows do not hold it."""
    if not any(a.kind in SEEN and a.factor != 1.0 for found in actions.values() for a in found):
        return evaluable
    return cast(Evaluable, PointInTime(evaluable, actions, finer))


def seen_like(model: Evaluable, other: Evaluable) -> Evaluable:
    """`other` (a variant) on the prices `model` is evaluated on."""
    return point_in_time(other, getattr(model, "price_actions", {}), getattr(model, "finer_bars", None))


def _joined(parts: Sequence[tuple[Epoch, Evaluation]]) -> Evaluation:
    """One evaluation of each epoch's own rows."""
    if len(parts) == 1:
        return parts[0][1]
    first = parts[0][1]

    def joined(columns: Callable[[Evaluation], NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([columns(e)[p.first : p.after] for p, e in parts])

    names = [f.name for f in fields(Evaluation) if isinstance(getattr(first, f.name), np.ndarray)]
    columns: dict[str, Any] = {name: joined(attrgetter(name)) for name in names}
    columns["parts"] = {
        name: np.concatenate([_part(e, name, p) for p, e in parts])
        for name in dict.fromkeys(n for _, e in parts for n in e.parts)
    }
    columns["targets"] = tuple(
        (share, np.concatenate([e.targets[i][1][p.first : p.after] for p, e in parts]))
        for i, (share, _) in enumerate(first.targets)
    )
    return replace(first, **columns)


def _part(evaluation: Evaluation, name: str, epoch: Epoch) -> NDArray[np.float64]:
    column = evaluation.parts.get(name)
    return np.zeros(epoch.after - epoch.first) if column is None else column[epoch.first : epoch.after]


# -- features ----------------------------------------------------------------------------------------------------------


def features_as_of(
    bars: Bars, venue: Calendar, actions: Sequence[CorporateAction], finer: Finer | None = None
) -> tuple[list[str], NDArray[np.float64]]:
    """trading.features.compute_anchored of raw `bars`, each row from bars on its own price level: float64 (T, F). finer: what
    weekly bars across an action are made of.

    Where no action lies inside, the very numbers of the raw bars. Raises UnknownFactor.
    """
    inside = [a for a in actions if len(bars) and int(bars.session[0]) < a.ex_session <= int(bars.session[-1])]
    cuts = epochs(bars, with_factors([a for a in inside if a.kind in SEEN], bars))
    if len(cuts) <= 1:
        return compute_anchored(bars, venue)
    parts = []
    for epoch in cuts:
        level = to_unit(bars.rows(slice(0, epoch.after)), splits_of(epoch.actions), finer=finer)
        parts.append(compute_anchored(level, venue)[1][epoch.first :])
    return list(NAMES), np.concatenate(parts)
