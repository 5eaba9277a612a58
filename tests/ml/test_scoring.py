"""A stored model is plain numbers that give scikit-learn's probabilities, and nothing else passes for one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ml.baseline import BOOSTING, LOGISTIC, TrainingConfig, _fit
from ml.scoring import ModelFormatError, ScoringModel

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((800, 3)) * (1.0, 10.0, 0.01)
    return x, (x[:, 0] + 0.1 * x[:, 1] * (x[:, 2] > 0) + rng.standard_normal(800) > 0).astype(np.int8)


@pytest.mark.parametrize("kind", [LOGISTIC, BOOSTING])
def test_probabilities_survive_the_round_trip_bit_for_bit(kind: str, rows: tuple[np.ndarray, np.ndarray]) -> None:
    model = _fit(kind, *rows, NAMES, TrainingConfig(), {"horizon": 5})
    again = ScoringModel.from_bytes(model.to_bytes())
    assert np.array_equal(again.predict(rows[0]), model.predict(rows[0]))
    assert again.to_bytes() == model.to_bytes()
    assert again.content_hash() == model.content_hash()


def test_boosting_equals_scikit_learn(rows: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    c = TrainingConfig()
    model = _fit(BOOSTING, *rows, NAMES, c, {})
    peer = HistGradientBoostingClassifier(
        max_iter=c.trees, max_leaf_nodes=c.leaves, learning_rate=c.learning_rate, min_samples_leaf=c.min_leaf,
        l2_regularization=c.l2, early_stopping=False, random_state=c.seed,
    ).fit(*rows)  # fmt: skip
    assert np.allclose(model.predict(rows[0]), peer.predict_proba(rows[0])[:, 1], atol=1e-12, rtol=0)


def test_logistic_equals_scikit_learn_on_standardised_rows(rows: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.linear_model import LogisticRegression

    c = TrainingConfig(clip=1e9)
    x, y = rows
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    peer = LogisticRegression(C=c.regularisation, max_iter=500, tol=1e-8).fit(z, y)
    assert np.allclose(_fit(LOGISTIC, x, y, NAMES, c, {}).predict(x), peer.predict_proba(z)[:, 1], atol=1e-9)


@pytest.mark.parametrize("kind", [LOGISTIC, BOOSTING])
def test_a_row_with_a_missing_value_has_no_forecast(kind: str, rows: tuple[np.ndarray, np.ndarray]) -> None:
    model = _fit(kind, *rows, NAMES, TrainingConfig(), {})
    x = rows[0][:3].copy()
    x[1, 2] = np.nan
    assert np.isfinite(model.predict(x)).tolist() == [True, False, True]
    with pytest.raises(ModelFormatError, match="the model needs"):
        model.predict(x[:, :2])


def _spoil(change: str, body: dict) -> bytes:  # type: ignore[type-arg]
    if change == "format":
        body["format"] = "other"
    elif change == "kind":
        body["kind"] = "oracle"
    elif change == "missing":
        del body["trees"]
    elif change == "cycle":
        body["trees"][0]["left"][0] = 0
    elif change == "outside":
        body["trees"][0]["right"][0] = 10_000
    elif change == "feature":
        body["trees"][0]["feature"][0] = 99
    return json.dumps(body).encode()


@pytest.mark.parametrize("change", ["format", "kind", "missing", "cycle", "outside", "feature"])
def test_bytes_that_are_not_a_model_are_refused(change: str, rows: tuple[np.ndarray, np.ndarray]) -> None:
    body = json.loads(_fit(BOOSTING, *rows, NAMES, TrainingConfig(), {}).to_bytes())
    with pytest.raises(ModelFormatError):
        ScoringModel.from_bytes(_spoil(change, body))
    with pytest.raises(ModelFormatError):
        ScoringModel.from_bytes(b"\x80\x04pickled")
