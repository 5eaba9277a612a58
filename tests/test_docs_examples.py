"""The examples of the pages about plans, execution functions and research work as they stand, and so do the commands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import jsonschema
import numpy as np
import pytest
import typer.main

from pipelines.cli import app
from resources.config import load_config
from tests.assets.sample_lake import installation
from tests.paths import ROOT
from tests.trading.samples import eurusd, universe
from tests.trading.strategies import parsed, sample_text
from trading import execution_functions
from trading.config_text import load_yaml
from trading.execution_functions.base import REGISTRY
from trading.frame import Frame
from trading.plans import json_schema, parse_plan
from trading.research_grid import parse_research, variants
from trading.strategy import Evaluable
from trading.timeframes import Timeframe

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class TestPlans:
    def test_the_whole_file_is_a_plan_and_an_editor_agrees(self) -> None:
        (text,) = blocks("plans.md", "yaml plan")
        plan, problems = parse_plan(text, "plans/example.yaml", universe())
        assert isinstance(plan, Evaluable), [str(p) for p in problems]
        assert problems == []
        assert not list(jsonschema.Draft202012Validator(json_schema()).iter_errors(load_yaml(text, "x").data))
        assert len(plan.rules.manage) == 4

    def test_the_condition_on_another_instrument_is_read(self) -> None:
        (text,) = blocks("plans.md", "yaml trigger")
        data = load_yaml(text, "docs").data
        trigger = execution_functions.get(data["kind"]).model_validate(data)
        assert trigger.context(Timeframe.H1) == {("VIX", Timeframe.D1): 1}


class TestExecutionFunctions:
    SAID = re.findall(r"`(\{kind: (\w+)[^`]*\})`", (DOCS / "execution-functions.md").read_text(encoding="utf-8"))

    @pytest.mark.parametrize(("text", "name"), [s for s in SAID if "..." not in s[0]], ids=lambda s: s[:40])
    def test_what_the_page_writes_is_understood(self, text: str, name: str) -> None:
        if name in REGISTRY:
            execution_functions.get(name).model_validate(load_yaml(text, "docs").data)

    def test_the_file_of_ones_own_is_a_plugin_that_a_plan_may_name(self, tmp_path: Path) -> None:
        (text,) = blocks("execution-functions.md", "python")
        (plan,) = blocks("plans.md", "yaml plan")
        with installation(tmp_path) as settings:
            file = settings.config / "plugins" / "inside_close.py"
            file.write_text(text)
            own = "invalidation: {kind: inside_close}"
            named = settings.config / "plans" / "eurusd_year_end_breakout.yaml"
            named.write_text(plan.replace("invalidation: {kind: close_below, level: 1.1880}", own))
            try:
                config = load_config(settings)
                assert config.problems == []
                function = config.plans["eurusd_year_end_breakout"].rules.invalidation
                assert function is not None
                bars = eurusd()
                held = function.holds(Frame({Timeframe.H1: bars}, Timeframe.H1))
            finally:
                file.unlink()
            inside = (bars.close[1:] < bars.high[:-1]) & (bars.close[1:] > bars.low[:-1])
            assert np.array_equal(held[1:], inside)
            assert not held[0]
            (problem,) = load_config(settings).problems
        assert (problem.file, problem.key) == ("plans/eurusd_year_end_breakout.yaml", "invalidation.kind")
        assert "inside_close" in problem.message


class TestResearch:
    def test_the_file_of_a_grid_holds_for_the_strategy_it_names(self) -> None:
        (text,) = blocks("research.md", "yaml research file")
        research, problems = parse_research(text, "research/example.yaml")
        assert research is not None, [str(p) for p in problems]
        made, problems = variants(sample_text(research.strategy), research)
        assert (len(made), problems) == (9, [])

    def test_the_key_of_a_strategy_is_one_that_a_strategy_takes(self) -> None:
        (text,) = blocks("strategies.md", "yaml research")
        asked = parsed(sample_text("ema_trend") + "\n" + text).rules.research
        assert (asked.walk_forward.folds, asked.monte_carlo.paths, asked.cost_factors) == (8, 5000, [3, 10])


class TestCommands:
    """Every `tapeline ...` that a page names is a command."""

    SAID = sorted({
        found.strip()
        for page in PAGES
        for found in re.findall(r"(?:^|[`\s(])tapeline((?: [a-z][a-z-]*)+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    })  # fmt: skip

    @pytest.mark.parametrize("said", SAID)
    def test_it_is_there(self, said: str) -> None:
        command: Any = typer.main.get_command(app)
        for word in said.split():
            if not isinstance(command, click.Group):
                return  # an argument
            assert word in command.commands, f"tapeline {said}: no {word!r} among {sorted(command.commands)}"
            command = command.commands[word]
