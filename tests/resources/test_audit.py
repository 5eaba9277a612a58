"""The audit trail: what was written cannot be changed unseen."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from resources.ledger import audit
from resources.ledger.store import Ledger


def write(engine: Engine, count: int, actor: str = "desk") -> None:
    for number in range(count):
        with engine.begin() as connection:
            audit.append(connection, actor, "order_sent", {"intent": f"int-{number}", "quantity": 1.5, "note": "ü €"})


def tamper(engine: Engine, *statements: str) -> None:
    """What someone with the owner's rights could do: switch the guard off first."""
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit DISABLE TRIGGER append_only"))
        for statement in statements:
            assert connection.execute(text(statement)).rowcount > 0
        connection.execute(text("ALTER TABLE audit ENABLE TRIGGER append_only"))


def test_an_untouched_chain_verifies(ledger_engine: Engine) -> None:
    assert audit.verify(ledger_engine) == []
    write(ledger_engine, 5)
    assert audit.verify(ledger_engine) == []


def test_a_record_exists_only_with_the_act_it_tells_of(ledger_engine: Engine) -> None:
    write(ledger_engine, 1)

    def fail() -> None:
        with ledger_engine.begin() as connection:
            audit.append(connection, "desk", "halt", {})
            raise RuntimeError("the act failed")

    with pytest.raises(RuntimeError, match="the act failed"):
        fail()
    write(ledger_engine, 1)
    assert audit.verify(ledger_engine) == []
    with ledger_engine.connect() as connection:
        assert connection.execute(text("SELECT array_agg(seq ORDER BY seq) FROM audit")).scalar() == [1, 2]


@pytest.mark.parametrize("table", ["audit", "order_events", "fills"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET seq = seq", "DELETE FROM {}", "TRUNCATE {}"])
def test_the_database_refuses_to_change_facts(ledger_engine: Engine, table: str, statement: str) -> None:
    statement = statement.format(table).replace("seq = seq", "price = price" if table == "fills" else "seq = seq")
    with pytest.raises(DBAPIError, match="append-only"), ledger_engine.begin() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    ("statements", "finding"),
    [
        (["UPDATE audit SET content = convert_to('{\"intent\":\"other\"}', 'UTF8') WHERE seq = 3"], "record 3 .* was changed"),
        (["UPDATE audit SET actor = 'someone' WHERE seq = 2"], "record 2 .* was changed"),
        (["UPDATE audit SET time_us = time_us + 1 WHERE seq = 4"], "record 4 .* was changed"),
        (["DELETE FROM audit WHERE seq = 3"], "record 3 is missing"),
        (["DELETE FROM audit WHERE seq IN (2, 3)"], "record 2 to 3 is missing"),
        (["DELETE FROM audit WHERE seq = 1"], "record 1 is missing"),
        (["DELETE FROM audit WHERE seq = 5"], "ends at record 4, but record 5"),
        (["DELETE FROM audit"], "ends at record 0, but record 5"),
        (
            [f"UPDATE audit SET seq = {new} WHERE seq = {old}" for old, new in ((2, 99), (3, 2), (99, 3))],
            "record 2 .*reordered",
        ),
        (["DELETE FROM desk_state WHERE key = 'audit_head'"], "head is missing"),
    ],
)  # fmt: skip
def test_tampering_is_found(ledger_engine: Engine, statements: list[str], finding: str) -> None:
    write(ledger_engine, 5)
    tamper(ledger_engine, *statements)
    problems = audit.verify(ledger_engine)
    assert problems
    with pytest.raises(AssertionError, match=finding):
        raise AssertionError(" / ".join(problems))


def test_a_record_rewritten_with_its_own_hash_breaks_the_next_one(ledger_engine: Engine) -> None:
    write(ledger_engine, 3)
    with ledger_engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM audit WHERE seq = 2")).one()
    forged = audit.record_hash(2, row.time_us, "nobody", row.action, bytes(row.content), row.previous_hash)
    tamper(ledger_engine, f"UPDATE audit SET actor = 'nobody', hash = '{forged}' WHERE seq = 2")
    assert audit.verify(ledger_engine) == ["audit record 3 does not continue record 2: changed or reordered"]


def test_writers_at_once_make_one_chain(ledger_engine: Engine) -> None:
    threads = [threading.Thread(target=write, args=(ledger_engine, 10, f"writer {n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert audit.verify(ledger_engine) == []
    assert Ledger(ledger_engine).get_state(audit.HEAD_KEY)["seq"] == 40
