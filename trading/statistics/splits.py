"""Splits of time without leakage: walk-forward (anchored or rolling) and combinatorial purged cross-validation.

Rows are periods or events in order of time. `reach` is how many rows after its own a row's outcome is known (the label's
horizon, the longest holding time): training rows whose outcome overlaps the test rows are purged; `embargo` more rows
after a test span are left out of training, because serial dependence reaches further. Lopez de Prado 2018, chapters 7, 12.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """train, test: int64 row numbers, ascending. groups: which groups of the rows are tested (combinatorial splits)."""

    train: Ints
    test: Ints
    groups: tuple[int, ...] = ()


def walk_forward(
    rows: int, *, folds: int, first: float = 0.5, anchored: bool = True, reach: int = 0, embargo: int = 0
) -> list[Split]:
    """`folds` consecutive test spans over the rows after the first part; training is everything before (anchored) or the
    same number of rows right before (rolling), purged and embargoed. Raises ValueError on impossible arguments."""
    if rows < 2 or folds < 1 or not 0 < first < 1 or reach < 0 or embargo < 0:
        raise ValueError(f"rows={rows} folds={folds} first={first} reach={reach} embargo={embargo}: expected at least 2 and 1, "
                         "within (0, 1), at least 0")  # fmt: skip
    begin = int(rows * first)
    edges = np.linspace(begin, rows, folds + 1).astype(int)
    out = []
    for lo, hi in itertools.pairwise(edges):
        last = lo - reach - embargo
        start = 0 if anchored else max(0, last - begin)
        if hi > lo and last > start:
            out.append(Split(np.arange(start, last), np.arange(lo, hi)))
    if not out:
        raise ValueError(f"{rows} rows leave nothing to train on before the first test span (reach {reach}, embargo {embargo})")
    return out


def combinatorial_purged(rows: int, *, groups: int, tested: int, reach: int = 0, embargo: int = 0) -> Iterator[Split]:
    """Every choice of `tested` of `groups` equal consecutive groups as test rows; C(groups, tested) splits."""
    if not 1 <= tested < groups or rows < groups:
        raise ValueError(f"rows={rows} groups={groups} tested={tested}: expected 1 <= tested < groups <= rows")
    edges = np.linspace(0, rows, groups + 1).astype(int)
    for chosen in itertools.combinations(range(groups), tested):
        keep = np.ones(rows, bool)
        test = np.zeros(rows, bool)
        for g in chosen:
            lo, hi = int(edges[g]), int(edges[g + 1])
            test[lo:hi] = True
            keep[max(0, lo - reach) : min(rows, hi + reach + embargo)] = False
        yield Split(np.flatnonzero(keep & ~test), np.flatnonzero(test), chosen)


def combinatorial_paths(rows: int, *, groups: int, tested: int) -> list[list[tuple[int, int]]]:
    """The out-of-sample paths the splits make: C(groups, tested) * tested / groups of them, each one (split, group) per
    group, so that every path covers all rows once with predictions made without them."""
    count = math.comb(groups, tested) * tested // groups
    at: list[list[int]] = [[] for _ in range(groups)]
    for number, chosen in enumerate(itertools.combinations(range(groups), tested)):
        for g in chosen:
            at[g].append(number)
    return [[(at[g][path], g) for g in range(groups)] for path in range(count)]
