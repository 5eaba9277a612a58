"""Bootstrap, Monte Carlo, overfitting, superior ability: held against arch, plain loops, and simulations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from arch.bootstrap import SPA, optimal_block_length
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.statistics import (
    block_length,
    bootstrap_paths,
    combinatorial_paths,
    combinatorial_purged,
    interval,
    paired,
    probability_of_overfitting,
    shuffle_paths,
    stationary_indices,
    superior_ability,
    walk_forward,
)


def autoregressive(count: int, phi: float, seed: int) -> np.ndarray:
    e = np.random.default_rng(seed).normal(0, 0.01, count)
    out = np.empty(count)
    last = 0.0
    for t in range(count):
        last = out[t] = phi * last + e[t]
    return out


def mean_of(r: np.ndarray) -> np.ndarray:
    return np.asarray(r.mean(axis=1))


class TestBlocks:
    @pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, -0.4])
    def test_the_block_length_is_archs(self, phi: float) -> None:
        r = autoregressive(1_000, phi, 4)
        assert block_length(r) == pytest.approx(max(1.0, float(optimal_block_length(r)["stationary"].iloc[0])), rel=1e-3)

    @given(count=st.integers(2, 60), block=st.floats(1.0, 20.0), seed=st.integers(0, 1_000))
    @settings(max_examples=50, deadline=None)
    def test_a_resample_draws_existing_rows_and_the_same_ones_for_a_seed(self, count: int, block: float, seed: int) -> None:
        rows = stationary_indices(count, 5, block, seed)
        assert rows.min() >= 0
        assert rows.max() < count
        assert np.array_equal(rows, stationary_indices(count, 5, block, seed))

    def test_runs_are_as_long_as_asked_for(self) -> None:
        rows = stationary_indices(5_000, 4, 10.0, 1)
        breaks = ((np.diff(rows, axis=1) % 5_000) != 1).mean()
        assert 1 / breaks == pytest.approx(10.0, rel=0.1)


class TestIntervals:
    def test_it_covers_the_truth_as_often_as_it_says_also_under_dependence(self) -> None:
        hits = 0
        for seed in range(150):
            r = autoregressive(400, 0.4, seed)
            got = interval(r, mean_of, replicates=300, confidence=0.9, seed=seed)
            hits += int(got.low <= 0.0 <= got.high)
        assert 0.80 <= hits / 150 <= 0.97

    def test_a_statistic_without_a_value_leaves_the_bounds_open(self) -> None:
        got = interval(np.zeros(50), lambda r: r.mean(axis=1) / np.where(r.std(axis=1) > 0, r.std(axis=1), np.nan))
        assert (math.isnan(got.low), got.share) == (True, 0.0)

    def test_a_paired_comparison_sees_what_separate_intervals_hide(self) -> None:
        market = np.random.default_rng(2).normal(0, 0.02, 500)
        better, worse = market + 0.0005, market
        difference, p = paired(better, worse, mean_of)
        assert difference.low > 0
        assert p < 0.01
        apart = [interval(r, mean_of) for r in (better, worse)]
        assert apart[0].low < apart[1].high, "the two intervals overlap widely"
        assert paired(worse, worse, mean_of)[1] == 1.0


class TestMonteCarlo:
    def test_shuffled_trades_end_where_the_trades_ended(self) -> None:
        pnl = np.random.default_rng(1).normal(10, 100, 80)
        paths = shuffle_paths(pnl, 10_000.0, paths=500)
        assert paths.total_return == pytest.approx(np.full(500, pnl.sum() / 10_000))
        assert paths.max_drawdown.std() > 0
        low, high = paths.interval("max_drawdown")
        assert low < high
        assert paths.probability_of_drawdown(0.0) == 1.0

    def test_the_drawdown_of_a_path_is_the_plain_one(self) -> None:
        r = np.random.default_rng(4).normal(0, 0.03, 50)
        paths = bootstrap_paths(r, paths=20, block=5.0, seed=3)
        for p, rows in enumerate(stationary_indices(50, 20, 5.0, 3)):
            equity = np.concatenate([[1.0], np.cumprod(1 + r[rows])])
            worst = max(1 - equity[t] / equity[: t + 1].max() for t in range(51))
            assert paths.max_drawdown[p] == pytest.approx(worst)
            assert paths.total_return[p] == pytest.approx(equity[-1] - 1)

    def test_paths_may_be_longer_than_the_record(self) -> None:
        assert bootstrap_paths(np.full(30, 0.01), paths=3, periods=75).total_return == pytest.approx(np.full(3, 1.01**75 - 1))


class TestOverfitting:
    def test_it_is_what_a_plain_loop_over_the_splits_gives(self) -> None:
        r = np.random.default_rng(6).normal(0.0002, 0.01, (120, 7))
        parts = np.split(np.arange(120), 6)
        low = []
        for chosen in itertools.combinations(range(6), 3):
            inside = np.concatenate([parts[c] for c in chosen])
            outside = np.setdiff1d(np.arange(120), inside)
            ratio = [r[rows].mean(0) / r[rows].std(0, ddof=1) for rows in (inside, outside)]
            rank = (ratio[1] < ratio[1][ratio[0].argmax()]).sum() + 1
            low.append(rank / 8 <= 0.5)
        assert probability_of_overfitting(r, 6).probability == pytest.approx(np.mean(low))

    def test_noise_is_overfitted_and_a_real_edge_is_not(self) -> None:
        noise = np.random.default_rng(8).normal(0, 0.01, (800, 50))
        assert probability_of_overfitting(noise).probability > 0.3
        edge = noise.copy()
        edge[:, 13] += 0.003
        assert probability_of_overfitting(edge).probability < 0.01

    def test_bad_input_is_named(self) -> None:
        for returns, blocks, says in (
            (np.zeros((50, 1)), 4, "at least 2 strategies"), (np.zeros((50, 3)), 5, "even number"),
            (np.zeros((10, 3)), 16, "at least 2 periods"), (np.full((50, 3), np.nan), 4, "NaN"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=says):
                probability_of_overfitting(returns, blocks)


class TestSuperiority:
    @pytest.mark.parametrize("shift", [-0.001, 0.0, 0.0008, 0.002])
    def test_p_values_are_archs(self, shift: float) -> None:
        random = np.random.default_rng(11)
        excess = random.normal(0, 0.01, (500, 12))
        excess[:, 3] += shift
        excess[:, 5] -= 0.004
        ours = superior_ability(excess, replicates=4_000, block=5.0)
        theirs = SPA(np.zeros(500), -excess, block_size=5, reps=4_000, bootstrap="stationary", seed=1)
        theirs.compute()
        for name in ("lower", "consistent", "upper"):
            assert getattr(ours, name) == pytest.approx(float(theirs.pvalues[name]), abs=0.035), name

    def test_under_no_skill_it_accuses_as_rarely_as_it_should(self) -> None:
        random = np.random.default_rng(12)
        found = [superior_ability(random.normal(0, 0.01, (200, 8)), replicates=300, seed=k).consistent <= 0.1 for k in range(120)]
        assert np.mean(found) <= 0.2

    def test_a_strategy_that_beats_the_benchmark_is_found_among_many(self) -> None:
        excess = np.random.default_rng(13).normal(0, 0.01, (600, 40))
        excess[:, 21] += 0.0025
        got = superior_ability(excess)
        assert got.best == 21
        assert got.consistent < 0.01
        assert got.reality_check < 0.05
        assert got.lower <= got.consistent <= got.upper


class TestSplits:
    @given(
        rows=st.integers(40, 300),
        folds=st.integers(1, 6),
        reach=st.integers(0, 5),
        embargo=st.integers(0, 5),
        anchored=st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_nothing_is_trained_on_whose_outcome_reaches_into_the_test(
        self, rows: int, folds: int, reach: int, embargo: int, anchored: bool
    ) -> None:
        splits = walk_forward(rows, folds=folds, reach=reach, embargo=embargo, anchored=anchored)
        for split in splits:
            assert split.train[-1] + reach + embargo < split.test[0]
        assert np.array_equal(np.concatenate([s.test for s in splits]), np.arange(int(rows * 0.5), rows))
        if not anchored:
            assert len({len(s.train) for s in splits[1:]}) <= 1 or reach + embargo > 0

    @given(rows=st.integers(30, 200), groups=st.integers(3, 7), reach=st.integers(0, 4), embargo=st.integers(0, 4))
    @settings(max_examples=40, deadline=None)
    def test_combinatorial_splits_purge_on_both_sides(self, rows: int, groups: int, reach: int, embargo: int) -> None:
        splits = list(combinatorial_purged(rows, groups=groups, tested=2, reach=reach, embargo=embargo))
        assert len(splits) == math.comb(groups, 2)
        for split in splits:
            spans = np.flatnonzero(np.diff(split.test) > 1)
            starts, ends = split.test[np.r_[0, spans + 1]], split.test[np.r_[spans, len(split.test) - 1]]
            for a, b in zip(starts, ends, strict=True):
                near = (split.train >= a - reach) & (split.train <= b + reach + embargo)
                assert not near.any()

    def test_every_path_covers_every_group_once(self) -> None:
        splits = list(combinatorial_purged(60, groups=6, tested=2))
        paths = combinatorial_paths(60, groups=6, tested=2)
        assert len(paths) == 5
        for path in paths:
            assert [g for _, g in path] == list(range(6))
            assert all(g in splits[number].groups for number, g in path)
        assert len({pair for path in paths for pair in path}) == 30

    def test_a_record_too_short_to_learn_from_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nothing to train on"):
            walk_forward(10, folds=2, reach=9)
