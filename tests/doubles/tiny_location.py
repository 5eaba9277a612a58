"""A code location of three small jobs, for the run host's tests."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg


@dg.op
def write_pid(context: dg.OpExecutionContext) -> None:
    with Path(os.environ["TINY_OUT"]).open("a") as out:
        out.write(f"{context.run.run_id} {os.getpid()}\n")
    print("written by", os.getpid())
    subprocess.run(["/bin/echo", "and its child"], check=True)


@dg.op
def sleep_long() -> None:
    time.sleep(60)


@dg.op
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dg.job(executor_def=dg.in_process_executor)
def quick() -> None:
    write_pid()


@dg.job(executor_def=dg.in_process_executor)
def slow() -> None:
    sleep_long()


@dg.job(executor_def=dg.in_process_executor)
def crash() -> None:
    die()


def rehearse() -> Iterator[None]:
    """What the waiting process does until its run is there; then it turns out that something is wrong."""
    with Path(f"{os.environ['TINY_OUT']}.rehearsed").open("a") as out:
        out.write(f"{os.getpid()}\n")
    yield
    raise RuntimeError("the rehearsal fails")


REHEARSE = rehearse

defs = dg.Definitions(jobs=[quick, slow, crash])
