# ruff: noqa: F811, F401 - fixtures are imported by name
"""The desk process over real HTTP on a real ledger: what it answers, what it survives, and that nothing happens twice."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from desk import mismatches
from resources.desk_client import DeskClient, DeskRefused, DeskUnavailable
from resources.ledger import audit
from resources.ports import free_port
from resources.settings import ROOT
from tests.desk.kit import decision
from tests.desk.running import Installation, MakeInstallation, history, install

PATHS = {
    "/v1/decisions", "/v1/closes/{close_time}/done", "/v1/halt", "/v1/resume", "/v1/flatten", "/v1/status", "/v1/orders",
    "/v1/positions", "/v1/closes", "/v1/replay/start", "/v1/reconcile", "/v1/mismatches/{symbol}/clear",
}  # fmt: skip


BOUNDARIES = ["after_send_before_answer", "between_fill_events:2", "during_exit"]
"""Deaths after which the broker has what was sent. (What it never got is lost, an entry, or asked for again, an exit.)"""


@pytest.fixture(scope="module")
def finished(install: MakeInstallation) -> Installation:
    """A desk that has been through the live day, and still runs."""
    installation = install()
    installation.start()
    with installation.client() as desk:
        desk.start_replay()
    installation.trade_until_finished()
    return installation


@pytest.fixture
def desk(finished: Installation) -> Iterator[DeskClient]:
    with finished.client() as client:
        yield client


def books(installation: Installation, until: int | None = None) -> dict[str, Any]:
    """What must be the same however often the desk was killed, up to the close at `until`."""
    ledger, end = installation.ledger, until or 2**62
    return {
        "fills": sorted((f["id"], f["price"], f["quantity"], f["fill_time"]) for f in ledger.fills() if f["fill_time"] < end),
        "account": [(a["close_time"], a["cash"], a["equity"]) for a in ledger.account() if a["close_time"] <= end],
        "closes": [(c["close_time"], c["bars"]) for c in ledger.closes() if c["close_time"] <= end],
        "intents": sorted(i["id"] for i in ledger.intents() if i["created_time"] < end),
    }


def test_health_needs_no_token_and_everything_else_does(finished: Installation) -> None:
    with httpx.Client(base_url=finished.settings.desk_url, trust_env=False) as http:
        assert http.get("/v1/health").json() == {"status": "ok", "mode": "PAPER"}
        paths = http.get("/openapi.json").json()["paths"]
        assert set(paths) >= PATHS
        for path, methods in paths.items():
            for method, described in methods.items():
                if path == "/v1/health":
                    continue
                assert described["summary"], path
                assert {"401", "422", "503"} <= set(described["responses"]), path
                for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}):
                    answer = http.request(
                        method.upper(), path.replace("{close_time}", "5").replace("{order_id}", "x"), headers=headers
                    )
                    assert answer.status_code == 401, path
                    assert "token" in answer.json()["error"]


def test_the_token_file_is_its_owners_alone_and_in_no_log(finished: Installation) -> None:
    path = finished.settings.token_file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in finished.log()


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/halt", {"level": "a bit", "reason": "r", "who": "w"}, "level"),
        ("/v1/halt", {"level": "halted", "who": "w"}, "reason"),
        ("/v1/halt", {"level": "halted", "reason": "", "who": "w"}, "reason"),
        ("/v1/resume", {"reason": "r", "who": "w", "everything": True}, "everything"),
        ("/v1/closes/soon/done", {"run_id": "r"}, "close_time"),
        ("/v1/decisions", {"id": "dec-1", "approved": True, "verdicts": [], "signal": {}}, "not a decision"),
        ("/v1/replay/start", {"sessions": -1}, "sessions"),
    ],
)
def test_a_malformed_request_is_told_what_is_wrong(finished: Installation, path: str, body: dict[str, Any], says: str) -> None:
    token = finished.settings.token_file.read_text().strip()
    answer = httpx.post(
        finished.settings.desk_url + path, json=body, headers={"Authorization": f"Bearer {token}"}, trust_env=False
    )
    assert answer.status_code == 422
    assert says in answer.json()["error"]


def test_a_decision_whose_id_is_not_its_contents_is_refused(desk: DeskClient) -> None:
    forged = decision(0).to_dict()
    forged["signal"]["stop_price"] = 1.0
    forged["signal"]["symbol"] = "SPX"
    with pytest.raises(DeskRefused, match="does not match its content"):
        desk.submit_decision(forged)


def test_the_same_decision_again_has_the_same_answer_and_no_new_order(finished: Installation, desk: DeskClient) -> None:
    before = books(finished)
    decisions = [finished.ledger.decision(row["id"]) for row in finished.ledger.decisions() if row["approved"]]
    assert len(decisions) > 10
    first = {o["parent"]: o["id"] for o in finished.ledger.orders() if o["leg"] == "entry"}
    for made in decisions:
        assert made is not None
        assert desk.submit_decision(made).intent_ids[0] == first[made.id]
    assert books(finished) == before


def test_the_end_of_a_close_is_noted_once(finished: Installation, desk: DeskClient) -> None:
    close = desk.closes()[0]
    again = desk.close_done(close["close_time"], "another-run", "failed")
    assert (again["known"], again["outcome"]) == (True, "done")
    row = finished.ledger.close(close["close_time"])
    assert row is not None
    assert (row["run_id"], row["done_wall"]) == (close["run_id"], close["done_wall"])
    assert desk.close_done(12345, "run") == {"close_time": 12345, "known": False, "outcome": None}


def test_a_finished_replay_is_not_replayed_again(finished: Installation, desk: DeskClient) -> None:
    before = books(finished)
    state = desk.start_replay(2)
    assert (state["state"], state["sessions"], state["closes"]) == ("finished", ["2017-12-29"], 24)
    assert desk.replay() == state
    time.sleep(0.3)
    assert books(finished) == before


def test_status_orders_positions_and_closes_are_those_of_the_ledger(finished: Installation, desk: DeskClient) -> None:
    status = desk.status()
    assert (status["state"], status["mode"], status["no_new_risk"]) == ("ok", "PAPER", "")
    assert status["market_time_text"] == "2017-12-29T22:00:00Z"
    assert status["open_positions"] == len(desk.positions()) == len(finished.ledger.positions(open_only=True))
    assert {o["id"] for o in desk.orders()} == {o["id"] for o in finished.ledger.orders()}
    assert {o["state"] for o in desk.orders(state="filled")} == {"filled"}
    assert [c["close_time"] for c in desk.closes()] == [c["close_time"] for c in finished.ledger.closes()]
    started = time.monotonic()
    assert desk.closes(after=status["market_time"], wait_seconds=0.3) == []
    assert time.monotonic() - started > 0.25


def test_halt_resume_flatten_and_cancel_do_what_they_say_and_are_audited(install: MakeInstallation) -> None:
    at = install(overrides={"TAPELINE_REPLAY_BARRIER_SECONDS": "60"})
    at.start()
    with at.client() as desk:
        desk.start_replay()
        row: Any = at.wait_for(lambda: at.ledger.closes(pending=True))[0]
        (made,) = at.decide(row)
        desk.halt("reduce_only", "news at noon", "ann")
        refused = desk.submit_decision(made)
        assert (refused.accepted, refused.refusal.split(":")[0]) == (False, "HALTED")
        assert desk.status()["halt"]["global"] == "REDUCE_ONLY"
        assert desk.resume("news is over", "ann")["resumed"]
        assert not desk.resume("again", "ann")["resumed"]
        desk.close_done(row["close_time"], "r")
        row = at.wait_for(lambda: at.ledger.closes(pending=True, after=row["close_time"]))[0]
        (made,) = at.decide(row)
        target = desk.submit_decision(made).intent_ids[2]
        assert desk.cancel(target, "no target wanted", "ann")["state"] == "canceled"
        with pytest.raises(DeskRefused, match="no order int-nothing"):
            desk.cancel("int-nothing", "typo", "ann")
        desk.close_done(row["close_time"], "r")
        at.wait_for(lambda: at.ledger.positions(open_only=True))
        exits = desk.flatten("going home", "ann")["exits"]
        assert [e["refusal"] for e in exits] == [""]
        row = at.wait_for(lambda: at.ledger.closes(pending=True, after=row["close_time"]))[0]
        desk.close_done(row["close_time"], "r")
        at.wait_for(lambda: not at.ledger.positions(open_only=True))
    with at.ledger.engine.connect() as connection:
        rows = connection.execute(text("SELECT actor, action, convert_from(content, 'UTF8') FROM audit ORDER BY seq")).all()
    said = [(action, content) for actor, action, content in rows if actor == "ann"]
    assert [action for action, _ in said][:2] == ["halt", "resume"]
    for action, reason in (
        ("halt", "news at noon"),
        ("resume", "news is over"),
        ("cancel", "no target"),
        ("flatten", "going home"),
    ):
        assert any(a == action and reason in content for a, content in said), action
    assert audit.verify(at.ledger.engine) == []


def test_killed_again_and_again_the_desk_ends_with_the_books_of_a_quiet_day(
    finished: Installation, install: MakeInstallation
) -> None:
    at = install()
    at.start()
    with at.client() as desk:
        desk.start_replay()
    at.trade(at.wait_for(lambda: at.ledger.closes(pending=True))[0])
    at.processes[-1].kill()  # in the middle of whatever it does
    for boundary in BOUNDARIES:
        at.processes[-1].wait()
        process = at.start(crash_at=boundary, wait=False)
        while process.poll() is None:
            for row in at.ledger.closes(pending=True):
                with contextlib.suppress(DeskUnavailable):
                    at.trade(row, attempts=1)
            time.sleep(0.02)
        assert process.returncode == -signal.SIGKILL, at.log()
    at.start()
    last = at.trade_closes(2)
    assert books(at, last) == books(finished, last)
    assert audit.verify(at.ledger.engine) == []
    with at.client() as desk:
        assert desk.status()["unknown_orders"] == 0


def test_while_the_ledger_is_away_no_risk_is_taken_and_then_the_day_goes_on(
    finished: Installation, install: MakeInstallation, postgres_url: str
) -> None:
    at = install()
    process = at.start()
    with at.client() as desk:
        desk.start_replay()
        at.trade_closes(2)
        name = at.ledger_url.rsplit("/", 1)[1]
        server = create_engine(f"{postgres_url}/postgres", isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
        at.wait_for(lambda: at.client().health()["status"] == "degraded", process)
        with pytest.raises(DeskUnavailable):
            desk.submit_decision(decision(0))  # whatever was noticed first: the cut lock or the silent ledger
        at.wait_for(lambda: "the ledger does not answer" in at.client().status()["no_new_risk"], process)
        with pytest.raises(DeskUnavailable, match="the ledger does not answer"):
            desk.submit_decision(decision(0))
        with pytest.raises(DeskUnavailable, match="the ledger does not answer"):
            desk.halt("halted", "r", "w")
        assert "the ledger does not answer" in desk.status()["no_new_risk"]
        with server.connect() as connection:
            connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        server.dispose()
        at.wait_for(lambda: at.client().health()["status"] == "ok", process)
    last = at.trade_closes(3)
    assert process.poll() is None
    assert books(at, last) == books(finished, last)


def test_a_second_desk_on_the_same_ledger_ends_with_one_line(finished: Installation) -> None:
    environment = {**os.environ, **finished.environment, "TAPELINE_DESK_PORT": str(free_port())}
    second = subprocess.run(
        [sys.executable, "-m", "desk"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    lines = [line for line in second.stderr.splitlines() if not line.startswith("{")]
    assert second.returncode == 3
    assert lines == ["desk: another desk works on this ledger: stop it first (two desks would manage the same orders)"]


def test_a_taken_port_is_one_line(finished: Installation) -> None:
    environment = {**os.environ, **finished.environment}
    second = subprocess.run(
        [sys.executable, "-m", "desk"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert second.returncode == 2
    assert f"port {finished.settings.desk_port} on 127.0.0.1 is taken" in second.stderr
    assert "TAPELINE_DESK_PORT" in second.stderr


def test_sigterm_ends_it_cleanly_behind_the_close_it_is_in(install: MakeInstallation) -> None:
    at = install()
    process = at.start(interpreter=True)
    with at.client() as desk:
        desk.start_replay()
    at.trade(at.wait_for(lambda: at.ledger.closes(pending=True))[0])
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    state, last = at.ledger.get_state("replay"), at.ledger.latest_close()
    assert last is not None
    assert (state["state"], state["last_close"]) == ("running", last["close_time"])
    assert at.ledger.get_state("heartbeat")["pid"] == process.pid


def test_a_person_settles_a_difference_and_it_comes_back_if_it_still_stands(install: MakeInstallation) -> None:
    at = install()
    at.start()
    with at.client() as desk:
        with at.ledger.transaction() as connection:
            mismatches.put(connection, "EURUSD", "EVIDENCE", "told otherwise twice", 0, sticky=True)
        assert desk.reconcile()["EURUSD"]["sticky"], "no comparison settles what only a person can"
        with pytest.raises(DeskRefused, match=r"no mismatch of SPX; those that stand: EURUSD"):
            desk.clear_mismatch("SPX", "typo", "ann")
        assert desk.clear_mismatch("EURUSD", "asked the broker", "ann") == {
            "cleared": "EURUSD", "stands_again": False, "mismatches": {},
        }  # fmt: skip
        with at.ledger.transaction() as connection:
            connection.execute(text("INSERT INTO paper.positions VALUES ('SPX', 3, 2600, 2600, 0)"))
        assert desk.reconcile()["SPX"]["kind"] == "POSITION"
        assert desk.clear_mismatch("SPX", "surely fine", "ann")["stands_again"]
    with at.ledger.engine.connect() as connection:
        said = connection.execute(text("SELECT actor FROM audit WHERE action = 'mismatch_cleared'")).scalars().all()
    assert said == ["ann", "ann"]
