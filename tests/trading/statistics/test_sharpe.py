"""Sharpe ratios with their uncertainty: published numbers, independent formulas, and what luck looks like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trading.statistics import (
    deflated_sharpe,
    effective_trials,
    expected_maximum_sharpe,
    minimum_track_record,
    moments,
    probabilistic_sharpe,
)


def with_moments(sharpe: float, count: int) -> np.ndarray:
    """Normal-looking returns with exactly this per-period Sharpe ratio."""
    r = stats.norm.ppf((np.arange(count) + 0.5) / count)
    r = (r - r.mean()) / r.std(ddof=1)
    return np.asarray((r + sharpe) * 0.01)


def test_moments_are_those_of_scipy() -> None:
    r = np.random.default_rng(1).standard_t(4, 500) * 0.01
    m = moments(r)
    assert m.skewness == pytest.approx(stats.skew(r))
    assert m.kurtosis == pytest.approx(stats.kurtosis(r, fisher=False))
    assert m.sharpe == pytest.approx(r.mean() / r.std(ddof=1))


def test_a_symmetric_result_has_even_odds_against_its_own_sharpe() -> None:
    r = with_moments(0.1, 400)
    assert probabilistic_sharpe(r, 0.1) == pytest.approx(0.5)
    assert probabilistic_sharpe(r, 0.0) > 0.95


def test_the_probabilistic_sharpe_is_the_share_of_samples_above() -> None:
    """Normal returns, true Sharpe 0: P(PSR > 0.95) must be 5 %."""
    random = np.random.default_rng(3)
    above = [probabilistic_sharpe(random.normal(0, 0.01, 250)) > 0.95 for _ in range(2_000)]
    assert np.mean(above) == pytest.approx(0.05, abs=0.015)


def test_negative_skew_and_fat_tails_need_a_longer_record() -> None:
    plain = with_moments(0.1, 500)
    crash = plain.copy()
    crash[:5] -= 0.04
    crash = crash + (0.1 * crash.std(ddof=1) - crash.mean())
    assert moments(crash).sharpe == pytest.approx(0.1, rel=1e-2)
    assert minimum_track_record(crash) > minimum_track_record(plain)
    enough = minimum_track_record(plain)
    assert probabilistic_sharpe(with_moments(0.1, math.ceil(enough) + 2)) >= 0.95 - 1e-3
    assert minimum_track_record(-plain) == math.inf


@pytest.mark.parametrize("trials", [5, 10, 100, 1_000])
def test_the_expected_maximum_is_what_simulation_gives(trials: int) -> None:
    best = np.random.default_rng(5).normal(0, 0.5, (4_000, trials)).max(axis=1).mean()
    assert expected_maximum_sharpe(trials, 0.25) == pytest.approx(best, rel=0.08)


def test_the_example_of_the_paper() -> None:
    """Bailey and Lopez de Prado 2014: annual Sharpe 2.5 over 1,250 days, skew -3, kurtosis 10, best of 100 trials whose annual
    ratios vary by 0.5: the deflated ratio is about 0.90, although 2.5 looks certain."""
    sharpe, count = 2.5 / math.sqrt(250), 1_250
    benchmark = expected_maximum_sharpe(100, 0.5 / 250)
    assert benchmark == pytest.approx(0.1132, abs=1e-3)
    spread = math.sqrt(1 + 3 * sharpe + 9 / 4 * sharpe**2)
    assert stats.norm.cdf((sharpe - benchmark) * math.sqrt(count - 1) / spread) == pytest.approx(0.9004, abs=2e-3)


def test_more_trials_make_the_same_result_less_convincing() -> None:
    r = with_moments(0.15, 500)
    by_trials = [deflated_sharpe(r, n) for n in (1, 10, 100, 10_000)]
    assert by_trials == sorted(by_trials, reverse=True)
    assert by_trials[0] == probabilistic_sharpe(r)


def test_of_a_thousand_noise_strategies_the_best_does_not_pass() -> None:
    returns = np.random.default_rng(7).normal(0, 0.01, (500, 1_000))
    ratios = returns.mean(axis=0) / returns.std(axis=0, ddof=1)
    best = returns[:, ratios.argmax()]
    assert probabilistic_sharpe(best) > 0.99, "looked at alone it is convincing"
    assert deflated_sharpe(best, 1_000, float(ratios.var(ddof=1))) < 0.95


def test_variations_of_one_strategy_are_one_trial() -> None:
    random = np.random.default_rng(9)
    one = random.normal(0, 0.01, (800, 1))
    assert effective_trials(one @ np.ones((1, 20)) * np.arange(1, 21)) == pytest.approx(1.0)
    assert effective_trials(random.normal(0, 0.01, (5_000, 20))) == pytest.approx(20.0, rel=0.05)
    assert 1.0 < effective_trials(one + random.normal(0, 0.01, (800, 20))) < 20.0


def test_without_variance_nothing_is_said() -> None:
    for r in (np.zeros(50), np.full(50, 0.01), np.array([0.01, 0.02])):
        assert math.isnan(probabilistic_sharpe(r))
        assert math.isnan(minimum_track_record(r))
        assert math.isnan(deflated_sharpe(r, 10))
