"""Edited files: every problem named at once, with file, line, key, what was expected and the nearest valid name."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, model_validator

from trading.config_text import ConfigModel, Count, Number, Problem, Text, custom_error, load_yaml, nearest, validate


class Wheel(ConfigModel):
    kind: Literal["wheel"]
    size: Number

    @model_validator(mode="after")
    def _turns(self) -> Wheel:
        if self.size < 0:
            raise custom_error("does not turn", "a size above 0")
        return self


class Ski(ConfigModel):
    kind: Literal["ski"]
    length: Number


class Thing(ConfigModel):
    name: Text
    colour: Literal["red", "green"] = "red"
    count: Count = 0
    part: Wheel | Ski | None = Field(None, discriminator="kind")
    children: list[Thing] = Field(default_factory=list)
    by_name: dict[str, Thing] = Field(default_factory=dict)
    either: Thing | float | None = None
    two: list[int] | None = Field(None, min_length=2, max_length=2)


class Named(ConfigModel):
    kind: Literal["wheel"]
    wheel: Wheel


KEYS = "one of name, colour, count, part, children, by_name, either, two"


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
    assert problem == Problem("thing.yaml", 2, "color", "unknown key", KEYS, "colour")
    assert str(problem) == (f"thing.yaml:2: color: unknown key; expected {KEYS}; did you mean 'colour'?")


def test_a_misspelt_value_names_the_nearest_valid_one() -> None:
    (problem,) = problems_of("name: a\ncolour: gren\n")
    assert (problem.message, problem.expected, problem.nearest) == ("unknown value 'gren'", "one of red, green", "green")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("count: '3'", "a whole number"), ("by_name: {x: {name: y, part: {kind: ski, length: x}}}", "a number"),
     ("count: 3.5", "a whole number"), ("count: true", "a whole number"),
     ("name: 5", "text"), ("children: x", "a list"), ("part: {kind: wheel, size: big}", "a number")],
)  # fmt: skip
def test_a_wrong_type_says_what_was_expected(line: str, expected: str) -> None:
    text = line if line.startswith("name") else f"name: a\n{line}"
    (problem,) = problems_of(text)
    assert problem.expected == expected


def test_a_missing_key_points_at_the_slip_that_was_meant_to_be_it() -> None:
    missing = next(p for p in problems_of("nmae: a\n") if p.key == "name")
    assert missing.message == "missing, is 'nmae' meant to be it?"


def test_a_rule_of_one_kind_that_is_broken_is_located_without_its_tag() -> None:
    (problem,) = problems_of("name: a\npart: {kind: wheel, size: -1}\n")
    assert (problem.line, problem.key) == (2, "part")


def test_keys_inside_a_union_are_located_without_its_tags() -> None:
    problems = problems_of("name: a\npart:\n  kind: ski\n  lenght: 3\n")
    assert {(p.line, p.key) for p in problems} == {(2, "part.length"), (4, "part.lenght")}
    assert next(p for p in problems if p.line == 4).nearest == "length"


def test_an_unknown_kind_names_the_valid_ones_at_its_own_line() -> None:
    (problem,) = problems_of("name: a\npart:\n  kind: whel\n")
    assert (problem.line, problem.key, problem.expected, problem.nearest) == (3, "part.kind", "one of wheel, ski", "wheel")


@pytest.mark.parametrize(
    ("part", "near"),
    [("{length: 3}", "ski"), ("{size: 3}", "wheel"), ("{}", ""), ("{lenght: 3}", "")],
    ids=["keys of one", "keys of the other", "no key", "only a misspelt key"],
)  # fmt: skip
def test_a_missing_kind_names_all_and_the_one_whose_keys_are_written(part: str, near: str) -> None:
    (problem,) = problems_of(f"name: a\nchildren:\n  - name: b\n    part: {part}\n")
    assert (problem.line, problem.key, problem.message) == (4, "children[0].part.kind", "missing")
    assert (problem.expected, problem.nearest) == ("the key kind: one of wheel, ski", near)


def test_two_kinds_with_as_many_of_the_keys_written_are_no_guess() -> None:
    (problem,) = problems_of("name: a\npart: {size: 1, length: 3}\n")
    assert problem.nearest == ""


@pytest.mark.parametrize(
    "text",
    ["children:\n  - {name: b, cuont: 1}", "children:\n  - name: b\n    children: [{name: c, cuont: 1}]",
     "by_name: {x: {name: b, cuont: 1}}", "either: {name: b, cuont: 1}"],
    ids=["in a list", "in a list of a list", "in a mapping by name", "beside a plain value"],
)  # fmt: skip
def test_an_unknown_key_names_the_valid_ones_wherever_it_stands(text: str) -> None:
    problem = next(p for p in problems_of(f"name: a\n{text}\n") if p.key.endswith("cuont"))
    assert problem.nearest == "count"
    assert problem.expected.startswith("one of name, colour, count")


def test_a_key_that_is_also_a_kind_offers_its_own_keys_only() -> None:
    (problem,) = validate(Named, load_yaml("kind: wheel\nwheel: {kind: wheel, siez: 1, size: 1}\n", "x"))[1]
    assert (problem.expected, problem.nearest) == ("one of kind, size", "size")


def test_too_many_and_too_few_items_are_counted() -> None:
    several = problems_of("name: a\ntwo: [1, 2, 3]\n") + problems_of("name: a\ntwo: [1]\n")
    assert [(p.message, p.expected) for p in several] == [
        ("has 3 items", "at most 2 items"), ("has 1 item", "at least 2 items"),
    ]  # fmt: skip


def test_a_bracket_that_is_not_closed_is_told_with_the_line_on_which_it_opens() -> None:
    (problem,) = problems_of("name: a\npart: {kind: ski, length: [3, 4}\ncount: 1\n")
    assert "begins on line 2" in problems_of("name: a\npart: {kind: ski\ncount: 1\n")[0].message
    assert problem.line == 2


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
