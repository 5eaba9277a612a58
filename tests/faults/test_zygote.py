"""The zygote: what it forks is a process like any other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.zygote import Zygote, ZygoteFailed, zygote

HERE = "tests.faults.test_zygote"


def tell() -> int:
    """Everything that a child may get wrong, as one line."""
    print(
        os.environ.get("MARK"),
        os.getcwd(),
        os.getsid(0) == os.getpid(),
        signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        random.random(),
    )
    sys.stdout.flush()
    print("to stderr", file=sys.stderr)
    return 3


def wait_for_ever() -> None:
    print("waiting", flush=True)
    time.sleep(600)


def fail() -> None:
    raise ValueError("for a reason")


def leave() -> None:
    sys.exit(7)


def start_a_thread() -> None:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


@pytest.fixture(scope="module")
def own() -> Zygote:
    return zygote()


def test_a_child_has_its_own_session_environment_folder_log_and_dice(own: Zygote, tmp_path: Path) -> None:
    children = [
        own.spawn(f"{HERE}:tell", env={"MARK": mark}, cwd=tmp_path, log=tmp_path / f"{mark}.log") for mark in ("one", "two")
    ]
    assert [child.wait(60) for child in children] == [3, 3]
    said = [(tmp_path / f"{mark}.log").read_text().split() for mark in ("one", "two")]
    assert [words[:4] for words in said] == [[mark, str(tmp_path), "True", "True"] for mark in ("one", "two")]
    assert said[0][4] != said[1][4]
    assert said[0][5:] == ["to", "stderr"]
    assert {own.pid, os.getpid()}.isdisjoint({child.pid for child in children})


def test_how_it_ended_is_told_as_of_any_process(own: Zygote) -> None:
    ends = {"wait_for_ever": -signal.SIGKILL, "fail": 1, "leave": 7}
    for name, code in ends.items():
        child = own.spawn(f"{HERE}:{name}")
        if name == "wait_for_ever":
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(0.01)
            assert child.poll() is None
            child.kill()
        assert (child.wait(60), child.poll()) == (code, code), name
        child.kill()  # of one that has ended: nothing happens
        if name == "fail":
            assert "ValueError: for a reason" in child.output()


def test_a_signal_that_comes_before_it_began_is_its_own(own: Zygote) -> None:
    for _ in range(5):
        child = own.spawn(f"{HERE}:wait_for_ever")
        child.terminate()
        assert child.wait(60) == -signal.SIGTERM


def test_a_process_with_a_second_thread_forks_nothing() -> None:
    other = Zygote()
    assert other.spawn(f"{HERE}:leave").wait(60) == 7
    other.call(f"{HERE}:start_a_thread")
    with pytest.raises(ZygoteFailed, match="2 threads"):
        other.spawn(f"{HERE}:leave")
    with pytest.raises(ZygoteFailed, match="for a reason"):
        other.call(f"{HERE}:fail")
    other.close()


@pytest.mark.parametrize("how", ["closed", "terminated"])
def test_its_children_end_with_it(how: str) -> None:
    other = Zygote()
    child = psutil.Process(other.spawn(f"{HERE}:wait_for_ever").pid)
    if how == "terminated":
        os.kill(other.pid, signal.SIGTERM)
    else:
        other.close()
    child.wait(60)
    other.close()
