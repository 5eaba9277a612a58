"""``tapeline research``: revisions, what was changed between two of them, and which one is better."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from resources.settings import Settings
from tests.assets.sample_lake import fill, installation

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with installation(tmp_path_factory.mktemp("research_cli"), TAPELINE_MLFLOW_PORT="1") as settings:
        fill(settings)
        yield settings


@pytest.fixture
def run(installed: Settings) -> Run:
    return lambda *arguments: CliRunner().invoke(app, ["research", *arguments])


def said(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_edited_strategy_has_two_revisions_their_difference_and_a_verdict(
    run: Run, installed: Settings, tmp_path: Path
) -> None:
    assert len(said(run("revisions", "rsi_reversion", "--json"))) == 1
    assert run("diff", "rsi_reversion").exit_code == 1
    edit(installed.config / "strategies" / "rsi_reversion.yaml", "rate: 0.0001", "rate: 0.01")
    before, now = said(run("revisions", "rsi_reversion", "--json"))
    assert (before["now"], now["now"]) == ("", "in use")
    changed = run("diff", "rsi_reversion").output
    assert "-costs: {commission_kind: per_value, rate: 0.0001," in changed
    assert "+costs: {commission_kind: per_value, rate: 0.01," in changed
    picture = tmp_path / "both.png"
    done = run("compare", "rsi_reversion", before["revision"][:6], now["revision"][:6], "--picture", str(picture), "--json")
    assert said(done)["verdict"] == "a is better"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_plan_made_of_a_template_is_compared_as_it_was_filled_in(run: Run, installed: Settings) -> None:
    name, folder = "eurusd_autumn_breakdown", installed.config / "plans"
    assert run("revisions", name).exit_code == 0
    edit(folder / "templates" / "breakout.yaml", "default: 3.0", "default: 1.0")
    before, now = said(run("revisions", name, "--json"))
    assert run("diff", name).output.strip() == "the files are the same", "the template changed, and with it the revision"
    done = said(run("compare", name, before["revision"], now["revision"], "--json"))
    assert done["verdict"] in ("no difference can be told", "a is better", "b is better")


def test_a_revision_nobody_knows_is_answered_with_those_there_are(run: Run) -> None:
    result = run("compare", "ema_trend", "zz", "yy")
    assert result.exit_code == 1
    assert "no revision of ema_trend begins with 'zz'; kept are" in result.output
    assert run("diff", "nobody").exit_code == 1


def test_without_mlflow_the_number_of_trials_is_of_this_machine(run: Run) -> None:
    assert "on this machine; MLflow does not answer" in run("trials", "ema_trend").output.replace("\n", " ")


def test_all_of_them_on_one_account_with_conflicts_and_limits(run: Run, installed: Settings, tmp_path: Path) -> None:
    page, broken = tmp_path / "portfolio.html", installed.config / "strategies" / "broken.yaml"
    broken.write_text("name: broken\nuniverse: sample\n")
    found = said(run("portfolio", "rsi_reversion", "--html", str(page), "--json"))
    assert (found["traded"], found["heard"]) == (["rsi_reversion"], [])
    assert found["slots"][-1]["strategy"] == "the account"
    assert {row["strategy"] for row in found["slots"][:-1]} == {"rsi_reversion"}
    assert page.read_text().startswith("<!doctype html>")
    assert found["left_out"]["strategies/broken.yaml"] == "it has mistakes (tapeline config check)"
    broken.unlink()
    assert run("portfolio", "no_such").exit_code == 1
