"""The desk is killed at every boundary of an entry worked in slices, over the paper broker and over one in another process:
no slice is lost, none is sent twice, never more than the parent, and what is bought is guarded."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from desk.desk_reads import algos
from desk.faults import ALGO_BOUNDARIES
from tests.faults import checks, remote_checks, remote_process
from tests.faults.zygote import zygote

PAPER = ("algo_committed", "slice_committed:2", "slice_sent:2", "algo_ending", "algo_cancelled")
REMOTE = ("after_send_before_answer:2", "answer_before_commit", "during_cancel")
FAULTY = ("slice_sent:2",)
pytestmark = pytest.mark.usefixtures("warm_paper_desks")


def life(url: str, kills: tuple[str, ...], address: str = "") -> set[str]:
    """One life, killed at one boundary after the other. Returns those that were come by."""
    killed = set[str]()
    for crash_at in (*kills, ""):
        process = zygote().spawn("tests.faults.algo_desk:be_desk", url, address, crash_at)
        assert process.wait(120) in (0, -signal.SIGKILL), (crash_at, process.returncode, process.output())
        if process.returncode:
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
        with remote_process.market(tmp_path / "book.sqlite", rates, 5) as market:
            killed = life(ledger_url, FAULTY if rates else REMOTE, market.address)
            books = market.books()
        notes: list[str] = []
        assert remote_checks.compare(ledger_engine, books, notes) == dict.fromkeys(remote_checks.NAMES, 0), notes
        if rates:  # what the broker refuses to answer may cost a slice, and never makes one too many
            assert sum(p["filled"] for p in parents(ledger_engine).values()) > 0
        else:
            assert killed == set(REMOTE)
            expected(ledger_engine)
