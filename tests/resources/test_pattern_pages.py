"""The page about price action is made from the patterns, and every one of them has its picture."""

from __future__ import annotations

import pytest

from resources.pattern_pages import PAGE, page
from resources.pattern_pictures import FOLDER, bars_shown, draw
from trading import patterns


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m resources.pattern_pages"


@pytest.mark.parametrize("name", sorted(patterns.patterns()))
def test_every_pattern_has_a_picture(name: str) -> None:
    assert (FOLDER / f"{name}.png").read_bytes().startswith(b"\x89PNG"), "run: python -m resources.pattern_pictures"


def test_a_picture_shows_one_occurrence_up_and_one_down() -> None:
    up, down = draw("break_of_structure", bars_shown()).axes
    assert (up.get_title(loc="left"), down.get_title(loc="left")) == ("break_of_structure up", "break_of_structure down")
