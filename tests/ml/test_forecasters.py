"""Forecasters: what is stored forecasts what was trained, the same inputs give the same bytes, nothing is made of nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ml import forecasting, planted
from ml.dataset import TrainingSet
from ml.forecasters import Fitting, ForecastFormatError, ForecastModel, Settings, fit, history_of, windows_of
from ml.forecasters.base import centred, net_of_costs, platt
from ml.forecasters.networks import _MODULES

SMALL = Settings(window=6, hidden=8, epochs=2, batch=128, trees=6, min_leaf=40)
CONFIG = forecasting.ForecastConfig(("linear", "lstm"), folds=2, min_train=100, settings=SMALL)


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return planted.training_set(planted.make(planted.PlantedMarket(rows=420, symbols=2, edge=0.8, noise=1.0)), 1)


@pytest.fixture(scope="module")
def fitting(data: TrainingSet) -> Fitting:
    rows = np.arange(len(data), dtype=np.int64)
    return Fitting(
        data.matrix.values, history_of(data.matrix.symbol, 6), data.direction, data.forward_return, data.event_start, rows[:500],
        rows[520:700], SMALL, 3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(data: TrainingSet) -> forecasting.ForecastRun:
    return forecasting.train(data, CONFIG)


@pytest.mark.parametrize("kind", ["linear", "lstm", "transformer"])
def test_the_stored_arithmetic_is_the_networks_own(fitting: Fitting, kind: str) -> None:
    member = fit(kind, fitting)
    module = _MODULES[kind](fitting.values.shape[1], 8, 2, 6, 4)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in member.tensors.items() if not k.startswith("scaler")})
    windows = fitting.windows(fitting.validation)
    z = (windows - member.tensors["scaler.mean"]) / member.tensors["scaler.scale"]
    z = np.nan_to_num(np.clip(z, -5, 5), nan=0.0).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(z)).numpy()
    odds, quantiles = member.raw(windows)
    np.testing.assert_allclose(np.column_stack([odds, quantiles]), theirs, atol=2e-5)


def test_stored_trees_are_scikit_learns_own(fitting: Fitting, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    kept = []
    real = HistGradientBoostingClassifier.fit
    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", lambda self, *a: kept.append(real(self, *a)) or kept[-1])
    member = fit("boosting", fitting)
    x = fitting.values[fitting.validation].astype(np.float64)
    odds, _ = member.raw(fitting.windows(fitting.validation))
    np.testing.assert_allclose(odds, kept[0].decision_function(x), atol=1e-9)


def test_the_same_set_and_seed_give_identical_bytes_and_another_seed_others(
    data: TrainingSet, run: forecasting.ForecastRun
) -> None:
    assert forecasting.train(data, CONFIG).model.to_bytes() == run.model.to_bytes()
    assert forecasting.train(data, replace(CONFIG, seed=4)).model.to_bytes() != run.model.to_bytes()


def test_what_is_loaded_is_what_was_stored_and_anything_else_is_refused(run: forecasting.ForecastRun, data: TrainingSet) -> None:
    content = run.model.to_bytes()
    again = ForecastModel.from_bytes(content)
    rows = run.final[:50]
    first, second = forecasting.forecast_rows(run.model, data, rows), forecasting.forecast_rows(again, data, rows)
    assert np.array_equal(first.probability, second.probability)
    for bad in (b"", b"{}", content[:200], content.replace(b"tapeline-forecaster-1", b"tapeline-forecaster-9")):
        with pytest.raises(ForecastFormatError):
            ForecastModel.from_bytes(bad)
    with pytest.raises(ForecastFormatError, match="windows have shape"):
        run.model.forecast(np.zeros((3, 2, 2)))


def test_a_forecast_is_the_same_whoever_else_is_asked_about(run: forecasting.ForecastRun, data: TrainingSet) -> None:
    windows = windows_of(data.matrix.values, history_of(data.matrix.symbol, 6), run.final)
    together = run.model.forecast(windows).probability
    alone = np.array([run.model.forecast(w[None]).probability[0] for w in windows[:40]])
    assert np.array_equal(together[:40], alone)


def test_a_row_with_a_missing_value_has_no_forecast(run: forecasting.ForecastRun) -> None:
    windows = np.zeros((2, 6, 7), np.float32)
    windows[1, -1, 3] = np.nan
    windows[0, :3] = np.nan  # bars before the history began are the mean
    forecast = run.model.forecast(windows)
    assert np.isfinite(forecast.probability[0])
    assert np.isnan(forecast.probability[1])
    assert np.isnan(forecast.quantiles[1]).all()
    assert (np.diff(forecast.quantiles[0]) >= 0).all()


def test_the_final_slice_is_seen_by_no_training(run: forecasting.ForecastRun, data: TrainingSet) -> None:
    assert run.audit.passed
    assert data.event_end[run.development].max() < run.slice_start
    assert all(f.fold.test.max() <= run.development.max() for f in run.folds)
    changed = replace(data, direction=data.direction.copy(), forward_return=data.forward_return.copy())
    changed.direction[run.final] = 1 - changed.direction[run.final]
    changed.forward_return[run.final] *= -1
    again = forecasting.train(changed, CONFIG).model
    assert [m.tensors.keys() for m in again.members] == [m.tensors.keys() for m in run.model.members]
    for mine, theirs in zip(run.model.members, again.members, strict=True):
        assert all(np.array_equal(mine.tensors[k], theirs.tensors[k]) for k in mine.tensors)


class TestCalibration:
    def test_a_forecast_that_is_wrong_more_often_than_right_is_worth_nothing(self) -> None:
        odds = np.linspace(-2, 2, 200)
        assert platt(odds, (odds < 0).astype(float))[0] == 0.0
        slope, _ = platt(odds, (np.random.default_rng(1).random(200) < 1 / (1 + np.exp(-odds))).astype(float))
        assert 0.5 < slope < 1.6

    def test_the_mean_forecast_is_the_prior_whatever_recent_months_did(self) -> None:
        odds = np.random.default_rng(1).normal(1.0, 1.0, 500)
        assert np.mean(1 / (1 + np.exp(-(odds + centred(odds, 0.53))))) == pytest.approx(0.53)


class TestWeights:
    def test_members_weigh_by_their_validation_skill_and_equally_without_any(self) -> None:
        assert forecasting.weights_of({"a": 0.03, "b": 0.01, "c": -0.5}) == pytest.approx({"a": 0.75, "b": 0.25, "c": 0.0})
        assert forecasting.weights_of({"a": -0.1, "b": -0.2}) == {"a": 0.5, "b": 0.5}


def test_what_a_forecast_earns_falls_with_what_trading_costs() -> None:
    rng = np.random.default_rng(1)
    returns = rng.normal(0, 0.01, 1000)
    sure = np.where(returns > 0, 0.6, 0.4)
    free, dear = net_of_costs(sure, returns, 0.0), net_of_costs(sure, returns, 0.01)
    assert free > 0 > dear
    assert net_of_costs(np.full(1000, 0.5), returns, 0.01) == 0.0
