"""The run lane over Dagster's own CeleryRunLauncher: for workers on more machines than one.

The daemon puts a run's id into a queue of the broker `TAPELINE_CELERY_BROKER_URL`; a pre-imported worker
(`celery_worker.py`) takes and executes it. The trade lane has a queue and workers of its own, so that a bar close never
waits behind a training. What differs from Dagster's launcher: a message is sent once and expires, because a run that starts
late must not trade on old prices; no result store is needed; a run is stopped and seen to die as in the run host.

Needs the packages of requirements-celery.txt.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import uuid
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery.canvas import Signature
from dagster import DagsterRun, DagsterRunStatus
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._serdes.config_class import ConfigurableClassData
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG, DAGSTER_CELERY_TASK_ID_TAG

from resources.run_host.protocol import CELERY_HOST_TAG, LANE_TAG, TRADE_LANE, WORKER_TAG, queue_name, worker_alive

# Dagster's launcher registers its task anew for each run.
warnings.filterwarnings("ignore", message="Task name 'execute_job' is already registered")

BROKER_SECONDS = 3.0
"""Longest wait for one answer of the broker: the sensor that asks for a run waits with it."""
ASK_SECONDS = 2.0
SILENT_CHECKS = 3
"""Health checks in a row that a worker on another machine may leave unanswered before its run counts as lost."""
TERMINATE_ATTEMPTS = 30
TERMINATE_PAUSE_SECONDS = 0.3


class BrokerAway(Exception):
    """The broker did not take the run: it is not started. The message has no password in it."""


def app_config() -> dict[str, Any]:
    """What launcher and workers agree on."""
    return {
        "task_publish_retry": False,  # a message that may have gone out is not sent again: it could run twice
        "task_ignore_result": True,
        "worker_redirect_stdouts": False,  # what a step prints belongs to its run's own log
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_timeout": BROKER_SECONDS,
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            "max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5,
            "socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS,
        },
    }  # fmt: skip


def address(broker_url: str) -> str:
    """host:port of a broker, without its user and password."""
    parts = urlsplit(broker_url)
    return f"{parts.scheme}://{parts.hostname or '?'}" + (f":{parts.port}" if parts.port else "")


class CeleryLane(CeleryRunLauncher):
    """CeleryRunLauncher whose runs start soon or not at all. start_seconds: how long a message may wait for a worker."""

    def __init__(
        self, broker_url: str, queue_prefix: str, start_seconds: float, inst_data: ConfigurableClassData | None = None
    ) -> None:
        self._prefix = queue_prefix
        self._start_seconds = start_seconds
        self._unanswered: dict[str, int] = {}
        super().__init__(
            default_queue=queue_name(queue_prefix, urgent=False), broker=broker_url, backend=None,
            config_source=app_config(), inst_data=inst_data,
        )  # fmt: skip

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> CeleryLane:
        from resources.settings import settings

        own = settings()
        if own.celery_broker_url is None:
            raise ValueError("no TAPELINE_CELERY_BROKER_URL: there is no broker to hand runs to")
        return cls(own.celery_broker_url.get_secret_value(), own.celery_queue, own.celery_start_seconds, inst_data)

    # -- starting --------------------------------------------------------------------------------------------------------

    def _launch_celery_task_run(self, run: DagsterRun, task_signature: Signature, routing_key: str) -> None:
        """Raises BrokerAway: Dagster then marks the run failed, and its bar close ends without new risk.

        Everything is noted on the run before the message goes: two processes that change a run's tags at once lose some.
        """
        urgent = run.tags.get(LANE_TAG) == TRADE_LANE
        queue = run.tags.get(DAGSTER_CELERY_QUEUE_TAG) or queue_name(self._prefix, urgent=urgent)
        task_id = str(uuid.uuid4())
        self._instance.add_run_tags(run.run_id, {DAGSTER_CELERY_QUEUE_TAG: queue, DAGSTER_CELERY_TASK_ID_TAG: task_id})
        self._instance.report_engine_event(
            f"Handing the run to queue {queue} of the Celery broker.", run, EngineEventData({"Celery Task ID": task_id})
        )
        # Other runs may wait for a free worker as long as they like; a decision may not.
        limit = {"expires": self._start_seconds} if urgent else {}
        try:
            task_signature.apply_async(task_id=task_id, queue=queue, routing_key=f"{queue}.{routing_key}", **limit)
        except Exception as error:  # noqa: BLE001 - whatever the driver raises, the run does not start
            raise BrokerAway(
                f"the Celery broker at {address(self.broker or '')} did not take the run ({type(error).__name__}): it is not "
                "started, and nothing is traded on it. Is the broker up, is TAPELINE_CELERY_BROKER_URL right?"
            ) from None  # the driver's own error may hold the URL

    # -- stopping --------------------------------------------------------------------------------------------------------

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        if WORKER_TAG not in run.tags:  # in the queue, or taken this moment: workers drop what was revoked
            if task_id is not None:
                with contextlib.suppress(Exception):  # the broker is away: the run, once finished, is ignored by its worker
                    self.celery.control.revoke(task_id)
            self._instance.report_run_canceled(run, "Canceled before a Celery worker took it.")
            return True
        self._instance.report_run_canceling(run)
        for _ in range(TERMINATE_ATTEMPTS):
            self._signal(run, task_id)
            time.sleep(TERMINATE_PAUSE_SECONDS)
            fresh = self._instance.get_run_by_id(run_id)
            if fresh is None or fresh.is_finished:
                return True
        return True

    def _signal(self, run: DagsterRun, task_id: str | None) -> None:
        """The interrupt Dagster's executor understands, to the process that executes the run."""
        pid = self._local_pid(run)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        elif task_id is not None and run.tags.get(CELERY_HOST_TAG) != socket.gethostname():
            self.celery.control.revoke(task_id, terminate=True, signal="SIGTERM")

    @staticmethod
    def _local_pid(run: DagsterRun) -> int | None:
        mark = run.tags.get(WORKER_TAG)
        if mark is None or run.tags.get(CELERY_HOST_TAG) != socket.gethostname():
            return None
        return worker_alive(mark)

    # -- seeing it die ---------------------------------------------------------------------------------------------------

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        mark = run.tags.get(WORKER_TAG)
        if mark is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)  # not taken yet: the start time-out covers it
        if run.tags.get(CELERY_HOST_TAG) == socket.gethostname():
            gone = worker_alive(mark) is None
            why = "The run's process is gone."
        else:
            gone, why = self._gone_elsewhere(run)
        if not gone:
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=mark)
        fresh = self._instance.get_run_by_id(run.run_id)
        if fresh is not None and fresh.status in (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED):
            return CheckRunHealthResult(WorkerStatus.SUCCESS, run_worker_id=mark)
        return CheckRunHealthResult(WorkerStatus.FAILED, why, run_worker_id=mark)

    def _gone_elsewhere(self, run: DagsterRun) -> tuple[bool, str]:
        """Ask the workers who has the run. An answer without it is evidence; silence is, after a while."""
        task_id = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG, "")
        try:
            answers = self.celery.control.inspect(timeout=ASK_SECONDS).query_task(task_id) or {}
        except Exception:  # noqa: BLE001 - a broker that is away says nothing about the worker
            return False, ""
        if any(task_id in known for known in answers.values()):
            self._unanswered.pop(run.run_id, None)
            return False, ""
        count = self._unanswered[run.run_id] = self._unanswered.get(run.run_id, 0) + 1
        return count >= SILENT_CHECKS, f"No Celery worker has the run any more (asked {count} times)."

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """What the start time-out of run monitoring adds to its message."""
        queue = run.tags.get(DAGSTER_CELERY_QUEUE_TAG, self.default_queue)
        where = f"queue {queue} at {address(self.broker or '')}"
        if run.tags.get(WORKER_TAG) is None:
            return f"No Celery worker took it from {where}: is one running?"
        return f"{where}, worker process {run.tags[WORKER_TAG]} on {run.tags.get(CELERY_HOST_TAG, '?')}"


def workers_of(app: Celery, queue: str, seconds: float = ASK_SECONDS) -> list[str] | None:
    """Names of the workers that take from `queue`; None when the broker cannot be asked."""
    try:
        answers = app.control.inspect(timeout=seconds).active_queues() or {}
    except Exception:  # noqa: BLE001 - whatever the driver raises, it was not answered
        return None
    return sorted(worker for worker, queues in answers.items() if any(q.get("name") == queue for q in queues))
