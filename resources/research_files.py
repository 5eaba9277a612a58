"""What is asked of research: by the key ``research`` of a strategy file, or by a file of data/config/research; and the text a
strategy was made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from resources.config import Config
from trading.config_text import Problem, YamlDocument, errors, load_yaml, nearest
from trading.research_grid import Research, Variant, parse_research, variants
from trading.research_schema import NO_GRID, reached


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of each strategy by name, the file of data/config/research it stands in (None: the strategy's own), and
    every problem of those files."""

    research: dict[str, Research] = field(default_factory=dict)
    files: dict[str, YamlDocument | None] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Grids:
    """Variants by strategy, the strategies' texts, and every problem of what asks for them."""

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


def asked_of(config: Config, folder: Path) -> Asked:
    """What is asked of every strategy in use. A bad file is a problem and stops no other; a file for a strategy of another
    universe waits for it."""
    asked = Asked()
    for name, strategy in config.strategies.items():
        own = getattr(strategy.rules, "research", None)
        if own is not None:
            asked.research[name], asked.files[name] = own, None
    paths = {f.name: f.path for f in config.files if f.kind in ("strategies", "plugins") and f.name}
    elsewhere = {Path(f.path).stem for f in config.files if f.other_universe}
    for path in sorted((folder / "research").glob("*.y*ml")):
        shown = f"research/{path.name}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            asked.problems.append(Problem(shown, 0, "", f"cannot be read: {error}", "a readable UTF-8 file"))
            continue
        parsed, problems = parse_research(text, shown)
        asked.problems.extend(errors(problems))
        if parsed is None or (parsed.strategy not in config.strategies and parsed.strategy in elsewhere):
            continue
        document, name = load_yaml(text, shown), parsed.strategy
        if name not in config.strategies:
            known = sorted(config.strategies)
            message = f"no strategy {name!r} in use"
            asked.problems.append(document.problem(("strategy",), message, "one of " + ", ".join(known), nearest(name, known)))
            continue
        if name in asked.research:
            there = asked.files[name]
            other = paths.get(name, name) if there is None else there.file
            asked.problems.append(document.problem(("strategy",), f"research of {name} is asked for in {other} already", "one"))
            continue
        strategy_text = text_of(config, folder, name)
        if strategy_text is not None and parsed.grid:
            if config.strategies[name].rules.kind in NO_GRID:
                message = f"{name} is an ensemble or a Python strategy: it has no grid"
                asked.problems.append(document.problem(("grid",), message, "the other keys"))
                continue
            wrong = reached(parsed.grid, load_yaml(strategy_text[1], strategy_text[0]), document)[1]
            asked.problems.extend(wrong)
            if wrong:
                continue
        asked.research[name], asked.files[name] = parsed, document
    return asked


def load_grids(config: Config, folder: Path) -> Grids:
    """Variants of every strategy that asks for a grid."""
    asked = asked_of(config, folder)
    grids = Grids(problems=asked.problems)
    for name, research in sorted(asked.research.items()):
        found = text_of(config, folder, name)
        if not research.grid or found is None:
            continue
        path, text = found
        made, problems = variants(text, research, path, asked.files[name])
        grids.problems.extend(problems)
        if made:
            grids.variants[name], grids.texts[name] = made, text
    return grids
