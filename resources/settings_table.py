"""The table of docs/settings.md, made from the settings themselves.

python -m resources.settings_table        writes it
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

from resources.settings import ROOT, Settings

PAGE = ROOT / "docs" / "settings.md"
BEGIN, END = "<!-- settings: generated -->", "<!-- settings: end -->"


def settings_table() -> str:
    """Markdown table of every setting: variable, default, what it may be, meaning."""
    lines = ["| variable | default | may be | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        values = [f"`TAPELINE_{name.upper()}`", default, _may_be(field.annotation, field.metadata), field.description or ""]
        lines.append("| " + " | ".join(value.replace("|", "\\|") for value in values) + " |")
    return "\n".join(lines)


def page_with_table(page: str) -> str:
    """`page` with the table between its marks replaced by the current one. Raises ValueError when a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/settings.md: expected the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{settings_table()}\n{END}{after}"


def _may_be(annotation: Any, metadata: list[Any]) -> str:
    """Words for a type and its bounds."""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    parts = [part for part in typing.get_args(annotation) if part is not type(None)] or [annotation]
    words = {str: "text", int: "whole number", float: "number", Path: "folder", bool: "`true`, `false`"}
    kind = words.get(parts[0], "secret" if parts[0].__name__ == "SecretStr" else parts[0].__name__)
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [f"{word} {getattr(mark, sign):g}" for mark in metadata for sign, word in signs.items() if hasattr(mark, sign)]
    return ", ".join([kind, *bounds])


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text()))
