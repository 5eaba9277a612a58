"""A whole installation in temporary folders, started through the supervisor as `make run` does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resources.ledger.store import Ledger
from resources.ports import free_port
from resources.settings import Settings
from tests.paths import ROOT

STARTED_PATIENCE_SECONDS = 900.0
_LESS = {
    "universe/sample.yaml": {"history_start: 1999-01-04": "history_start: {history_start}"},
    "models/planted.yaml": {"folds: 3": "folds: 2", "epochs: 6": "epochs: 2"},
    "models/forecaster.yaml": {"epochs: 4": "epochs: 2"},
    "models/trader.yaml": {"steps: 16384": "steps: 4096", "seeds: 5": "seeds: 2"},
}
"""What an installation of the tests has less of than the shipped files ask for: years, and repetitions of a training."""


class Installation:
    """Settings, processes and ledger of one running installation."""

    def __init__(self, room: Path, *, history_start: str, replay_sessions: int) -> None:
        room.chmod(0o755)  # as root the embedded server runs as another user, who must get in
        config = room / "config"
        shutil.copytree(ROOT / "data" / "config", config)
        for name, changes in _LESS.items():
            text = (config / name).read_text()
            for shipped, less in changes.items():
                assert text.count(shipped) == 1, f"{name}: expected {shipped!r} once"
                text = text.replace(shipped, less.format(history_start=history_start))
            (config / name).write_text(text)
        self.room, self.config = room, config
        self.settings = Settings(
            data_dir=room / "data",
            config_dir=config,
            webserver_port=free_port(),
            code_server_port=free_port(),
            mlflow_port=free_port(),
            desk_port=free_port(),
            postgres_port=free_port(),
            replay_sessions=replay_sessions,
            _env_file=None,
        )  # type: ignore[call-arg]
        self.log = room / "supervisor.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._ledger: Ledger | None = None

    def environment(self) -> dict[str, str]:
        own = self.settings
        values = {
            "DATA_DIR": own.data_dir, "CONFIG_DIR": own.config_dir, "WEBSERVER_PORT": own.webserver_port,
            "CODE_SERVER_PORT": own.code_server_port, "MLFLOW_PORT": own.mlflow_port, "DESK_PORT": own.desk_port,
            "POSTGRES_PORT": own.postgres_port, "REPLAY_SESSIONS": own.replay_sessions,
        }  # fmt: skip
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("TAPELINE_", "DAGSTER_"))}
        return {**kept, **{f"TAPELINE_{name}": str(value) for name, value in values.items()}}

    def start(self) -> None:
        with self.log.open("ab") as out:
            command = [sys.executable, "-m", "pipelines.supervisor"]
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def stop(self) -> int:
        """Ctrl-C to the whole process group, as a terminal sends it. Returns the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)
        try:
            return self._process.wait(120)
        finally:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None
            if self._ledger is not None:
                self._ledger.engine.dispose()
                self._ledger = None

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = STARTED_PATIENCE_SECONDS) -> None:
        """Until `condition` holds; an exception of it counts as not yet. Fails with the end of the log."""
        assert self._process is not None
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if condition():
                    return
            except Exception:
                pass
            time.sleep(0.25)
        raise AssertionError(f"not seen: {what}\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-40:]))

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            self._ledger = Ledger.at(self.settings.ledger_url())
        return self._ledger

    def said(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def pid_of(self, name: str) -> int:
        record: list[dict[str, Any]] = json.loads((self.settings.path("run") / "children.json").read_text())
        return int(next(row["pid"] for row in record if row["name"] == name))

    def kill(self, name: str) -> None:
        os.kill(self.pid_of(name), signal.SIGKILL)

    def graphql(self, query: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.settings.webserver_url}/graphql", json.dumps({"query": query}).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def tapeline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `tapeline` command, as a person types it."""
        command = [sys.executable, "-m", "pipelines.cli", *arguments]
        environment = {**self.environment(), "COLUMNS": "200", "NO_COLOR": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)

    def ports(self) -> list[int]:
        own = self.settings
        return [own.webserver_port, own.code_server_port, own.mlflow_port, own.desk_port, own.postgres_port]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
