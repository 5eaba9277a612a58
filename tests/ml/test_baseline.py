"""The baseline finds what is there, does not find what is not, and is the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml.baseline import TrainingConfig, TrainingError, TrainingResult, train
from ml.dataset import TrainingSet
from ml.promotion import promoted, skill
from ml.rule import RuleConfig, evaluate_rule
from tests.ml import synthetic
from trading.bars import Bars
from trading.costs import Costs
from trading.instruments import Instrument

FAST = TrainingConfig(trees=15, replicates=200)
Case = tuple[TrainingSet, dict[str, Bars], TrainingResult]


@pytest.fixture(scope="module")
def planted() -> Case:
    data, bars = synthetic.with_bars(strength=0.4, rows=1000)
    return data, bars, train(data, FAST)


@pytest.fixture(scope="module")
def noise() -> Case:
    data, bars = synthetic.with_bars(strength=0.0, rows=1000)
    return data, bars, train(data, FAST)


def instruments(bars: dict[str, Bars]) -> dict[str, Instrument]:
    return {s: synthetic.instrument(s) for s in bars}


def test_a_planted_edge_is_found_and_earns_money(planted: Case) -> None:
    data, bars, result = planted
    rule = evaluate_rule(data, result.out_of_sample, bars, instruments(bars))
    assert result.overall.log_loss < result.overall.prior_log_loss
    assert result.importance[0][0] == "edge"
    assert rule.net_return > 0
    assert promoted(skill({**result.metrics(), **rule.metrics()}))


def test_in_noise_it_shows_no_skill(noise: Case) -> None:
    data, bars, result = noise
    criteria = skill({**result.metrics(), **evaluate_rule(data, result.out_of_sample, bars, instruments(bars)).metrics()})
    assert not promoted(criteria)
    assert "its lower confidence bound (block bootstrap)" in {c.name for c in criteria if not c.passed}


def test_the_same_set_gives_the_same_bytes_and_the_same_figures(noise: Case) -> None:
    data, _, result = noise
    again = train(data, FAST)
    assert again.model.to_bytes() == result.model.to_bytes()
    assert again.metrics() == result.metrics()


def test_another_seed_or_another_row_is_another_model(noise: Case) -> None:
    data, _, result = noise
    changed = replace(data, direction=np.where(np.arange(len(data)) == 17, 1 - data.direction, data.direction).astype(np.int8))
    other = train(changed, FAST)
    assert other.model.content_hash() != result.model.content_hash()
    assert other.model.meta["data_hash"] != result.model.meta["data_hash"]


def test_test_rows_are_forecast_by_models_that_never_saw_their_time(noise: Case) -> None:
    data, _, result = noise
    for fold in result.folds:
        rows = result.out_of_sample.row[result.out_of_sample.fold == fold.fold]
        assert data.event_start[rows].min() == fold.test_start
        seen = np.sum(data.event_end < fold.test_start)
        assert fold.train_rows <= seen
        assert fold.purged >= FAST.embargo * len(data.matrix.symbols)


def test_a_future_that_changes_leaves_every_earlier_forecast_alone(noise: Case) -> None:
    """Choice, scaling and fitting are prefix-invariant: spoil everything from the last window on, the windows before stay."""
    data, _, result = noise
    late = data.event_start >= result.folds[-1].test_start
    direction = np.where(late, 1 - data.direction, data.direction).astype(np.int8)
    values = np.where(late[:, None], data.matrix.values * 7 + 3, data.matrix.values)
    again = train(replace(data, direction=direction, matrix=replace(data.matrix, values=values)), FAST)
    early = result.out_of_sample.fold < result.folds[-1].fold
    assert np.array_equal(again.out_of_sample.probability[early], result.out_of_sample.probability[early])


def test_costs_come_off_the_rule(planted: Case) -> None:
    data, bars, result = planted
    free = evaluate_rule(data, result.out_of_sample, bars, instruments(bars), RuleConfig(costs=Costs()))
    paid = evaluate_rule(data, result.out_of_sample, bars, instruments(bars), RuleConfig(costs=Costs("per_value", rate=0.01)))
    assert free.commission == 0 < paid.commission
    assert paid.net_return < free.net_return
    assert paid.trades == free.trades > 30


def test_the_rule_trades_only_instruments_it_is_given(planted: Case) -> None:
    data, bars, result = planted
    some = {"S0": synthetic.instrument("S0")}
    fewer = evaluate_rule(data, result.out_of_sample, bars, some)
    assert 0 < fewer.trades < evaluate_rule(data, result.out_of_sample, bars, instruments(bars)).trades
    with pytest.raises(ValueError, match="may be traded"):
        evaluate_rule(data, result.out_of_sample, bars, {})


def test_too_few_rows_are_an_error_that_says_so() -> None:
    data = synthetic.training_set(strength=0.0, rows=60, symbols=1)
    with pytest.raises(TrainingError, match="load more history"):
        train(data, FAST)


def test_a_figure_that_is_missing_is_a_criterion_that_fails() -> None:
    good = {"test_auc": 0.6, "test_auc_low": 0.55, "rule_net_return": 0.1, "rule_trades": 30.0}
    assert promoted(skill(good))
    for name in good:
        assert not promoted(skill({k: v for k, v in good.items() if k != name}))
        assert not promoted(skill({**good, name: float("nan")}))
    assert not promoted(skill({**good, "rule_trades": 29.0}))
    assert not promoted([])
