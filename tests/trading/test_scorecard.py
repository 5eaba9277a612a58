"""Scores of a partition: the formulas of the module, and their bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.quality import RuleResult
from trading.scorecard import DIMENSIONS, Counts, counts_of, mean, score


def test_a_perfect_partition_scores_one_everywhere() -> None:
    card = score(Counts(390, 390))
    assert [getattr(card, d) for d in DIMENSIONS] == [1.0] * 5
    assert card.fault_share == 0.0


def test_each_dimension_counts_its_own_faults() -> None:
    card = score(Counts(400, 380, missing=20, invalid=4, odd=2, faulty=5, put_aside=20, repeated=8, late=10, observed=100))
    assert card.completeness == pytest.approx(1 - 20 / 400)
    assert card.validity == pytest.approx(1 - 24 / 400)
    assert card.timeliness == pytest.approx(0.9)
    assert card.consistency == pytest.approx(1 - 2 / 380)
    assert card.uniqueness == pytest.approx(1 - 8 / 400)
    assert card.fault_share == pytest.approx((20 + 5 + 20) / 400)
    assert card.lowest() == ("timeliness", pytest.approx(0.9))


def test_nothing_expected_and_nothing_held_is_nothing_wrong() -> None:
    assert score(Counts(0, 0)).fault_share == 0.0


def test_a_session_without_any_bar_is_incomplete_and_nothing_else() -> None:
    card = score(Counts(390, 0, missing=390))
    assert (card.completeness, card.validity, card.fault_share) == (0.0, 1.0, 1.0)


def test_a_row_that_fails_two_rules_is_one_fault() -> None:
    results = [
        RuleResult("ohlc_consistent", False, "error", (3, 5)),
        RuleResult("positive_prices", False, "error", (5,)),
        RuleResult("jump", False, "error", (5, 6)),
        RuleResult("volume_sane", False, "warn", (7,)),
    ]
    counts = counts_of(results, rows=10, expected=10, missing=0)
    assert (counts.invalid, counts.odd, counts.faulty) == (2, 2, 3)
    assert score(counts).fault_share == pytest.approx(0.3)


_COUNT = st.integers(0, 2000)


@given(st.builds(Counts, *[_COUNT] * 10))
def test_every_score_is_between_zero_and_one(counts: Counts) -> None:
    card = score(counts)
    assert all(0.0 <= getattr(card, d) <= 1.0 for d in (*DIMENSIONS, "fault_share"))


def test_the_mean_weighs_partitions_alike() -> None:
    assert mean([score(Counts(10, 10)), score(Counts(10, 5, missing=5))])["completeness"] == 0.75
    assert mean([]) == {}
