"""Settings: TAPELINE_* variables, absolute folders, URLs that stay secret, a table that is true."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from resources import settings_table
from resources.settings import ROOT, Settings


def test_variables_set_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAPELINE_MODE", "shadow")
    monkeypatch.setenv("TAPELINE_DESK_PORT", "9001")
    monkeypatch.setenv("TAPELINE_DATA_DIR", str(tmp_path))
    settings = Settings()
    assert (settings.mode, settings.desk_url, settings.lake_dir) == ("shadow", "http://127.0.0.1:9001", tmp_path / "lake")


def test_relative_folders_are_relative_to_the_project_not_to_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(data_dir=Path("elsewhere")).path("lake") == ROOT / "elsewhere" / "lake"


IMPOSSIBLE = [("MODE", "real"), ("DESK_PORT", "70000"), ("PAPER_CASH", "-1"), ("LOG_LEVEL", "loud")]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TAPELINE_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_the_embedded_server_s_url_reads_the_password_file(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, postgres_port=5999)
    with pytest.raises(FileNotFoundError):
        settings.server_url()
    settings.postgres_password_file.parent.mkdir()
    settings.postgres_password_file.write_text("pw\n")
    assert settings.ledger_url() == "postgresql+psycopg2://tapeline:pw@127.0.0.1:5999/tapeline"


def test_the_embedded_server_is_on_loopback_whatever_the_host(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, host="0.0.0.0")
    settings.postgres_password_file.parent.mkdir()
    settings.postgres_password_file.write_text("pw\n")
    assert "@127.0.0.1:" in settings.server_url()


def test_an_external_server_s_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPELINE_POSTGRES_URL", "postgresql+psycopg2://u:hush@db:5432/")
    settings = Settings()
    assert settings.dagster_url() == "postgresql+psycopg2://u:hush@db:5432/dagster"
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings.model_dump())


def test_the_settings_page_shows_every_setting_as_it_is() -> None:
    page = settings_table.PAGE.read_text()
    assert settings_table.page_with_table(page) == page, "run: python -m resources.settings_table"
    for name in Settings.model_fields:
        assert f"`TAPELINE_{name.upper()}`" in page


def test_every_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
