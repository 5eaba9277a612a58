"""Only a forecast that earned more than luck on its validation rows is believed; the others say the prior to the last digit."""

from __future__ import annotations

import numpy as np
import pytest

from ml import canaries, decisions, forecasting, planted
from ml.forecasters import Settings
from ml.forecasters.arithmetic import DIGITS
from ml.forecasters.evidence import luck, positions_of

TIMES = np.repeat(np.arange(200, dtype=np.int64), 2)
SYMBOL = np.tile(np.array([0, 1], np.int32), 200)


def returns(random: np.random.Generator, mean: float = 0.0) -> np.ndarray:
    """Of two instruments that move together."""
    common = np.repeat(random.normal(mean, 0.01, 200), 2)
    return common + random.normal(0, 0.005, 400)


def p(positions: np.ndarray, outcome: np.ndarray, costs: float = 0.0, block: int = 10) -> float:
    return luck(np.atleast_2d(positions), outcome, TIMES, SYMBOL, costs, block)


def test_the_best_of_many_epochs_on_noise_is_luck() -> None:
    random = np.random.default_rng(1)
    found = []
    for _ in range(60):
        # Eight epochs of forecasts that remember: each would look good for a while.
        epochs = np.repeat(np.sign(random.normal(size=(8, 40))), 10, axis=1)
        found.append(p(epochs, returns(random)))
    assert np.mean(np.array(found) <= 0.05) <= 0.1
    assert min(found) > 0.0005


def test_an_edge_is_evidence_and_the_same_edge_is_none_when_costs_eat_it() -> None:
    random = np.random.default_rng(2)
    outcome = returns(random)
    seeing = np.sign(outcome + random.normal(0, 0.01, 400))
    assert p(seeing, outcome) <= 0.001
    assert p(seeing, outcome, costs=0.02) == 1.0


def test_being_long_while_everything_rises_is_no_forecast() -> None:
    random = np.random.default_rng(3)
    assert p(np.ones(400), returns(random, mean=0.01)) == 1.0


def test_too_little_history_is_no_evidence() -> None:
    random = np.random.default_rng(4)
    outcome = returns(random)
    assert p(np.sign(outcome), outcome, block=30) == 1.0
    assert p(np.sign(outcome), outcome, block=25) < 0.01


def test_positions_are_as_large_as_the_forecast_is_sure() -> None:
    assert positions_of(np.array([0.5, 0.55, 0.9, 0.1]), 0.5) == pytest.approx([0.0, 0.5, 1.0, -1.0])


def test_where_nothing_can_be_forecast_nothing_is_traded_however_small_the_margin() -> None:
    assert canaries.forecaster_leaves_noise_alone() == 0.0


def test_without_evidence_every_forecast_is_the_prior_and_no_margin_is_small_enough_to_trade_on_it() -> None:
    made = planted.make(planted.PlantedMarket(rows=420, symbols=2, edge=0.8, noise=1.0))
    data = planted.training_set(made, 1)
    settings = Settings(window=4, epochs=2, trees=4, min_leaf=30, significance=1e-9)
    run = forecasting.train(data, forecasting.ForecastConfig(("boosting",), folds=1, first_train=0.6, settings=settings))
    oos = run.out_of_sample(forecasting.ENSEMBLE)
    assert (oos.probability == oos.prior).all()
    made_of = decisions.of_forecasts(
        made.bars, data.matrix.symbols, data.matrix.symbol[oos.row], data.event_start[oos.row], oos.probability, oos.prior, 0.0,
        (int(data.event_start[oos.row].min()), int(data.event_start[oos.row].max())),
    )  # fmt: skip
    assert not any(d.enter_long.any() or d.enter_short.any() for d in made_of.values())
    assert run.model.prior == round(run.model.prior, DIGITS)
    windows = np.random.default_rng(0).normal(size=(5, 4, 7)).astype(np.float32)
    assert (run.model.forecast(windows).probability == run.model.prior).all()
