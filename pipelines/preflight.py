"""Is everything there that a start needs? Each problem is one line that says what is wrong and what to do."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from dotenv import dotenv_values
from pydantic import ValidationError

from resources.ports import port_holder, port_is_free
from resources.settings import EMBEDDED_HOST, ROOT, Settings

PYTHON_FROM, PYTHON_BELOW = (3, 11), (3, 14)
MINIMUM_FREE_MB = 500
FULL_BELOW_MB = 64
"""While running: with less than this the database and the lake may not be able to write."""
NOT_SETTINGS = (
    "TAPELINE_DAGSTER_URL", "TAPELINE_DAGSTER_DIR", "TAPELINE_DAGSTER_LOGS", "TAPELINE_RUN_HOST_SOCKET",
    "TAPELINE_INSTALL_LOCKED",
)  # fmt: skip
"""Variables of ours that are no settings: the supervisor and the installer give them to the processes they start."""
_NOT_SETTINGS_PREFIXES = ("TAPELINE_TEST_", "TAPELINE_FAULT")


def read_settings() -> tuple[Settings | None, list[str]]:
    """The settings, or why they cannot be read."""
    problems = unknown_variables({**dotenv_values(ROOT / ".env"), **os.environ})
    try:
        settings = Settings()
    except ValidationError as error:
        for fault in error.errors():
            name = "TAPELINE_" + "_".join(str(part) for part in fault["loc"]).upper()
            # The value stays out of the message: it may be a secret.
            problems.append(f"{name}: {fault['msg']}; see docs/settings.md")
        return None, problems
    return (None if problems else settings), problems


def unknown_variables(environment: Mapping[str, str | None]) -> list[str]:
    """TAPELINE_* variables that are no setting: a misspelt MODE must not start a desk in the default one."""
    known = {f"TAPELINE_{name.upper()}" for name in Settings.model_fields}
    problems = []
    for name in sorted(environment):
        if not name.startswith("TAPELINE_") or name in known or name in NOT_SETTINGS or name.startswith(_NOT_SETTINGS_PREFIXES):
            continue
        near = difflib.get_close_matches(name, known, 1, 0.4)
        problems.append(f"{name} is not a setting{f', did you mean {near[0]}?' if near else ''}; see docs/settings.md")
    return problems


def check(settings: Settings) -> list[str]:
    """Everything that would make a start fail, found before anything is started."""
    problems = python_problems(sys.version_info[:2])
    folder = folder_problems(settings.path())
    problems += folder
    if not folder:
        problems += disk_problems(settings.path())
    if settings.book != "main":
        problems.append(
            "TAPELINE_BOOK chooses a book for a single command (`tapeline --book paper ...`): unset it to start Tapeline"
        )
    problems += port_problems(settings)
    problems += source_problems(settings)
    problems += celery_problems(settings)
    return problems


def celery_problems(settings: Settings) -> list[str]:
    """Are the packages of a Celery installation there?"""
    if settings.celery_broker_url is None or find_spec("dagster_celery") is not None:
        return []
    return [
        "TAPELINE_CELERY_BROKER_URL is set and dagster-celery is not installed: "
        ".venv/bin/python -m pip install --no-deps -r requirements-celery.txt"
    ]


def python_problems(version: tuple[int, ...]) -> list[str]:
    if PYTHON_FROM <= version < PYTHON_BELOW:
        return []
    return [f"Python {version[0]}.{version[1]} does not run Tapeline: it needs 3.11, 3.12 or 3.13"]


def folder_problems(folder: Path) -> list[str]:
    """Can the data folder be made and written to?"""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        return [f"cannot write to the data folder {folder}: {error.strerror}; free it or set TAPELINE_DATA_DIR"]
    return []


def disk_problems(folder: Path, free_mb: int | None = None) -> list[str]:
    free = shutil.disk_usage(folder).free // 2**20 if free_mb is None else free_mb
    if free >= MINIMUM_FREE_MB:
        return []
    return [f"the disk of {folder} is full: {free} MB free, {MINIMUM_FREE_MB} needed; free some or set TAPELINE_DATA_DIR"]


def disk_is_full(folder: Path) -> str:
    """One line that says so when the disk of a running installation is (nearly) full; else ""."""
    try:
        free = shutil.disk_usage(folder).free // 2**20
    except OSError as error:
        return f"the data folder {folder} cannot be looked at: {error.strerror}"
    if free >= FULL_BELOW_MB:
        return ""
    return f"the disk of {folder} is full: {free} MB free; what cannot be recorded is not done, no new risk is taken; free some"


def ports(settings: Settings) -> dict[str, tuple[str, int]]:
    """(host, port) by the setting that names the port, of everything that will be started."""
    names = ["webserver_port", "code_server_port", "mlflow_port", "desk_port"]
    if settings.two_books:
        names.append("paper_desk_port")
    used = {name: (settings.host, getattr(settings, name)) for name in names}
    if settings.postgres_url is None:
        used["postgres_port"] = (EMBEDDED_HOST, settings.postgres_port)
    return used


def port_problems(settings: Settings) -> list[str]:
    problems, seen = [], dict[int, str]()
    for name, (host, port) in ports(settings).items():
        variable = f"TAPELINE_{name.upper()}"
        if port in seen:
            problems.append(f"port {port} is set twice: {seen[port]} and {variable}")
        elif name != "postgres_port" and not _comes_free(host, port):
            # Postgres looks for itself: a server of this very cluster may be left from a killed start.
            problems.append(f"port {port} on {host} is taken by {port_holder(port)}: end it or set {variable}")
        seen.setdefault(port, variable)
    return problems


def _comes_free(host: str, port: int) -> bool:
    """Free now or in a moment: an outgoing connection may have been given the port for a short while."""
    for _ in range(3):
        if port_is_free(host, port):
            return True
        time.sleep(0.2)
    return False


def source_problems(settings: Settings) -> list[str]:
    """Is the chosen universe there, and the folder its feed reads?"""
    problems = []
    folder = settings.config / "universe"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if settings.universe not in names:
        problems.append(f"no universe {settings.universe!r} in {folder}: {_choices(settings.universe, names)}")
    if settings.lean_data is not None and not settings.lean_data.is_dir():
        problems.append(f"TAPELINE_LEAN_DATA names {settings.lean_data}, which is not a folder")
    return problems


def _choices(given: str, names: Iterable[str]) -> str:
    known = list(names)
    near = difflib.get_close_matches(given, known, 1, 0.4)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
