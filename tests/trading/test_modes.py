"""The ladder of modes."""

from __future__ import annotations

import pytest

from trading import modes
from trading.instruments import Mode


@pytest.mark.parametrize(("was", "to"), [(Mode.SHADOW, Mode.ALERT), (Mode.ALERT, Mode.PAPER), (Mode.PAPER, Mode.LIVE)])
def test_one_step_up_is_allowed(was: Mode, to: Mode) -> None:
    assert modes.step_problem(was, to, forced=False) == ""


def test_steps_are_skipped_only_by_force_and_are_named() -> None:
    assert modes.step_problem(Mode.SHADOW, Mode.LIVE, forced=False).startswith("shadow to live skips alert, paper")
    assert modes.step_problem(Mode.SHADOW, Mode.LIVE, forced=True) == ""


@pytest.mark.parametrize("was", modes.LADDER)
def test_down_is_always_allowed(was: Mode) -> None:
    for to in modes.LADDER[: modes.rank(was)]:
        assert modes.step_problem(was, to, forced=False) == ""


def test_the_installation_caps_but_never_makes_play_money_of_live() -> None:
    assert modes.capped(Mode.PAPER, Mode.SHADOW) is Mode.SHADOW
    assert modes.capped(Mode.ALERT, Mode.PAPER) is Mode.ALERT
    assert modes.capped(Mode.LIVE, Mode.ALERT) is Mode.ALERT, "nothing is sent"
    assert modes.capped(Mode.LIVE, Mode.PAPER) is Mode.LIVE, "refused there, not traded on paper"


def test_live_is_never_stated_by_a_file() -> None:
    assert modes.first_of(Mode.LIVE) is Mode.PAPER
    assert modes.first_of(Mode.ALERT) is Mode.ALERT
