"""Labels, splits, scaling and the leakage audit: what a model may know, and when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import leakage, planted
from ml.canaries import leaks_caught
from ml.dataset import load, save
from ml.labels import NEVER, BarrierRule, forward_returns, triple_barrier
from ml.scaling import fit_scaler
from ml.splits import combinatorial_purged, walk_forward
from tests.ml import synthetic
from trading.bars import Bars


def bars(closes: list[float], highs: list[float] | None = None, lows: list[float] | None = None) -> Bars:
    made = synthetic.daily_bars("S", np.zeros(len(closes)), strength=0.0, seed=1)
    close = np.array(closes)
    open_ = np.concatenate([close[:1], close[:-1]])
    high = np.maximum(open_, close) if highs is None else np.array(highs)
    low = np.minimum(open_, close) if lows is None else np.array(lows)
    return replace(made, open=open_, high=high, low=low, close=close)


class TestTripleBarrier:
    RULE = BarrierRule(upper=1.0, lower=1.0, window=4, max_bars=3)

    def test_the_barrier_touched_first_is_the_label_and_its_bar_the_event_end(self) -> None:
        quiet = [100.0, 101.0, 100.0, 101.0, 100.0, 101.0]
        b = bars([*quiet, 101.5, 106.0, 106.0, 106.0, 106.0])
        made = triple_barrier(b, self.RULE)
        assert made.touched[5] == 1
        assert made.events[5].tolist() == [int(b.close_time[5]), int(b.close_time[7])]
        assert made.returns[5] > 0

    def test_a_bar_that_spans_both_barriers_says_nothing(self) -> None:
        closes = [100.0, 101.0, 100.0, 101.0, 100.0, 101.0, 101.0, 101.0, 101.0, 101.0]
        highs, lows = [c + 0.1 for c in closes], [c - 0.1 for c in closes]
        highs[6], lows[6] = 120.0, 80.0
        made = triple_barrier(bars(closes, highs, lows), self.RULE)
        assert (made.touched[5], made.returns[5], made.valid[5]) == (0, 0.0, True)

    def test_a_trade_that_the_data_ends_before_any_barrier_has_no_label(self) -> None:
        made = triple_barrier(bars([100.0, 101.0, 100.0, 101.0, 100.0, 101.0, 101.0, 101.0]), self.RULE)
        assert not made.valid[-2:].any()
        assert made.events[-1, 1] == NEVER

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 1000))
    def test_no_label_changes_when_bars_after_its_event_end_are_hidden(self, seed: int) -> None:
        b = synthetic.daily_bars("S", np.zeros(80), strength=0.0, seed=seed)
        whole = triple_barrier(b, self.RULE)
        for row in range(10, 70, 13):
            if whole.valid[row]:
                part = triple_barrier(b.known_at(int(whole.events[row, 1])), self.RULE)
                assert part.touched[row] == whole.touched[row]
                assert part.returns[row] == whole.returns[row]
                assert not triple_barrier(b.known_at(int(whole.events[row, 1]) - 1), self.RULE).valid[row]


def test_forward_returns_of_several_horizons_end_when_each_is_known() -> None:
    b = synthetic.daily_bars("S", np.zeros(30), strength=0.0, seed=1)
    values, ends = forward_returns(b, (1, 5))
    assert values[10, 1] == b.open[16] / b.open[11] - 1
    assert ends[10].tolist() == [int(b.close_time[12]), int(b.close_time[16])]
    assert np.isnan(values[-6:, 1]).all()
    assert ends[-1, 1] == NEVER


class TestCombinatorialSplits:
    @settings(deadline=None, max_examples=25)
    @given(st.integers(40, 120), st.integers(1, 3), st.integers(0, 5), st.integers(0, 9))
    def test_no_training_event_touches_a_test_event_and_every_row_is_tested_equally(
        self, count: int, per_time: int, embargo: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        start = np.repeat(np.cumsum(rng.integers(1, 50, count)), per_time).astype(np.int64)
        end = start + rng.integers(0, 120, len(start))
        folds = combinatorial_purged(start, end, groups=5, tested=2, embargo=embargo)
        assert len(folds) == 10
        events = np.stack([start, end], axis=1)
        assert leakage.label_overlap(events, folds).findings == ()
        tested = np.bincount(np.concatenate([f.test for f in folds]), minlength=len(start))
        assert (tested == 4).all()


class TestTheAudit:
    def test_every_planted_leak_is_caught_and_honest_data_is_not_accused(self) -> None:
        assert leaks_caught() == 4

    def test_an_audit_that_looked_at_nothing_has_not_passed(self) -> None:
        nothing = leakage.Audit((), {"truncate": 0})
        assert not nothing.passed
        with pytest.raises(leakage.LeakageFound, match="nothing was looked at by: truncate"):
            nothing.raise_if_found()

    def test_an_overlap_is_found_on_either_side_of_the_test(self) -> None:
        events = np.array([[0, 5], [10, 15], [20, 25], [30, 35]])
        fold = walk_forward(events[:, 0], events[:, 1], folds=1, embargo=0, first_train=0.5, min_train=1)[0]
        assert leakage.label_overlap(events, [fold]).passed
        for reaching in ([10, 22], [24, 40]):
            spoilt = np.vstack([events, [reaching]])
            assert not leakage.label_overlap(spoilt, [replace(fold, train=np.append(fold.train, 4))]).passed

    def test_a_scaler_fitted_on_other_rows_than_the_training_rows_is_found(self) -> None:
        values, times = np.random.default_rng(1).standard_normal((40, 2)), np.arange(40)
        fold = walk_forward(times, times, folds=1, embargo=0, first_train=0.5, min_train=1)[0]
        good = fit_scaler(values[fold.train], times[fold.train])
        assert leakage.scaler_range(values, times, [(fold, good, fold.train)]).passed
        shifted = replace(good, mean=good.mean + 1)
        assert not leakage.scaler_range(values, times, [(fold, shifted, fold.train)]).passed


def test_a_planted_set_with_all_its_labels_survives_being_saved(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = planted.make(planted.PlantedMarket(rows=450, symbols=2))
    data = planted.training_set(made, 5, (1, 5), BarrierRule())
    save(data, tmp_path / "set.parquet")
    again = load(tmp_path / "set.parquet")
    assert again.content_hash() == data.content_hash()
    assert again.synthetic.startswith("synthetic market")
    assert again.horizons == (1, 5)
    assert np.array_equal(again.barrier, data.barrier)
    assert (again.events[:, 1] >= again.events[:, 0]).all()
