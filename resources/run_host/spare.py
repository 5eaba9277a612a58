"""The process forked ahead: it opens what a run needs, waits for one run id on a pipe, executes it and is gone.

Forking, opening Dagster's instance, connecting to two databases and loading the job take about half a second of a run of
the trade lane. Here that time passes before the bar closes. What the code location offers as `REHEARSE` is done then, too: a
function that gives an iterator, whose steps are small and write nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resources.run_host.execute import execute_run_of

if TYPE_CHECKING:
    from dagster import DagsterInstance


@dataclass(frozen=True, slots=True)
class Spare:
    """The host's side: the process and the host's end of the pipe it reads."""

    pid: int
    write_end: int

    def take(self, run_id: str) -> bool:
        """Give it its run. False when it is gone and cannot have read it."""
        try:
            os.write(self.write_end, f"{run_id}\n".encode())
        except OSError:
            return False
        finally:
            os.close(self.write_end)
        return True

    def dismiss(self) -> None:
        """Nothing will come: it ends by itself when it reads the end of the pipe, at once when it still prepares itself."""
        os.close(self.write_end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)


Rehearsal = Callable[[], Iterator[object]]


def rehearsal_of(module: str) -> Rehearsal | None:
    """What the code location `module`, imported before, wants done while its process waits; None when it wants nothing."""
    return getattr(sys.modules.get(module), "REHEARSE", None)


def await_run(read_end: int, origin: str, rehearse: Rehearsal | None = None) -> int:
    """Prepare, rehearse, read one run id from `read_end`, execute it. Returns the exit code; 0 when the pipe ends without one.

    origin: serialised JobPythonOrigin of the runs to come, empty when none is known yet.
    """
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        _prepare(instance, origin)
        if rehearse is not None:
            _rehearse(rehearse, read_end)
        with os.fdopen(read_end) as pipe:
            run_id = pipe.readline().strip()
        return execute_run_of(instance, run_id) if run_id else 0


def _rehearse(rehearse: Rehearsal, read_end: int) -> None:
    """Take its steps until the run is there. Whatever is wrong in it the run will meet, and say where people look."""
    try:
        for _ in rehearse():
            if select.select([read_end], [], [], 0)[0]:
                return
    except Exception as error:  # noqa: BLE001 - a rehearsal that fails must not cost the run
        print(f"run host: rehearsal ended early: {type(error).__name__}", file=sys.stderr, flush=True)  # noqa: T201


def _prepare(instance: DagsterInstance, origin: str) -> None:
    """Open connections, look columns up, load the job: all that does not depend on the run."""
    from dagster._core.origin import JobPythonOrigin
    from dagster._serdes import deserialize_value
    from dagster._utils.hosted_user_process import recon_job_from_origin

    from resources.dagster_resources import LedgerResource

    instance.get_run_records(limit=1)
    instance.get_run_by_id("none")
    instance.get_asset_records([])
    instance.event_log_storage.get_latest_materialization_events([])
    with contextlib.suppress(FileNotFoundError):  # an installation without a ledger yet
        LedgerResource().ledger().latest_close()
    if origin:
        job = recon_job_from_origin(deserialize_value(origin, JobPythonOrigin))
        job.get_definition()
