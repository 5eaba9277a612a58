"""The news calendar as it lies in data/config/news."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trading.config_text import Problem
from trading.ids import file_revision
from trading.news import NewsCalendar, joined, parse_news, unknown_names
from trading.universe import Universe


@dataclass(frozen=True, slots=True)
class NewsRead:
    """One file: its path relative to the config folder, the name inside ("" when it cannot be used), and what is wrong."""

    path: str
    name: str
    revision: str
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


def load_news(folder: Path, universe: Universe) -> tuple[NewsCalendar | None, list[NewsRead]]:
    """The calendar of all files in `folder`; None when there is none, or one of them cannot be used: half a calendar would
    read as a quiet market. An event of an unknown instrument is a warning."""
    calendars: list[NewsCalendar] = []
    read: list[NewsRead] = []
    for path in sorted(p for p in folder.glob("*") if p.suffix in (".yaml", ".yml") and not p.name.startswith(".")):
        shown = f"news/{path.name}"
        made, text = None, ""
        try:
            text = path.read_text(encoding="utf-8")
            made, problems = parse_news(text, shown)
        except (OSError, UnicodeDecodeError) as error:
            problems = [Problem(shown, 0, "", f"cannot be read: {error}", "a readable UTF-8 file")]
        noted: list[Problem] = []
        if made is not None:
            calendars.append(made)
            unknown = unknown_names(made, universe.instruments)
            noted = [
                Problem(shown, 0, "events", f"names {name!r}, which is not in universe {universe.name}", severity="warning")
                for name in unknown
            ]
        read.append(NewsRead(shown, path.stem if made else "", file_revision(text), tuple(problems), tuple(noted)))
    if len(calendars) < len(read):
        return None, read
    return joined(calendars, ",".join(r.revision for r in read)), read
