"""The example of docs/backtest.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.paths import ROOT


def test_the_first_example_runs_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "backtest.md").read_text()
    example = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/backtest.md", "exec"), {})
    assert "'sharpe'" in capsys.readouterr().out
    assert (tmp_path / "backtest.html").read_text().startswith("<!doctype html>")


def test_every_formula_of_a_figure_is_told() -> None:
    from trading.metrics import Metrics

    text = (ROOT / "docs" / "backtest.md").read_text()
    for name in set(Metrics.__slots__) - {"trades", "periods_per_year"}:
        assert name in text, name
