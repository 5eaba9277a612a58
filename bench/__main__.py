"""``python -m bench NAME``: run one benchmark and print its rows.

NAME is a module in this folder with ``run(quick: bool) -> Iterator[Row]``. With --json one JSON object a line (name,
value, unit, reference, ratio; per_cpu, goal and verdict where there are any), else a table.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core import Row


def names() -> list[str]:
    """Benchmarks in this folder: modules that define run."""
    found = []
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        path = Path(__file__).parent / f"{module.name}.py"
        if not module.name.startswith("_") and path.exists() and "\ndef run(" in path.read_text():
            found.append(module.name)
    return sorted(found)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> int:
    """Run a benchmark; returns the exit status (2: no benchmark of that name)."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("name", nargs="?", help="one of: " + ", ".join(names()))
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works; the figures mean little")
    parser.add_argument("--paced", action="store_true", help="latency: on an installation of its own, at the pace of a live day")
    options = parser.parse_args(arguments)
    if options.paced:
        if options.name != "latency":
            print("--paced belongs to the benchmark latency", file=sys.stderr)
            return 2
        options.name = "paced"
    if options.name not in names():
        said = f"no benchmark {options.name!r}" if options.name else "which benchmark?"
        print(f"{said}: expected one of {', '.join(names())}", file=sys.stderr)
        return 2
    rows: Iterator[Row] = importlib.import_module(f"bench.{options.name}").run(options.quick)
    if options.json:
        for row in rows:
            print(json.dumps(row.to_dict()), flush=True)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=options.name)
    for column in ("name", "value", "unit", "per CPU-s", "reference", "ratio", "goal", "verdict"):
        table.add_column(column, justify="left" if column in ("name", "unit", "verdict") else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name, _number(row.value), row.unit, _number(row.per_cpu), _number(row.reference), _number(row.ratio),
            "" if row.goal is None else str(row.goal), row.verdict,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
