"""RunLauncher that hands runs to the run host, and to the stock launcher when no host is there."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dagster import DefaultRunLauncher, StringSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.launcher.base import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.dagster_run import DagsterRun, DagsterRunStatus
from dagster._serdes import serialize_value
from dagster._serdes.config_class import ConfigurableClassData

from resources.run_host.protocol import (
    LANE_TAG,
    TRADE_LANE,
    WORKER_TAG,
    HostUnavailable,
    HostUnclear,
    ask,
    worker_alive,
)  # fmt: skip

ANSWER_TIMEOUT_SECONDS = 10.0
TERMINATE_ATTEMPTS = 30
START_SECONDS = 15.0
TERMINATE_PAUSE_SECONDS = 0.3


class WarmRunLauncher(DefaultRunLauncher):
    """Forks runs from the pre-imported run host; falls back to the code server when the host cannot have taken the run.

    When the host's answer is unclear the run is left to run monitoring: launching it a second time could execute it twice.
    """

    def __init__(self, socket_path: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._socket_path = Path(socket_path)
        super().__init__(inst_data=inst_data)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"socket_path": StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        return cls(socket_path=config_value["socket_path"], inst_data=inst_data)

    @property
    def _socket(self) -> Path:
        if self._socket_path.is_absolute():
            return self._socket_path
        return Path(os.environ.get("DAGSTER_HOME", ".")) / self._socket_path

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        try:
            answer = ask(
                self._socket,
                {
                    "op": "launch",
                    "run_id": run.run_id,
                    "urgent": run.tags.get(LANE_TAG) == TRADE_LANE,
                    "origin": serialize_value(run.job_code_origin) if run.job_code_origin else "",
                },
                ANSWER_TIMEOUT_SECONDS,
            )
        except HostUnavailable as error:
            self._instance.report_engine_event(f"Run host not available ({error}): starting a new process.", run)
            super().launch_run(context)
            return
        except HostUnclear as error:
            self._instance.report_engine_event(
                f"{error}. The run may have started; it is not launched again. Run monitoring fails it if it did not.", run
            )
            return
        self._run_ids.add(run.run_id)
        if answer.get("queued"):
            self._instance.report_engine_event(f"Waiting for a free run slot (position {answer['queued']}).", run)

    def terminate(self, run_id: str) -> bool:
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        mark = run.tags.get(WORKER_TAG)
        if mark is None:
            if self._forget(run_id):
                self._instance.report_run_canceled(run, "Canceled while waiting for a run slot.")
                return True
            return super().terminate(run_id)
        # The run's own "started" would wipe out a cancellation noted before it, and the interrupt would count as a failure.
        deadline = time.monotonic() + START_SECONDS
        while run.status in (DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING) and time.monotonic() < deadline:
            if worker_alive(mark) is None:
                break
            time.sleep(0.1)
            run = self._instance.get_run_by_id(run_id) or run
        if run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        pid = worker_alive(mark)
        if pid is None:
            self._instance.report_run_canceled(run, "The run's process is gone.")
            return True
        # A signal that meets Dagster between two of its interrupt scopes is swallowed: ask again until it is heard.
        for _ in range(TERMINATE_ATTEMPTS):
            with contextlib.suppress(ProcessLookupError):  # it ended by itself just now
                os.kill(pid, signal.SIGTERM)
            time.sleep(TERMINATE_PAUSE_SECONDS)
            if worker_alive(mark) is None:
                break
        return True

    def _forget(self, run_id: str) -> bool:
        try:
            return bool(ask(self._socket, {"op": "forget", "run_id": run_id}, ANSWER_TIMEOUT_SECONDS).get("forgotten"))
        except (HostUnavailable, HostUnclear):
            return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        mark = run.tags.get(WORKER_TAG)
        if mark is None:
            # Stock process, queued, or not yet marked: no evidence of a crash. The start time-out covers the rest.
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        if worker_alive(mark) is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, run_worker_id=mark)
        fresh = self._instance.get_run_by_id(run.run_id)
        if fresh is not None and fresh.is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS, run_worker_id=mark)
        return CheckRunHealthResult(WorkerStatus.FAILED, "The run's process is gone.", run_worker_id=mark)

    def join(self, timeout: float = 30) -> None:
        """Wait for the runs launched here; for tests."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            runs = [self._instance.get_run_by_id(run_id) for run_id in self._run_ids]
            if all(run is None or run.is_finished for run in runs):
                return
            time.sleep(0.05)
        raise TimeoutError("runs still active")
