"""A matrix is the same whatever order its parts come in, and says what it is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.matrix import FeatureMatrix, FeaturePart, MatrixError, assemble
from trading.timeframes import Timeframe

NAMES = ("a", "b")


def part(times: list[int], seed: int = 0) -> FeaturePart:
    values = np.random.default_rng(seed).standard_normal((len(times), 2))
    return FeaturePart(np.array(times, np.int64), np.arange(len(times), dtype=np.int32), values)


def matrix(parts: dict[str, FeaturePart], names: tuple[str, ...] = NAMES, version: str = "v1") -> FeatureMatrix:
    return assemble(parts, names, Timeframe.D1, version, 5)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), unique=True, max_size=12).map(sorted), min_size=1, max_size=4), st.randoms())
def test_rows_come_in_order_of_time_and_symbol_whatever_the_order_of_the_parts(times: list[list[int]], random: object) -> None:
    parts = {f"S{i}": part(t, i) for i, t in enumerate(times)}
    shuffled = list(parts.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = matrix(parts), matrix(dict(shuffled))
    keys = list(zip(one.close_time.tolist(), one.symbol.tolist(), strict=True))
    assert keys == sorted(keys)
    assert one.content_hash() == other.content_hash()


def test_one_changed_value_changes_the_content_but_not_the_schema() -> None:
    one, changed = part([1, 2, 3]), part([1, 2, 3])
    changed.values[1, 1] += 1e-3
    before, after = matrix({"S": one}), matrix({"S": changed})
    assert before.schema_hash == after.schema_hash
    assert before.content_hash() != after.content_hash()


def test_another_definition_or_column_order_is_another_schema() -> None:
    parts = {"S": part([1, 2])}
    hashes = {matrix(parts).schema_hash, matrix(parts, version="v2").schema_hash, matrix(parts, names=("b", "a")).schema_hash}
    assert len(hashes) == 3


def test_a_row_with_a_missing_value_is_not_complete() -> None:
    p = part([1, 2, 3])
    p.values[1, 0] = np.nan
    assert matrix({"S": p}).complete.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (FeaturePart(np.array([2, 1]), np.zeros(2, np.int32), np.zeros((2, 2))), "S: close times are not ascending"),
        (FeaturePart(np.array([1, 2]), np.zeros(2, np.int32), np.zeros((2, 3))), r"S: features have shape \(2, 3\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(bad: FeaturePart, message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        matrix({"S": bad})
