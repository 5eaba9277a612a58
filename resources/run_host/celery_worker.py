"""A Celery worker for Dagster runs, with the code location imported before it forks.

    python -m resources.run_host.celery_worker trade|runs [--module pipelines.definitions]

The parent imports everything once and opens no database; its pool processes execute one run after the other and are replaced
after `RUNS_A_PROCESS`. A run gets the same marks, logs and cancellation as in the run host. When the project's sources
change, the worker finishes what runs, gives back what it has just taken, and ends: the supervisor starts it afresh.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from dagster_celery.config import TASK_EXECUTE_JOB_NAME
from dagster_celery.make_app import make_app

from resources.revision import source_hash, source_state
from resources.run_host.celery_lane import app_config
from resources.run_host.execute import execute_run_of
from resources.run_host.host import _PRELOAD as PRELOAD
from resources.run_host.protocol import CELERY_HOST_TAG, queue_name
from resources.settings import settings

if TYPE_CHECKING:
    from dagster import DagsterInstance

RUNS_A_PROCESS = 50
TRADE_PROCESSES = 2
"""One executes, one is ready: a run of the trade lane never waits for a fork."""
LOOK_SECONDS = 2.0
_started_with: tuple[int, int] = (0, 0)


@lru_cache(maxsize=2)
def _instance(pid: int) -> DagsterInstance:
    """One instance per pool process, its connections kept from run to run."""
    from dagster import DagsterInstance

    return DagsterInstance.get()


def make_worker_app(broker_url: str) -> Celery:
    """The app with Dagster's own task name, so that its stock launcher is understood as well."""
    app = make_app({"broker": broker_url, "backend": None, "config_source": app_config()})

    @app.task(bind=True, name=TASK_EXECUTE_JOB_NAME)
    def execute_job(self: Any, execute_job_args_packed: Any) -> int:
        if source_state() != _started_with:
            _give_back(self, execute_job_args_packed)
            return 0
        run_id = _run_id(execute_job_args_packed)
        return execute_run_of(_instance(os.getpid()), run_id, {CELERY_HOST_TAG: socket.gethostname()})

    return app


def _give_back(task: Any, packed: Any) -> None:
    """The code changed since the start: nothing was done with this run, another worker (or this one, afresh) takes it."""
    time.sleep(LOOK_SECONDS / 4)  # this worker's parent takes it again until it has noticed by itself
    request = task.request
    task.apply_async(
        kwargs={"execute_job_args_packed": packed}, task_id=request.id, queue=request.delivery_info["routing_key"],
        expires=request.expires,
    )  # fmt: skip


def _end_when_code_changes() -> None:
    """In the parent: a warm shutdown, which waits for the runs under way."""
    while source_state() == _started_with:
        time.sleep(LOOK_SECONDS)
    print("celery worker: the code changed, starting afresh", flush=True)  # noqa: T201 - its log line
    os.kill(os.getpid(), signal.SIGTERM)


@signals.task_failure.connect(weak=False)
def _tell_a_death(exception: BaseException | None = None, kwargs: dict[str, Any] | None = None, **_: Any) -> None:
    """A pool process that died (SIGKILL, segfault, memory) left its run unfinished: said at once by a process of its own."""
    from billiard.exceptions import Terminated, WorkerLostError

    if not isinstance(exception, (WorkerLostError, Terminated)):
        return
    packed = (kwargs or {}).get("execute_job_args_packed")
    if packed:
        subprocess.Popen([sys.executable, "-m", "resources.run_host.report_death", _run_id(packed)])


def _run_id(packed: Any) -> str:
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import unpack_value

    return str(unpack_value(packed, as_type=ExecuteRunArgs).run_id)


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute Dagster runs from a Celery queue, pre-imported.")
    parser.add_argument("lane", choices=["trade", "runs"])
    parser.add_argument("--module", default="pipelines.definitions")
    arguments = parser.parse_args()
    own = settings()
    if own.celery_broker_url is None:
        print("celery worker: TAPELINE_CELERY_BROKER_URL is not set", file=sys.stderr)  # noqa: T201
        raise SystemExit(2)
    for name in (*PRELOAD, "dagster._cli.api", arguments.module):
        importlib.import_module(name)
    from resources.lake import ticks

    ticks.warm_up()
    source_hash()
    global _started_with
    _started_with = source_state()
    gc.collect()
    gc.freeze()
    urgent = arguments.lane == "trade"
    threading.Thread(target=_end_when_code_changes, name="sources", daemon=True).start()
    app = make_worker_app(own.celery_broker_url.get_secret_value())
    queue = queue_name(own.celery_queue, urgent=urgent)
    app.worker_main(
        [
            "worker", "--queues", queue, "--hostname", f"{arguments.lane}-{os.getpid()}@%h", "--pool", "prefork",
            "--concurrency", str(TRADE_PROCESSES if urgent else own.run_slots), "--max-tasks-per-child", str(RUNS_A_PROCESS),
            "--without-gossip", "--without-mingle", "--loglevel", "INFO",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
