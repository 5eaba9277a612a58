"""The rows of the ledger and the audit tell the same story, its end is kept elsewhere, and a regulator gets it whole."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from resources.ledger import audit, audit_anchor, audit_read
from resources.ledger.audit_anchor import Anchor
from resources.ledger.store import DecisionRow, Ledger
from tests.desk.kit import decision

TABLES = ("signals", "decisions", "intents", "order_events", "fills", "positions")


@pytest.fixture
def told(ledger: Ledger) -> Engine:
    """A ledger with two decisions, and an order with events, a fill and a position."""
    with ledger.transaction() as c:
        for number in (0, 1):
            made = decision(number)
            ledger.insert_signals([made.signal], session="2017-12-29", code_revision="r", run_id="run", connection=c)
            row = DecisionRow(made, b"snapshot", b"outcome")
            ledger.insert_decisions([row], session="2017-12-29", code_revision="r", run_id="run", connection=c)
        c.execute(
            text(
                "INSERT INTO intents VALUES ('int-1', 'dec', 'entry', 'int-1', 'trend', 'EURUSD', '2017-12-29', "
                "'{\"quantity\": 0.1}', '{}', '[]', '', 1, 1)"
            )
        )
        for key in ("send", "ack", "fill"):
            c.execute(
                text(
                    "INSERT INTO order_events (order_id, event, event_key, state_before, state_after, anomalous, text, "
                    "event_time, recorded_wall) VALUES ('int-1', :k, :k, 'a', 'b', false, 'ü', 1, 1)"
                ).bindparams(k=key)
            )
        c.execute(
            text(
                "INSERT INTO fills VALUES ('paper/1', 'int-1', 'int-1', 'trend', 'EURUSD', 'buy', 0.1, 1.2345678901234567, 0.3, "
                "'USD', '2017-12-29', 1, 1)"
            )
        )
        c.execute(text("INSERT INTO positions VALUES ('trend', 'EURUSD', 'int-1', 0.1, 1.2, 0, 0.3, 1, 1, 0, '{}')"))
    return ledger.engine


def tamper(engine: Engine, *statements: str) -> None:
    """What the owner of the database can do: switch the guards off, change, and switch them on again."""
    with engine.begin() as c:
        for table in (*TABLES, "audit"):
            c.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        for statement in statements:
            assert c.execute(text(statement)).rowcount > 0
        for table in (*TABLES, "audit"):
            c.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


def test_every_row_is_in_the_chain_with_who(told: Engine) -> None:
    assert audit.verify(told) == []
    with told.connect() as c:
        rows = c.execute(text("SELECT action, actor, count(*) FROM audit GROUP BY 1, 2 ORDER BY 1")).all()
    assert [tuple(r) for r in rows] == [
        ("decision", "dagster", 2), ("fill", "desk", 1), ("intent", "desk", 1), ("order_event", "desk", 3),
        ("position", "desk", 1), ("signal", "dagster", 2),
    ]  # fmt: skip


def test_a_row_says_what_a_decision_was_made_of_by_its_hash(told: Engine) -> None:
    import hashlib

    row = audit_read.read(told, action="decision", limit=1)[0]["content"]["row"]
    assert row["snapshot_sha256"] == hashlib.sha256(b"snapshot").hexdigest()
    assert row["verdicts"]
    assert "snapshot" not in row


def test_who_asks_can_be_named_for_a_transaction(told: Engine) -> None:
    with told.begin() as c:
        c.execute(text("SET LOCAL tapeline.who = 'tapeline:ana'"))
        c.execute(text("UPDATE intents SET sizing = '{\"by\": 1}'"))
    newest = audit_read.read(told, newest_first=True, limit=1)[0]
    assert (newest["actor"], newest["action"], newest["content"]["op"]) == ("tapeline:ana", "intent", "update")
    assert audit.verify(told) == [], "a change the audit knows of is no fault"


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE fills SET price = price + 0.0000000000000002", "fills paper/1 is not as audit record .* price"),
        ("UPDATE fills SET quantity = 100", "fills paper/1 .* quantity"),
        ("DELETE FROM fills", "fills paper/1 is gone"),
        ("UPDATE order_events SET text = 'u' WHERE event = 'ack'", "order_events .* text"),
        ("DELETE FROM order_events WHERE event = 'fill'", "order_events .* is gone"),
        ("UPDATE order_events SET seq = seq + 100 WHERE event = 'ack'", "is gone, .*is not in the audit trail"),
        ("UPDATE signals SET content = content || '{\"extra\": 1}'", "signals .* content"),
        ("UPDATE decisions SET snapshot = 'x'", "decisions .* snapshot_sha256"),
        ("UPDATE decisions SET approved = NOT approved", "decisions .* approved"),
        ("UPDATE intents SET content = '{\"quantity\": 0.2}'", "intents int-1 .* content"),
        ("UPDATE positions SET quantity = 5", "positions trend EURUSD .* quantity"),
        ("INSERT INTO fills SELECT 'paper/2', order_id, trade_id, strategy, symbol, side, quantity, price, commission, currency, "
         "session, fill_time, recorded_wall FROM fills", "fills paper/2 is not in the audit trail: added around it"),
    ],
)  # fmt: skip
def test_a_row_that_was_changed_taken_out_or_slipped_in_is_found(told: Engine, statement: str, finding: str) -> None:
    tamper(told, statement)
    problems = audit.verify(told)
    assert problems
    with pytest.raises(AssertionError, match=f"(?s){finding}"):
        raise AssertionError(" / ".join(problems))


def test_an_end_cut_off_with_its_head_is_found_by_an_anchor(told: Engine, tmp_path: Path) -> None:
    with told.connect() as c:
        head = audit.head(c)
    assert head is not None
    assert audit_anchor.note(tmp_path, head)
    assert not audit_anchor.note(tmp_path, head), "the same head once"
    with told.connect() as c:
        before = c.execute(text("SELECT seq, hash FROM audit WHERE seq = :s"), {"s": head.seq - 1}).one()
    tamper(
        told,
        f"DELETE FROM audit WHERE seq = {head.seq}",
        f'UPDATE desk_state SET value = \'{{"seq": {before.seq}, "hash": "{before.hash}"}}\' WHERE key = \'audit_head\'',
        "DELETE FROM positions",
    )
    assert audit.verify(told) == [], "the database alone cannot know"
    problems = audit.verify(told, audit_anchor.read(tmp_path))
    assert len(problems) == 1
    assert f"record {head.seq} was anchored outside the database and is not there" in problems[0]


def test_a_chain_written_anew_is_found_by_an_anchor(told: Engine) -> None:
    problems = audit.verify(told, [Anchor(2, "f" * 64)])
    assert problems == ["audit record 2 is not the one that was anchored: the chain was written anew"]
    with pytest.raises(ValueError, match="NUMBER:HASH"):
        audit_anchor.parse("2:short")


def test_a_torn_line_of_anchors_is_left_out_and_the_next_begins_a_new_one(tmp_path: Path) -> None:
    audit_anchor.note(tmp_path, Anchor(1, "a" * 64, 5))
    with (tmp_path / audit_anchor.FILE_NAME).open("a") as file:
        file.write('{"seq":2,"ha')
    assert [a.seq for a in audit_anchor.read(tmp_path)] == [1]
    audit_anchor.note(tmp_path, Anchor(3, "c" * 64, 6))
    assert [a.seq for a in audit_anchor.read(tmp_path)] == [1, 3]
    with (tmp_path / audit_anchor.FILE_NAME).open("a") as file:
        file.write('{"seq":"x"}\n')
    with pytest.raises(audit_anchor.AnchorsUnreadable, match=r"anchors.jsonl:4"):
        audit_anchor.read(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60),
    st.text(max_size=30).filter(str.isprintable),
)
def test_the_database_hashes_what_python_hashes(ledger_engine: Engine, words: str, actor: str) -> None:
    with ledger_engine.begin() as c:
        seq = audit.append(c, actor or "a", "odd", {"text": words, "n": [1.5, None, True]})
        row = c.execute(text("SELECT * FROM audit WHERE seq = :s"), {"s": seq}).one()
    assert row.hash == audit.record_hash(seq, row.time_us, row.actor, row.action, bytes(row.content), row.previous_hash)
    assert json.loads(bytes(row.content))["text"] == words


class TestTheExport:
    def test_holds_each_record_with_what_its_hash_is_over(self, told: Engine, tmp_path: Path) -> None:
        done = audit_read.export(told, tmp_path / "a.csv", start_us=None, end_us=None, form="csv")
        rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8", newline="")))
        assert (done.records, done.first, done.last) == (10, 1, 10) == (len(rows), 1, int(rows[-1]["seq"]))
        previous = audit.GENESIS
        for row in rows:
            digest = audit.record_hash(
                int(row["seq"]), int(row["time_us"]), row["actor"], row["action"], row["content"].encode(), row["previous_hash"]
            )
            assert digest == row["hash"]
            assert row["previous_hash"] == previous
            previous = row["hash"]
        assert {r["subject"] for r in rows if r["action"] == "order_event"} == {"int-1"}

    def test_is_the_same_as_parquet(self, told: Engine, tmp_path: Path) -> None:
        audit_read.export(told, tmp_path / "a.csv", start_us=None, end_us=None, form="csv")
        audit_read.export(told, tmp_path / "a.parquet", start_us=None, end_us=None, form="parquet")
        table = pq.read_table(tmp_path / "a.parquet")
        assert tuple(table.column_names) == audit_read.COLUMNS
        rows = list(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8", newline="")))
        assert [{k: str(v) for k, v in row.items()} for row in table.to_pylist()] == rows

    def test_of_a_time_range_takes_its_start_and_not_its_end(self, told: Engine, tmp_path: Path) -> None:
        times = [r["time_us"] for r in audit_read.read(told)]
        chosen = [t for t in times if times[3] <= t < times[7]]
        done = audit_read.export(told, tmp_path / "a.csv", start_us=times[3], end_us=times[7], form="csv")
        assert done.records == len(chosen)
        assert audit_read.export(told, tmp_path / "b.csv", start_us=1, end_us=2, form="csv").records == 0

    def test_that_fails_leaves_no_file(self, told: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audit_read, "_cells", lambda row: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            audit_read.export(told, tmp_path / "a.csv", start_us=None, end_us=None, form="csv")
        assert list(tmp_path.iterdir()) == []
