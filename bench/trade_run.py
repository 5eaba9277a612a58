"""What one trade run costs, joint by joint, without an installation: 100 instruments, 100 plans, one close after the other.

    python -m bench trade_run

A database of its own and a lake in a temporary folder; every run is executed by a process forked ahead as the run host does it,
from the job as the code server loads it. The desk is a server that takes every decision at once, so that what is left of
`orders` is the way there. Milliseconds of the clock tell about a quiet machine only; processor time, questions to the two
databases and files opened count the same on a busy one. Medians over the closes, the first two left out.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bench.core import Row

DAY = date(2017, 12, 29)
BEFORE = 60
"""Minutes of the session that are there before the first close."""
UNCOUNTED = 2
_PATIENCE_SECONDS = 2.0


def run(quick: bool) -> Iterator[Row]:
    """Rows of the joints, the costs of a run, and what its process does before the bar closes."""
    from bench.event_log import _server
    from bench.paced import INSTRUMENTS, _environment, _settings

    instruments, closes = (10, 4) if quick else (INSTRUMENTS, 12)
    with _server() as (room, url), _desk() as port:
        own = _settings(room, instruments)
        environment = _environment(own) | {
            "TAPELINE_POSTGRES_URL": url, "TAPELINE_DESK_PORT": str(port), "TAPELINE_DAGSTER_DATABASE": "dagster",
            "TAPELINE_LEDGER_DATABASE": "ledger",
        }  # fmt: skip
        for name in [name for name in os.environ if name.startswith(("TAPELINE_", "DAGSTER_"))]:
            del os.environ[name]
        os.environ.update(environment)
        yield from _measured(room, closes)


def _measured(room: Path, closes: int) -> Iterator[Row]:
    from resources import dagster_home
    from resources.ledger.migrate import ensure_databases
    from resources.settings import settings

    settings.cache_clear()
    own = settings()
    ensure_databases(own)
    os.environ.update(dagster_home.environment(own))
    for folder in (own.path("dagster", "storage"), own.token_file.parent):
        folder.mkdir(parents=True, exist_ok=True)
    own.token_file.write_text("of the bench")
    from resources.run_host import host

    for name in (*host._PRELOAD, "dagster._cli.api", "pipelines.definitions"):
        importlib.import_module(name)
    from dagster import DagsterInstance

    market = _Market(own)
    market.close(0, BEFORE)
    found: list[dict[str, float]] = []
    with DagsterInstance.get() as instance:
        job = _job()
        for k in range(closes):
            spare = _Spare(room, job)
            time.sleep(_PATIENCE_SECONDS)
            close_time = market.close(BEFORE + k, BEFORE + k + 1)
            tags = {
                "dagster/partition": DAY.isoformat(), "tapeline/close_time": str(close_time), "tapeline/lane": "trade",
                "dagster/run_key": str(close_time),
            }  # fmt: skip
            made = instance.create_run_for_job(job.get_definition(), job_code_origin=job.get_python_origin(), tags=tags)
            told = spare.execute(made.run_id)
            recorded = market.ledger.close(close_time)
            run_now = instance.get_run_by_id(made.run_id)
            if recorded is None or run_now is None or not run_now.is_success:
                raise SystemExit(f"trade_run: run {made.run_id} failed: {(room / 'runs.log').read_text()[-2000:]}")
            found.append(_joints(told, recorded))
    market.ledger.engine.dispose()
    units = {"_ms": "ms", "_statements": "statements", "_files": "files"}
    for name in found[0]:
        unit = next((unit for end, unit in units.items() if name.endswith(end)), "")
        yield Row(name, statistics.median(one[name] for one in found[UNCOUNTED:]), unit)


def _joints(told: dict[str, Any], close: dict[str, Any]) -> dict[str, float]:
    def between(start: float, end: float) -> float:
        return (end - start) / 1000

    started, signalled, decided = (close[f"{name}_wall"] for name in ("run_started", "signals", "decisions"))
    return {
        "run_start_ms": between(told["begun"], started),
        "signals_ms": between(started, signalled),
        "decisions_ms": between(signalled, decided),
        "orders_ms": between(decided, told["handed"]),
        "to_orders_ms": between(told["begun"], told["handed"]),
        "book_keeping_ms": between(told["handed"], told["ended"]),
        "cpu_ms": told["cpu"],
        "rehearsal_cpu_ms": told["rehearsal_cpu"],
        "ledger_statements": told["statements"].get("ledger", 0),
        "dagster_statements": told["statements"].get("dagster", 0),
        "opened_files": told["opened"],
    }


def _job() -> Any:
    from dagster._core.definitions.reconstruct import ReconstructableRepository

    from resources.settings import ROOT

    repository = ReconstructableRepository.for_module("pipelines.definitions", "defs", working_directory=str(ROOT))
    return repository.get_reconstructable_job("trade")


class _Market:
    """The lake, its verdicts and the closes, as the desk writes them."""

    def __init__(self, own: Any) -> None:
        from resources.config_cache import current_config
        from resources.feeds import get_feed
        from resources.lake import open_lake
        from resources.ledger.store import Ledger
        from trading.calendars import calendar

        self.config = current_config(own)
        self.instruments = self.config.universe.instruments
        self.bars = {
            symbol: get_feed(i.feed, own).history(i, i.native_timeframe, DAY, DAY) for symbol, i in self.instruments.items()
        }
        self.lake, self.ledger = open_lake(own), Ledger.at(own.ledger_url())
        self.venue = calendar("CRYPTO")
        opened = next(iter(self.bars.values())).close_time[0] - 60_000_000
        self.ledger.open_session(DAY.isoformat(), opened_time=int(opened), start_equity=100_000.0)

    def close(self, first: int, after: int) -> int:
        """Store the bars [first, after) of every instrument and record the close of the last; its time."""
        from desk.hot_store import OWN_CHECKS
        from resources.ledger.store import VerdictRow
        from trading.quality import judge
        from trading.timeframes import Timeframe

        parts = [bars.rows(slice(first, after)) for bars in self.bars.values()]
        until, emitted = int(parts[0].close_time[-1]), time.time_ns() // 1000
        self.lake.append_hot("bars_1m", DAY, parts, source="bench", instruments=self.instruments)
        verdicts = []
        for symbol, bars in self.bars.items():
            held, instrument = bars.rows(slice(0, after)), self.instruments[symbol]
            thresholds = self.config.universe.quality.of(instrument.asset_class, Timeframe.M1)
            judged = judge(held, held.rows(slice(0, 0)), instrument, self.venue, thresholds, known_until=until)
            said = [(r.check, bool(r.passed), str(r.severity)) for r in judged] + [(c, True, "error") for c in OWN_CHECKS]
            verdicts += [
                VerdictRow("bars_1m", DAY.isoformat(), symbol, check, passed, severity, held.content_hash(), judged_time=until)
                for check, passed, severity in said
            ]
        self.ledger.put_verdicts(verdicts)
        stored = time.time_ns() // 1000
        self.ledger.record_close(until, DAY.isoformat(), {"1m": list(self.bars)}, emitted_wall=emitted, stored_wall=stored)
        self.ledger.engine.dispose()  # the next process is forked: it must not share a connection
        return until


class _Spare:
    """A process forked ahead, which tells what its run cost."""

    def __init__(self, room: Path, job: Any) -> None:
        from dagster._serdes import serialize_value

        from resources.run_host.host import RunHost

        RunHost._read_config()
        origin = serialize_value(job.get_python_origin())
        ends, self._write = os.pipe()
        self._told, tell = os.pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                for number in (self._write, self._told):
                    os.close(number)
                log = os.open(room / "runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                code = _child(ends, tell, origin)
            finally:
                os._exit(code)
        os.close(ends)
        os.close(tell)

    def execute(self, run_id: str) -> dict[str, Any]:
        os.write(self._write, f"{run_id}\n".encode())
        os.close(self._write)
        with os.fdopen(self._told, "rb") as told:
            text = told.read()
        os.waitpid(self._pid, 0)
        return dict(json.loads(text or b"{}"))


def _child(ends: int, tell: int, origin: str) -> int:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    from resources.desk_client import DeskClient
    from resources.run_host import spare

    told: dict[str, Any] = {"statements": {}, "opened": 0}
    counting = False

    def asked(connection: Any, *_: Any) -> None:
        if counting:
            name = connection.engine.url.database
            told["statements"][name] = told["statements"].get(name, 0) + 1

    def audited(name: str, _: Any) -> None:
        if counting and name == "open":
            told["opened"] += 1

    event.listen(Engine, "before_cursor_execute", asked)
    sys.addaudithook(audited)
    execute, done = spare.execute_run_of, DeskClient.close_done

    def close_done(*arguments: Any, **named: Any) -> Any:
        answer = done(*arguments, **named)
        told["handed"] = time.time_ns() / 1000
        return answer

    def execute_run_of(*arguments: Any) -> int:
        nonlocal counting
        told["rehearsal_cpu"], cpu = time.process_time() * 1000, time.process_time()
        told["begun"], counting = time.time_ns() / 1000, True
        try:
            return execute(*arguments)
        finally:
            counting = False
            told["ended"], told["cpu"] = time.time_ns() / 1000, (time.process_time() - cpu) * 1000
            with os.fdopen(tell, "wb") as out:
                out.write(json.dumps(told).encode())

    DeskClient.close_done = close_done  # type: ignore[method-assign]
    spare.execute_run_of = execute_run_of  # type: ignore[assignment]
    return spare.await_run(ends, origin, spare.rehearsal_of("pipelines.definitions"))


class _Takes(BaseHTTPRequestHandler):
    """Takes every decision."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_: Any) -> None:
        return

    def do_GET(self) -> None:
        self._answer({"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        taken = {"decision_id": asked.get("id", ""), "accepted": True, "refusal": "", "intents": ["of-the-bench"]}
        self._answer(taken if self.path == "/v1/decisions" else {})

    def _answer(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()


@contextmanager
def _desk() -> Iterator[int]:
    """Port of a desk in a process of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Takes)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            server.serve_forever()
        finally:
            os._exit(0)
    server.socket.close()
    try:
        yield server.server_address[1]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
