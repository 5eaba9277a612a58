"""The desk is killed at every boundary of an entry worked in slices, over the paper broker and over one in another process:
no slice is lost, none is sent twice, never more than the parent, and what is bought is guarded."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from desk import faults, reconcile, store, submission
from desk.desk_reads import algos
from desk.faults import ALGO_BOUNDARIES
from resources.ledger.store import connect
from tests.desk.kit import CASH, INSTRUMENTS, SESSION, Desk, bar, decision, good_verdicts, hour
from tests.faults import checks, remote_checks, remote_desk
from tests.faults.remote_desk import RemoteDesk, until_done

CLOSES = 7
WISHES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("trend", {"algo": "twap", "minutes": 240, "slices": 4, "rest": "market"}),
    ("revert", {"algo": "iceberg", "minutes": 360, "visible": 400.0, "limit_ticks": 3, "rest": "cancel"}),
    ("idea", {"algo": "twap", "minutes": 300, "slices": 5}),
)
"""The third one's trade is closed at the second close, half way. The second one's limit is not reached from the third on."""
PAPER = ("algo_committed", "slice_committed:2", "slice_sent:2", "algo_ending", "algo_cancelled")
REMOTE = ("after_send_before_answer:2", "answer_before_commit", "during_cancel")
FAULTY = ("slice_sent:2",)


def live(url: str, address: str) -> None:
    """Be the desk until the last close is done, going on behind the last one that was finished."""
    engine = connect(url)
    desk = RemoteDesk(engine, address=address) if address else Desk(engine)
    done = int(desk.store.state("progress").get("close", 0))
    desk.clock.advance(hour(done))
    until_done(lambda: submission.recover(engine, desk.broker, desk.clock))
    if done == 0:
        desk.ledger.open_session(SESSION, opened_time=hour(-10), start_equity=CASH)
        for symbol in INSTRUMENTS:
            desk.ledger.put_verdicts(good_verdicts(symbol))
        desk.store.mark(hour(0), SESSION, dict.fromkeys(INSTRUMENTS, 1.2))
    until_done(desk.router.continue_exits)
    until_done(lambda: reconcile.reconcile(engine, desk.broker, desk.clock))
    for n in range(done, CLOSES + 1):
        if n > done:
            up = 0.002 if n >= 3 else 0.0
            desk.close(n, bar("EURUSD", n, 1.2 + up, 1.2004 + up, 1.1999 + up, 1.2 + up))
            until_done(desk.router.continue_exits)
        if n == 0:
            for strategy, execution in WISHES:
                wish = decision(0, strategy, execution=execution, valid_until=hour(CLOSES))
                until_done(lambda w=wish: desk.router.submit_decision(w))  # type: ignore[misc]
        if n == 2 and desk.position("idea"):
            until_done(lambda: desk.router.exit_position("idea", "EURUSD", "rule", hour(2)))
        until_done(desk.router.algos.work)
        if n % 3 == 0 or n == CLOSES:
            until_done(lambda: reconcile.reconcile(engine, desk.broker, desk.clock))
            until_done(desk.router.continue_exits)
        with engine.begin() as connection:
            store.put_state(connection, "progress", {"close": n})


def _child(url: str, address: str, crash_at: str) -> None:
    os.environ.pop(faults.VARIABLE, None)
    if crash_at:
        os.environ[faults.VARIABLE] = crash_at
    remote_desk.quiet()
    try:
        live(url, address)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def life(url: str, kills: tuple[str, ...], address: str = "") -> set[str]:
    """One life, killed at one boundary after the other. Returns those that were come by."""
    killed = set[str]()
    for crash_at in (*kills, ""):
        process = multiprocessing.get_context("fork").Process(target=_child, args=(url, address, crash_at))
        process.start()
        process.join(120)
        assert process.exitcode in (0, -signal.SIGKILL), (crash_at, process.exitcode)
        if process.exitcode:
            killed.add(crash_at)
    return killed


def parents(engine: Engine) -> dict[str, dict[str, Any]]:
    found = algos(engine, state=None, session=None, strategy=None, symbol=None, limit=10)
    assert all(p["filled"] <= p["quantity"] and p["state"] == "ended" and p["working"] == 0.0 for p in found), found
    return {p["strategy"]: p for p in found}


def held(engine: Engine) -> dict[str, float]:
    with engine.connect() as connection:
        return dict(connection.execute(text("SELECT strategy, quantity FROM positions WHERE quantity <> 0")).tuples().all())


def expected(engine: Engine) -> None:
    """What comes out is what comes out without a kill."""
    made = parents(engine)
    assert (made["trend"]["filled"], made["trend"]["reason"]) == (1000.0, "complete")
    assert held(engine) == {"trend": 1000.0, "revert": made["revert"]["filled"]}
    assert made["revert"]["filled"] == 800.0
    assert made["idea"]["reason"].startswith("the trade is being closed")
    slots = [s["slot"] for s in made["trend"]["slices"] if s["filled_quantity"]]
    assert len(slots) == len(set(slots))


class TestOverThePaperBroker:
    def test_kills_lose_and_double_nothing(self, ledger_url: str, ledger_engine: Engine) -> None:
        assert [k.partition(":")[0] for k in PAPER] == list(ALGO_BOUNDARIES)
        assert life(ledger_url, PAPER) == set(PAPER)
        assert checks.compare(ledger_engine) == dict.fromkeys(checks.NAMES, 0)
        expected(ledger_engine)


class TestOverABrokerInAnotherProcess:
    @pytest.mark.parametrize("rates", [{}, {"late": 0.15, "accept_then_timeout": 0.15, "partial_fill": 0.3, "event_twice": 0.3}])
    def test_kills_lose_and_double_nothing(
        self, ledger_url: str, ledger_engine: Engine, tmp_path: Path, rates: dict[str, float]
    ) -> None:
        with remote_desk.market(tmp_path / "book.sqlite", rates, 5) as market:
            killed = life(ledger_url, FAULTY if rates else REMOTE, market.address)
            books = market.books()
        notes: list[str] = []
        assert remote_checks.compare(ledger_engine, books, notes) == dict.fromkeys(remote_checks.NAMES, 0), notes
        if rates:  # what the broker refuses to answer may cost a slice, and never makes one too many
            assert sum(p["filled"] for p in parents(ledger_engine).values()) > 0
        else:
            assert killed == set(REMOTE)
            expected(ledger_engine)
