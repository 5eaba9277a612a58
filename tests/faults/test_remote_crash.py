"""The desk is killed while its broker, another process, misbehaves and goes on: a short campaign of tests.faults.torture, and
that its checks see what is wrong. Every boundary with every fault: tests.faults.test_torture_no_answers and wrong_answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from resources.ledger.store import connect
from tests.faults import remote_checks as checks
from tests.faults import remote_process, torture
from tests.faults.remote_desk import Stretch
from tests.faults.torture_life import FAILED, Life, by_dice


@pytest.fixture
def engine(ledger_url: str) -> Iterator[Engine]:
    made = connect(ledger_url)
    yield made
    made.dispose()


@pytest.mark.usefixtures("warm_desks")
def test_kills_where_dice_say_and_at_random_moments_leave_the_books_equal(
    new_ledger_url: Callable[[], str], tmp_path: Path
) -> None:
    life = by_dice(new_ledger_url(), tmp_path, Life(1, 7), most=30)
    assert life.wrong == dict.fromkeys(checks.NAMES, 0), life.notes
    assert life.killed >= 20
    assert life.busy["fills"] > 0


@pytest.mark.usefixtures("warm_desks")
def test_the_checks_see_what_is_wrong(ledger_url: str, engine: Engine, tmp_path: Path) -> None:
    with remote_process.market(tmp_path / "book.sqlite", {"partial_fill": 0.3}, 3) as market:
        assert not remote_process.run(market, Stretch(ledger_url, market.address, 3, 4))
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
    life = Life(1, 11, kills={"random": 3}, wrong={"lost": 0}, busy={"fills": 2}, pairs=["before_send x late"])
    torture._write(journal, 5, life)
    assert torture._read(journal, 5) == [life]
    with pytest.raises(SystemExit, match="--seed 5"):
        torture._read(journal, 6)
    assert "random" in torture.tables([life])


def test_a_desk_that_ends_by_itself_is_told_with_what_it_said(tmp_path: Path) -> None:
    life = by_dice("postgresql+psycopg2://nobody@127.0.0.1:1/none", tmp_path, Life(1, 1), most=1)
    assert life.wrong == {FAILED: 1}
    assert "OperationalError" in life.notes[0]
    assert torture.tables([life]).splitlines()[-1].split() == [FAILED, "1"]
