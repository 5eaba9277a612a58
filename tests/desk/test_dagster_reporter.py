"""Dagster hears everything in order, however long it was away, and one bad event never blocks the rest."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import select
from werkzeug import Request, Response

from desk.dagster_reporter import DagsterReporter, enqueue
from resources.ledger.store import Ledger
from resources.ledger.tables import dagster_outbox
from resources.ports import free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def tell(ledger: Ledger, *keys: str) -> None:
    with ledger.transaction() as connection:
        for key in keys:
            enqueue(ledger, connection, key, "2017-12-29", {"rows": 3, "symbols": ["EURUSD"]}, f"about {key}")


class Webserver:
    """Takes events; answer(asset key): status code and body."""

    def __init__(self, server: HTTPServer, answer: Callable[[str], tuple[int, Any]] = lambda key: (200, {})) -> None:
        self.got: list[tuple[str, Any]] = []
        self._answer = answer
        server.expect_request(re.compile("^/report_asset_materialization/.+"), "POST").respond_with_handler(self._take)

    def _take(self, request: Request) -> Response:
        key = request.path.removeprefix("/report_asset_materialization/")
        status, body = self._answer(key)
        if status == 200:
            self.got.append((key, json.loads(request.data)))
        return Response(json.dumps(body), status, content_type="application/json")


async def run_until(reporter: DagsterReporter, done: Callable[[], bool]) -> None:
    stop = asyncio.Event()
    task = asyncio.create_task(reporter.run(stop))
    for _ in range(3000):
        if done():
            break
        await asyncio.sleep(0.01)
    stop.set()
    await task
    assert done()


def quick(ledger: Ledger, url: str) -> DagsterReporter:
    return DagsterReporter(ledger, url, idle_seconds=0.01, first_pause_seconds=0.01)


async def test_events_arrive_once_each_in_order_with_partition_and_metadata(ledger: Ledger, httpserver: HTTPServer) -> None:
    keys = [f"bars_{n}" for n in range(120)]
    tell(ledger, *keys)
    webserver = Webserver(httpserver)
    await run_until(quick(ledger, httpserver.url_for("")), lambda: not ledger.unsent())
    assert [key for key, _ in webserver.got] == keys
    assert webserver.got[0][1] == {
        "metadata": {"rows": 3, "symbols": ["EURUSD"]}, "description": "about bars_0", "partition": "2017-12-29",
    }  # fmt: skip


async def test_a_dead_webserver_loses_nothing(ledger: Ledger) -> None:
    tell(ledger, "fills", "positions")
    port = free_port()
    reporter = quick(ledger, f"http://127.0.0.1:{port}")
    await run_until(reporter, lambda: bool(reporter.trouble))
    assert len(ledger.unsent()) == 2
    with HTTPServer(port=port) as server:
        webserver = Webserver(server)
        await run_until(reporter, lambda: not ledger.unsent())
    assert [key for key, _ in webserver.got] == ["fills", "positions"]
    assert reporter.trouble == ""


async def test_a_webserver_that_fails_is_asked_again(ledger: Ledger, httpserver: HTTPServer) -> None:
    tell(ledger, "fills")
    answers = iter([(500, {"error": "starting"}), (401, {"error": "read only"}), (503, {}), (200, {})])
    webserver = Webserver(httpserver, lambda key: next(answers))
    await run_until(quick(ledger, httpserver.url_for("")), lambda: not ledger.unsent())
    assert len(webserver.got) == 1


async def test_an_event_that_dagster_will_never_take_is_put_aside_with_its_reason(ledger: Ledger, httpserver: HTTPServer) -> None:
    tell(ledger, "first", "bad", "last")
    webserver = Webserver(httpserver, lambda key: (400, {"error": "bad metadata"}) if key == "bad" else (200, {}))
    await run_until(quick(ledger, httpserver.url_for("")), lambda: not ledger.unsent())
    assert [key for key, _ in webserver.got] == ["first", "last"]
    with ledger.engine.connect() as connection:
        content = connection.execute(select(dagster_outbox.c.content).where(dagster_outbox.c.asset_key == "bad")).scalar_one()
    assert "bad metadata" in content["refused"]


async def test_numbers_json_cannot_hold_are_refused_where_they_are_written(ledger: Ledger) -> None:
    with ledger.transaction() as connection, pytest.raises(ValueError, match="JSON"):
        enqueue(ledger, connection, "fills", None, {"price": float("nan")})
