"""The real servers under the supervisor: they come up, keep their secrets, run jobs, and all of them go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipelines.graphql import DagsterApi
from resources.ports import free_port, port_is_free
from tests.paths import ROOT

PORTS = ("WEBSERVER", "CODE_SERVER", "MLFLOW", "DESK")
pytestmark = pytest.mark.e2e


class Up:
    """A running installation: its addresses, its processes, what it said."""

    def __init__(self, process: subprocess.Popen[bytes], environment: dict[str, str], out: Path) -> None:
        self.process, self.out = process, out
        self.port = {name: int(environment[f"TAPELINE_{name}_PORT"]) for name in PORTS}
        self.data = Path(environment["TAPELINE_DATA_DIR"])

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port[name]}"

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("real")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TAPELINE_")},
        "TAPELINE_DATA_DIR": str(folder / "data"),
        "TAPELINE_POSTGRES_URL": postgres_url,
        **{f"TAPELINE_{name}_DATABASE": f"real_{name.lower()}" for name in ("LEDGER", "DAGSTER", "MLFLOW")},
        **{f"TAPELINE_{name}_PORT": str(free_port()) for name in PORTS},
        "TINY_OUT": str(folder / "tiny.txt"),
    }
    out = folder / "out.txt"
    with out.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.pipelines.real_services"], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    made = Up(process, environment, out)
    try:
        deadline = time.monotonic() + 600
        while "Tapeline is ready" not in out.read_text():
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.2)
        yield made
        # Last of all: one Ctrl-C ends everything within the time a person waits, and the ports are free.
        left = made.processes()
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 0
        assert time.monotonic() - begun < 60
        assert [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
        assert all(port_is_free("127.0.0.1", port) for port in made.port.values())
        assert "died" not in out.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_it_says_where_everything_is(up: Up) -> None:
    said = up.out.read_text()
    assert "mode PAPER" in said
    for name in ("WEBSERVER", "MLFLOW", "DESK"):
        assert up.url(name) in said


def test_no_password_can_be_read_from_the_process_list_or_the_logs(up: Up, postgres_url: str) -> None:
    password = postgres_url.split(":")[2].split("@")[0]
    assert password not in json.dumps([process.cmdline() for process in up.processes()])
    for log in (up.data / "logs").glob("*.log"):
        assert password not in log.read_text(), log.name
    assert password not in up.out.read_text()


def test_mlflow_is_one_process_and_answers_only_to_its_own_name(up: Up) -> None:
    experiments = f"{up.url('MLFLOW')}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(experiments, trust_env=False).status_code == 200
    assert httpx.get(experiments, headers={"Host": "evil.example"}, trust_env=False).status_code == 403
    servers = [p for p in up.processes() if any("mlflow" in part for part in p.cmdline())]
    assert len(servers) == 1


def test_a_run_goes_through_the_warm_host(up: Up) -> None:
    with DagsterApi(up.url("WEBSERVER")) as api:
        run_id = api.launch("quick", {"who": "test"})
        deadline = time.monotonic() + 240
        while not (state := api.run(run_id)).finished:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert state.status == "SUCCESS"
        assert api.active({"who": "test"}) is None
        crashed = api.launch("crash", {})
        while not (state := api.run(crashed)).finished:
            assert time.monotonic() < deadline + 240
            time.sleep(0.1)
        assert state.status == "FAILURE"
        assert api.failures(crashed)
