"""``tapeline plans``: where plans stand, and cancelling one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import Engine
from typer.testing import CliRunner

from pipelines.cli import app
from resources.ledger import plans as ledger_plans
from resources.ledger.plans import PlanState
from resources.settings import settings
from tests.paths import ROOT

Run = Callable[..., Result]
NAME = "eurusd_year_end_breakout"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "data" / "config", tmp_path / "config"))


@pytest.fixture
def run(folder: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    server, _, database = ledger_url.rpartition("/")
    for name, value in {"CONFIG_DIR": str(folder), "POSTGRES_URL": server, "LEDGER_DATABASE": database}.items():
        monkeypatch.setenv(f"TAPELINE_{name}", value)
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["plans", *arguments])
    settings.cache_clear()


def arm(engine: Engine) -> None:
    with engine.begin() as connection:
        ledger_plans.move(connection, None, PlanState(NAME, "r1", "EURUSD", "long", "armed"), "armed", now_time=1)


def test_a_plan_the_desk_has_not_seen_is_new(run: Run) -> None:
    rows = {r["plan"]: r for r in json.loads(run("list", "--json").stdout)}
    assert rows[NAME]["state"] == "new"
    assert rows["eurusd_autumn_breakdown"]["reason"] == "status paused"
    levels = [rows["eurusd_autumn_breakdown"][key] for key in ("entry", "stop", "targets", "resting", "last")]
    assert levels == ["close_below(1.167)", "1.174", "0.5 at 1.16", "", ""]


def test_an_armed_plan_is_cancelled_with_a_reason_and_shown(run: Run, ledger_engine: Engine) -> None:
    arm(ledger_engine)
    assert "is taken at the next bar close" in json.loads(run("list", "--json").stdout)[1]["problem"]
    result = run("cancel", NAME, "--reason", "the meeting was moved", "--who", "me")
    assert (result.exit_code, "cancelled" in result.output) == (0, True)
    shown = json.loads(run("show", NAME, "--json").stdout)
    assert shown["state"] == "cancelled"
    assert [(e["event"], e["who"], e["reason"]) for e in shown["events"]] == [
        ("armed", "desk", ""), ("cancelled", "me", "the meeting was moved"),
    ]  # fmt: skip
    assert NAME not in run("list").output
    assert run("show", NAME).exit_code == 0
    again = run("cancel", NAME, "--reason", "once more")
    assert again.exit_code == 1
    assert "cancelled already" in again.output


def test_check_names_every_mistake_at_once(run: Run, folder: Path) -> None:
    path = folder / "plans" / "eurusd_autumn_breakdown.yaml"
    path.write_text(path.read_text().replace("stop: 1.1740", "stop: 1.1640").replace("template: breakout", "template: breakot"))
    (folder / "plans" / f"{NAME}.yaml").write_text("name: x\nsymbl: EURUSD\n")
    result = run("check")
    assert result.exit_code == 1
    assert "eurusd_autumn_breakdown.yaml:12: template: no template 'breakot'" in result.output
    assert f"{NAME}.yaml:2: symbl: unknown key" in result.output
