"""Drift: distances that are what others compute, detectors that keep quiet where nothing changes and find what does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ml import drift

SAMPLES = st.lists(st.integers(-50, 50), min_size=1, max_size=60).map(lambda x: np.array(x, np.float64))


class PlainAdwin:
    """ADWIN by the book: every value kept, every mean and variance computed from scratch at every step."""

    def __init__(self, delta: float, width: float, buckets: int, least: int) -> None:
        self.delta, self.width, self.most, self.least = delta, width, buckets, least
        self.buckets: list[list[float]] = []  # oldest first, lengths are powers of two that never grow

    @property
    def values(self) -> np.ndarray:
        return np.array([v for b in self.buckets for v in b])

    def update(self, value: float) -> float:
        self.buckets.append([value])
        size = 1
        while sum(len(b) == size for b in self.buckets) > self.most:
            at = next(i for i, b in enumerate(self.buckets) if len(b) == size)
            self.buckets[at : at + 2] = [self.buckets[at] + self.buckets[at + 1]]
            size *= 2
        moved = 0.0
        while jump := self.cut():
            moved = jump
            self.buckets.pop(0)
        return moved

    def cut(self) -> float:
        every = self.values
        n = len(every)
        older = 0
        for bucket in self.buckets:
            older += len(bucket)
            a, b = every[:older], every[older:]
            if len(a) < self.least or len(b) < self.least:
                continue
            m = 1 / (1 / len(a) + 1 / len(b))
            log = math.log(2 * math.log(n) / self.delta)
            allowed = math.sqrt(2 / m * every.var() * log) + 2 / (3 * m) * self.width * log
            if abs(b.mean() - a.mean()) > allowed:
                return float(b.mean() - a.mean())
        return 0.0


class TestThePopulationStabilityIndex:
    @given(SAMPLES)
    def test_of_a_sample_with_itself_is_nothing(self, values: np.ndarray) -> None:
        counts = drift.counts_of(values, drift.edges_of(values))
        assert drift.psi(counts, counts) == 0.0

    @given(SAMPLES, SAMPLES)
    def test_is_symmetric_and_never_negative(self, a: np.ndarray, b: np.ndarray) -> None:
        edges = drift.edges_of(a)
        x, y = drift.counts_of(a, edges), drift.counts_of(b, edges)
        assert drift.psi(x, y) == pytest.approx(drift.psi(y, x))
        assert drift.psi(x, y) >= 0.0

    def test_is_the_sum_of_both_divergences(self) -> None:
        a, b = np.array([10.0, 20.0, 70.0]), np.array([300.0, 300.0, 400.0])
        p, q = (a + 0.5) / 101.5, (b + 0.5) / 1001.5
        assert drift.psi(a, b) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p))

    def test_without_a_change_is_as_large_as_chance_makes_it(self) -> None:
        random = np.random.default_rng(1)
        base = random.normal(size=20_000)
        edges = drift.edges_of(base)
        found = [drift.psi(drift.counts_of(base, edges), drift.counts_of(random.normal(size=400), edges)) for _ in range(200)]
        assert np.mean(found) == pytest.approx(9 * (1 / 20_000 + 1 / 400), rel=0.15)

    def test_bins_hold_equal_shares_and_repeated_values_one_bin(self) -> None:
        assert (abs(drift.counts_of(np.arange(1000.0), drift.edges_of(np.arange(1000.0))) - 100) <= 1).all()
        assert len(drift.edges_of(np.array([0.0] * 90 + [1.0] * 10))) == 1
        assert len(drift.edges_of(np.zeros(9))) == 0

    def test_of_nothing_is_not_known(self) -> None:
        assert math.isnan(drift.psi(np.array([1.0, 2.0]), np.zeros(2)))
        with pytest.raises(ValueError, match="no known value"):
            drift.edges_of(np.array([np.nan]))


class TestKolmogorovSmirnov:
    @given(SAMPLES, SAMPLES)
    def test_the_statistic_is_scipys(self, a: np.ndarray, b: np.ndarray) -> None:
        assert drift.ks_statistic(a, b) == pytest.approx(stats.ks_2samp(a, b, method="asymp").statistic, abs=1e-12)

    @pytest.mark.parametrize(("n", "m"), [(40, 60), (200, 150), (1000, 4000)])
    def test_the_p_value_is_close_to_scipys_exact_one(self, n: int, m: int) -> None:
        random = np.random.default_rng(n)
        for shift in (0.0, 0.1, 0.3):
            a, b = random.normal(size=n), random.normal(shift, size=m)
            exact = stats.ks_2samp(a, b, method="exact" if n < 500 else "asymp").pvalue
            assert drift.ks(a, b)[1] == pytest.approx(exact, abs=0.012)

    def test_false_alarms_stay_at_their_level(self) -> None:
        random = np.random.default_rng(5)
        p = np.array([drift.ks(random.normal(size=300), random.normal(size=100))[1] for _ in range(400)])
        assert np.mean(p <= 0.05) <= 0.08
        assert np.mean(p <= 0.5) == pytest.approx(0.5, abs=0.08)

    def test_missing_values_are_no_values(self) -> None:
        a = np.array([1.0, np.nan, 2.0])
        assert drift.ks(a, np.array([1.0, 2.0, np.nan])) == (0.0, 1.0)
        assert all(math.isnan(x) for x in drift.ks(a, np.array([np.nan])))


class TestRanks:
    def test_are_p_values(self) -> None:
        null = np.arange(99.0)
        assert drift.rank_p(null, 1e9) == 0.01
        assert drift.rank_p(null, -1.0) == 1.0
        assert math.isnan(drift.rank_p(null, math.nan))


class TestAdwin:
    @given(st.integers(0, 10_000), st.integers(0, 60), st.sampled_from([0.0, 0.3, -0.6]), st.sampled_from([2, 3, 5]))
    @settings(max_examples=25, deadline=None)
    def test_is_the_plain_algorithm_at_every_step(self, seed: int, change: int, shift: float, buckets: int) -> None:
        random = np.random.default_rng(seed)
        values = np.clip(random.normal(0.5, 0.15, 120) + np.where(np.arange(120) >= change, shift, 0.0), 0.0, 1.0)
        ours, plain = drift.Adwin(0.05, buckets=buckets, least=3), PlainAdwin(0.05, 1.0, buckets, 3)
        for value in values.tolist():
            assert ours.update(value) == pytest.approx(plain.update(value), abs=1e-9)
            assert ours.size == len(plain.values)
            assert ours.mean == pytest.approx(plain.values.mean())
            assert ours.variance == pytest.approx(plain.values.var(), abs=1e-9)

    def test_false_cuts_stay_below_its_level(self) -> None:
        random = np.random.default_rng(3)
        cut = 0
        for _ in range(60):
            adwin = drift.Adwin(0.05)
            cut += any(adwin.update(v) for v in random.random(300).tolist())
        assert cut <= 3

    def test_finds_a_planted_fall_and_says_which_way(self) -> None:
        random = np.random.default_rng(4)
        for shift in (-0.4, 0.4):
            adwin = drift.Adwin(0.01)
            moved = [adwin.update(v) for v in np.concatenate([random.normal(0.5, 0.1, 200), random.normal(0.5 + shift, 0.1, 60)])]
            assert all(m == 0.0 for m in moved[:200])
            assert any(m * shift > 0 for m in moved[200:])
            assert adwin.size < 130  # what was before is forgotten, bucket by bucket
            assert abs(adwin.mean - 0.5) > 0.2

    def test_needs_sense(self) -> None:
        with pytest.raises(ValueError, match="delta 0"):
            drift.Adwin(0.0)
        with pytest.raises(ValueError, match="finite"):
            drift.Adwin().update(math.nan)


class TestPageHinkley:
    @given(st.lists(st.floats(-3, 3), min_size=1, max_size=50), st.floats(0, 1))
    def test_its_height_is_the_fall_from_the_lowest_point(self, values: list[float], slack: float) -> None:
        tester = drift.PageHinkley(0.5, slack, 1e9)
        path, lowest, total = [], 0.0, 0.0
        for value in values:
            tester.update(value)
            total += 0.5 - value - slack
            lowest = min(lowest, total)
            path.append(total - lowest)
        assert tester.height == pytest.approx(path[-1], abs=1e-9)
        assert drift.heights(np.array(values), 0.5, slack) == pytest.approx(np.array(path), abs=1e-9)

    def test_false_alarms_stay_at_their_level(self) -> None:
        random = np.random.default_rng(8)
        reference = random.standard_t(4, 3000) * 0.01
        limit = drift.page_hinkley_limit(reference, 100, 0.0, 0.05, replicates=2000)
        alarms = 0
        for _ in range(300):
            tester = drift.PageHinkley(float(reference.mean()), 0.0, limit)
            alarms += any(tester.update(v) for v in (random.standard_t(4, 100) * 0.01).tolist())
        assert alarms / 300 <= 0.09

    def test_finds_a_planted_fall_and_starts_anew(self) -> None:
        random = np.random.default_rng(9)
        reference = random.normal(0.001, 0.01, 500)
        stream = np.concatenate([random.normal(0.001, 0.01, 50), random.normal(-0.014, 0.01, 60)])
        found = drift.watch(reference, stream)
        assert found.alarms
        assert 50 <= found.alarms[0] < 80
        assert found.height[found.alarms[0]] == 0.0
        assert found.falls
        assert not found.rises

    def test_a_stream_like_its_reference_is_left_alone(self) -> None:
        random = np.random.default_rng(10)
        told = [drift.watch(random.normal(0, 1, 300), random.normal(0, 1, 60), seed=i) for i in range(40)]
        assert sum(bool(f.alarms) for f in told) <= 3
        assert sum(bool(f.falls) for f in told) == 0

    def test_needs_something_to_compare_with(self) -> None:
        with pytest.raises(ValueError, match="nothing a change could be seen against"):
            drift.watch(np.zeros(100), np.ones(3))
