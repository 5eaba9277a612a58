"""A model's reference: kept and read back whole, quiet on stretches like its own, awake to features, outputs and results."""

from __future__ import annotations

import numpy as np
import pytest

from ml import drift_reference as dr

DAY = 86_400_000_000


def ar(random: np.random.Generator, n: int, memory: float = 0.9) -> np.ndarray:
    """A column that depends on its past, as features do; deviation 1."""
    out = np.zeros(n)
    for t in range(1, n):
        out[t] = memory * out[t - 1] + np.sqrt(1 - memory**2) * random.normal()
    return out


def world(seed: int, n: int = 1500, moved: float = 0.0, last: int = 60) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(columns, times, output) of n days; in the `last` of them every column is `moved` deviations higher."""
    random = np.random.default_rng(seed)
    lift = np.where(np.arange(n) >= n - last, moved, 0.0)
    columns = {f"f{i}": ar(random, n) + lift for i in range(5)}
    return columns, np.arange(n, dtype=np.int64) * DAY, 0.5 + 0.02 * ar(random, n, 0.5) + 0.02 * lift


def judged(seed: int, moved: float = 0.0, fall: float = 0.0) -> dr.Verdict:
    columns, times, output = world(seed, moved=moved)
    random = np.random.default_rng([seed, 1])
    old = np.arange(1500) < 1440
    reference = dr.reference_of(
        {k: v[old] for k, v in columns.items()}, times[old], {"p": output[old]}, times[old], random.normal(0.001, 0.01, 400)
    )
    new = ~old
    return dr.judge(
        dr.Reference.from_bytes(reference.to_bytes()), {k: v[new] for k, v in columns.items()}, {"p": output[new]}, times[new],
        random.normal(0.001 - fall, 0.01, 60), dr.Limits(),
    )  # fmt: skip


def test_is_kept_and_read_back_whole() -> None:
    columns, times, output = world(1)
    made = dr.reference_of(columns, times, {"p": output}, times, np.array([0.01, -0.02]))
    again = dr.Reference.from_bytes(made.to_bytes())
    assert again.to_bytes() == made.to_bytes()
    assert again.background.shape == (dr.BACKGROUND, 5)
    assert len(again.features[0].null_psi) == 49
    with pytest.raises(dr.BadReference, match="train the model again"):
        dr.Reference.from_bytes(b"{}")


def test_a_window_like_the_training_part_is_called_drifted_about_as_often_as_the_level_says() -> None:
    told = [judged(seed) for seed in range(10)]
    assert sum(v.drifted for v in told) <= 3
    # Rows that remember make the textbook p-value of the distance useless: this is why stretches are ranked.
    assert np.mean([s.ks_iid_p <= 0.05 for v in told for s in v.features]) > 0.5


def test_a_planted_shift_of_the_features_is_found_and_named() -> None:
    verdict = judged(3, moved=3.0)
    assert verdict.drifted
    assert verdict.share == 1.0
    assert any(r.startswith("features: 100 % have moved") for r in verdict.reasons)
    assert any(r.startswith("output p:") for r in verdict.reasons)
    assert all(s.psi > 1 for s in verdict.features)


def test_a_planted_fall_of_the_results_is_found() -> None:
    verdict = judged(4, fall=0.02)
    assert verdict.changes is not None
    assert [r.split(":")[0] for r in verdict.reasons] == ["results", "results"]


def test_a_column_that_went_missing_has_moved_and_one_of_another_definition_is_an_error() -> None:
    columns, times, output = world(5)
    reference = dr.reference_of(columns, times, {"p": output}, times, np.array([0.01, -0.02]))
    gone = {k: np.full(60, np.nan) for k in columns}
    verdict = dr.judge(reference, gone, {"p": output[-60:]}, times[-60:], np.empty(0), dr.Limits())
    assert verdict.share == 1.0
    assert verdict.drifted
    with pytest.raises(dr.BadReference, match="f0 is not among the columns"):
        dr.judge(reference, {}, {"p": output[-60:]}, times[-60:], np.empty(0), dr.Limits())
    with pytest.raises(dr.BadReference, match="nothing to hold against it yet"):
        dr.judge(reference, columns, {"p": output}, times[:0], np.empty(0), dr.Limits())


def test_with_too_few_stretches_to_rank_among_it_must_be_twice_the_limit_and_further_than_any() -> None:
    columns, times, output = world(6, n=200)
    reference = dr.reference_of(columns, times, {"p": output}, times, np.array([0.01, -0.02]))
    moved = {k: v[-60:] + 3 for k, v in columns.items()}
    assert dr.judge(reference, moved, {"p": output[-60:]}, times[-60:], np.empty(0), dr.Limits()).drifted


def test_the_newest_window_is_made_of_closes_and_not_of_rows() -> None:
    times = np.repeat(np.arange(100, dtype=np.int64), 3)
    assert len(dr.newest(times, 10)) == 30
    assert len(dr.newest(times[:6], 10)) == 6
    assert all(len(s) == 30 for s in dr.stretches(times, 10))
