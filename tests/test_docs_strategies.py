"""The examples of the pages about strategies of every kind, and about patterns, are files that work."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.paths import ROOT
from tests.trading.samples import universe
from tests.trading.strategies import parsed
from trading import indicators
from trading.conditions import Condition
from trading.config_text import load_yaml
from trading.plugins import PythonStrategy, build

TEXT = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
KINDS = "".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("scanners", "pairs", "ensembles"))
PATTERNS = (ROOT / "docs" / "patterns.md").read_text(encoding="utf-8")


def blocks(kind: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", [*blocks("yaml strategy"), *blocks("yaml strategy", KINDS)], ids=lambda t: t.split()[1])
def test_a_whole_file_is_one_that_is_used(text: str) -> None:
    parsed(text)


@pytest.mark.parametrize("text", blocks("yaml entry"))
def test_a_rule_is_one_that_is_understood(text: str) -> None:
    Condition.model_validate(load_yaml(text, "docs").data)


def test_the_rules_of_the_patterns_page_are_understood() -> None:
    found: list[Any] = [load_yaml(t, "docs").data for t in re.findall(r"^```yaml\n(.*?)^```", PATTERNS, re.MULTILINE | re.DOTALL)]
    assert len(found) == 2
    Condition.model_validate(found[0]["entry"]["long"])
    Condition.model_validate(found[1])


def test_the_python_strategy_loads() -> None:
    (text,) = blocks("python")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "example.py", "exec"), names)
    (code,) = [c for c in names.values() if isinstance(c, type) and issubclass(c, PythonStrategy) and c is not PythonStrategy]
    strategy, problems = build(code, text, "plugins/example.py", universe())
    assert strategy is not None, [str(p) for p in problems]


def test_every_indicator_is_named() -> None:
    missing = [n for n in indicators.INDICATORS if not n.startswith("candle_") and f"`{n}`" not in TEXT]
    assert missing == []
