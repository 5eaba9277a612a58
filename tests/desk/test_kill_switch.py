# ruff: noqa: F811, F401 - fixtures are imported by name
"""The kill switch: whether the desk answers, hangs or is dead, the broker is flat at the end or what is left is named."""

from __future__ import annotations

import json
import os
import signal

import pytest
from sqlalchemy import select

from desk.drill import run_drill
from desk.kill_switch import STATE_KEY, KillSwitch, Outcome, Watch, journal_path
from desk.risk_state import HaltLevel
from desk.store import DeskStore, wall_us
from resources.ledger import tables
from tests.desk.running import Installation, MakeInstallation, history, install


@pytest.fixture(scope="module")
def in_position(install: MakeInstallation) -> Installation:
    """A desk in the middle of its day, holding a position, waiting for the next trade run."""
    at = install()
    at.start(interpreter=True)  # what hangs is ended only where it is known for a desk by how it was started
    with at.client() as desk:
        desk.start_replay()
    for _ in range(6):
        at.trade_closes(1)
        if DeskStore(at.ledger.engine).open_positions():
            break
    assert DeskStore(at.ledger.engine).open_positions()
    return at


def pull(at: Installation, level: HaltLevel = HaltLevel.FLATTEN, patience: float = 3.0) -> Outcome:
    return KillSwitch(at.settings, level, "test", "tester", patience).pull()


def test_a_hung_desk_is_ended_and_the_positions_are_closed_in_its_place(in_position: Installation) -> None:
    at = in_position
    hung = at.processes[-1]
    hung.send_signal(signal.SIGSTOP)
    try:
        outcome = pull(at)
    finally:
        hung.send_signal(signal.SIGCONT)
    assert (outcome.how, outcome.ended_pid) == ("took_over", hung.pid)
    assert hung.wait(60) == -signal.SIGKILL
    # The paper book fills at the next bar's open, and the market stands still here: what closes it is at the broker.
    assert not outcome.flat
    assert outcome.positions
    assert len(outcome.orders) == len(outcome.positions)
    again = pull(at)  # pulled twice: nothing is sent twice
    assert (again.orders, again.positions, again.how) == (outcome.orders, outcome.positions, "took_over")
    assert [line["event"] for line in _journal(at)][:2] == ["pulled", "desk_ended"]
    with at.ledger.engine.connect() as connection:
        acts = connection.execute(select(tables.audit.c.action).where(tables.audit.c.actor == "tester")).scalars().all()
    assert acts.count("kill_switch") == 2
    halt = at.ledger.get_state("halt") or {}
    assert (halt["global"], halt["who"]) == ("FLATTEN", "tester")

    desk = at.start()  # a desk that comes back goes on with its day, flat, and takes no new risk
    at.trade_until_finished()
    assert desk.poll() is None
    assert DeskStore(at.ledger.engine).open_positions() == []
    entries = [o for o in at.ledger.orders() if o["leg"] == "entry" and o["created_wall"] > outcome_wall(at)]
    assert {o["state"] for o in entries} <= {"denied"}
    done = pull(at, patience=60.0)
    assert (done.how, done.flat, done.ended_pid) == ("desk", True, None)


def outcome_wall(at: Installation) -> int:
    return int(str(_journal(at)[0]["wall"]))


def _journal(at: Installation) -> list[dict[str, object]]:
    return [json.loads(line) for line in journal_path(at.settings).read_text().splitlines()]


class TestTheWatch:
    """Looks at the heartbeat. What it does by itself is a setting, and it does it once an outage."""

    def watch(self, at: Installation, then: str) -> tuple[Watch, list[KillSwitch]]:
        pulled: list[KillSwitch] = []

        def pull(switch: KillSwitch) -> Outcome:
            pulled.append(switch)
            return Outcome(switch.level.value, switch.reason, switch.who, "took_over", True)

        return Watch(at.settings.model_copy(update={"kill_switch_then": then, "kill_switch_seconds": 60.0}), pull), pulled

    def silent(self, at: Installation, seconds: float) -> None:
        at.ledger.put_state("heartbeat", {"wall": wall_us() - int(seconds * 1e6), "pid": os.getpid(), "market_time": 1})

    def test_nothing_is_done_without_risk_or_while_the_heart_beats(self, install: MakeInstallation) -> None:
        at = install()
        watch, pulled = self.watch(at, "flatten")
        watch.look(at.ledger)  # no desk ever
        self.silent(at, 60)
        watch.look(at.ledger)  # silent, but nothing is open
        assert pulled == []
        assert (at.ledger.get_state(STATE_KEY) or {})["desk_age_seconds"] > 50

    def test_it_acts_once_an_outage_at_the_level_that_was_asked_for(
        self, install: MakeInstallation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at = install()
        monkeypatch.setattr(Watch, "_at_risk", staticmethod(lambda _: True))
        watch, pulled = self.watch(at, "halt")
        self.silent(at, 1)
        watch.look(at.ledger)
        assert pulled == []
        self.silent(at, 70)
        watch.look(at.ledger)
        watch.look(at.ledger)
        assert [p.level for p in pulled] == [HaltLevel.HALTED]
        self.silent(at, 0)
        watch.look(at.ledger)
        self.silent(at, 70)
        watch.look(at.ledger)
        assert len(pulled) == 2
        assert (at.ledger.get_state(STATE_KEY) or {})["acted"]["level"] == "HALTED"

    def test_a_worker_that_hangs_behind_a_beating_heart_a_missing_heart_and_a_pull_that_failed_count(
        self, install: MakeInstallation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at = install()
        monkeypatch.setattr(Watch, "_at_risk", staticmethod(lambda _: True))
        watch, pulled = self.watch(at, "flatten")
        watch.look(at.ledger)  # positions, and no desk that ever said anything
        assert len(pulled) == 1
        now = wall_us()
        at.ledger.put_state("heartbeat", {"wall": now, "pid": 1, "market_time": 1, "working_since_wall": None})
        watch.look(at.ledger)
        at.ledger.put_state("heartbeat", {"wall": now, "pid": 1, "market_time": 1, "working_since_wall": now - 600_000_000})
        watch.look(at.ledger)
        assert len(pulled) == 2

        def fails(_: KillSwitch) -> Outcome:
            raise OSError("no broker")

        again = Watch(watch.settings, fails)
        for _ in range(2):
            with pytest.raises(OSError, match="no broker"):
                again.look(at.ledger)

    def test_alert_only_watches(self, install: MakeInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
        at = install()
        monkeypatch.setattr(Watch, "_at_risk", staticmethod(lambda _: True))
        watch, pulled = self.watch(at, "alert")
        self.silent(at, 600)
        watch.look(at.ledger)
        assert pulled == []


def test_the_drill_ends_flat_on_a_book_of_its_own_and_leaves_nothing_behind(
    install: MakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = install()
    for name, value in at.environment.items():
        monkeypatch.setenv(name, value)
    drill = run_drill(at.settings)
    assert (drill.flat, drill.orders_cancelled, drill.positions_closed, drill.said) == (True, 1, 1, "")
    with at.ledger.engine.connect() as connection:
        left = connection.exec_driver_sql("SELECT count(*) FROM pg_database WHERE datname LIKE '%%_drill_%%'").scalar()
    assert left == 0
    assert at.ledger.orders() == []
