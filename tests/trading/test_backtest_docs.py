"""The examples of docs/backtest.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT


def test_the_first_example_runs_and_draws_and_the_sweep_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "backtest.md").read_text()
    first, swept = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(first, "docs/backtest.md", "exec"), names)
    assert "'sharpe'" in capsys.readouterr().out
    assert (tmp_path / "backtest.html").read_text().startswith("<!doctype html>")
    exec(compile(swept, "docs/backtest.md", "exec"), names)
    assert (names["result"].trials, names["result"].failed) == (6, {})
    assert capsys.readouterr().out.split()[-2:] == ["6", "6"]
    assert {r["trades"] for r in names["result"].rows()} != {0}


def test_every_formula_of_a_figure_is_told() -> None:
    from trading.metrics import Metrics

    text = (ROOT / "docs" / "backtest.md").read_text()
    for name in set(Metrics.__slots__) - {"trades", "periods_per_year"}:
        assert name in text, name
