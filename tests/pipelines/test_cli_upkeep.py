"""``tapeline upkeep dagster`` shows first, deletes when told to, and says so; a broker's URL changes what is started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from pipelines import preflight, services
from pipelines.cli import app
from resources import dagster_upkeep
from resources.dagster_upkeep import Upkeep
from resources.ledger.store import Ledger
from resources.settings import Settings, settings

FOUND = Upkeep(runs=7, run_events=210, log_folders=7, log_bytes=1 << 20)


@pytest.fixture
def run(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    url = ledger.engine.url.render_as_string(hide_password=False)
    monkeypatch.setattr(Settings, "ledger_url", lambda _: url)
    monkeypatch.setattr(Settings, "dagster_url", lambda _: url)
    monkeypatch.setenv("TAPELINE_DATA_DIR", str(tmp_path))
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["upkeep", "dagster", *arguments])
    settings.cache_clear()


def test_without_apply_nothing_is_deleted_and_it_says_how(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dagster_upkeep, "plan", lambda *_: FOUND)
    monkeypatch.setattr(dagster_upkeep, "apply", lambda *_, **__: pytest.fail("deleted on a dry run"))
    for arguments in ((), ("--dry-run",)):
        said = run(*arguments)
        assert said.exit_code == 0, said.output
        assert "would be deleted (dry run)" in said.output
        assert "upkeep dagster --apply" in said.output
    assert json.loads(run("--json").stdout)["runs"] == 7


def test_with_apply_it_is_deleted_by_who_asked(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def apply(own: Settings, limits: object, engine: object, *, who: str) -> Upkeep:
        asked.append(who)
        return Upkeep(runs=7, problems=["VACUUM runs: OperationalError"])

    monkeypatch.setattr(dagster_upkeep, "apply", apply)
    said = run("--apply", "--who", "ann")
    assert asked == ["ann"]
    assert said.exit_code == 1, "what could not be done is not hidden"
    assert "not done: VACUUM runs" in said.output


def test_a_database_that_is_none_of_dagster_s_is_one_line(run: Callable[..., Result], ledger: Ledger) -> None:
    with ledger.engine.connect() as connection:
        assert connection.execute(text("SELECT to_regclass('event_logs')")).scalar() is None
    said = run()
    assert said.exit_code == 3
    assert "Dagster's database does not answer" in said.output


def test_a_broker_s_url_starts_workers_instead_of_the_run_host(tmp_path: Path, postgres_url: str) -> None:
    def names(**more: object) -> list[str]:
        own = Settings(_env_file=None, data_dir=tmp_path, postgres_url=postgres_url, **more)  # type: ignore[call-arg, arg-type]
        return [s.name for s in services.services(own)]

    with_broker = names(celery_broker_url="redis://:secret@127.0.0.1:6379/0")
    assert {"celery_trade", "celery_runs"} <= set(with_broker)
    assert "run_host" not in with_broker
    assert "run_host" in names()
    assert "celery_trade" not in names()


def test_a_broker_s_url_without_its_packages_ends_the_start_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Settings(_env_file=None, data_dir=tmp_path, celery_broker_url="redis://:secret@host/0")  # type: ignore[call-arg, arg-type]
    monkeypatch.setattr(preflight, "find_spec", lambda _: None)
    (problem,) = preflight.celery_problems(own)
    assert "requirements-celery.txt" in problem
    assert "secret" not in problem
    assert preflight.celery_problems(Settings(_env_file=None, data_dir=tmp_path)) == []  # type: ignore[call-arg]
