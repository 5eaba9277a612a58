"""No training row may know anything about its test window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.splits import holdout, walk_forward


@st.composite
def events(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several instruments over time, with events of different lengths."""
    times = draw(st.lists(st.integers(0, 10_000), unique=True, min_size=30, max_size=120).map(sorted))
    per_time = draw(st.integers(1, 3))
    start = np.repeat(np.array(times, np.int64), per_time)
    lengths = draw(st.lists(st.integers(0, 800), min_size=len(start), max_size=len(start)))
    return start, start + np.array(lengths, np.int64)


@settings(deadline=None)
@given(events(), st.integers(1, 6), st.integers(0, 8))
def test_training_events_end_before_the_test_begins_less_the_embargo(
    rows: tuple[np.ndarray, np.ndarray], folds: int, embargo: int
) -> None:
    start, end = rows
    times = np.unique(start)
    for fold in walk_forward(start, end, folds=folds, embargo=embargo, min_train=1):
        assert set(fold.train).isdisjoint(fold.test)
        assert end[fold.train].max() < fold.test_start
        between = np.sum((times > start[fold.train].max()) & (times < fold.test_start))
        assert between >= embargo
        assert fold.purged == np.sum(start < fold.test_start) - len(fold.train)


@settings(deadline=None)
@given(events(), st.integers(1, 6))
def test_test_windows_follow_each_other_and_cover_the_end_once(rows: tuple[np.ndarray, np.ndarray], folds: int) -> None:
    start, end = rows
    made = walk_forward(start, end, folds=folds, embargo=0, min_train=1, first_train=0.5)
    tested = np.concatenate([f.test for f in made]) if made else np.array([], int)
    assert len(np.unique(tested)) == len(tested)
    assert np.array_equal(tested, np.sort(tested))
    if made:
        assert tested[-1] == len(start) - 1


@settings(deadline=None)
@given(events(), st.integers(0, 5))
def test_validation_rows_are_later_than_every_training_event(rows: tuple[np.ndarray, np.ndarray], embargo: int) -> None:
    start, end = rows
    train, validation = holdout(start, end, fraction=0.3, embargo=embargo)
    assert len(validation)
    if len(train):
        assert end[train].max() < start[validation].min()


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="not ordered"):
        walk_forward(np.array([2, 1]), np.array([3, 3]), folds=1, embargo=0)
