"""``tapeline models``: what serves, and back to the previous version by one command, on record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines import cli_models, cli_support
from resources.ledger.audit_read import read
from resources.ledger.store import Ledger
from resources.model_store import Aliases, ModelStore
from resources.settings import Settings
from resources.tracking import TrackingError
from tests.assets.sample_lake import installation
from tests.ml import served_models
from tests.trading.samples import spx

MODEL = "tapeline-forecaster-sample"


class Registry:
    """MLflow with two versions of one model; away when told."""

    def __init__(self) -> None:
        self.aliases, self.away = {"champion": "2", "challenger": "2", "previous": "1"}, False
        bars = spx().rows(slice(0, 600))
        self.files = {v: served_models.forecaster(bars, seed=int(v)) for v in ("1", "2")}

    def version_of(self, name: str, alias: str) -> str | None:
        if self.away:
            raise TrackingError("MLflow does not answer")
        return self.aliases.get(alias) if name == MODEL else None

    def version_tags(self, name: str, version: str) -> dict[str, str]:
        return served_models.tags(self.files[version])

    def model_bytes(self, name: str, version: str, file: str) -> bytes:
        return self.files[version][file]

    def run_of(self, name: str, version: str) -> str:
        return f"run-{version}"

    def roll_back(self, name: str, why: str) -> tuple[str, str]:
        if self.away:
            raise TrackingError("MLflow does not answer")
        before, now = self.aliases["champion"], self.aliases["previous"]
        self.aliases |= {"champion": now, "previous": before}
        return before, now


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Iterator[tuple[Settings, Registry]]:
    from contextlib import contextmanager

    registry = Registry()

    @contextmanager
    def own_ledger() -> Iterator[Ledger]:
        yield ledger

    with installation(tmp_path) as settings:
        monkeypatch.setattr(cli_models, "_tracking", lambda: registry)
        monkeypatch.setattr(cli_models, "open_ledger", own_ledger)
        yield settings, registry


def ask(*arguments: str) -> Any:
    return CliRunner().invoke(cli_models.app, list(arguments))


def test_a_rollback_moves_the_alias_brings_this_disk_up_to_date_and_is_on_record(
    desk: tuple[Settings, Registry], ledger: Ledger
) -> None:
    settings, registry = desk
    assert ask("fetch", "forecaster").exit_code == 0
    done = ask("rollback", "forecaster", "--why", "it lost", "--by", "me")
    assert done.exit_code == 0, done.output
    assert "version 1 is champion again" in done.output
    assert registry.aliases["champion"] == "1"
    aliases = ModelStore.of(settings).aliases(MODEL)
    assert aliases is not None
    assert (aliases.champion, aliases.previous) == ("1", "2")
    told = [(r["actor"], r["action"], r["content"]["why"]) for r in read(ledger.engine, action="model_rollback*")]
    assert told == [("me", "model_rollback_asked", "it lost"), ("me", "model_rollback", "it lost")]


def test_while_mlflow_is_away_nothing_changes_and_what_was_asked_is_on_record(
    desk: tuple[Settings, Registry], ledger: Ledger
) -> None:
    settings, registry = desk
    ask("fetch", "forecaster")
    registry.away = True
    done = ask("rollback", "forecaster", "--why", "it lost")
    assert done.exit_code == cli_support.UNREACHABLE
    assert ask("fetch").exit_code == cli_support.UNREACHABLE
    aliases = ModelStore.of(settings).aliases(MODEL)
    assert aliases is not None
    assert aliases.champion == "2"
    assert [r["action"] for r in read(ledger.engine, action="model_rollback*")] == ["model_rollback_asked"]


def test_list_and_show_say_what_serves_and_what_does_not(desk: tuple[Settings, Registry]) -> None:
    ask("fetch", "forecaster")
    listed = json.loads(ask("list", "--json").stdout)
    named = {m["model"]: (m["champion"], m["on this disk"]) for m in listed["models"]}
    assert named[MODEL] == ("2", "1 2")
    assert named["tapeline-planted-synthetic"] == ("", "")
    (strategy,) = listed["strategies"]
    assert strategy["registered"] == MODEL
    assert strategy["refusal"] == "MODEL_SCHEMA: model=forecaster reason=not trained on symbol=COMP"
    shown = json.loads(ask("show", "forecaster", "--json").stdout)
    assert [(v["version"], v["serving"]) for v in shown["versions"]] == [("1", "may serve"), ("2", "may serve")]
    assert ask("show", "forcaster").exit_code == cli_support.WRONG


def test_a_sensor_sees_that_mlflow_names_another_version(
    desk: tuple[Settings, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sensors import champions

    settings, registry = desk
    store = ModelStore.of(settings)
    monkeypatch.setattr(champions, "named_by", lambda url, name: dict(registry.aliases))
    assert list(champions.changed("", store, [MODEL])) == [MODEL]
    store.name(MODEL, Aliases(**registry.aliases, asked_wall=7))
    assert champions.changed("", store, [MODEL]) == {}
    registry.aliases["champion"] = "1"
    assert champions.changed("", store, [MODEL]) == {MODEL: "challenger=2 champion=1 previous=1 after 7"}
