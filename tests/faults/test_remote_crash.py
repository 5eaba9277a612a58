"""The desk is killed at every boundary while its broker, another process, misbehaves and goes on: the short campaign of
tests.faults.torture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from desk.faults import BOUNDARIES, TORTURED
from resources.brokers.remote.faults import FAULTS
from resources.ledger.store import connect
from tests.faults import remote_checks as checks
from tests.faults import remote_desk as harness
from tests.faults import torture

HERE = (*BOUNDARIES, "slice_sent", "reduce_legs_sent", "reverse_flat")
"""Those of slices and of a person's hand that are not here: test_algo_crash, tests/desk/test_by_hand, and every campaign."""
CLEAN = dict.fromkeys(checks.NAMES, 0)


@pytest.fixture
def engine(ledger_url: str) -> Iterator[Engine]:
    made = connect(ledger_url)
    yield made
    made.dispose()


def test_a_kill_at_every_boundary_with_every_fault_about_leaves_the_books_equal(
    new_ledger_url: Callable[[], str], tmp_path: Path
) -> None:
    killed: dict[str, int] = {}
    struck: dict[str, int] = {}
    rates = {kind: min(1.0, rate * 4) for kind, rate in torture.RATES.items()}
    for number in range(6):  # a boundary that one life never comes by is another's
        life = torture.Life(number, 7 + number)
        left = [b for b in HERE if b not in killed]
        if not left:
            break
        torture.one_life(new_ledger_url(), tmp_path, life, 40, rates, left)
        assert life.wrong == CLEAN, life.notes
        assert life.busy["fills"] > 0
        for total, own in ((killed, life.kills), (struck, life.struck)):
            for name, count in own.items():
                total[name] = total.get(name, 0) + count
    assert killed.keys() == set(HERE)
    assert len(struck) >= len(FAULTS) // 2


def test_the_checks_see_what_is_wrong(ledger_url: str, engine: Engine, tmp_path: Path) -> None:
    with harness.market(tmp_path / "book.sqlite", {"partial_fill": 0.3}, 3) as market:
        harness.run(ledger_url, market.address, 3, 4)
        books = market.books()
    found = checks.compare(engine, books)
    assert {k: v for k, v in found.items() if v} == {}
    first, execution = books["orders"][0], books["executions"][0]
    twin = replace(execution, execution_id="twin")
    damaged = {
        "duplicates": {"orders": [*books["orders"], first]},
        "lost": {"executions": [*books["executions"], twin]},
        "phantom": {"executions": books["executions"][1:]},
        "wrong_position": {"positions": {**books["positions"], "EURUSD": 1e6}},
        "wrong_cash": {"cash": books["cash"] + 1},
    }
    for name, change in damaged.items():
        assert checks.compare(engine, {**books, **change})[name] > 0, name
    for name, statement in {
        "in_doubt": "UPDATE orders SET state = 'unknown' WHERE id = (SELECT min(id) FROM orders)",
        "mismatches": 'INSERT INTO desk_state VALUES (\'mismatches\', \'{"*": {"kind": "CASH", "text": ""}}\', 0)'
        " ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
        "overclosed": "ALTER TABLE fills DISABLE TRIGGER USER; UPDATE fills SET quantity = 9e9 WHERE order_id IN"
        " (SELECT id FROM intents WHERE leg <> 'entry')",
        "unprotected": "UPDATE orders SET state = 'canceled' WHERE id IN (SELECT id FROM intents WHERE leg LIKE 'stop%')",
    }.items():
        with engine.begin() as connection:
            connection.execute(text(statement))
        assert checks.compare(engine, books)[name] > 0, name


def test_a_campaign_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    life = torture.Life(1, 11, kills={"random": 3}, wrong=CLEAN, busy={"fills": 2})
    torture._write(journal, 5, life)
    assert torture._read(journal, 5) == [life]
    with pytest.raises(SystemExit, match="--seed 5"):
        torture._read(journal, 6)
    assert "random" in torture.tables([life])
    assert {boundary for boundary, _ in torture.matrix_pairs()} == set(TORTURED)
