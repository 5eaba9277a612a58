"""Templates of trade plans: a file with parameters that many plans fill in.

A template has a name, parameters and the keys of a plan, where ``$level`` stands for the parameter ``level``. A plan names
it and gives the parameters; keys it states itself count before the template's. Problems name the plan's line, and the
template's where the text stands there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import Field

from trading.config_text import ConfigModel, Name, Path, Problem, Text, YamlDocument, dotted, load_yaml, nearest, validate

Templates = Mapping[str, tuple[str, str]]
"""(file, text) by template name."""


class Parameter(ConfigModel):
    """A parameter of a template; without a default every plan must give it."""

    description: Text = ""
    default: Any = None


class TemplateFile(ConfigModel):
    """A template file. plan: keys of a plan, ``$name`` for a parameter."""

    name: Name
    description: Text = ""
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    plan: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FilledDocument(YamlDocument):
    """A plan's file with its template filled in. template: the template's document; parameters: path -> name of the
    parameter that stands there."""

    template: YamlDocument = field(default_factory=lambda: YamlDocument("", "", None))
    parameters: Mapping[Path, str] = field(default_factory=dict)

    def _place(self, path: Path) -> tuple[Path, str]:
        """(where in the plan's file a problem at `path` stands, the template's line as text or "")."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return path, ""
            name = self.parameters.get(path[:end])
            at = self.template.line_of(("plan", *path[:end]))
            if name is not None:
                given = ("parameters", name)
                return (given if given in self.lines else ("template",)), f"{self.template.file}:{at}: {dotted(path)}"
            if ("plan", *path[:end]) in self.template.lines:
                return ("template",), f"{self.template.file}:{at}: {dotted(path)}"
        return path, ""

    def problem(self, path: Path, message: str, expected: str = "", near: str = "") -> Problem:
        """A Problem in the plan's file; when the text stands in the template, its file and line are named, too."""
        place, there = self._place(tuple(path))
        said = f"{message} ({there})" if there else message
        return Problem(self.file, self.line_of(place), dotted(place), said, expected, near)

    def warning(self, path: Path, message: str, expected: str = "", near: str = "") -> Problem:
        return replace(self.problem(path, message, expected, near), severity="warning")


def fill(document: YamlDocument, templates: Templates) -> tuple[YamlDocument, str, list[Problem]]:
    """(the document with its template filled in, text of the template or "", problems). A plan without a template is
    given back as it is."""
    data = document.data
    if not isinstance(data, Mapping) or "template" not in data:
        if isinstance(data, Mapping) and "parameters" in data:
            return document, "", [document.problem(("parameters",), "belongs to a template", "template: NAME beside it")]
        return document, "", []
    name = data["template"]
    if not isinstance(name, str) or name not in templates:
        known = ", ".join(sorted(templates)) or "none: put one into plans/templates"
        wrong = document.problem(("template",), f"no template {name!r}", f"one of {known}", nearest(name, templates))
        return document, "", [wrong]
    file, text = templates[name]
    template = load_yaml(text, file)
    parsed, problems = validate(TemplateFile, template)
    if parsed is None:
        here = [document.problem(("template",), f"template {name} cannot be used: {p}") for p in problems]
        return document, text, here
    given = data.get("parameters", {})
    if not isinstance(given, Mapping):
        return document, text, [document.problem(("parameters",), "is no mapping", "parameter: value")]
    problems = []
    values: dict[str, Any] = {}
    for key in given:
        if key not in parsed.parameters:
            expected = "one of " + (", ".join(parsed.parameters) or "none")
            message = f"template {name} ({file}:{template.line_of(('parameters',))}) has no parameter {key!r}"
            problems.append(document.problem(("parameters", key), message, expected, nearest(key, parsed.parameters)))
    for key, parameter in parsed.parameters.items():
        value = given.get(key, parameter.default)
        if value is None:
            message = f"parameter {key} is missing ({file}:{template.line_of(('parameters', key))})"
            near = next((k for k in given if k not in parsed.parameters and nearest(k, [key])), "")
            problems.append(document.problem(("parameters",), message, f"the key {key}", near))
        values[key] = value
    used: dict[Path, str] = {}
    own = {k: v for k, v in data.items() if k not in ("template", "parameters")}
    filled = {k: _filled(v, (k,), values, used, template, problems, document) for k, v in parsed.plan.items() if k not in own}
    if problems:
        return document, text, problems
    merged = {**filled, **own}
    return (
        FilledDocument(document.file, document.text, merged, document.problems, document.lines, template, used), text, [],
    )  # fmt: skip


def _filled(
    node: Any, path: Path, values: Mapping[str, Any], used: dict[Path, str], template: YamlDocument,
    problems: list[Problem], document: YamlDocument,
) -> Any:  # fmt: skip
    if isinstance(node, Mapping):
        return {k: _filled(v, (*path, k), values, used, template, problems, document) for k, v in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_filled(v, (*path, i), values, used, template, problems, document) for i, v in enumerate(node)]
    if isinstance(node, str) and node.startswith("$"):
        name = node[1:]
        if name not in values:
            at = template.line_of(("plan", *path))
            message = f"{template.file}:{at}: {dotted(path)} names parameter {name!r}, which the template does not state"
            problems.append(document.problem(("template",), message, "one of " + ", ".join(values), nearest(name, values)))
        used[path] = name
        return values.get(name)
    return node
