"""The files of data/config/research, and the text a strategy was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from resources.config import Config
from trading.config_text import Problem, errors, nearest
from trading.research_grid import Research, Variant, parse_research, research_of, variants


@dataclass(frozen=True, slots=True)
class Grids:
    """Variants by strategy, the strategies' texts, and every problem of the files."""

    variants: dict[str, list[Variant]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def text_of(config: Config, folder: Path, name: str) -> tuple[str, str] | None:
    """(path below the config folder, text) of the file `name` was read from; None when it is gone or has changed since."""
    from trading.ids import file_revision

    for file in config.files:
        if file.name == name and file.kind in ("strategies", "plans", "plugins") and not file.problems:
            try:
                text = (folder / file.path).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                return None
            return (file.path, text) if file_revision(text) == file.revision else None
    return None


def load_grids(config: Config, folder: Path) -> Grids:
    """Variants of every strategy that asks for research: by the key ``research`` of its file, or by a file in
    folder/research. A bad file is a problem and stops no other; a file for a strategy of another universe is left out."""
    grids = Grids()
    asked: dict[str, tuple[str, Research]] = {}
    for path in sorted((folder / "research").glob("*.y*ml")):
        shown = f"research/{path.name}"
        try:
            parsed, problems = parse_research(path.read_text(encoding="utf-8"), shown)
        except (OSError, UnicodeDecodeError) as error:
            grids.problems.append(Problem(shown, 0, "", f"cannot be read: {error}", "a readable UTF-8 file"))
            continue
        grids.problems.extend(errors(problems))
        if parsed is None:
            continue
        if parsed.strategy in asked:
            other = asked[parsed.strategy][0]
            grids.problems.append(Problem(shown, 1, "strategy", f"{parsed.strategy} has a grid in {other} already", "one grid"))
            continue
        asked[parsed.strategy] = shown, parsed
    # A grid of a strategy that belongs to another universe waits for it; one of no strategy at all is a mistake.
    elsewhere = {Path(f.path).stem for f in config.files if f.other_universe}
    for name, (shown, _) in list(asked.items()):
        if name in config.strategies:
            continue
        if name not in elsewhere:
            known = sorted(config.strategies)
            message = f"no strategy {name!r} in use"
            grids.problems.append(Problem(shown, 1, "strategy", message, "one of " + ", ".join(known), nearest(name, known)))
        del asked[name]
    for name in sorted(config.strategies):
        found = text_of(config, folder, name)
        if found is None or not found[0].startswith("strategies/"):
            continue
        path_shown, text = found
        own, problems = research_of(text, path_shown)
        grids.problems.extend(errors(problems))
        if own is not None:
            asked[name] = path_shown, own
        if name not in asked:
            continue
        shown, research = asked[name]
        made, problems = variants(text, research, shown)
        grids.problems.extend(problems)
        if made:
            grids.variants[name], grids.texts[name] = made, text
    return grids
