"""Verdicts of a whole history: as Ledger.put_verdicts writes them, many at once."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from sqlalchemy.exc import DBAPIError

from resources.ledger.store import Ledger, VerdictRow
from resources.ledger.verdict_history import copy_verdicts, known_verdicts
from trading.signals import PartitionRef

DAY = "2017-12-29"
ROW = VerdictRow("bars_1d", DAY, "SPX", "jump", True, "error", "h1", 0, (), "run", 100)
REF = PartitionRef("bars_1d", DAY, "SPX", "h1")


def test_copied_verdicts_read_back_as_stored_ones(ledger: Ledger) -> None:
    bad = replace(
        ROW, check="no_gaps", passed=False, failed_count=2,
        examples=({"close": 1.5, "close_time": "2017-12-29T21:00:00Z"}, {"message": 'one, "two"\nand three \\N'}),
    )  # fmt: skip
    copy_verdicts(ledger.engine, [ROW, bad, replace(ROW, check="", run_id="")])
    copied = ledger.verdicts([REF])
    ledger.put_verdicts([replace(v, evaluated_wall=200) for v in copied])
    assert (
        [replace(v, evaluated_wall=100) for v in ledger.verdicts([REF])]
        == copied
        == [replace(ROW, check="", run_id=""), ROW, bad]
    )


@pytest.mark.parametrize(("wall", "stands"), [(99, False), (100, True), (101, True)])
def test_the_newest_evaluation_stands(ledger: Ledger, wall: int, stands: bool) -> None:
    ledger.put_verdicts([ROW])
    copy_verdicts(ledger.engine, [replace(ROW, passed=False, evaluated_wall=wall)])
    assert ledger.verdicts([REF])[0].passed is not stands


def test_of_two_on_one_key_the_later_stands_whatever_their_order(ledger: Ledger) -> None:
    copy_verdicts(ledger.engine, [replace(ROW, passed=False, evaluated_wall=300), ROW])
    assert ledger.verdicts([REF])[0].passed is False


def test_a_row_the_ledger_refuses_leaves_nothing_of_the_others(ledger: Ledger) -> None:
    with pytest.raises(DBAPIError):
        copy_verdicts(ledger.engine, [ROW, replace(ROW, check="bad", failed_count=2**40)])
    assert ledger.verdicts([REF]) == []


def test_known_verdicts_are_those_of_the_dataset_and_span(ledger: Ledger) -> None:
    rows = [
        ROW,
        replace(ROW, session="2017-12-28", passed=False),
        replace(ROW, session="2017-11-01"),
        replace(ROW, dataset="bars_1w"),
    ]
    copy_verdicts(ledger.engine, rows)
    assert known_verdicts(ledger.engine, "bars_1d", date(2017, 12, 1), date(2017, 12, 29)) == {
        (DAY, "SPX", "jump"): (True, "error", "h1"),
        ("2017-12-28", "SPX", "jump"): (False, "error", "h1"),
    }
