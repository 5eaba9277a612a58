# ruff: noqa: F811, F401 - fixtures are imported by name
"""What an operator does over the control API of a running desk, and that the audit tells every bit of it with who."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from desk.api_guard import RateLimit
from resources.desk_client import DeskClient, DeskRefused
from resources.ledger import audit
from tests.desk import api_contract
from tests.desk.running import Installation, MakeInstallation, history, install

STREAM_SECONDS = 10.0


@pytest.fixture(scope="module")
def traded(install: MakeInstallation) -> Installation:
    """A desk that has traded the live day, and still runs."""
    installation = install(overrides={"TAPELINE_REPLAY_SESSIONS": "1", "TAPELINE_DESK_REQUESTS_PER_SECOND": "100000"})
    installation.start()
    with installation.client() as desk:
        desk.start_replay()
    installation.trade_until_finished()
    return installation


@pytest.fixture
def desk(traded: Installation) -> Iterator[DeskClient]:
    with traded.client() as client:
        yield client


def token_of(installation: Installation) -> str:
    return installation.settings.token_file.read_text().strip()


def stream(installation: Installation, query: str = "", **more: Any) -> ClientConnection:
    url = installation.settings.desk_url.replace("http://", "ws://") + "/v1/stream" + query
    headers = more.pop("additional_headers", {"Authorization": f"Bearer {token_of(installation)}"})
    # Without a bound it reads what it is not asked for, too: else closing would wait ten seconds for a place in its queue.
    return connect(url, additional_headers=headers, proxy=None, max_queue=None, **more)


def events(socket: ClientConnection, until: int) -> list[dict[str, Any]]:
    """Events up to number `until`."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["seq"] < until:
        message = json.loads(socket.recv(timeout=STREAM_SECONDS))
        if message["type"] == "event":
            found.append(message)
        elif message["type"] == "alive" and message["seq"] >= until:
            break
    return found


def read_to_the_end(socket: ClientConnection) -> None:
    while True:
        socket.recv(timeout=STREAM_SECONDS)


def head(desk: DeskClient) -> int:
    return int(desk.audit(newest_first=True, limit=1)[0]["seq"])


class TestReading:
    def test_signals_say_what_became_of_them(self, desk: DeskClient) -> None:
        rows = desk.signals(strategy="often", limit=5)
        assert 0 < len(rows) <= 5
        assert {r["strategy"] for r in rows} == {"often"}
        assert rows == sorted(rows, key=lambda r: (-r["close_time"], r["id"]))
        assert {r["outcome"] for r in desk.signals()} & {"ordered"}

    def test_a_decision_has_its_signal_and_every_verdict(self, desk: DeskClient) -> None:
        approved = desk.decisions(approved=True, limit=1)[0]
        whole = desk._call("GET", f"/v1/decisions/{approved['id']}")
        assert whole["signal"]["id"] == approved["signal_id"]
        assert whole["verdicts"]
        assert whole["intents"][0]["risk"]
        with pytest.raises(DeskRefused, match="no decision nobody"):
            desk._call("GET", "/v1/decisions/nobody")

    def test_an_order_has_its_events_and_fills(self, desk: DeskClient) -> None:
        filled = next(o for o in desk.orders(state="filled") if o["leg"] == "entry")
        whole = desk.order(filled["id"])
        assert whole["events"][0]["event"] == "send"
        assert sum(f["quantity"] for f in whole["fills"]) == filled["quantity"]
        assert whole["order"]["paper"] is True
        assert desk.order(filled["broker_order_id"])["order"]["id"] == filled["id"]

    def test_performance_agrees_with_the_ledger(self, traded: Installation, desk: DeskClient) -> None:
        told = desk.performance()
        own = next(p for p in traded.ledger.positions() if p["strategy"] == "often")
        assert told["strategies"]["often"]["realized"] == pytest.approx(own["realized_pnl"])
        assert told["equity"][-1]["equity"] == traded.ledger.latest_account()["equity"]  # type: ignore[index]

    def test_limits_name_the_halts_and_the_day(self, desk: DeskClient) -> None:
        told = desk.limits()
        assert told["limits"]["daily_loss"]
        assert told["auto_trade"]["state"] == "running"
        assert told["day_pnl"] == pytest.approx(told["account"]["equity"] - told["start_equity"])

    def test_strategies_say_whether_they_enter(self, desk: DeskClient) -> None:
        (row,) = [s for s in desk.strategies() if s["name"] == "often"]
        assert (row["status"], row["mode"], row["halt"], row["enters"]) == ("active", "paper", "", True)
        assert row["file"] == "strategies/often.yaml"


class TestCommands:
    def test_auto_trade_stopped_takes_no_decision_and_lifts_no_halt(self, traded: Installation, desk: DeskClient) -> None:
        desk.halt("reduce_only", "test", "ana")
        assert desk.set_auto_trade("pause", "lunch", "ana")["state"] == "paused"
        approved = desk.decisions(approved=True, limit=1)[0]
        whole = traded.ledger.decision(approved["id"])
        assert whole is not None
        known = desk.submit_decision(whole)
        assert known.intent_ids, "what was routed before keeps its answer"
        assert desk.set_auto_trade("stop", "over", "ana")["state"] == "stopped"
        assert desk.auto_trade()["who"] == "ana"
        answer = desk.set_auto_trade("start", "on", "ana")
        assert answer["state"] == "running"
        assert answer["halt"]["global"] == "REDUCE_ONLY", "starting auto-trade lifts no halt"
        assert desk.resume("test", "ana")["resumed"]

    def test_a_strategy_is_deactivated_activated_and_stopped_in_an_emergency(self, desk: DeskClient) -> None:
        assert desk.command("strategies", "often", "deactivate", "odd", "ana")["halt"]["strategies"]["often"]["level"] == "HALTED"
        assert desk.strategies()[0]["enters"] is False
        stopped = desk.command("strategies", "often", "emergency-stop", "odder", "ana")
        assert stopped["halt"]["strategies"]["often"]["level"] == "FLATTEN"
        for symbol in stopped["open_positions"]:  # it closes at the next bar: its exit is on its way
            assert any(o["leg"].startswith("exit:") and o["symbol"] == symbol for o in desk.orders())
        assert desk.command("strategies", "often", "activate", "fine", "ana")["was_halted"] is True
        assert desk.strategies()[0]["enters"] is True
        with pytest.raises(DeskRefused, match="no strategy 'oftn'") as error:
            desk.command("strategies", "oftn", "deactivate", "r", "ana")
        assert error.value.status == 404

    def test_what_is_not_there_is_not_closed_cancelled_or_changed(self, desk: DeskClient) -> None:
        for ask in (
            lambda: desk.close_position("often", "SPX", "r", "ana"),
            lambda: desk.cancel("int-none", "r", "ana"),
            lambda: desk.modify("int-none", "r", "ana", quantity=1.0),
            lambda: desk.command("plans", "none", "cancel", "r", "ana"),
        ):
            with pytest.raises(DeskRefused) as error:
                ask()
            assert error.value.status == 404

    @pytest.mark.parametrize(
        ("scope", "said"),
        [
            ("oftne", "did you mean 'often'"),
            ("SPX", "the instrument is instrument:SPX"),
            ("instrument:SPY", "did you mean 'SPX'"),
        ],
    )
    def test_a_halt_of_a_name_nobody_knows_is_refused_and_halts_nothing(self, desk: DeskClient, scope: str, said: str) -> None:
        with pytest.raises(DeskRefused, match="nothing was halted") as error:
            desk.halt("halted", "typo", "ana", scope)
        assert (error.value.status, said in error.value.message) == (404, True)
        assert scope not in desk.limits()["halt"].get("strategies", {})

    def test_a_flatten_of_a_name_nobody_knows_is_refused(self, desk: DeskClient) -> None:
        for strategy, symbol in (("oftne", None), (None, "SPY"), ("often", "SPY")):
            with pytest.raises(DeskRefused, match="nothing was closed") as error:
                desk.flatten("typo", "ana", strategy, symbol)
            assert error.value.status == 404

    @pytest.mark.parametrize("scope", ["often", "external", "instrument:SPX"])
    def test_a_halt_of_a_strategy_of_what_a_person_placed_or_of_an_instrument_is_latched_and_lifted(
        self, desk: DeskClient, scope: str
    ) -> None:
        desk.halt("reduce_only", "look", "ana", scope)
        assert desk.limits()["halt"]["strategies"][scope]["level"] == "REDUCE_ONLY"
        assert desk.resume("looked", "ana", scope)["resumed"]

    def test_a_filled_order_is_not_changed(self, desk: DeskClient) -> None:
        filled = next(o for o in desk.orders(state="filled"))
        done = desk.modify(filled["id"], "r", "ana", quantity=1.0)
        assert (done["accepted"], done["refusal"].partition(":")[0]) == (False, "STATE_UNKNOWN")

    def test_every_command_is_in_the_audit_with_who_even_a_refused_one(self, traded: Installation, desk: DeskClient) -> None:
        before = head(desk)
        desk.halt("reduce_only", "look", "ana")
        desk.resume("looked", "bob")
        with pytest.raises(DeskRefused):
            desk.cancel("int-none", "r", "eve")
        desk.set_auto_trade("pause", "p", "ana")
        desk.set_auto_trade("start", "s", "ana")
        calls = [(r["actor"], r["content"]["call"]) for r in desk.audit(after=before, action="api_call")]
        assert calls == [
            ("api:ana", "halt"), ("api:bob", "resume"), ("api:eve", "order_cancel"), ("api:ana", "auto_trade_pause"),
            ("api:ana", "auto_trade_start"),
        ]  # fmt: skip
        acts = {(r["actor"], r["action"]) for r in desk.audit(after=before)}
        assert acts >= {("ana", "halt"), ("bob", "resume"), ("ana", "auto_trade")}
        assert audit.verify(traded.ledger.engine) == []


class TestTheGuard:
    @pytest.mark.parametrize("text", ["a\x00b", "a\nb", "", "x" * 200])
    def test_text_that_no_ledger_takes_is_malformed(self, traded: Installation, text: str) -> None:
        answer = httpx.post(
            f"{traded.settings.desk_url}/v1/halt", json={"level": "halted", "scope": text, "reason": "r", "who": "w"},
            headers={"Authorization": f"Bearer {token_of(traded)}"}, trust_env=False,
        )  # fmt: skip
        assert answer.status_code == 422

    def test_a_body_without_end_or_beyond_the_limit_is_not_read(self, traded: Installation) -> None:
        headers = {"Authorization": f"Bearer {token_of(traded)}"}
        url = f"{traded.settings.desk_url}/v1/halt"
        assert httpx.post(url, content=b"x" * 1_000_001, headers=headers, trust_env=False).status_code == 413
        assert httpx.post(url, content=iter([b"x"] * 3), headers=headers, trust_env=False).status_code == 413

    def test_a_bucket_empties_and_fills_again(self) -> None:
        now = [0.0]
        limit = RateLimit(10.0, 3.0, lambda: now[0])
        assert [limit.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
        assert limit.take("a") == pytest.approx(0.1)
        assert limit.take("b") == 0.0
        now[0] = 0.1
        assert limit.take("a") == 0.0


@pytest.mark.skipif(shutil.which("schemathesis", path=str(Path(sys.executable).parent)) is None, reason="schemathesis missing")
def test_the_description_is_kept(traded: Installation, tmp_path: Path) -> None:
    """What it says of itself holds for whatever is sent. `make api-contract N=200` looks longer."""
    examples = int(os.environ.get("TAPELINE_TEST_API_EXAMPLES", "1"))
    phases = ("examples", "coverage", "fuzzing") if examples > 1 else ("examples", "fuzzing")
    code, said = api_contract.run(traded, tmp_path, examples, *phases)
    print(said)
    assert code == 0, said[-4000:]
    with traded.client() as desk:
        for scope in ("desk", "often"):
            desk.resume("after the contract", "test", scope)
        desk.set_auto_trade("start", "after the contract", "test")
    assert audit.verify(traded.ledger.engine) == []


class TestTheStream:
    def test_tells_everything_by_number_and_goes_on_where_one_was(self, traded: Installation, desk: DeskClient) -> None:
        end = head(desk)
        with stream(traded, "?after=0") as socket:
            hello = json.loads(socket.recv(timeout=STREAM_SECONDS))
            assert (hello["type"], hello["head"], hello["mode"]) == ("hello", end, "PAPER")
            whole = events(socket, end)
        assert [e["seq"] for e in whole] == list(range(1, end + 1))
        assert {e["kind"] for e in whole} == {"signal", "rule", "order", "position", "desk"}
        middle = end // 2
        with stream(traded, f"?after={middle}") as socket:
            assert events(socket, end) == whole[middle:]

    def test_tells_only_the_kinds_asked_for(self, traded: Installation, desk: DeskClient) -> None:
        with stream(traded, "?after=0&kinds=position,signal") as socket:
            json.loads(socket.recv(timeout=STREAM_SECONDS))
            first = [json.loads(socket.recv(timeout=STREAM_SECONDS))["kind"] for _ in range(6)]
        assert set(first) <= {"position", "signal"}

    def test_tells_what_happens_now(self, traded: Installation, desk: DeskClient) -> None:
        with stream(traded) as socket:
            json.loads(socket.recv(timeout=STREAM_SECONDS))
            desk.set_auto_trade("start", "again", "ana")
            call, act = (json.loads(socket.recv(timeout=STREAM_SECONDS)) for _ in range(2))
        assert (call["action"], act["action"], act["who"], act["kind"]) == ("api_call", "auto_trade", "ana", "desk")

    def test_a_browser_gives_its_token_as_a_subprotocol(self, traded: Installation) -> None:
        with stream(traded, additional_headers={}, subprotocols=["tapeline.v1", f"bearer.{token_of(traded)}"]) as socket:
            assert socket.subprotocol == "tapeline.v1"

    @pytest.mark.parametrize(
        ("query", "token", "status"),
        [("", "wrong", 401), ("", "", 401), ("?after=x", None, 422), ("?kinds=order,odd", None, 422), ("?after=-1", None, 422)],
    )
    def test_others_are_turned_away(self, traded: Installation, query: str, token: str | None, status: int) -> None:
        headers = {"Authorization": f"Bearer {token_of(traded) if token is None else token}"}
        with pytest.raises(InvalidStatus) as error, stream(traded, query, additional_headers=headers):
            pass
        assert error.value.response.status_code == status

    def test_a_number_of_another_ledger_is_refused(self, traded: Installation) -> None:
        with stream(traded, "?after=99999999") as socket:
            assert "beyond the newest event" in json.loads(socket.recv(timeout=STREAM_SECONDS))["error"]

    def test_nothing_is_missed_over_a_restart_of_the_desk(self, traded: Installation) -> None:
        """The last test of the module: it stops the desk, writes while it is down, and starts it again."""
        with traded.client() as desk:
            end = head(desk)
        with stream(traded, f"?after={end}") as socket:
            json.loads(socket.recv(timeout=STREAM_SECONDS))
            traded.stop()
            with pytest.raises(ConnectionClosed) as closed:
                read_to_the_end(socket)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1012
        with traded.ledger.transaction() as c:
            audit.append(c, "tapeline:ana", "written_while_the_desk_was_down", {})
        traded.start()
        with stream(traded, f"?after={end}") as socket:
            hello = json.loads(socket.recv(timeout=STREAM_SECONDS))
            told = events(socket, hello["head"])
        assert "written_while_the_desk_was_down" in [e["action"] for e in told]
        assert [e["seq"] for e in told] == list(range(end + 1, hello["head"] + 1))
