"""A kernel never runs the machine code of functions that have been edited since."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

OUTER = """
from trading.compiled import kernel
import inner
from inner import price

@kernel(inner)
def doubled(x):
    return 2 * price(x)

print(doubled(1.0), len(doubled.stats.cache_hits) if hasattr(doubled, "stats") else "plain")
"""
INNER = """
from numba import njit

@njit(cache=True)
def price(x):
    return x + {add}
"""


def run(folder: Path, add: float) -> list[str]:
    (folder / "inner.py").write_text(INNER.format(add=add))
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, str(folder / "outer.py")], env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_an_edited_module_is_compiled_again_and_an_unchanged_one_is_read_from_the_cache(tmp_path: Path) -> None:
    (tmp_path / "outer.py").write_text(OUTER)
    assert run(tmp_path, 10.0)[0] == "22.0"
    first = run(tmp_path, 10.0)
    assert first == ["22.0", "1"] or first[1] == "plain"
    assert run(tmp_path, 11.0)[0] == "24.0"
