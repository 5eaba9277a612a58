"""Edited files: every problem named at once, with file, line, key, what was expected and the nearest valid name."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from trading.config_text import ConfigModel, Count, Number, Problem, Text, load_yaml, nearest, validate


class Wheel(ConfigModel):
    kind: Literal["wheel"]
    size: Number


class Ski(ConfigModel):
    kind: Literal["ski"]
    length: Number


class Thing(ConfigModel):
    name: Text
    colour: Literal["red", "green"] = "red"
    count: Count = 0
    part: Wheel | Ski | None = Field(None, discriminator="kind")
    children: list[Thing] = Field(default_factory=list)


def problems_of(text: str) -> list[Problem]:
    return validate(Thing, load_yaml(text, "thing.yaml"))[1]


def test_all_problems_of_a_file_come_at_once_in_the_order_of_its_lines() -> None:
    problems = problems_of("nam: a\ncolour: gren\ncount: many\nchildren:\n  - name: b\n    cuont: 1\n  - count: -1\n")
    assert [(p.line, p.key) for p in problems] == [
        (1, "name"), (1, "nam"), (2, "colour"), (3, "count"), (6, "children[0].cuont"), (7, "children[1].name"),
        (7, "children[1].count"),
    ]  # fmt: skip


def test_an_unknown_key_names_the_valid_ones_and_the_nearest() -> None:
    (problem,) = problems_of("name: a\ncolor: red\n")
    assert problem == Problem("thing.yaml", 2, "color", "unknown key", "one of name, colour, count, part, children", "colour")
    assert str(problem) == (
        "thing.yaml:2: color: unknown key; expected one of name, colour, count, part, children; did you mean 'colour'?"
    )


def test_a_misspelt_value_names_the_nearest_valid_one() -> None:
    (problem,) = problems_of("name: a\ncolour: gren\n")
    assert (problem.message, problem.expected, problem.nearest) == ("unknown value 'gren'", "one of red, green", "green")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("count: '3'", "a whole number"), ("count: 3.5", "a whole number"), ("count: true", "a whole number"),
     ("name: 5", "text"), ("children: x", "a list"), ("part: {kind: wheel, size: big}", "a number")],
)  # fmt: skip
def test_a_wrong_type_says_what_was_expected(line: str, expected: str) -> None:
    text = line if line.startswith("name") else f"name: a\n{line}"
    (problem,) = problems_of(text)
    assert problem.expected == expected


def test_a_missing_key_points_at_the_slip_that_was_meant_to_be_it() -> None:
    missing = next(p for p in problems_of("nmae: a\n") if p.key == "name")
    assert missing.message == "missing, is 'nmae' meant to be it?"


def test_keys_inside_a_union_are_located_without_its_tags() -> None:
    problems = problems_of("name: a\npart:\n  kind: ski\n  lenght: 3\n")
    assert {(p.line, p.key) for p in problems} == {(2, "part.length"), (4, "part.lenght")}
    assert next(p for p in problems if p.line == 4).nearest == "length"


def test_an_unknown_kind_names_the_valid_ones_at_its_own_line() -> None:
    (problem,) = problems_of("name: a\npart:\n  kind: whel\n")
    assert (problem.line, problem.key, problem.expected, problem.nearest) == (3, "part.kind", "one of wheel, ski", "wheel")


def test_a_key_given_twice_is_a_problem_not_a_silent_choice() -> None:
    (problem,) = problems_of("name: a\ncount: 1\ncount: 2\n")
    assert (problem.line, problem.message) == (3, "key given twice (first on line 2)")


def test_broken_yaml_names_the_line_and_an_unquoted_operator_gets_a_hint() -> None:
    (broken,) = problems_of("name: [a\ncount: 1\n")
    assert (broken.line, broken.message.startswith("not YAML")) == (2, True)
    (unquoted,) = problems_of("name: a\npart:\n  >: [1, 2]\n")
    assert unquoted.line == 3
    assert "quotes" in unquoted.expected


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n", "5", "&a [*a]", "name: !!python/object:os.system x"])
def test_any_text_yields_problems_and_never_an_exception(text: str) -> None:
    assert problems_of(text)


def test_a_bomb_of_nesting_is_refused() -> None:
    assert problems_of("a: " + "[" * 5000 + "]" * 5000)


def test_yaml_has_no_surprises_in_times_booleans_and_small_numbers() -> None:
    data = load_yaml("a: 16:00\nb: yes\nc: 1e-5\nd: on\ne: 010\nf: true\ng: 0.00001\nh: 2017-12-29\ni: .5\n", "x").data
    assert (data["a"], data["b"], data["c"], data["d"], data["e"], data["f"], data["g"]) == (
        "16:00", "yes", 1e-5, "on", "010", True, 0.00001,
    )  # fmt: skip
    assert (data["h"], data["i"]) == ("2017-12-29", 0.5)


def test_line_of_falls_back_to_the_nearest_parent() -> None:
    document = load_yaml("a:\n  b:\n    - c: 1\n    - d: 2\n", "x")
    assert document.line_of(("a", "b", 1, "d")) == 4
    assert document.line_of(("a", "b", 7, "z")) == 2
    assert document.line_of(("q",)) == 1


def test_nearest_ignores_case_and_gives_nothing_for_the_unlike() -> None:
    assert nearest("eurusd", ["AAPL", "EURUSD"]) == "EURUSD"
    assert nearest("zzz", ["AAPL", "EURUSD"]) == ""
