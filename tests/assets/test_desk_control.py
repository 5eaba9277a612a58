"""The jobs that stop trading from the Dagster UI: every book is asked, and a run that stopped only one of two is red."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from assets import desk_control
from resources.dagster_resources import DeskResource
from resources.desk_client import DeskUnavailable
from resources.settings import Settings


class Asked:
    """A desk's client that notes what it was asked, or does not answer."""

    def __init__(self, answers: bool = True) -> None:
        self.answers = answers
        self.calls: list[tuple[Any, ...]] = []

    def halt(self, *given: Any) -> Mapping[str, Any]:
        self.calls.append(given)
        if not self.answers:
            raise DeskUnavailable("no answer from the desk")
        return {"halt": {"global": "HALTED"}}


def halted(monkeypatch: pytest.MonkeyPatch, main: Asked, paper: Asked, *, two: bool) -> bool:
    """Run the job `halt` over these desks; did it succeed?"""
    beside = SimpleNamespace(label="PAPER BOOK")
    own = SimpleNamespace(label="LIVE", two_books=two, paper_book=lambda: beside)
    monkeypatch.setattr(desk_control, "settings", lambda: own)
    monkeypatch.setattr(desk_control, "desk_client", lambda book: paper)
    monkeypatch.setattr(DeskResource, "client", lambda self: main)
    config = {"ops": {"halt_desk": {"config": {"reason": "news"}}}}
    done = desk_control.halt_job.execute_in_process(config, resources={"desk": DeskResource()}, raise_on_error=False)
    return bool(done.success)


def test_a_halt_from_the_ui_halts_the_paper_book_beside_an_account_too(monkeypatch: pytest.MonkeyPatch) -> None:
    main, paper = Asked(), Asked()
    assert halted(monkeypatch, main, paper, two=True)
    assert len(main.calls) == len(paper.calls) == 1
    assert main.calls[0][:2] == ("halted", "news")
    assert str(main.calls[0][2]).startswith("dagster:")


@pytest.mark.parametrize("silent", ["main", "paper"])
def test_the_other_book_is_halted_and_the_run_is_red_when_one_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    main, paper = Asked(silent != "main"), Asked(silent != "paper")
    assert not halted(monkeypatch, main, paper, two=True)
    assert len(main.calls) == len(paper.calls) == 1


def test_where_one_book_is_all_there_is_only_that_one_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    main, paper = Asked(), Asked()
    assert halted(monkeypatch, main, paper, two=False)
    assert (len(main.calls), paper.calls) == (1, [])


def test_the_runs_carry_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    for job in desk_control.JOBS:
        assert isinstance(job, dg.JobDefinition)
        assert job.tags["tapeline/mode"] == Settings().label
