"""A training-set file is the set, or an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.dataset import DatasetError, SourceSpan, label_matrix, load, save
from ml.matrix import FeaturePart, MatrixError, assemble
from ml.relative import relative_features
from tests.ml import synthetic
from trading.timeframes import Timeframe


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    data = synthetic.training_set(strength=0.1, rows=120)
    save(data, tmp_path / "set.parquet")
    again = load(tmp_path / "set.parquet")
    assert again.content_hash() == data.content_hash()
    assert (again.sources, again.universe, again.horizon) == (data.sources, data.universe, data.horizon)
    assert [p.name for p in tmp_path.iterdir()] == ["set.parquet"]


def test_only_complete_rows_with_a_known_label_are_kept() -> None:
    data = synthetic.training_set(strength=0.0, rows=100, symbols=1, horizon=5)
    assert len(data) == 100 - 20 - 6  # warm-up, and holding periods not over
    assert data.matrix.complete.all()
    assert np.isfinite(data.forward_return).all()


def test_a_file_that_is_missing_torn_or_changed_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    with pytest.raises(DatasetError, match="materialise training_set first"):
        load(path)
    data = synthetic.training_set(strength=0.1, rows=120)
    save(data, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"set\.parquet is not a training set"):
        load(path)
    changed = replace(data, direction=1 - data.direction)
    object.__setattr__(data, "direction", changed.direction)
    path.write_bytes(whole)
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    flipped = table.set_column(table.schema.get_field_index("direction"), "direction", [changed.direction])
    pq.write_table(flipped.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(DatasetError, match="content hash does not match"):
        load(path)


def test_features_without_their_bar_are_refused() -> None:
    _, bars = synthetic.with_bars(strength=0.0, rows=50, symbols=1)
    b = bars["S0"]
    parts = {"S0": FeaturePart(b.close_time + 1, b.session, np.zeros((50, 1)))}
    matrix = assemble(parts, ("x",), Timeframe.D1, "v", 0)
    with pytest.raises(MatrixError, match="close times without a bar"):
        label_matrix(matrix, bars, 1, "u", [])


def test_a_span_names_its_partitions_in_any_order() -> None:
    one = SourceSpan.of("bars_1d", "S", [("2017-01-04", "b"), ("2017-01-03", "a")])
    assert one == SourceSpan.of("bars_1d", "S", [("2017-01-03", "a"), ("2017-01-04", "b")])
    assert (one.first_session, one.last_session, one.partitions) == ("2017-01-03", "2017-01-04", 2)
    assert one.content_hash != SourceSpan.of("bars_1d", "S", [("2017-01-03", "a"), ("2017-01-04", "c")]).content_hash


def test_relative_features_do_not_change_when_prices_are_ten_times_higher() -> None:
    names, units = ("sma", "rsi", "obv"), {"sma": "price", "rsi": "0..100", "obv": "volume"}
    values, close = np.array([[99.0, 55.0, 1e6], [101.0, 45.0, 2e6]]), np.array([100.0, 100.0])
    made, low = relative_features(names, units, values, close)
    _, high = relative_features(names, units, values * (10, 1, 1), close * 10)
    assert made == ("sma_to_close", "rsi")
    assert np.allclose(low, high)
    with pytest.raises(ValueError, match="feature rsi has unit"):
        relative_features(names, {"sma": "price"}, values, close)


def test_every_feature_of_the_catalogue_has_a_unit_training_understands() -> None:
    from trading.features import FEATURES

    units = {f.name: f.unit for f in FEATURES}
    names, _ = relative_features(list(units), units, np.zeros((1, len(units))), np.ones(1))
    assert len(names) >= 25
