"""A forecaster judged on many pasts instead of one: combinatorial purged cross-validation.

Every choice of `tested` out of `groups` spans of time is forecast by a model trained on the rest, purged and embargoed; the
forecasts are joined to C(groups - 1, tested - 1) paths, each of which covers the whole history once (Lopez de Prado 2018, chapter
12). The same procedure fits each of them as fits a walk-forward step (ml.forecasting). Part of the training rows lies after what
they are tested on, as it never does in a walk forward: the spread of the paths says how much of a figure is the choice of the
period, not what will be earned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb

import numpy as np

from ml import leakage
from ml.baseline import OutOfSample, TrainingError
from ml.dataset import TrainingSet
from ml.forecasters import BASELINES, history_of, windows_of
from ml.forecasting import ForecastConfig, fold_of, locked, mixed
from ml.splits import Fold, combinatorial_purged


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """out_of_sample: forecasts of every row before the locked slice, one for each path. members: what was trained. folds: how
    many trainings. audit: of overlaps."""

    out_of_sample: tuple[OutOfSample, ...]
    members: tuple[str, ...]
    folds: int
    audit: leakage.Audit


def paths(
    data: TrainingSet,
    config: ForecastConfig,
    *,
    groups: int,
    tested: int,
    members: tuple[str, ...] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Paths:
    """Train on every choice and join the forecasts. members: of the ensemble; empty: those of `config`.

    Raises TrainingError when there are too few rows.
    """
    kinds = members or config.members
    if set(kinds) <= set(BASELINES):  # they look at the newest bar only
        config = replace(config, settings=replace(config.settings, window=1))
    config = replace(config, members=kinds)
    rows, _, _ = locked(data, config.final_fraction, config.embargo)
    starts = data.event_start[rows]
    try:
        choices = combinatorial_purged(starts, data.event_end[rows], groups=groups, tested=tested, embargo=config.embargo)
    except ValueError as error:
        raise TrainingError(f"no combinatorial paths: {error}") from error
    times = np.unique(starts)
    edges = np.linspace(0, len(times), groups + 1).astype(int)
    group = np.searchsorted(edges, np.searchsorted(times, starts), side="right") - 1
    history = history_of(data.matrix.symbol, config.settings.window)
    count = comb(groups - 1, tested - 1)
    probability, prior = np.full((count, len(rows)), np.nan), np.full((count, len(rows)), np.nan)
    fold_number = np.zeros((count, len(rows)), np.int64)
    seen = np.zeros(groups, np.int64)
    folds: list[Fold] = []
    for choice in choices:
        fold = Fold(
            choice.number, rows[choice.train], rows[choice.test], choice.test_start, choice.test_end, choice.purged
        )  # fmt: skip
        folds.append(fold)
        try:
            made, _, weights, _, base = fold_of(data, config, fold.train, kinds, history)
        except ValueError as error:  # not enough rows to validate on
            raise TrainingError(f"combinatorial fold {fold.number}, {len(fold.train)} rows to learn from: {error}") from error
        windows = windows_of(data.matrix.values, history, fold.test)
        said = mixed({name: member.forecast(windows) for name, member in made.items()}, weights).probability
        for g in np.unique(group[choice.test]):
            mine = group[choice.test] == g
            at = seen[g], choice.test[mine]
            probability[at], prior[at], fold_number[at] = said[mine], base, fold.number
            seen[g] += 1
        progress(f"combinatorial fold {fold.number} of {len(choices)}")
    found = tuple(OutOfSample(rows, probability[p], fold_number[p], prior[p]) for p in range(count))
    return Paths(found, kinds, len(folds), leakage.label_overlap(data.events, folds))
