"""What a run prints is in its files, and no process is started to copy it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dagster as dg
from dagster._core.storage.compute_log_manager import ComputeIOType

from resources.compute_logs import RunLogs


def _children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


@dg.op
def talkative() -> list[str]:
    print("said aloud")
    print("complained", file=sys.stderr)
    return _children()


@dg.job(executor_def=dg.in_process_executor)
def talking() -> None:
    talkative()


def test_a_runs_output_is_kept_where_dagster_looks_without_processes_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(
        f"compute_logs:\n  module: resources.compute_logs\n  class: RunLogs\n  config:\n    base_dir: {tmp_path / 'logs'}\n"
        "telemetry:\n  enabled: false\n"
    )
    before = _children()
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        manager = instance.compute_log_manager
        assert isinstance(manager, RunLogs)
        done = talking.execute_in_process(instance=instance)
        assert set(done.output_for_node("talkative")) <= set(before)
        (captured,) = [e for e in done.all_events if e.event_type_value == "LOGS_CAPTURED"]
        key = manager.build_log_key_for_run(done.run_id, captured.logs_captured_data.file_key)
        told = {kind: manager.get_log_data_for_type(key, kind, 0, None)[0] or b"" for kind in ComputeIOType}
        assert manager.is_capture_complete(key)
    assert b"said aloud" in told[ComputeIOType.STDOUT]
    assert b"complained" in told[ComputeIOType.STDERR]
