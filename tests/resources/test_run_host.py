"""The run host: every run in a process of its own, exactly once, seen to die, stoppable; no host means the stock way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, JobDefinition
from dagster._core.definitions.reconstruct import ReconstructableJob, reconstructable
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus

from resources.run_host.launcher import WarmRunLauncher
from resources.run_host.protocol import LANE_TAG, TRADE_LANE, HostUnavailable, ask, worker_alive, worker_mark
from resources.run_host.spare import _rehearse
from tests.doubles import tiny_location
from tests.paths import ROOT


def _wait(condition: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Lane:
    """A running host, a Dagster instance beside it and the launcher between them."""

    def __init__(self, home: Path, socket_path: Path, process: subprocess.Popen[bytes]) -> None:
        self.home, self.socket, self.process = home, socket_path, process
        self.instance = DagsterInstance.from_config(str(home))
        self.launcher = WarmRunLauncher(str(socket_path))
        self.launcher.register_instance(self.instance)

    def create(self, job: JobDefinition) -> str:
        recon = reconstructable(job)
        assert isinstance(recon, ReconstructableJob)
        run = self.instance.create_run_for_job(job, job_code_origin=recon.get_python_origin())
        return run.run_id

    def launch(self, run_id: str) -> None:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        self.launcher.launch_run(LaunchRunContext(run, None))

    def status(self, run_id: str) -> DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def mark(self, run_id: str) -> str | None:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.tags.get("tapeline/worker")

    def urgent(self, job: JobDefinition) -> str:
        """A run of the trade lane, launched."""
        recon = reconstructable(job)
        assert isinstance(recon, ReconstructableJob)
        run = self.instance.create_run_for_job(job, job_code_origin=recon.get_python_origin(), tags={LANE_TAG: TRADE_LANE})
        self.launch(run.run_id)
        return run.run_id

    def spare(self) -> int:
        """Pid of the process that waits for the next run of the trade lane."""
        found: list[int] = []

        def there() -> bool:
            pid = ask(self.socket, {"op": "ping"}, 5)["spare"]
            found[:] = [pid] if pid else []
            return bool(found)

        assert _wait(there), "no spare process"
        return found[0]


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    home = tmp_path_factory.mktemp("dagster_home")
    (home / "dagster.yaml").write_text(
        "telemetry:\n  enabled: false\ncompute_logs:\n  module: resources.compute_logs\n  class: RunLogs\n"
        f"  config:\n    base_dir: {home / 'logs'}\n"
    )
    data = tmp_path_factory.mktemp("d")
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "TAPELINE_DATA_DIR": str(data),
        "TAPELINE_RUN_SLOTS": "1",
        "TINY_OUT": str(home / "out.txt"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "resources.run_host.host", "--module", "tests.doubles.tiny_location"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    socket_path = data / "dagster" / "run_host.sock"
    try:
        assert _wait(socket_path.exists), "the run host did not come up"
        yield Lane(home, socket_path, process)
    finally:
        spare = ask(socket_path, {"op": "ping"}, 60)["spare"]
        mark = worker_mark(spare) if spare else None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert mark is None or _wait(lambda: worker_alive(mark) is None), "the spare ends with the host"
        assert not socket_path.exists(), "the host leaves no socket behind"


def test_two_runs_execute_in_two_processes_forked_from_the_host(lane: Lane) -> None:
    runs = [lane.create(tiny_location.quick) for _ in range(2)]
    for run_id in runs:
        lane.launch(run_id)
    assert _wait(lambda: all(lane.status(r) is DagsterRunStatus.SUCCESS for r in runs))
    lines = dict(line.split() for line in (lane.home / "out.txt").read_text().splitlines())
    pids = {int(lines[r]) for r in runs}
    assert len(pids) == 2
    assert lane.process.pid not in pids
    for run_id in runs:  # what a run prints, and what it starts, is where Dagster's pages look
        printed = "".join(path.read_text() for path in (lane.home / "logs" / run_id / "compute_logs").glob("*.out"))
        assert f"written by {lines[run_id]}" in printed
        assert "and its child" in printed


def test_a_run_asked_for_twice_is_executed_once(lane: Lane) -> None:
    run_id = lane.create(tiny_location.slow)
    lane.launch(run_id)
    assert _wait(lambda: lane.mark(run_id) is not None)
    first = lane.mark(run_id)
    assert ask(lane.socket, {"op": "launch", "run_id": run_id}, 5) == {"taken": True}
    assert lane.mark(run_id) == first
    assert lane.launcher.terminate(run_id)
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.CANCELED), lane.status(run_id)


def test_a_run_that_is_killed_is_reported_failed(lane: Lane) -> None:
    run_id = lane.create(tiny_location.crash)
    lane.launch(run_id)
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.FAILURE)


def test_a_terminated_run_ends_canceled_and_its_process_is_gone(lane: Lane) -> None:
    run_id = lane.create(tiny_location.slow)
    lane.launch(run_id)
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.STARTED)
    mark = lane.mark(run_id)
    assert mark is not None
    assert lane.launcher.terminate(run_id)
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.CANCELED)
    assert _wait(lambda: worker_alive(mark) is None)


def test_beyond_the_slots_a_run_waits_while_the_trade_lane_passes(lane: Lane) -> None:
    blocker, waiting, urgent = (lane.create(job) for job in (tiny_location.slow, tiny_location.quick, tiny_location.quick))
    lane.launch(blocker)
    lane.launch(waiting)
    answer = ask(lane.socket, {"op": "launch", "run_id": urgent, "urgent": True}, 5)
    assert "pid" in answer
    assert _wait(lambda: lane.status(urgent) is DagsterRunStatus.SUCCESS)
    assert lane.status(waiting) is DagsterRunStatus.NOT_STARTED
    assert _wait(lambda: lane.mark(blocker) is not None)
    lane.launcher.terminate(blocker)
    assert _wait(lambda: lane.status(waiting) is DagsterRunStatus.SUCCESS)


def test_the_trade_lanes_next_run_is_taken_by_the_process_that_waits_for_it_and_another_follows(lane: Lane) -> None:
    first = lane.urgent(tiny_location.quick)
    assert _wait(lambda: lane.status(first) is DagsterRunStatus.SUCCESS)
    spare = lane.spare()
    second = lane.urgent(tiny_location.quick)
    assert _wait(lambda: lane.status(second) is DagsterRunStatus.SUCCESS)
    assert (lane.mark(second) or "").startswith(f"{spare}:")
    assert lane.spare() != spare


def test_the_waiting_process_rehearses_and_a_rehearsal_that_fails_costs_no_run(lane: Lane) -> None:
    spare = str(lane.spare())
    rehearsed = lane.home / "out.txt.rehearsed"
    assert _wait(lambda: rehearsed.exists() and spare in rehearsed.read_text().split())
    run_id = lane.urgent(tiny_location.quick)
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.SUCCESS)
    assert (lane.mark(run_id) or "").startswith(f"{spare}:")


def test_a_rehearsal_is_left_as_soon_as_the_run_is_there() -> None:
    read_end, write_end = os.pipe()
    taken = 0

    def endless() -> Iterator[None]:
        nonlocal taken
        while True:
            taken += 1
            if taken == 3:
                os.write(write_end, b"the run\n")
            yield

    _rehearse(endless, read_end)
    assert taken == 3
    assert os.read(read_end, 100) == b"the run\n", "it is left for who waits for it"
    os.close(read_end)
    os.close(write_end)


def test_a_run_whose_waiting_process_was_killed_before_is_executed_all_the_same(lane: Lane) -> None:
    os.kill(lane.spare(), signal.SIGKILL)
    run_id = lane.urgent(tiny_location.quick)
    assert _wait(lambda: lane.status(run_id) in {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE})
    if lane.status(run_id) is DagsterRunStatus.FAILURE:  # it died with the run's name in its pipe: said, never silent
        assert lane.mark(run_id) is None
        run_id = lane.urgent(tiny_location.quick)
        assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.SUCCESS)


def test_a_run_in_the_waiting_process_dies_and_is_stopped_like_any_other(lane: Lane) -> None:
    lane.spare()
    killed = lane.urgent(tiny_location.crash)
    assert _wait(lambda: lane.status(killed) is DagsterRunStatus.FAILURE)
    lane.spare()
    stopped = lane.urgent(tiny_location.slow)
    assert _wait(lambda: lane.status(stopped) is DagsterRunStatus.STARTED)
    assert lane.launcher.terminate(stopped)
    assert _wait(lambda: lane.status(stopped) is DagsterRunStatus.CANCELED), lane.status(stopped)


def test_health_says_failed_only_with_evidence(lane: Lane) -> None:
    run_id = lane.create(tiny_location.slow)
    run = lane.instance.get_run_by_id(run_id)
    assert run is not None
    assert lane.launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING  # never marked: no evidence
    lane.instance.add_run_tags(run_id, {"tapeline/worker": f"{os.getpid()}:1"})  # a reused pid is not the worker
    run = lane.instance.get_run_by_id(run_id)
    assert run is not None
    assert lane.launcher.check_run_worker_health(run).status is WorkerStatus.FAILED


def test_without_a_host_the_launcher_knows_it_was_not_taken(tmp_path: Path) -> None:
    with pytest.raises(HostUnavailable):
        ask(tmp_path / "nobody.sock", {"op": "ping"}, 1)


def test_a_worker_mark_names_this_process_and_no_other() -> None:
    mark = worker_mark(os.getpid())
    assert worker_alive(mark) == os.getpid()
    assert worker_alive(f"{os.getpid()}:1") is None
