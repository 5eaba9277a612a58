"""What is wrong is said before anything starts, in one line that says what to do."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines import preflight
from resources.ports import free_port
from resources.settings import Settings


def settings(tmp_path: Path, **changes: object) -> Settings:
    names = ("webserver_port", "code_server_port", "mlflow_port", "desk_port", "postgres_port")
    return Settings(**{"data_dir": tmp_path / "data", **{name: free_port() for name in names}, **changes})  # type: ignore[arg-type]


def one_line(problems: list[str], *words: str) -> None:
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    for word in words:
        assert word in problems[0]


def test_nothing_is_wrong_with_the_defaults(tmp_path: Path) -> None:
    assert preflight.check(settings(tmp_path)) == []


@pytest.mark.parametrize("version", [(3, 10), (3, 14), (2, 7)])
def test_python_too_old_or_too_new(version: tuple[int, int]) -> None:
    one_line(preflight.python_problems(version), f"{version[0]}.{version[1]}", "3.11, 3.12 or 3.13")


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_python_that_fits(version: tuple[int, int]) -> None:
    assert preflight.python_problems(version) == []


def test_a_disk_that_fills_up_while_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.disk_is_full(tmp_path) == ""
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=3 * 2**20))
    one_line([preflight.disk_is_full(tmp_path)], "3 MB free", str(tmp_path), "no new risk")


def test_a_full_disk(tmp_path: Path) -> None:
    one_line(preflight.disk_problems(tmp_path, free_mb=120), "120 MB free", str(tmp_path), "TAPELINE_DATA_DIR")


def test_a_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    one_line(preflight.check(settings(tmp_path)), str(tmp_path / "data"), "TAPELINE_DATA_DIR")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o500)
    one_line(preflight.check(settings(tmp_path)), "Permission denied", "TAPELINE_DATA_DIR")


def test_a_taken_port_is_named_with_its_holder_and_its_setting(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        problems = preflight.check(settings(tmp_path, mlflow_port=port))
    one_line(problems, str(port), f"(pid {os.getpid()})", "TAPELINE_MLFLOW_PORT")


def test_a_port_set_twice(tmp_path: Path) -> None:
    port = free_port()
    one_line(preflight.check(settings(tmp_path, desk_port=port, webserver_port=port)), "twice", "WEBSERVER_PORT", "DESK_PORT")


def test_an_external_database_needs_no_port_of_ours(tmp_path: Path) -> None:
    own = settings(tmp_path, postgres_url="postgresql+psycopg2://u:p@db:5432")
    assert "postgres_port" not in preflight.ports(own)


def test_a_misspelt_universe(tmp_path: Path) -> None:
    one_line(preflight.check(settings(tmp_path, universe="sampel")), "sampel", "did you mean sample?")


def test_a_lean_folder_that_is_not_there(tmp_path: Path) -> None:
    one_line(preflight.check(settings(tmp_path, lean_data=tmp_path / "no")), str(tmp_path / "no"), "TAPELINE_LEAN_DATA")


def test_a_misspelt_variable_does_not_start_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPELINE_MOD", "shadow")
    own, problems = preflight.read_settings()
    assert own is None
    one_line(problems, "TAPELINE_MOD", "did you mean TAPELINE_MODE?")


def test_variables_that_are_ours_but_no_settings_pass() -> None:
    names = [*preflight.NOT_SETTINGS, "TAPELINE_TEST_MARKET_DATA", "TAPELINE_DESK_PORT", "HOME"]
    assert preflight.unknown_variables(dict.fromkeys(names, "x")) == []


def test_an_impossible_value_is_one_line_without_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPELINE_DESK_PORT", "hush")
    own, problems = preflight.read_settings()
    assert own is None
    one_line(problems, "TAPELINE_DESK_PORT", "docs/settings.md")
    assert "hush" not in problems[0]
