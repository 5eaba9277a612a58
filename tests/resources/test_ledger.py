"""The ledger: the same twice is once, something else under a known id is refused, and nothing half happens."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from resources.ledger import audit, schema
from resources.ledger import base as ledger_base
from resources.ledger import tables as t
from resources.ledger.base import insert_many, update_many
from resources.ledger.migrate import SchemaError, create_databases, upgrade
from resources.ledger.store import DecisionRow, Ledger, LedgerConflict, VerdictRow
from trading.config_text import Problem
from trading.signals import Action, Decision, GateVerdict, PartitionRef, Signal
from trading.timeframes import Timeframe

CLOSE = 1_514_476_800_000_000
CLOSED = {"1h": ["EURUSD"], "1d": ["MSFT", "AAPL"]}
MADE: dict[str, Any] = {"session": "2017-12-28", "code_revision": "abc", "run_id": "run-1"}


def signal(symbol: str = "EURUSD", **changes: Any) -> Signal:
    base = Signal(
        strategy="ema_trend", strategy_revision="r1", symbol=symbol, timeframe=Timeframe.H1, close_time=CLOSE,
        action=Action.ENTER_LONG, strength=0.5, reference_price=1.19, stop_price=1.18, target_price=1.21,
        valid_until=CLOSE + 3_600_000_000, sizing={"kind": "fixed", "quantity": 1e16}, features_version="f1",
        partitions=(PartitionRef("bars_1h", "2017-12-28", symbol, "h1"),),
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def decision(of: Signal, approved: bool = True) -> DecisionRow:
    verdict = GateVerdict("session", approved, "open", "open", "" if approved else "SESSION_CLOSED: venue=FX")
    made = Decision(of, approved, (verdict,), verdict.refusal)
    return DecisionRow(made, b'{"now":1}', b'{"approved":%d}' % approved)


class TestSignalsAndDecisions:
    def test_a_signal_comes_out_as_it_went_in(self, ledger: Ledger) -> None:
        assert ledger.insert_signals([signal(), signal("AAPL")], **MADE) == [signal().id, signal("AAPL").id]
        rows = ledger.signals(close_time=CLOSE)
        assert {row["symbol"]: Signal.from_dict(row["content"]) for row in rows} == {"EURUSD": signal(), "AAPL": signal("AAPL")}
        assert ledger.signals(session="2017-12-28") == rows
        assert ledger.signals(session="2017-12-27") == []

    def test_repeating_a_run_adds_nothing(self, ledger: Ledger) -> None:
        ledger.insert_signals([signal()], **MADE)
        before = ledger.signals()
        assert ledger.insert_signals([signal(), signal()], **{**MADE, "run_id": "run-2"}) == []
        assert ledger.signals() == before, "the first run's row stands"

    def test_another_content_under_a_known_id_is_refused_and_nothing_is_written(self, ledger: Ledger) -> None:
        ledger.insert_signals([signal()], **MADE)
        changed = signal(stop_price=1.17)
        assert changed.id == signal().id
        with pytest.raises(LedgerConflict, match=signal().id):
            ledger.insert_signals([signal("AAPL"), changed], **MADE)
        assert [row["symbol"] for row in ledger.signals()] == ["EURUSD"]

    def test_two_different_rows_of_one_id_in_one_call_are_refused(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerConflict):
            ledger.insert_signals([signal(), signal(stop_price=1.17)], **MADE)
        assert ledger.signals() == []

    def test_a_signal_that_is_not_a_number_somewhere_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises((DBAPIError, ValueError)):
            ledger.insert_signals([signal(strength=float("nan"))], **MADE)
        assert ledger.signals() == []

    def test_a_decision_is_replayable_and_the_first_one_stands(self, ledger: Ledger) -> None:
        ledger.insert_signals([signal()], **MADE)
        made = decision(signal())
        assert ledger.insert_decisions([made], **MADE) == [made.decision.id]
        assert ledger.insert_decisions([made], **MADE) == []
        with pytest.raises(LedgerConflict):
            ledger.insert_decisions([decision(signal(), approved=False)], **MADE)
        assert ledger.decision(made.decision.id) == made.decision
        row = ledger.decisions(signal_ids=[signal().id])[0]
        assert (bytes(row["snapshot"]), bytes(row["outcome"]), row["approved"]) == (made.snapshot, made.outcome, True)
        assert ledger.decisions(signal_ids=[]) == []
        assert ledger.decision("dec-unknown") is None

    def test_writers_of_the_same_signals_at_once_write_them_once(self, ledger: Ledger) -> None:
        signals = [signal(f"S{n:02}") for n in range(40)]
        new: list[str] = []
        failures: list[BaseException] = []

        def write(order: list[Signal]) -> None:
            try:
                new.extend(ledger.insert_signals(order, **MADE))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(signals[::step],)) for step in (1, -1, 1, -1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(new) == sorted(s.id for s in signals)

    def test_what_joins_a_transaction_goes_with_it(self, ledger: Ledger) -> None:
        def fail_late() -> None:
            with ledger.transaction() as connection:
                ledger.insert_signals([signal()], **MADE, connection=connection)
                ledger.put_state("k", 1, connection=connection)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail_late()
        assert ledger.signals() == []
        assert ledger.get_state("k") is None


class TestVerdicts:
    BARS = ("bars_1h", "2017-12-28", "EURUSD")

    def row(self, check: str = "ohlc_consistent", passed: bool = True, wall: int = 10, content: str = "h1") -> VerdictRow:
        return VerdictRow(*self.BARS, check, passed, "error", content, 0, ({"close": 1.5},), "run", wall)

    def test_they_are_found_by_partition_whatever_content_they_judged(self, ledger: Ledger) -> None:
        ledger.put_verdicts([self.row(), self.row("jump", passed=False)])
        found = ledger.verdicts([PartitionRef(*self.BARS, "another-hash"), PartitionRef("bars_1d", "x", "y", "z")])
        assert sorted(found, key=lambda row: row.check) == [self.row("jump", passed=False), self.row()]
        assert found[0].snapshot()["content_hash"] == "h1"
        assert ledger.verdicts([]) == []

    def test_the_newest_stands(self, ledger: Ledger) -> None:
        ledger.put_verdicts([self.row(wall=10)])
        ledger.put_verdicts([self.row(passed=False, wall=20, content="h2")])
        ledger.put_verdicts([self.row(wall=15)])
        assert ledger.session_verdicts("2017-12-28", failed_only=True) == [self.row(passed=False, wall=20, content="h2")]

    def test_many_are_written_at_once(self, ledger: Ledger) -> None:
        rows = [dataclasses.replace(self.row(), symbol=f"S{n}") for n in range(4500)]
        ledger.put_verdicts(rows)
        assert len(ledger.verdicts([PartitionRef("bars_1h", "2017-12-28", f"S{n}", "") for n in range(4500)])) == 4500


class TestCloses:
    def record(self, ledger: Ledger, close_time: int = CLOSE, **changes: Any) -> bool:
        return ledger.record_close(close_time, "2017-12-28", changes.get("bars", CLOSED), emitted_wall=1, stored_wall=2)

    def test_a_close_is_recorded_once(self, ledger: Ledger) -> None:
        assert self.record(ledger)
        assert not self.record(ledger, bars={"1d": ["AAPL", "MSFT"], "1h": ["EURUSD"]}), "the order of symbols says nothing"
        with pytest.raises(LedgerConflict):
            self.record(ledger, bars={"1h": ["EURUSD"]})

    def test_the_first_stamp_stands_the_outcome_is_the_last_word(self, ledger: Ledger) -> None:
        self.record(ledger)
        assert ledger.stamp_close(CLOSE, sensed_wall=5, run_id="a", outcome="failed")
        assert ledger.stamp_close(CLOSE, sensed_wall=9, done_wall=11, run_id="b", outcome="done")
        row = ledger.close(CLOSE)
        assert row is not None
        assert (row["sensed_wall"], row["done_wall"], row["run_id"], row["outcome"]) == (5, 11, "b", "done")
        assert not ledger.stamp_close(CLOSE + 1, done_wall=1)
        with pytest.raises(ValueError, match="stored_wall"):
            ledger.stamp_close(CLOSE, stored_wall=1)

    def test_they_are_read_in_order_after_a_cursor(self, ledger: Ledger) -> None:
        for n in (3, 1, 2):
            self.record(ledger, CLOSE + n)
        ledger.stamp_close(CLOSE + 2, done_wall=1, outcome="done")
        assert [row["close_time"] for row in ledger.closes(after=CLOSE + 1)] == [CLOSE + 2, CLOSE + 3]
        assert [row["close_time"] for row in ledger.closes(pending=True)] == [CLOSE + 1, CLOSE + 3]
        assert [row["close_time"] for row in ledger.closes(limit=1)] == [CLOSE + 1]
        latest = ledger.latest_close()
        assert latest is not None
        assert latest["close_time"] == CLOSE + 3


class TestSessionsStateAndOutbox:
    def test_a_session_opens_once_and_ends_once(self, ledger: Ledger) -> None:
        assert ledger.open_session("2017-12-28", opened_time=1, start_equity=100.0)
        assert not ledger.open_session("2017-12-28", opened_time=9, start_equity=50.0)
        assert ledger.mark_reported("2017-12-28") is False, "an open session has no report"
        assert ledger.end_session("2017-12-28", ended_time=2, end_equity=101.0)
        assert not ledger.end_session("2017-12-28", ended_time=3, end_equity=1.0)
        assert ledger.mark_reported("2017-12-28")
        row = ledger.sessions(state="reported")[0]
        assert (row["opened_time"], row["start_equity"], row["ended_time"], row["end_equity"]) == (1, 100.0, 2, 101.0)

    def test_state_is_kept_and_replaced(self, ledger: Ledger) -> None:
        assert ledger.get_state("halt") is None
        ledger.put_state("halt", {"level": "halted"})
        ledger.put_state("halt", {"level": "none"})
        assert ledger.get_state("halt") == {"level": "none"}

    def test_configuration_problems_are_the_present_ones(self, ledger: Ledger) -> None:
        ledger.replace_config_problems([Problem("a.yaml", 3, "stop", "unknown key", "", "stops")])
        ledger.replace_config_problems([Problem("b.yaml", 1, "", "not a mapping")] * 2)
        assert [row["file"] for row in ledger.config_problems()] == ["b.yaml"]

    def test_the_outbox_is_read_in_order_until_sent(self, ledger: Ledger) -> None:
        first, second = ledger.enqueue("fills", {"n": 1}, partition="2017-12-28"), ledger.enqueue("orders", {"n": 2})
        assert [row["seq"] for row in ledger.unsent()] == [first, second]
        ledger.mark_sent([first])
        assert [row["asset_key"] for row in ledger.unsent()] == ["orders"]


class TestTrace:
    def fill_ledger(self, ledger: Ledger) -> DecisionRow:
        """A trade: entry order and its protective exit, with one fill each."""
        ledger.insert_signals([signal()], **MADE)
        made = decision(signal())
        ledger.insert_decisions([made], **MADE)
        with ledger.engine.begin() as connection:
            for number, (order, parent) in enumerate((("int-entry", made.decision.id), ("int-exit", "int-entry"))):
                connection.execute(t.intents.insert().values(
                    id=order, parent=parent, leg=order, trade_id="int-entry", strategy="ema_trend", symbol="EURUSD",
                    session="2017-12-28", content={}, sizing={}, risk=[], refusal="", created_time=number, created_wall=number,
                ))  # fmt: skip
                connection.execute(t.orders.insert().values(
                    id=order, broker="paper", broker_order_id=f"P-{number}", mode="paper", symbol="EURUSD", side="buy",
                    quantity=1.0, order_type="market", state="filled", state_since=0, filled_quantity=1.0, text="",
                    created_time=number, created_wall=number,
                ))  # fmt: skip
                connection.execute(t.order_events.insert().values(
                    order_id=order, event="fill", event_key=order, state_before="accepted", state_after="filled",
                    anomalous=False, text="", event_time=0, recorded_wall=0,
                ))  # fmt: skip
                connection.execute(t.fills.insert().values(
                    id=f"paper/{number}", order_id=order, trade_id="int-entry", strategy="ema_trend", symbol="EURUSD",
                    side="buy", quantity=1.0, price=1.19, commission=0.0, currency="USD", session="2017-12-28",
                    fill_time=number, recorded_wall=0,
                ))  # fmt: skip
        return made

    @pytest.mark.parametrize("name", ["int-entry", "P-0", "entry", "int-exit", "P-1"])
    def test_every_order_leads_back_to_its_bars(self, ledger: Ledger, name: str) -> None:
        made = self.fill_ledger(ledger)
        chain = ledger.trace(name)
        assert chain is not None
        assert chain["decision"]["id"] == made.decision.id
        assert chain["signal"]["content"]["partitions"][0]["content_hash"] == "h1"
        assert chain["entry_intent"]["id"] == "int-entry"
        assert [event["order_id"] for event in chain["events"]] == [chain["order"]["id"]]
        assert [fill["order_id"] for fill in chain["fills"]] == [chain["order"]["id"]]
        assert len(chain["trade_fills"]) == 2

    def test_unknown_is_none_and_ambiguous_is_an_error(self, ledger: Ledger) -> None:
        self.fill_ledger(ledger)
        assert ledger.trace("P-7") is None
        assert ledger.trace("%") is None
        with pytest.raises(LedgerConflict, match="several"):
            ledger.trace("int-")

    def test_reports_read_orders_and_fills_by_session(self, ledger: Ledger) -> None:
        self.fill_ledger(ledger)
        assert [(row["id"], row["strategy"]) for row in ledger.orders("2017-12-28")] == [
            ("int-entry", "ema_trend"), ("int-exit", "ema_trend"),
        ]  # fmt: skip
        assert ledger.orders("2017-12-27") == ledger.fills("2017-12-27") == []
        assert len(ledger.fills("2017-12-28")) == len(ledger.intents("2017-12-28")) == 2


class TestSchema:
    def test_the_migrations_make_exactly_the_tables(self, ledger_engine: Engine) -> None:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        with ledger_engine.connect() as connection:
            options = {"include_schemas": True, "compare_type": True}
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, schema.metadata) == []

    def test_migrating_again_changes_nothing(self, ledger_url: str) -> None:
        assert upgrade(ledger_url) == upgrade(ledger_url)

    def test_two_migrators_at_once_make_one_schema(self, postgres_url: str) -> None:
        name = "migrated_twice"
        create_databases(postgres_url, [name, name])
        done: list[str] = []
        threads = [threading.Thread(target=lambda: done.append(upgrade(f"{postgres_url}/{name}"))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 3
        assert len(set(done)) == 1

    def test_a_ledger_of_newer_code_is_refused(self, ledger_url: str) -> None:
        engine = create_engine(ledger_url)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        with pytest.raises(SchemaError, match="update the code"):
            upgrade(ledger_url)

    def test_databases_are_made_where_missing(self, postgres_url: str, new_ledger_url: Callable[[], str]) -> None:
        there = new_ledger_url().rpartition("/")[2]
        create_databases(postgres_url, [there, 'odd "name'])
        create_databases(postgres_url, [there, 'odd "name'])
        engine = create_engine(f"{postgres_url}/postgres")
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM pg_database WHERE datname = 'odd \"name'")).scalar() == 1
        engine.dispose()


def test_a_restarted_server_is_outlived(ledger: Ledger, ledger_url: str) -> None:
    ledger.put_state("k", 1)
    other = create_engine(ledger_url)
    with other.connect() as connection:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) {others}"))
        while connection.execute(text(f"SELECT count(*) {others}")).scalar():
            connection.rollback()  # which lets it look again
            time.sleep(0.01)
    other.dispose()
    assert ledger.get_state("k") == 1


def test_a_connection_that_rested_is_asked_before_it_is_used(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ledger.put_state("k", 1)
    monkeypatch.setattr(ledger_base, "_told_something", lambda connection: asked.append("socket") or False)
    assert ledger.get_state("k") == 1
    monkeypatch.setattr(ledger_base, "_RESTED_SECONDS", -1.0)
    monkeypatch.setattr(ledger_base, "_told_something", lambda connection: pytest.fail("it rested: the server is asked"))
    assert ledger.get_state("k") == 1
    assert asked == ["socket"]


AWKWARD = ["", "it's", 'say "no"', "back\\slash", "a:b :c", "percent %s %(x)s", "tab\tnew\nline", "\u00e9\u20ac\U0001f600"]
NUMBERS = [0.1 + 0.2, 1e-17, -1e300, 5e-324, 123456789.123456789, 0.0, 1e16]


def test_many_rows_in_one_statement_keep_their_order_and_every_bit(ledger: Ledger) -> None:
    told = [
        {"order_id": f"o{n}", "event": "ack", "event_key": f"k{n}", "state_before": "", "state_after": "",
         "anomalous": n % 2 == 0, "text": word, "event_time": 2**53 + n, "recorded_wall": n}
        for n, word in enumerate(AWKWARD)
    ]  # fmt: skip
    held = [
        {"strategy": "s", "symbol": f"A{n}", "trade_id": "", "quantity": x, "average_price": -x, "realized_pnl": 0.0,
         "commission": 0.0, "opened_time": None, "updated_time": 1, "bars_held": 0, "exit_state": {"deep": [0.1, None, "it's"]}}
        for n, x in enumerate(NUMBERS)
    ]  # fmt: skip
    with ledger.transaction() as c:
        insert_many(c, t.order_events, told)
        insert_many(c, t.positions, held)
        changed = [{"strategy": "s", "symbol": f"A{n}", "average_price": x, "opened_time": 7} for n, x in enumerate(NUMBERS)]
        update_many(c, t.positions, changed[1:], key=["strategy", "symbol"])
    rows = [row for n in range(len(told)) for row in ledger.order_events(f"o{n}")]
    assert [{k: v for k, v in row.items() if k != "seq"} for row in rows] == told
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)
    kept = ledger.positions()
    assert [row["quantity"] for row in kept] == NUMBERS
    assert [row["average_price"] for row in kept] == [-NUMBERS[0], *NUMBERS[1:]]
    assert [row["opened_time"] for row in kept] == [None, *[7] * 6]
    assert [row["exit_state"] for row in kept] == [row["exit_state"] for row in held]
    assert audit.verify(ledger.engine) == []


def test_a_number_that_is_none_is_refused_before_anything_is_written(ledger: Ledger) -> None:
    row = {"strategy": "s", "symbol": "A", "quantity": float("nan")}
    with ledger.transaction() as c, pytest.raises(ValueError, match="not JSON compliant"):
        insert_many(c, t.positions, [row])
    assert ledger.positions() == []
