"""Edited files as text: YAML with line numbers, validated by pydantic, every problem named at once.

A problem names file, line, key, what was expected and the nearest valid name, so that whoever edits the file can mend
it without reading code. One bad file never raises: it yields problems and no object.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from typing import Annotated, Any

import pydantic
import yaml
from pydantic import BeforeValidator, Field, Strict
from pydantic_core import PydanticCustomError

from trading.config_fields import field_names, kinds, meant

Path = tuple[str | int, ...]

Text = Annotated[str, Strict()]
Name = Annotated[str, Strict(), Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="lower case, digits and underscores")]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=0)]


class ConfigModel(pydantic.BaseModel):
    """Base of everything people write: unknown keys are errors, objects do not change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=False)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one file. line is 1-based, 0 = the file as a whole; key is the dotted path.

    severity: error, the file is not used; warning, it is used and somebody should look.
    """

    file: str
    line: int
    key: str
    message: str
    expected: str = ""
    nearest: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}: {self.key}: {self.message}" if self.key else f"{self.file}:{self.line}: {self.message}"
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text.replace("\n", " ")


def errors(problems: Iterable[Problem]) -> list[Problem]:
    """Those that keep a file from being used."""
    return [p for p in problems if p.severity == "error"]


def warnings(problems: Iterable[Problem]) -> list[Problem]:
    """Those that do not."""
    return [p for p in problems if p.severity != "error"]


def nearest(name: object, valid: Iterable[str]) -> str:
    """The valid name most like `name`, or "" when none is near."""
    by_lower: dict[str, str] = {}
    for candidate in valid:
        by_lower.setdefault(candidate.lower(), candidate)
    found = difflib.get_close_matches(str(name).lower(), list(by_lower), n=1, cutoff=0.5)
    return by_lower[found[0]] if found else ""


def custom_error(message: str, expected: str = "", near: str = "") -> PydanticCustomError:
    """An error a validator raises; `validate` turns it into a Problem with these parts."""
    escaped = message.replace("{", "(").replace("}", ")")
    return PydanticCustomError("config", escaped, {"expected_text": expected, "nearest_text": near})  # type: ignore[arg-type]


def _iso_date(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    try:
        if isinstance(value, str) and len(value) == 10:
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise custom_error(f"is {value!r}", "a date like 2017-12-29")


IsoDate = Annotated[date, BeforeValidator(_iso_date)]


class _Loader(yaml.SafeLoader):
    """SafeLoader with fewer surprises: 16:00 and dates stay text, only true/false are booleans, 1e-5 is a number."""


_FLOAT = r"^[-+]?(?:[0-9][0-9_]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?$|^[-+]?[0-9]+\.?(?:[eE][-+]?[0-9]+)$|^[-+]?[0-9]+\.$"
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("tag:yaml.org,2002:float", _FLOAT, "-+.0123456789"),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(str(node.value).replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """A parsed file: plain data, and the line of every key. problems: syntax errors and duplicate keys (data may be None)."""

    file: str
    text: str
    data: Any
    problems: tuple[Problem, ...] = ()
    lines: Mapping[Path, int] = field(default_factory=dict)

    def line_of(self, path: Path) -> int:
        """1-based line of the key or item at `path`; of its nearest parent that exists when it does not."""
        for end in range(len(path), -1, -1):
            line = self.lines.get(tuple(path[:end]))
            if line is not None:
                return line
        return 1

    def clean(self, loc: Sequence[str | int], key: bool = False) -> Path:
        """`loc` of a pydantic error without union tags that are not in the file. key: its last part is a key, there or not."""
        at, node = [], self.data
        for i, part in enumerate(loc):
            present = (isinstance(node, Mapping) and part in node) or (
                isinstance(node, list) and isinstance(part, int) and part < len(node)
            )
            if present:
                node = node[part]
            elif i < len(loc) - 1 or (isinstance(part, str) and not (key and isinstance(node, Mapping))):
                continue  # a tag, or a branch of a union: not in the file
            at.append(part)
        return tuple(at)

    def problem(self, path: Path, message: str, expected: str = "", near: str = "") -> Problem:
        """A Problem of this file at `path`."""
        return Problem(self.file, self.line_of(path), dotted(path), message, expected, near)

    def warning(self, path: Path, message: str, expected: str = "", near: str = "") -> Problem:
        """As `problem`, but the file is used all the same."""
        return Problem(self.file, self.line_of(path), dotted(path), message, expected, near, "warning")


def dotted(path: Path) -> str:
    """``entry.long.all[0].>`` of a path."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


@lru_cache(maxsize=256)
def load_yaml(text: str, file: str) -> YamlDocument:
    """Parse `text` of `file`. Never raises: a syntax error or a duplicate key becomes a problem of the document.

    Documents are kept, because several checks ask for the same one: nobody may change their data.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            lines: dict[Path, int] = {(): 1}
            problems: list[Problem] = []
            if root is not None:
                _walk(root, (), lines, problems, file)
            data = loader.construct_document(root) if root is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        hint = ""
        source = text.splitlines()[line - 1].lstrip("- {[") if mark and line <= len(text.splitlines()) else ""
        if source.startswith((">", "|", "@", "`", "%")) or (error.problem or "").startswith("expected chomping"):
            hint = 'YAML text; put the operator in quotes: ">"'
        return YamlDocument(file, text, None, (Problem(file, line, "", f"not YAML: {_said(error)}", hint or "YAML text"),))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return YamlDocument(file, text, None, (Problem(file, 1, "", f"not YAML: {error}", "YAML text"),))
    return YamlDocument(file, text, data, tuple(problems), lines)


def _said(error: yaml.MarkedYAMLError) -> str:
    """What the parser missed, and where that begins which it was reading: mostly a bracket that was not closed."""
    begun = error.context_mark
    if not error.context or begun is None or (error.problem_mark is not None and begun.line == error.problem_mark.line):
        return str(error.problem)
    return f"{error.problem}, {error.context} that begins on line {begun.line + 1}"


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int], problems: list[Problem], file: str) -> None:
    if len(path) > 64:
        raise ValueError("nested deeper than 64 levels")
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, str):
                line = key_node.start_mark.line + 1
                problems.append(Problem(file, line, dotted(path), "a key must be plain text", "text"))
                continue
            at = (*path, key)
            line = key_node.start_mark.line + 1
            if at in lines:
                problems.append(Problem(file, line, dotted(at), f"key given twice (first on line {lines[at]})", "each key once"))
            lines[at] = line
            _walk(value_node, at, lines, problems, file)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            lines[(*path, i)] = item.start_mark.line + 1
            _walk(item, (*path, i), lines, problems, file)


M = typing.TypeVar("M", bound=pydantic.BaseModel)


def validate(
    model: type[M], document: YamlDocument, context: Any = None, data: Any = None, at: Path = ()
) -> tuple[M | None, list[Problem]]:
    """`document` as `model`, or every problem it has.

    data, at: validate this part of the document (and the path where it stands) instead of the whole.
    """
    problems = list(document.problems) if not at else []
    value = document.data if data is None and not at else data
    if document.data is None:
        return None, problems or [Problem(document.file, 1, "", "the file is empty", "keys " + ", ".join(field_names(model, ())))]
    if not isinstance(value, Mapping):
        return None, [*problems, document.problem(at, f"is {_kind(value)}", "a mapping of keys to values")]
    try:
        result = model.model_validate(value, context=context)
    except pydantic.ValidationError as error:
        seen = set()
        for item in error.errors(include_url=False):
            problem = _problem(document, model, item, at)
            if (problem.line, problem.key, problem.message) not in seen:
                seen.add((problem.line, problem.key, problem.message))
                problems.append(problem)
        return None, sorted(problems, key=lambda p: p.line)
    return (None, problems) if problems else (result, [])


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a mapping"}

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "frozen_set_type": "a list",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "float_parsing": "a number",
    "int_parsing": "a whole number",
    "bool_parsing": "true or false",
}


def _kind(value: Any) -> str:
    shown = repr(value)
    if value is None:
        return "empty"
    kind = _KINDS.get(type(value), type(value).__name__)
    return kind if isinstance(value, (dict, list)) else f"{shown[:60]} ({kind})"


def _items(count: int | None) -> str:
    return "more items" if count is None else "1 item" if count == 1 else f"{count} items"


def _problem(document: YamlDocument, model: type[pydantic.BaseModel], item: Any, at: Path) -> Problem:
    kind, ctx, given = item["type"], item.get("ctx", {}), item.get("input")
    names = field_names(model, item["loc"][:-1])
    loc = document.clean((*at, *item["loc"]), key=kind == "missing" or (item["loc"][-1:] != () and item["loc"][-1] in names))
    if kind == "extra_forbidden":
        key = str(item["loc"][-1])
        return document.problem(loc, "unknown key", "one of " + ", ".join(names) if names else "", nearest(key, names))
    if kind == "missing":
        slip = _slip(given, str(item["loc"][-1]), names)
        return document.problem(loc, f"missing, is {slip!r} meant to be it?" if slip else "missing", f"the key {item['loc'][-1]}")
    if kind == "config":
        return document.problem(loc, item["msg"], ctx.get("expected_text", ""), ctx.get("nearest_text", ""))
    if kind in ("enum", "literal_error", "union_tag_invalid"):
        words = str(ctx.get("expected") or ctx.get("expected_tags", ""))
        valid = re.findall(r"'([^']*)'", words)
        bad = ctx.get("tag", given)
        if kind == "union_tag_invalid":
            loc = (*loc, str(ctx.get("discriminator", "")).strip("'"))
        return document.problem(loc, f"unknown value {bad!r}", "one of " + ", ".join(valid), nearest(bad, valid))
    if kind == "union_tag_not_found":
        key = str(ctx.get("discriminator", "kind")).strip("'")
        known = kinds(model, item["loc"], key)
        expected = f"the key {key}" + (": one of " + ", ".join(known) if known else "")
        return document.problem((*loc, key), "missing", expected, meant(given, known))
    if kind in ("too_short", "too_long"):
        bound, least = (ctx["min_length"], "at least") if kind == "too_short" else (ctx["max_length"], "at most")
        return document.problem(loc, f"has {_items(ctx['actual_length'])}", f"{least} {_items(bound)}")
    if kind in _EXPECTED:
        return document.problem(loc, f"is {_kind(given)}", _EXPECTED[kind])
    bounds = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least"), "less_than": ("lt", "below"),
              "less_than_equal": ("le", "at most")}  # fmt: skip
    if kind in bounds:
        name, word = bounds[kind]
        return document.problem(loc, f"is {_kind(given)}", f"a value {word} {ctx[name]}")
    if kind == "string_pattern_mismatch":
        return document.problem(loc, f"is {_kind(given)}", f"text that matches {ctx['pattern']}")
    message = re.sub(r"^(Value error|Assertion failed), ", "", item["msg"])
    return document.problem(loc, message)


def _slip(given: Any, missing: str, names: Sequence[str]) -> str:
    """The unknown key the writer gave that looks like the missing one, or ""."""
    if not isinstance(given, Mapping):
        return ""
    return nearest(missing, [k for k in given if isinstance(k, str) and k not in names])
