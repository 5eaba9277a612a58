"""The desk is killed at every boundary over a broker whose answers do not come, or not in time; each time both faults have struck
it since it started: half of the boundaries with every fault, the other half is tests.faults.test_torture_wrong_answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import remote_checks as checks
from tests.faults.torture_life import TWO_BY_TWO, every_pair, pairs_of

CLEAN = dict.fromkeys(checks.NAMES, 0)
UNHEARD = ("late", "never", "accept_then_timeout", "delayed_accept")
FAULTS = [pair for pair in TWO_BY_TWO if pair[0] in UNHEARD]


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
