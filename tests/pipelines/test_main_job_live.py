"""The main job where the desk is live: history up to the sessions under way, and no replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.main_job import MainJob, MainJobError
from resources.lake import Lake
from resources.ledger.store import Ledger
from resources.settings import Settings

DAYS = ["2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"]


class Api:
    """A webserver that knows the partition keys."""

    def partition_keys(self, job: str) -> list[str]:
        return DAYS


def job(tmp_path: Path, said: list[str], **more: Any) -> MainJob:
    own = Settings(
        _env_file=None, universe="simulated", data_dir=tmp_path, simulated_start="2026-03-04T16:00:00Z", simulated_speed=0.001,
        **more,
    )  # type: ignore[call-arg]  # fmt: skip
    nothing: Any = None
    ledger: Ledger = nothing
    return MainJob(Api(), ledger, Lake(tmp_path / "lake"), own, said.append)  # type: ignore[arg-type]


def test_history_ends_with_the_last_session_that_is_over_and_the_desk_does_the_rest(tmp_path: Path) -> None:
    said: list[str] = []
    made = job(tmp_path, said)
    wanted, keys = made._wanted()
    assert (wanted.last, keys) == ("2026-03-03", DAYS[:2])
    made.live_day()
    assert said == ["live day: the desk listens to the live feeds of the universe (`tapeline feeds list`)"]


def test_switched_off_it_replays_the_last_sessions(tmp_path: Path) -> None:
    wanted, _ = job(tmp_path, [], live_feed="off", replay_sessions=1)._wanted()
    assert wanted.last == DAYS[-1]


def test_a_live_feed_that_cannot_be_is_said(tmp_path: Path) -> None:
    made = job(tmp_path, [], live_feed="on", simulated_dirt="mud=1")
    with pytest.raises(MainJobError, match="TAPELINE_SIMULATED_DIRT"):
        made._wanted()
