"""What slots of one backtest are to each other, as the records its loop reads: legs, precedence, and which wishes are signals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trading import engine_records as er
from trading.conflict_policy import ConflictRule
from trading.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class Together:
    """What a run is told of all its slots. conflicts: how opposite signals are resolved, None: they are not."""

    any: bool = False
    conflicts: ConflictRule | None = None

    def tell(self, book: er.Records) -> None:
        """Write it into the BOOK record."""
        book["together"], book["conflicts"] = int(self.any), int(self.conflicts is not None)
        if self.conflicts is not None:
            book["policy"] = er.POLICIES.index(self.conflicts.policy)
            book["block"] = int(self.conflicts.positions == "block")


def add_together(
    records: er.Records, strategies: Sequence[str], legs: Sequence[Sequence[str]], conflicts: ConflictRule | None
) -> Together:  # fmt: skip
    """Legs and precedence of every slot. legs: by slot, the symbols its strategy enters together, empty: each by itself.

    Raises ValueError where the legs of a strategy do not stand beside each other, or one has two slots.
    """
    if conflicts is None and not any(legs):
        records["group"] = -1
        return Together()
    for s, symbols in enumerate(legs):
        if not symbols:
            records["group"][s] = -1
            continue
        mine = [k for k, name in enumerate(strategies) if name == strategies[s] and legs[k]]
        if mine != list(range(mine[0], mine[-1] + 1)) or len(mine) > len(symbols):
            raise ValueError(f"{strategies[s]}: expected one slot for each of {', '.join(symbols)}, one after the other")
        records["group"][s], records["group_size"][s] = mine[0], len(symbols)
    if conflicts is not None:
        place = {name: at for at, name in enumerate(conflicts.order)}
        ranked = sorted(set(strategies), key=lambda name: (place.get(name, len(place)), name))
        for s, name in enumerate(strategies):
            records["precedence"][s] = ranked.index(name)
    return Together(conflicts is not None or bool((records["group"] >= 0).any()), conflicts)


def signals_of(wishes: er.Records, evaluation: Evaluation, barred: NDArray[np.bool_] | None = None) -> er.Records:
    """SIGNAL records of one slot's wishes, as trading.evaluable.signal_at would make signals of them. barred: bool (T,), rows
    that a gate refuses."""
    rows, long = wishes["row"], wishes["side"] > 0
    found = np.zeros(len(wishes), er.SIGNAL)
    stop = np.where(long, np.asarray(evaluation.stop_long)[rows], np.asarray(evaluation.stop_short)[rows])
    scale = np.ones(len(rows)) if evaluation.scale is None else np.asarray(evaluation.scale)[rows]
    with np.errstate(invalid="ignore"):
        found["signal"] = np.isfinite(stop) & np.isfinite(scale) & (scale > 0)
    found["strength"] = np.asarray(evaluation.strength)[rows]
    if barred is not None:
        found["barred"] = barred[rows]
    return found


def first_refusals(
    wishes: er.Records, passes: Mapping[str, Any], rows: int
) -> tuple[NDArray[np.bool_], dict[str, int]]:  # fmt: skip
    """(bool (T,): a gate refuses the row, wishes refused by the first gate that does). passes: by gate, bool (T,)."""
    barred, counts = np.zeros(rows, bool), dict[str, int]()
    for name, good in passes.items():
        bad = ~np.asarray(good, bool) & ~barred
        count = int(bad[wishes["row"]].sum())
        if count:
            counts[name] = count
        barred |= bad
    return barred, counts
