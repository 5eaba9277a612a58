"""Splits without leakage: training rows whose event overlaps the test rows' are purged, a gap (embargo) is left around them.

Walk-forward: train on the past, test on what comes next. Combinatorial: every choice of test groups, trained on the rest.
Rows are events of several instruments over time; trading.statistics.splits does the same for plain periods.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One step forward. train, test: int64 row positions, ascending. purged: rows before the test left out of training."""

    number: int
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    test_start: int
    test_end: int
    purged: int


def _before(event_start: NDArray[np.int64], event_end: NDArray[np.int64], times: NDArray[np.int64], at: int, embargo: int
            ) -> NDArray[np.int64]:  # fmt: skip
    """Rows whose event is over before times[at - embargo]."""
    cut = int(times[max(0, at - embargo)])
    return np.flatnonzero((event_end < cut) & (event_start < cut))


def walk_forward(
    event_start: NDArray[np.int64],
    event_end: NDArray[np.int64],
    *,
    folds: int,
    embargo: int,
    first_train: float = 0.4,
    min_train: int = 200,
) -> list[Fold]:
    """Expanding-window folds over rows ordered by event_start (T,), UTC us.

    The last 1 - first_train of the distinct times is cut into `folds` equal test windows. A training row's event is over
    before the window starts, less `embargo` distinct times (serial dependence reaches further than the label does).
    Folds with fewer than min_train rows are left out. Raises ValueError on unordered rows or impossible arguments.
    """
    if folds < 1 or embargo < 0 or not 0 < first_train < 1:
        raise ValueError(f"folds={folds} embargo={embargo} first_train={first_train}: expected >= 1, >= 0, within (0, 1)")
    if len(event_start) and bool(np.any(np.diff(event_start) < 0)):
        raise ValueError("rows are not ordered by event_start")
    times = np.unique(event_start)
    edges = np.linspace(int(len(times) * first_train), len(times), folds + 1).astype(int)
    out: list[Fold] = []
    for lo, hi in itertools.pairwise(edges):
        if hi <= lo:
            continue
        start, last = int(times[lo]), int(times[hi - 1])
        train = _before(event_start, event_end, times, int(lo), embargo)
        test = np.flatnonzero((event_start >= start) & (event_start <= last))
        if len(train) < min_train or len(test) == 0:
            continue
        earlier = int(np.searchsorted(event_start, start, side="left"))
        out.append(Fold(len(out) + 1, train, test, start, last, earlier - len(train)))
    return out


def holdout(
    event_start: NDArray[np.int64], event_end: NDArray[np.int64], *, fraction: float, embargo: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(train, validation) positions: the last `fraction` of the distinct times validates, purged and embargoed alike."""
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, expected within (0, 1)")
    times = np.unique(event_start)
    if len(times) < 2:
        raise ValueError(f"{len(times)} distinct times, expected at least 2")
    at = min(len(times) - 1, int(len(times) * (1 - fraction)))
    return _before(event_start, event_end, times, at, embargo), np.flatnonzero(event_start >= times[at])


def combinatorial_purged(
    event_start: NDArray[np.int64],
    event_end: NDArray[np.int64],
    *,
    groups: int,
    tested: int,
    embargo: int,
) -> list[Fold]:
    """C(groups, tested) folds: the distinct times are cut into `groups` equal spans, `tested` of them are the test rows.

    A training row's event neither overlaps the time a test span's events cover, nor starts within `embargo` distinct times
    after it. Lopez de Prado 2018, chapter 12. Raises ValueError on unordered rows or impossible arguments.
    """
    if not 1 <= tested < groups or embargo < 0:
        raise ValueError(f"groups={groups} tested={tested} embargo={embargo}: expected 1 <= tested < groups and at least 0")
    if len(event_start) and bool(np.any(np.diff(event_start) < 0)):
        raise ValueError("rows are not ordered by event_start")
    times = np.unique(event_start)
    if len(times) < groups:
        raise ValueError(f"{len(times)} distinct times, expected at least {groups}")
    edges = np.linspace(0, len(times), groups + 1).astype(int)
    spans = []
    for lo, hi in itertools.pairwise(edges):
        rows = np.flatnonzero((event_start >= times[lo]) & (event_start <= times[hi - 1]))
        known = int(event_end[rows].max())
        # The first time at which training may begin again.
        at = int(np.searchsorted(times, known, side="right")) + embargo
        spans.append((rows, int(times[lo]), int(times[at]) if at < len(times) else np.iinfo(np.int64).max))
    out: list[Fold] = []
    for number, chosen in enumerate(itertools.combinations(range(groups), tested), 1):
        keep = np.ones(len(event_start), bool)
        for g in chosen:
            _, first, again = spans[g]
            keep &= (event_end < first) | (event_start >= again)
        test = np.concatenate([spans[g][0] for g in chosen])
        train = np.flatnonzero(keep)
        out.append(
            Fold(
                number,
                train,
                test,
                int(event_start[test[0]]),
                int(event_start[test[-1]]),
                len(event_start) - len(test) - len(train),
            )
        )
    return out
