"""The supervisor: starts in order, keeps running what dies, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.children import process_lives, rotate
from pipelines.services import environment
from resources.ports import free_port, port_is_free
from resources.settings import ROOT, Settings

STAY = "mark.write_text(str(__import__('os').getpid()))\nimport time\nwhile True: time.sleep(0.1)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STAY
WITH_CHILD = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "mark.with_suffix('.child').write_text(str(child.pid))\n" + STAY
)


def service(name: str, code: str = STAY, **more: object) -> dict[str, object]:
    return {"name": name, "code": code, **more}


class Stand:
    """One supervisor in a process of its own, its data folder and what it said."""

    def __init__(self, data: Path, postgres_url: str | None) -> None:
        self.data = data
        self.out = data.parent / "out.txt"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TAPELINE_")},
            "TAPELINE_DATA_DIR": str(data),
            **{f"TAPELINE_{name}_PORT": str(free_port()) for name in ("WEBSERVER", "CODE_SERVER", "MLFLOW", "DESK", "POSTGRES")},
        }
        if postgres_url:
            self.environment |= {
                "TAPELINE_POSTGRES_URL": postgres_url,
                **{f"TAPELINE_{name}_DATABASE": f"sup_{name.lower()}" for name in ("LEDGER", "DAGSTER", "MLFLOW")},
            }
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *services: dict[str, object]) -> subprocess.Popen[bytes]:
        with self.out.open("ab") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.pipelines.supervised", json.dumps(services)], cwd=ROOT, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def said(self) -> str:
        return self.out.read_text() if self.out.exists() else ""

    def wait_for(self, words: str, seconds: float = 120.0, times: int = 1) -> str:
        wait(lambda: len(re.findall(words, self.said())) >= times, seconds, f"{words!r} in:\n{self.said()}")
        return self.said()

    def pid(self, name: str, suffix: str = ".ready") -> int:
        mark = self.data / f"{name}{suffix}"
        wait(lambda: mark.exists() and mark.read_text() != "", 120, f"{mark} was not written")
        return int(mark.read_text())


def wait(until: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def gone(pid: int) -> bool:
    return not process_lives(str(pid))


@pytest.fixture
def stand(tmp_path: Path, postgres_url: str) -> Iterator[Stand]:
    made = Stand(tmp_path / "data", postgres_url)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_services_start_after_what_they_need_and_stop_on_ctrl_c(stand: Stand) -> None:
    process = stand.start(service("third", after=["second"]), service("second", after=["first"]), service("first"))
    said = stand.wait_for("Tapeline is ready: mode PAPER")
    assert re.findall(r"(\w+) ready \(", said)[-3:] == ["first", "second", "third"]
    pids = [stand.pid(name) for name in ("first", "second", "third")]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert process.wait(120) == 0
    assert all(gone(pid) for pid in pids)
    assert "stopped" in stand.said()
    assert "Traceback" not in stand.said()


def test_what_dies_is_started_again_and_what_it_left_is_ended(stand: Stand) -> None:
    stand.start(service("parent", WITH_CHILD), service("other"))
    stand.wait_for("Tapeline is ready")
    other, left = stand.pid("other"), stand.pid("parent", ".child")
    os.kill(stand.pid("parent"), signal.SIGKILL)
    said = stand.wait_for("parent ready again")
    assert "parent died (killed by SIGKILL); starting it again in" in said
    assert gone(left), "its child would have kept its port"
    assert stand.pid("other") == other, "the others are not touched"


def test_a_service_that_never_comes_up_ends_the_start_with_its_last_words(stand: Stand) -> None:
    process = stand.start(service("good"), service("bad", "raise SystemExit('no such table: bars')"))
    assert process.wait(120) == 1
    said = stand.said()
    assert "bad: no such table: bars" in said
    assert "tapeline: bad ended 4 times before it was ready (exit code 1)" in said
    assert gone(stand.pid("good"))


def test_a_task_that_is_done_is_not_repeated_and_others_wait_for_it(stand: Stand) -> None:
    stand.start(service("after", after=["task"]), service("task", "pass", once=True))
    said = stand.wait_for("Tapeline is ready")
    assert said.index("task done") < said.index("after ready")
    assert said.count("task done") == 1


def test_a_stubborn_service_is_killed_and_a_second_ctrl_c_hurries(stand: Stand) -> None:
    process = stand.start(service("stubborn", STUBBORN, stop_seconds=600.0))
    stand.wait_for("Tapeline is ready")
    pid = stand.pid("stubborn")
    process.send_signal(signal.SIGINT)
    stand.wait_for("stopping stubborn")
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    assert gone(pid)


def test_a_killed_supervisor_leaves_nothing_running(stand: Stand) -> None:
    process = stand.start(service("parent", WITH_CHILD), service("stubborn", STUBBORN))
    stand.wait_for("Tapeline is ready")
    pids = [stand.pid("parent"), stand.pid("parent", ".child"), stand.pid("stubborn")]
    process.kill()
    process.wait()
    wait(lambda: all(gone(pid) for pid in pids), 120, "something outlived the supervisor")


def test_the_next_start_waits_for_the_end_of_a_killed_one(stand: Stand) -> None:
    process = stand.start(service("one"))
    stand.wait_for("Tapeline is ready")
    process.kill()
    process.wait()
    stand.start(service("one"))
    stand.wait_for("Tapeline is ready", times=2)


def test_a_second_supervisor_of_the_same_data_is_refused_in_one_line(stand: Stand) -> None:
    first = stand.start(service("one"))
    stand.wait_for("Tapeline is ready")
    before = stand.said()
    second = stand.start(service("one"))
    assert second.wait(120) == 1
    lines = stand.said().removeprefix(before).strip().splitlines()
    assert lines == [
        f"tapeline: Tapeline already runs on {stand.data} (pid {first.pid}): stop it first, or set TAPELINE_DATA_DIR"
    ]
    assert first.poll() is None


def test_a_taken_port_ends_the_start_in_one_line(stand: Stand) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(stand.environment["TAPELINE_DESK_PORT"])))
        taken.listen()
        process = stand.start(service("one"))
        assert process.wait(120) == 1
    assert len(stand.said().strip().splitlines()) == 1
    assert "TAPELINE_DESK_PORT" in stand.said()


def test_a_database_that_cannot_be_reached_ends_the_start_without_its_password(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "data", f"postgresql+psycopg2://someone:hush@127.0.0.1:{free_port()}")
    process = stand.start(service("one"))
    assert process.wait(120) == 1
    assert "the database cannot be used" in stand.said()
    assert "hush" not in stand.said()


def test_the_embedded_database_comes_back_and_ends_with_the_rest(tmp_path: Path) -> None:
    stand = Stand(tmp_path / "data", None)
    process = stand.start(service("one"))
    try:
        stand.wait_for("Tapeline is ready")
        record = json.loads((stand.data / "run" / "children.json").read_text())
        pid = next(row["pid"] for row in record if row["name"] == "postgres")
        os.kill(pid, signal.SIGKILL)
        stand.wait_for("postgres is back")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert port_is_free("127.0.0.1", int(stand.environment["TAPELINE_POSTGRES_PORT"]))
    # Read by process_iter: a process that ends meanwhile has None.
    running = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in running if "postgres" in command and str(stand.data) in command] == []
    place = stand.data / "postgres" / "location"
    if place.exists():  # tests run by root in a folder of root's
        subprocess.run(["rm", "-rf", place.read_text()], check=True)


def test_children_get_none_of_the_shell_s_python_and_never_a_proxy_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "DAGSTER_HOME", "MLFLOW_TRACKING_URI", "PGHOST"):
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("NO_PROXY", "intranet")
    given = environment(Settings(mlflow_port=5111))
    assert "/elsewhere" not in given.values()
    assert given["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5111"
    assert given["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert given["PATH"].startswith(str(Path(sys.executable).parent))


def test_large_logs_keep_one_older_file(tmp_path: Path) -> None:
    large, small = tmp_path / "a.log", tmp_path / "b.log"
    large.write_text("x" * 100)
    small.write_text("y")
    with large.open("ab") as writer:
        rotate(tmp_path, limit=50)
        writer.write(b"new")
    assert large.read_text() == "new"
    assert (tmp_path / "a.log.1").read_text() == "x" * 100
    assert small.read_text() == "y"
