"""Promotion: every criterion must be met, and what was not measured is not met."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from trading import promotion
from trading.promotion import Evidence

GOOD = np.random.default_rng(4).normal(0.002, 0.01, 1_500)
EVIDENCE = Evidence(
    GOOD, 252.0, 300, trials=20, trial_sharpe_variance=0.0005, overfitting=0.05, spa_flat=0.01, spa_hold=0.02,
    random_beaten=0.99, net_at_double_costs=0.2, out_of_sample=GOOD[750:], drawdown_95=0.2, no_look_ahead=True, replicates=300,
)  # fmt: skip


def failed(evidence: Evidence) -> set[str]:
    return {c.name for c in promotion.judge(evidence) if not c.passed}


def test_a_good_record_meets_everything() -> None:
    assert failed(EVIDENCE) == set()
    assert promotion.promoted(promotion.judge(EVIDENCE))


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("trades", 29, "closed trades"), ("overfitting", 0.21, "probability of backtest overfitting"),
        ("spa_flat", 0.051, "superior ability against doing nothing, p"),
        ("spa_hold", 0.051, "superior ability against buy and hold, p"), ("random_beaten", 0.9, "random entries beaten"),
        ("net_at_double_costs", 0.0, "net result at twice the costs"),
        ("drawdown_95", 0.31, "drawdown of 19 in 20 resampled histories"), ("no_look_ahead", False, "no look-ahead found"),
        ("no_look_ahead", None, "no look-ahead found"), ("overfitting", math.nan, "probability of backtest overfitting"),
        ("spa_flat", math.nan, "superior ability against doing nothing, p"), ("random_beaten", math.nan, "random entries beaten"),
        ("out_of_sample", np.empty(0), "walk-forward Sharpe ratio a year"),
    ],
)  # fmt: skip
def test_each_criterion_alone_refuses_and_so_does_what_is_missing(field: str, value: object, name: str) -> None:
    assert failed(replace(EVIDENCE, **{field: value})) == {name}


def test_without_the_number_of_trials_nothing_is_deflated() -> None:
    names = failed(replace(EVIDENCE, trials=math.nan))
    assert names == {"deflated Sharpe: P(true > best of N by luck)", "track record over the minimum needed"}


def test_an_unknown_number_of_trials_is_said_where_it_fails() -> None:
    away = replace(EVIDENCE, trials=math.nan, trials_unknown="MLflow does not answer")
    (row,) = [r for r in promotion.rows(promotion.judge(away)) if r[0].startswith("deflated")]
    assert (row[1], row[4], row[5]) == ("not known", "unknown: fails", "N is not known: MLflow does not answer")


def test_the_same_record_picked_from_a_million_is_luck() -> None:
    assert "deflated Sharpe: P(true > best of N by luck)" in failed(replace(EVIDENCE, trials=1e6, trial_sharpe_variance=0.003))


def test_a_strategy_that_never_traded_meets_almost_nothing() -> None:
    names = failed(Evidence(np.zeros(500), 252.0, 0, trials=1))
    assert len(names) >= 12


def test_the_table_says_value_interval_threshold_and_verdict() -> None:
    table = promotion.rows(promotion.judge(replace(EVIDENCE, overfitting=math.nan)))
    row = next(r for r in table if r[0].startswith("probability of backtest"))
    assert row[1:5] == ["not known", "–", "≤ 0.2", "unknown: fails"]
    sharpe = next(r for r in table if r[0].startswith("Sharpe"))
    assert " to " in sharpe[2]
    assert not promotion.promoted([])
