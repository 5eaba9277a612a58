"""Choosing parameters without seeing the future: walk-forward and combinatorial cross-validation over a grid's returns.

Every trial of the grid was run once over the whole history (trading.sweep): what a trial earned in a session does not
depend on which sessions its parameters were chosen on. Choosing is therefore done on the matrix of returns (T, N):
the trial with the best Sharpe ratio on the training rows is the one whose returns count on the test rows. Training rows
whose positions could still be open in the test span are purged by `reach`, `embargo` more are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trading.statistics.splits import combinatorial_paths, combinatorial_purged, walk_forward

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One test span. first, last: its rows. train: how many rows were learnt from. chosen: trial. inside, outside: its
    per-period Sharpe ratio on the training and on the test rows; median: the grid's median on the test rows."""

    first: int
    last: int
    train: int
    chosen: int
    inside: float
    outside: float
    median: float


@dataclass(frozen=True, slots=True, eq=False)
class WalkForward:
    """rows: int64 (M,), the test rows in order. returns: float64 (M,), what was earned on them by what was chosen before.

    efficiency: mean Sharpe ratio outside over mean inside; how much of what the choice promised was kept.
    """

    anchored: bool
    folds: tuple[Fold, ...]
    rows: Ints
    returns: Floats
    efficiency: float


@dataclass(frozen=True, slots=True, eq=False)
class Combinatorial:
    """paths: float64 (P, T), returns of the out-of-sample paths. sharpe: float64 (P,), per period. splits: how many."""

    paths: Floats
    sharpe: Floats
    splits: int
    chosen: Ints


def column_sharpes(returns: Floats) -> Floats:
    """Per-period Sharpe ratio of each column of (T, N), ddof 1; 0 where a column does not vary: it did nothing."""
    if len(returns) < 2:
        return np.zeros(returns.shape[1])
    mean, deviation = returns.mean(axis=0), returns.std(axis=0, ddof=1)
    live = deviation > 1e-15
    return np.where(live, mean / np.where(live, deviation, 1.0), 0.0)


def walk_forward_selection(
    returns: Floats, *, folds: int = 5, first: float = 0.4, anchored: bool = True, reach: int = 0, embargo: int = 0
) -> WalkForward:
    """Walk-forward over the trials' returns (T, N). Raises ValueError when nothing is left to train on, or on NaN."""
    r = _checked(returns)
    found: list[Fold] = []
    rows: list[Ints] = []
    earned: list[Floats] = []
    for split in walk_forward(len(r), folds=folds, first=first, anchored=anchored, reach=reach, embargo=embargo):
        inside, outside = column_sharpes(r[split.train]), column_sharpes(r[split.test])
        chosen = int(inside.argmax())
        found.append(
            Fold(int(split.test[0]), int(split.test[-1]), len(split.train), chosen, float(inside[chosen]),
                 float(outside[chosen]), float(np.median(outside)))
        )  # fmt: skip
        rows.append(split.test)
        earned.append(r[split.test, chosen])
    promised = float(np.mean([f.inside for f in found]))
    kept = float(np.mean([f.outside for f in found]))
    return WalkForward(
        anchored, tuple(found), np.concatenate(rows), np.concatenate(earned), kept / promised if promised > 0 else math.nan
    )


def combinatorial_selection(
    returns: Floats, *, groups: int = 8, tested: int = 2, reach: int = 0, embargo: int = 0
) -> Combinatorial:
    """Combinatorial purged cross-validation over the trials' returns (T, N): C(groups, tested) choices, which make
    C(groups, tested) * tested / groups histories nobody has learnt from. Raises ValueError when a split has no training."""
    r = _checked(returns)
    chosen: list[int] = []
    for split in combinatorial_purged(len(r), groups=groups, tested=tested, reach=reach, embargo=embargo):
        if len(split.train) < 2:
            raise ValueError(f"{len(r)} rows in {groups} groups leave nothing to train on (reach {reach}, embargo {embargo})")
        chosen.append(int(column_sharpes(r[split.train]).argmax()))
    edges = np.linspace(0, len(r), groups + 1).astype(int)
    routes = combinatorial_paths(len(r), groups=groups, tested=tested)
    paths = np.empty((len(routes), len(r)))
    for p, route in enumerate(routes):
        for split_number, g in route:
            lo, hi = int(edges[g]), int(edges[g + 1])
            paths[p, lo:hi] = r[lo:hi, chosen[split_number]]
    return Combinatorial(paths, column_sharpes(paths.T), len(chosen), np.array(chosen, np.int64))


def _checked(returns: Floats) -> Floats:
    r = np.asarray(returns, np.float64)
    if r.ndim != 2 or not r.shape[1] or not np.isfinite(r).all():
        raise ValueError(f"returns of shape {r.shape}: expected (periods, trials), all of them numbers")
    return r
