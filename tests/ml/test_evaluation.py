"""The figures agree with scikit-learn's, and the confidence bound is a bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import evaluation


@st.composite
def forecasts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(4, 60))
    y = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.int8)
    y[:2] = (0, 1)
    p = np.array(draw(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.50001, 0.7, 0.9]), min_size=n, max_size=n)))
    return y, p


@settings(deadline=None)
@given(forecasts())
def test_figures_equal_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn import metrics

    y, p = case
    assert evaluation.auc(y, p) == pytest.approx(metrics.roc_auc_score(y, p))
    assert evaluation.log_loss(y, p) == pytest.approx(metrics.log_loss(y, p))
    assert evaluation.brier(y, p) == pytest.approx(metrics.brier_score_loss(y, p))
    fpr, tpr = evaluation.roc_curve(y, p)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.roc_auc_score(y, p))


def test_a_level_that_differs_between_folds_earns_nothing() -> None:
    """Every fold's forecast is one constant, higher where more rows are positive: no skill within any fold."""
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0], np.int8)
    p = np.repeat([0.3, 0.7], 4)
    fold = np.repeat([1, 2], 4)
    assert evaluation.auc(y, p) > 0.5
    assert evaluation.auc(y, p, fold) == 0.5


def _noise(seed: int, skill: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 1200).astype(np.int8)
    return y, 0.5 + 0.05 * rng.standard_normal(1200) + skill * (y - 0.5), np.repeat(np.arange(400), 3)


def test_the_lower_bound_lies_below_the_estimate_and_repeats_by_seed() -> None:
    y, p, time = _noise(1, 0.02)
    low = evaluation.auc_lower_bound(y, p, time, block=10, replicates=300, seed=4)
    assert 0.5 < low < evaluation.auc(y, p)
    assert low == evaluation.auc_lower_bound(y, p, time, block=10, replicates=300, seed=4)


def test_forecasts_without_skill_are_rarely_called_skilful() -> None:
    called = 0
    for seed in range(60):
        y, p, time = _noise(seed, 0.0)
        called += evaluation.auc_lower_bound(y, p, time, block=10, replicates=200, seed=seed) > 0.5
    assert called <= 8  # one in twenty is expected: three of sixty


def test_rows_that_repeat_each_other_are_no_more_evidence_than_one_of_them() -> None:
    """Three instruments that move as one: the bound is that of one instrument, not of three."""
    rng = np.random.default_rng(0)
    y1 = rng.integers(0, 2, 400).astype(np.int8)
    p1 = 0.5 + 0.05 * rng.standard_normal(400) + 0.008 * (y1 - 0.5)
    single = evaluation.auc_lower_bound(y1, p1, np.arange(400), block=10, replicates=400)
    threefold = evaluation.auc_lower_bound(
        np.repeat(y1, 3), np.repeat(p1, 3), np.repeat(np.arange(400), 3), block=10, replicates=400
    )
    assert threefold == pytest.approx(single, abs=1e-9)


def test_too_short_a_history_has_no_bound() -> None:
    assert np.isnan(evaluation.auc_lower_bound(np.array([0, 1], np.int8), np.array([0.1, 0.9]), np.array([1, 2]), block=5))


def test_calibration_bins_hold_every_row_once() -> None:
    y, p, _ = _noise(3, 0.1)
    bins = evaluation.calibration(y, p)
    assert sum(b.rows for b in bins) == len(y)
    assert all(b.low <= b.forecast <= b.high for b in bins)
