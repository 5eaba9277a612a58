"""The desk is killed at every boundary over a broker whose answers come twice, in the wrong order, as errors, or with the end of
the connection: the other half of tests.faults.test_torture_no_answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from desk.faults import TORTURED
from resources.brokers.remote.faults import FAULTS as ALL_FAULTS
from tests.faults import remote_checks as checks
from tests.faults.test_torture_no_answers import UNHEARD
from tests.faults.torture_life import TWO_BY_TWO, every_pair, pairs_of

CLEAN = dict.fromkeys(checks.NAMES, 0)
FAULTS = [pair for pair in TWO_BY_TWO if pair[0] not in UNHEARD]


@pytest.mark.usefixtures("warm_desks")
@pytest.mark.parametrize("faults", FAULTS, ids=" and ".join)
def test_a_kill_at_every_boundary_leaves_the_books_equal(
    new_ledger_url: Callable[[], str], tmp_path: Path, faults: tuple[str, str]
) -> None:
    lives = every_pair(faults, 5, new_ledger_url, tmp_path)
    for life in lives:
        assert life.wrong == CLEAN, life.notes
        assert life.busy["fills"] > 0
    assert {pair for life in lives for pair in life.pairs} == pairs_of(faults), lives[-1].notes


def test_the_two_halves_are_every_boundary_with_every_fault() -> None:
    assert {fault for pair in TWO_BY_TWO for fault in pair} == set(ALL_FAULTS)
    assert sum(len(pairs_of(pair)) for pair in TWO_BY_TWO) == len(TORTURED) * len(ALL_FAULTS)
    assert {pair[0] for pair in TWO_BY_TWO} >= set(UNHEARD)
