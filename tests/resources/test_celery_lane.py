"""The Celery lane over a real Redis: runs start in warm workers, die and stop like any other, and never hang."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import DagsterInstance, DagsterRunStatus, JobDefinition
from dagster._core.definitions.reconstruct import ReconstructableJob, reconstructable
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus

from resources.ports import free_port
from resources.run_host.protocol import CELERY_HOST_TAG, LANE_TAG, TRADE_LANE, WORKER_TAG, worker_alive
from tests.doubles import tiny_location
from tests.paths import ROOT

pytest.importorskip("dagster_celery", reason="needs .venv/bin/python -m pip install --no-deps -r requirements-celery.txt")
REDIS = shutil.which("redis-server")
pytestmark = pytest.mark.skipif(REDIS is None, reason="needs redis-server: apt-get install redis-server")

PASSWORD = "not-for-logs"


def _wait(condition: Callable[[], bool], seconds: float = 180) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Lane:
    """Redis, a Dagster instance, the launcher; workers are started by the tests."""

    def __init__(self, home: Path, broker_url: str, environment: dict[str, str]) -> None:
        from resources.run_host.celery_lane import CeleryLane

        self.home, self.broker_url, self.environment = home, broker_url, environment
        self.instance = DagsterInstance.from_config(str(home))
        self.launcher = CeleryLane(broker_url, "lane_test", 600.0)
        self.launcher.register_instance(self.instance)
        self.log = home / "worker.log"
        self.worker = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as sink:
            command = [sys.executable, "-m", "tests.doubles.celery_worker", "trade", "--module", "tests.doubles.tiny_location"]
            return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=sink, stderr=sink)

    def launch(self, job: JobDefinition, *, urgent: bool = True, launcher: object = None) -> str:
        recon = reconstructable(job)
        assert isinstance(recon, ReconstructableJob)
        tags = {LANE_TAG: TRADE_LANE} if urgent else {}
        run = self.instance.create_run_for_job(job, job_code_origin=recon.get_python_origin(), tags=tags)
        (launcher or self.launcher).launch_run(LaunchRunContext(run, None))  # type: ignore[attr-defined]
        return run.run_id

    def status(self, run_id: str) -> DagsterRunStatus:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    def tags(self, run_id: str) -> dict[str, str]:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return dict(run.tags)


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    from resources.run_host.celery_lane import workers_of

    home = tmp_path_factory.mktemp("celery_home")
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    port = free_port()
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    (home / "redis.conf").write_text(f'bind 127.0.0.1\nport {port}\nsave ""\nappendonly no\nrequirepass {PASSWORD}\ndir {home}\n')
    assert REDIS is not None
    redis = subprocess.Popen([REDIS, str(home / "redis.conf")], stdout=subprocess.DEVNULL)
    environment = {
        **os.environ, "DAGSTER_HOME": str(home), "TAPELINE_DATA_DIR": str(home / "data"), "TAPELINE_CELERY_BROKER_URL": url,
        "TAPELINE_CELERY_QUEUE": "lane_test", "TINY_OUT": str(home / "out.txt"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    made = Lane(home, url, environment)
    try:
        ready = lambda: bool(workers_of(made.launcher.celery, "lane_test.trade", 0.5))  # noqa: E731
        assert _wait(ready), made.log.read_text()[-3000:]
        yield made
    finally:
        made.worker.send_signal(signal.SIGTERM)
        ended = made.worker.wait(120)
        redis.send_signal(signal.SIGTERM)
        redis.wait(60)
        assert ended == 0


def test_trade_runs_execute_in_the_warm_processes_of_one_worker(lane: Lane) -> None:
    runs = [lane.launch(tiny_location.quick) for _ in range(3)]
    assert _wait(lambda: all(lane.status(r) is DagsterRunStatus.SUCCESS for r in runs)), lane.log.read_text()[-3000:]
    lines = dict(line.split() for line in (lane.home / "out.txt").read_text().splitlines())
    assert len({lines[r] for r in runs}) <= 2, "processes are used again"
    assert all(lane.tags(r)[CELERY_HOST_TAG] == socket.gethostname() for r in runs)
    for run_id in runs:
        printed = "".join(path.read_text() for path in (lane.home / "storage" / run_id / "compute_logs").glob("*.out"))
        assert f"written by {lines[run_id]}" in printed, "what a step prints is in its run's own log"


def test_other_runs_wait_in_a_queue_of_their_own(lane: Lane) -> None:
    waiting = lane.launch(tiny_location.quick, urgent=False)
    trade = lane.launch(tiny_location.quick)
    assert _wait(lambda: lane.status(trade) is DagsterRunStatus.SUCCESS)
    assert WORKER_TAG not in lane.tags(waiting)
    assert lane.launcher.terminate(waiting)
    assert lane.status(waiting) is DagsterRunStatus.CANCELED


def test_a_terminated_run_ends_canceled(lane: Lane) -> None:
    run_id = lane.launch(tiny_location.slow)
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.STARTED)
    assert lane.launcher.terminate(run_id)
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.CANCELED), lane.status(run_id)


def test_a_run_whose_process_is_killed_is_reported_failed_and_the_worker_goes_on(lane: Lane) -> None:
    run_id = lane.launch(tiny_location.crash)
    assert _wait(lambda: WORKER_TAG in lane.tags(run_id))
    assert _wait(lambda: worker_alive(lane.tags(run_id)[WORKER_TAG]) is None)
    run = lane.instance.get_run_by_id(run_id)
    assert run is not None
    found = lane.launcher.check_run_worker_health(run).status
    assert found is WorkerStatus.FAILED or lane.status(run_id) is DagsterRunStatus.FAILURE
    assert _wait(lambda: lane.status(run_id) is DagsterRunStatus.FAILURE), lane.log.read_text()[-3000:]
    after = lane.launch(tiny_location.quick)
    assert _wait(lambda: lane.status(after) is DagsterRunStatus.SUCCESS)


def test_a_run_without_a_worker_fails_in_time_says_why_and_is_not_executed_later(lane: Lane) -> None:
    from resources.run_host.celery_lane import CeleryLane
    from sensors.celery_starts import GRACE_SECONDS, fail_overdue

    nobody = CeleryLane(lane.broker_url, "nobody_listens", 1.0)
    nobody.register_instance(lane.instance)
    run_id = lane.launch(tiny_location.quick, launcher=nobody)
    kept, lane.instance._run_launcher = lane.instance._run_launcher, nobody
    try:
        assert fail_overdue(lane.instance, 600.0, time.time()) == []
        assert list(fail_overdue(lane.instance, 600.0, time.time() + 600.0 + GRACE_SECONDS)) == [run_id]
    finally:
        lane.instance._run_launcher = kept
    assert lane.status(run_id) is DagsterRunStatus.FAILURE
    words = [e.message for e in lane.instance.all_logs(run_id)]
    assert any("No Celery worker took it from queue nobody_listens.trade at redis://127.0.0.1:" in w for w in words), words
    assert not any(PASSWORD in w for w in words)


def test_a_broker_that_is_away_is_said_within_seconds_and_without_its_password(lane: Lane) -> None:
    from resources.run_host.celery_lane import BrokerAway, CeleryLane

    away = CeleryLane(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0", "lane_test", 30.0)
    away.register_instance(lane.instance)
    with pytest.raises(BrokerAway, match="did not take the run") as caught:
        lane.launch(tiny_location.quick, launcher=away)
    assert PASSWORD not in str(caught.value)


def test_the_instance_takes_the_lane_when_a_broker_is_set_and_the_run_host_when_not(lane: Lane) -> None:
    code = (
        "from resources.run_host.configured import ConfiguredRunLauncher as C\n"
        "print(type(C.from_config_value(None, {'socket_path': 'x'})).__name__)"
    )
    for broker, name in ((lane.broker_url, "CeleryLane"), (None, "WarmRunLauncher")):
        environment = {k: v for k, v in lane.environment.items() if k != "TAPELINE_CELERY_BROKER_URL"}
        if broker is not None:
            environment["TAPELINE_CELERY_BROKER_URL"] = broker
        said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == name


def test_a_worker_whose_code_is_old_gives_the_run_back_as_it_was() -> None:
    from types import SimpleNamespace

    from resources.run_host import celery_worker

    sent: list[dict[str, object]] = []
    request = SimpleNamespace(id="task-1", delivery_info={"routing_key": "tapeline.trade"}, expires="2026-01-01T00:00:00Z")
    celery_worker._give_back(SimpleNamespace(request=request, apply_async=lambda **named: sent.append(named)), {"run": "r"})
    assert sent == [
        {"kwargs": {"execute_job_args_packed": {"run": "r"}}, "task_id": "task-1", "queue": "tapeline.trade",
         "expires": "2026-01-01T00:00:00Z"},
    ]  # fmt: skip
