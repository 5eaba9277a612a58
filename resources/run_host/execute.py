"""What a child of the run host does: execute one Dagster run, or say of one that its process died."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from resources.run_host.protocol import WORKER_TAG, worker_mark

if TYPE_CHECKING:
    from dagster import DagsterInstance


def execute_run(run_id: str) -> int:
    """Execute run `run_id` in this process, as `dagster api execute_run` does. Returns the process's exit code."""
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        return execute_run_of(instance, run_id)


def execute_run_of(instance: DagsterInstance, run_id: str, tags: Mapping[str, str] | None = None) -> int:
    """The same with an instance that is open already. tags: set on the run together with the mark of its process."""
    from dagster._cli.api import _execute_run_command_body
    from dagster._utils.interrupts import capture_interrupts

    with capture_interrupts():
        # Marked before anything else: from here on the launcher can see, and stop, the process.
        instance.add_run_tags(run_id, {**(tags or {}), WORKER_TAG: worker_mark(os.getpid())})
        return _execute_run_command_body(run_id, instance, lambda _event: None, False)


def report_crash(run_id: str, code: int) -> int:
    """Mark a run failed, or cancelled where that was asked for, whose process ended with `code` and left it unfinished."""
    from dagster import DagsterInstance, DagsterRunStatus

    with DagsterInstance.get() as instance:
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            if run.status is DagsterRunStatus.CANCELING:
                # The interrupt met it before its own handling stood: it ended as it was asked to.
                instance.report_run_canceled(run, f"The run's process was {how}.")
            else:
                instance.report_run_failed(run, f"The run's process was {how}.")
    return 0
