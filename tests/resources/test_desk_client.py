"""The desk's client: says clearly whether the desk refused or was not there, and repeats what may be repeated."""

from __future__ import annotations

import json

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from resources.desk_client import DecisionReceipt, DeskClient, DeskRefused, DeskUnavailable
from resources.ports import free_port
from tests.desk.kit import decision, hour

TOKEN = "t0ken"


@pytest.fixture
def client(httpserver: HTTPServer) -> DeskClient:
    return DeskClient(httpserver.url_for(""), TOKEN, attempts=3, pause_seconds=0.001)


def test_a_decision_goes_out_whole_with_the_token_and_comes_back_as_a_receipt(client: DeskClient, httpserver: HTTPServer) -> None:
    made = decision(0)
    answer = {"decision_id": made.id, "accepted": True, "refusal": "", "intents": ["int-1", "int-2"]}
    httpserver.expect_request(
        "/v1/decisions", "POST", headers={"Authorization": f"Bearer {TOKEN}"}, json={**made.to_dict(), "close_time": hour(0)}
    ).respond_with_json(answer)
    assert client.submit_decision(made) == DecisionReceipt(made.id, True, "", ("int-1", "int-2"))


def test_the_bar_close_of_the_run_is_sent_when_given(client: DeskClient, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/decisions", json={**decision(0).to_dict(), "close_time": hour(2)}).respond_with_json(
        {"decision_id": "d", "accepted": False, "refusal": "EXPIRED: now=1", "intents": []}
    )
    assert client.submit_decision(decision(0), hour(2)).refusal == "EXPIRED: now=1"


@pytest.mark.parametrize("status", [401, 404, 409, 413, 422])
def test_what_the_desk_refuses_is_not_asked_twice(client: DeskClient, httpserver: HTTPServer, status: int) -> None:
    httpserver.expect_ordered_request("/v1/closes/5/done").respond_with_json({"error": "no such thing"}, status=status)
    with pytest.raises(DeskRefused, match="no such thing") as refused:
        client.close_done(5, "run")
    assert refused.value.status == status
    assert len(httpserver.log) == 1


def test_a_desk_that_takes_nothing_now_is_asked_again(client: DeskClient, httpserver: HTTPServer) -> None:
    httpserver.expect_ordered_request("/v1/replay/start").respond_with_json({"error": "starting"}, status=503)
    httpserver.expect_ordered_request("/v1/replay/start").respond_with_json({"state": "running"})
    assert client.start_replay(2) == {"state": "running"}


def test_a_desk_that_stays_unavailable_says_why(client: DeskClient, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/status").respond_with_json({"error": "the ledger does not answer"}, status=503)
    with pytest.raises(DeskUnavailable, match="the ledger does not answer"):
        client.status()
    assert len(httpserver.log) == 3


def test_no_desk_is_unavailable_and_the_token_is_in_no_message() -> None:
    with DeskClient(f"http://127.0.0.1:{free_port()}", TOKEN, attempts=2, pause_seconds=0.001) as client:
        with pytest.raises(DeskUnavailable, match="is it running") as error:
            client.positions()
        assert TOKEN not in str(error.value)
        assert TOKEN not in repr(client)


def test_a_fault_of_the_desk_is_not_taken_for_a_refusal(client: DeskClient, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/halt").respond_with_json({"error": "failed on this request"}, status=500)
    with pytest.raises(DeskUnavailable, match="failed on this request"):
        client.halt("halted", "test", "me")


def test_another_server_on_the_port_is_noticed(client: DeskClient, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/status").respond_with_json(["not", "a", "desk"])
    with pytest.raises(DeskRefused, match="another server"):
        client.status()
    httpserver.expect_request("/v1/replay").respond_with_data("<html>", status=404)
    with pytest.raises(DeskRefused, match="without a reason"):
        client.replay()


def test_commands_carry_reason_and_who(client: DeskClient, httpserver: HTTPServer) -> None:
    seen: list[dict[str, object]] = []

    def note(request: Request) -> Response:
        seen.append(json.loads(request.data))
        return Response(json.dumps({"done": True, "exits": []}), content_type="application/json")

    for path in ("/v1/halt", "/v1/resume", "/v1/flatten", "/v1/orders/int-1/cancel"):
        httpserver.expect_request(path, "POST").respond_with_handler(note)
    client.halt("reduce_only", "news", "ann", scope="trend")
    client.resume("over", "ann")
    client.flatten("leaving", "ann", symbol="EURUSD")
    client.cancel("int-1", "typo", "ann")
    assert seen == [
        {"level": "reduce_only", "scope": "trend", "reason": "news", "who": "ann"},
        {"scope": "desk", "reason": "over", "who": "ann"},
        {"reason": "leaving", "who": "ann", "strategy": None, "symbol": "EURUSD"},
        {"reason": "typo", "who": "ann", "force": False},
    ]


def test_lists_come_without_their_wrapping(client: DeskClient, httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/orders", query_string={"session": "2017-12-29"}).respond_with_json({"orders": [{"id": "a"}]})
    httpserver.expect_request("/v1/closes", query_string={"after": "7", "wait_seconds": "0.0"}).respond_with_json({"closes": []})
    assert client.orders(session="2017-12-29") == [{"id": "a"}]
    assert client.closes(after=7) == []
