"""Combinatorial purged cross-validation of a forecaster: every path covers the history once and learnt from none of it."""

from __future__ import annotations

import numpy as np
import pytest

from ml import combinatorial, evaluation, planted
from ml.baseline import TrainingError
from ml.combinatorial import Paths
from ml.dataset import TrainingSet
from ml.forecasters import Settings
from ml.forecasting import ForecastConfig, locked
from ml.training_files import parse_training, revision

# Whatever is forecast is said, however little evidence the few rows are.
CONFIG = ForecastConfig(("linear", "lstm"), settings=Settings(epochs=6, batch=64, trees=4, significance=1.0))
FILE = "name: a\nkind: forecaster\ndata: planted\nhorizon: 1\n"


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return planted.training_set(planted.make(planted.PlantedMarket(rows=700, symbols=2, edge=0.8, noise=0.6)), 1)


@pytest.fixture(scope="module")
def found(data: TrainingSet) -> Paths:
    return combinatorial.paths(data, CONFIG, groups=5, tested=2, members=("linear",))


def test_there_are_as_many_paths_as_choices_of_the_other_groups_and_each_forecasts_every_row_once(
    data: TrainingSet, found: Paths
) -> None:
    development, _, _ = locked(data, CONFIG.final_fraction, CONFIG.embargo)
    assert (len(found.out_of_sample), found.folds) == (4, 10)
    for oos in found.out_of_sample:
        assert np.array_equal(oos.row, development)
        assert np.isfinite(oos.probability).all()
        assert np.isfinite(oos.prior).all()


def test_every_row_is_forecast_by_another_training_on_every_path(found: Paths) -> None:
    by = np.array([oos.fold for oos in found.out_of_sample])
    assert (np.sort(by, axis=0)[1:] > np.sort(by, axis=0)[:-1]).all()


def test_no_training_event_overlaps_what_it_is_tested_on(found: Paths) -> None:
    assert found.audit.passed
    assert found.audit.checked["overlap"] > 0


def test_a_planted_edge_is_on_every_path(data: TrainingSet, found: Paths) -> None:
    assert found.members == ("linear",)
    for oos in found.out_of_sample:
        assert evaluation.auc(data.direction[oos.row], oos.probability, oos.fold) > 0.6


def test_too_little_history_is_an_error_that_says_so(data: TrainingSet) -> None:
    short = planted.training_set(planted.make(planted.PlantedMarket(rows=60, symbols=1)), 1)
    with pytest.raises(TrainingError, match="rows to learn from"):
        combinatorial.paths(short, CONFIG, groups=5, tested=2, members=("linear",))


def test_asking_for_it_is_no_other_model() -> None:
    plain, _ = parse_training(FILE, "a.yaml")
    asked, problems = parse_training(FILE + "combinatorial: {groups: 5, tested: 2, members: [linear]}\n", "a.yaml")
    assert plain is not None
    assert asked is not None, problems
    assert revision(plain) == revision(asked)


@pytest.mark.parametrize("wrong", ["{groups: 4, tested: 4}", "{groups: 5, members: [lstmm]}", "{groups: 2, tested: 1}"])
def test_a_mistake_in_the_file_is_named(wrong: str) -> None:
    _, problems = parse_training(FILE + f"combinatorial: {wrong}\n", "a.yaml")
    assert len(problems) == 1
    assert "combinatorial" in str(problems[0])
