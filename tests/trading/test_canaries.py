"""Short canaries of research; the long ones are ``python -m tests.canaries``."""

from __future__ import annotations

from tests import canaries
from trading import promotion


def test_no_strategy_that_tosses_coins_is_promoted() -> None:
    found = canaries.judge_noise(40, seed=11, replicates=100)
    assert found.passed == 0
    assert found.by["deflated Sharpe: P(true > best of N by luck)"] == 0
    assert 0 < found.by["Sharpe ratio a year, after costs"] < 40, "noise has good looking strategies: that is the point"


def test_a_planted_edge_is_promoted() -> None:
    criteria = canaries.judge_edge(seed=1)
    assert promotion.promoted(criteria), [(c.name, c.value) for c in criteria if not c.passed]


def test_a_planted_leak_is_caught_with_its_first_row() -> None:
    verdict = canaries.caught()
    assert not verdict.passed
    assert verdict.leak is not None
    assert verdict.leak.time <= verdict.leak.cut
    assert verdict.leak.column == "tomorrow"
