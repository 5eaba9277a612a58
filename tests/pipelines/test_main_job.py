"""The main job: brings in what is missing, once, and says what stopped it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipelines import main_job
from pipelines.graphql import DagsterApiError, RunState
from pipelines.main_job import MainJob, MainJobError, Wanted, missing_range
from resources.ledger.store import Ledger
from resources.settings import Settings

KEYS = ["2017-12-22", "2017-12-26", "2017-12-27", "2017-12-28", "2017-12-29"]
WANTED = Wanted("sample", "r1", "2017-12-22", "2017-12-27")
DONE = {"universe": "sample", "revision": "r1", "first": "2017-12-22", "last": "2017-12-27", "held": {"bars_1d": 12}}


class TestMissingRange:
    def test_everything_at_the_first_start(self) -> None:
        assert missing_range(WANTED, {}, {}, KEYS) == ("2017-12-22", "2017-12-27")

    def test_nothing_at_the_second(self) -> None:
        assert missing_range(WANTED, DONE, {"bars_1d": 12, "bars_1w": 3}, KEYS) is None

    def test_only_what_is_newer_when_days_have_passed(self) -> None:
        later = Wanted("sample", "r1", "2017-12-22", "2017-12-29")
        assert missing_range(later, DONE, {"bars_1d": 12}, KEYS) == ("2017-12-28", "2017-12-29")

    def test_nothing_when_the_live_day_begins_earlier_than_it_did(self) -> None:
        assert missing_range(Wanted("sample", "r1", "2017-12-22", "2017-12-26"), DONE, {"bars_1d": 12}, KEYS) is None

    @pytest.mark.parametrize("changed", [{"revision": "r0"}, {"universe": "lean_us"}, {"first": "2017-12-26"}])
    def test_everything_when_the_universe_changed(self, changed: dict[str, str]) -> None:
        assert missing_range(WANTED, {**DONE, **changed}, {"bars_1d": 12}, KEYS) == ("2017-12-22", "2017-12-27")

    def test_everything_when_the_lake_holds_less_than_it_did(self) -> None:
        assert missing_range(WANTED, DONE, {"bars_1d": 11}, KEYS) == ("2017-12-22", "2017-12-27")
        assert missing_range(WANTED, DONE, {}, KEYS) == ("2017-12-22", "2017-12-27")


class Dagster:
    """A webserver whose runs end at once: as `outcomes` says for a job, else well."""

    def __init__(
        self, outcomes: Mapping[str, list[str]] | None = None, on_success: Callable[[str], None] = lambda job: None
    ) -> None:
        self.launched: list[tuple[str, dict[str, str]]] = []
        self.outcomes = {job: list(words) for job, words in (outcomes or {}).items()}
        self.under_way: str | None = None
        self.refuse = 0
        self.given_up: list[str] = []
        self._on_success = on_success

    def partition_keys(self, job: str) -> list[str]:
        return [*KEYS, "2018-01-02"]

    def active(self, tags: Mapping[str, str]) -> str | None:
        if self.refuse:
            self.refuse -= 1
            raise DagsterApiError("the Dagster webserver does not answer: ConnectError")
        found, self.under_way = self.under_way, None
        return found

    def launch(self, job: str, tags: Mapping[str, str]) -> str:
        self.launched.append((job, dict(tags)))
        return job

    def run(self, run_id: str) -> RunState:
        words = self.outcomes.get(run_id) or []
        status = words.pop(0) if words else "SUCCESS"
        if status == "SUCCESS":
            self._on_success(run_id)
        return RunState(status, 3, 0, 7)

    def give_up(self, run_id: str) -> None:
        self.given_up.append(run_id)

    def failures(self, run_id: str) -> list[str]:
        return [f"check no_gaps of {run_id} failed"]

    @property
    def jobs(self) -> list[str]:
        return [job for job, _tags in self.launched]


class Held:
    """A lake of which only the number of partitions matters."""

    def __init__(self) -> None:
        self.count = 0

    def datasets(self) -> list[str]:
        return ["bars_1d"] if self.count else []

    def partitions(self, dataset: str, start: date, end: date) -> list[int]:
        return [0] * self.count


@pytest.fixture
def lake() -> Held:
    return Held()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_job.time, "sleep", lambda _seconds: None)


def run(dagster: Dagster, lake: Held, ledger: Ledger, tmp_path: Path) -> list[str]:
    said: list[str] = []
    own = Settings(data_dir=tmp_path, replay_sessions=2)
    MainJob(dagster, ledger, lake, own, said.append).history()  # type: ignore[arg-type]
    return said


def fills(lake: Held) -> Callable[[str], None]:
    def fill(job: str) -> None:
        lake.count = 12 if job == "ingest" else lake.count

    return fill


def test_history_up_to_the_live_day_then_training_and_research(lake: Held, ledger: Ledger, tmp_path: Path) -> None:
    dagster = Dagster(on_success=fills(lake))
    run(dagster, lake, ledger, tmp_path)
    assert dagster.jobs == ["ingest", "train", "research"]
    tags = dagster.launched[0][1]
    assert (tags[main_job.RANGE_START_TAG], tags[main_job.RANGE_END_TAG]) == ("2017-12-22", "2017-12-27")


def test_the_second_start_repeats_nothing(lake: Held, ledger: Ledger, tmp_path: Path) -> None:
    run(Dagster(on_success=fills(lake)), lake, ledger, tmp_path)
    again = Dagster()
    said = run(again, lake, ledger, tmp_path)
    assert again.launched == []
    assert said == ["history 2017-12-22 to 2017-12-27 is there"]


def test_a_failed_ingest_stops_the_rest_and_is_tried_again_at_the_next_start(lake: Held, ledger: Ledger, tmp_path: Path) -> None:
    failing = Dagster({"ingest": ["FAILURE", "FAILURE"]})
    with pytest.raises(MainJobError, match="check no_gaps of ingest failed"):
        run(failing, lake, ledger, tmp_path)
    assert failing.jobs == ["ingest", "ingest"]
    again = Dagster(on_success=fills(lake))
    run(again, lake, ledger, tmp_path)
    assert again.jobs == ["ingest", "train", "research"]


def test_a_cancelled_run_is_not_started_again(lake: Held, ledger: Ledger, tmp_path: Path) -> None:
    dagster = Dagster({"ingest": ["CANCELED"]})
    with pytest.raises(MainJobError):
        run(dagster, lake, ledger, tmp_path)
    assert dagster.jobs == ["ingest"]


def test_a_failed_training_does_not_keep_the_desk_from_its_day_and_is_made_up_for(
    lake: Held, ledger: Ledger, tmp_path: Path
) -> None:
    dagster = Dagster({"train": ["FAILURE", "FAILURE"]}, on_success=fills(lake))
    run(dagster, lake, ledger, tmp_path)
    assert dagster.jobs == ["ingest", "train", "train", "research"]
    again = Dagster()
    run(again, lake, ledger, tmp_path)
    assert again.jobs == ["train"]


def test_a_run_already_under_way_is_waited_for_not_doubled(lake: Held, ledger: Ledger, tmp_path: Path) -> None:
    dagster = Dagster(on_success=fills(lake))
    dagster.under_way = "ingest"
    run(dagster, lake, ledger, tmp_path)
    assert dagster.jobs == ["train", "research"]


def test_a_restarting_webserver_is_waited_for(lake: Held, ledger: Ledger, tmp_path: Path) -> None:
    dagster = Dagster(on_success=fills(lake))
    dagster.refuse = 3
    run(dagster, lake, ledger, tmp_path)
    assert dagster.jobs == ["ingest", "train", "research"]


def test_a_run_whose_launch_broke_off_is_given_up_and_started_anew(
    lake: Held, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_job, "LAUNCH_SECONDS", -1.0)
    dagster = Dagster({"ingest": ["NOT_STARTED"]}, on_success=fills(lake))
    dagster.under_way = "ingest"
    said = run(dagster, lake, ledger, tmp_path)
    assert dagster.given_up == ["ingest"]
    assert dagster.jobs == ["ingest", "train", "research"]
    assert "ingest: run ingest was made but never started" in said


def test_progress_words_of_the_live_day() -> None:
    state: dict[str, Any] = {"state": "running", "sessions": ["2017-12-28", "2017-12-29"], "closes": 3, "total": 50}
    assert main_job._replay_words(state) == "running (2017-12-28 to 2017-12-29), 3 of 50 bar closes"
    assert main_job._replay_words({}) == "unknown (no session), 0 of ? bar closes"
