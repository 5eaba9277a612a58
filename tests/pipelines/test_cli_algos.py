"""`tapeline algos` tells what is worked in slices, from the ledger alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from pipelines.cli import app
from resources.settings import settings
from tests.desk.kit import Desk, hour

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    (tmp_path / "config").mkdir()
    server, _, database = ledger_url.rpartition("/")
    for name, value in {
        "CONFIG_DIR": str(tmp_path / "config"), "DATA_DIR": str(tmp_path / "data"), "POSTGRES_URL": server,
        "LEDGER_DATABASE": database,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"TAPELINE_{name}", value)
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["algos", *arguments], env={"COLUMNS": "400"})
    settings.cache_clear()


def test_they_are_listed_and_shown_while_the_desk_is_down(run: Run, ledger_engine: Engine) -> None:
    assert "no entry is being worked" in run().output
    desk = Desk(ledger_engine).open()
    desk.submit(0, execution={"algo": "twap", "minutes": 240, "slices": 4}, valid_until=hour(8))
    desk.close(1)
    desk.router.algos.work()
    (found,) = json.loads(run("--json").output)
    assert (found["algo"], found["filled"], found["sent"], found["paper"]) == ("twap", 250.0, 2, True)
    shown = run("show", found["id"])
    assert shown.exit_code == 0
    assert "entry" not in shown.output
    assert found["slices"][1]["order"] in json.loads(run("show", found["id"], "--json").output)["slices"][1]["order"]
    assert run("show", "alg-none").exit_code == 1
    desk.router.algos.cancel(found["id"], "enough", "me")
    assert json.loads(run("--json").output) == []
    assert [a["state"] for a in json.loads(run("--all", "--json").output)] == ["ended"]
