"""A supervisor over small stand-in services, for the tests: python -m tests.pipelines.supervised SERVICES_JSON"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from pipelines import children, preflight
from pipelines.services import Service
from pipelines.supervisor import Supervisor
from resources.logs import configure
from resources.settings import Settings

children.FIRST_WAIT_SECONDS = 0.1


def build(settings: Settings) -> list[Service]:
    """Services from the JSON: name, the Python they run, the services they come after; ready when their file exists."""
    made = []
    for row in json.loads(sys.argv[1]):
        mark = settings.path(f"{row['name']}.ready")
        made.append(
            Service(
                row["name"],
                (sys.executable, "-c", f"import pathlib; mark = pathlib.Path({str(mark)!r})\n{row['code']}"),
                mark.exists if not row.get("once") else (lambda: False),
                dict(os.environ),
                after=tuple(row.get("after", ())),
                stop_signal=signal.SIGTERM,
                stop_seconds=row.get("stop_seconds", 3.0),
                once=row.get("once", False),
            )
        )
    return made


if __name__ == "__main__":
    settings, problems = preflight.read_settings()
    assert settings is not None, problems
    Path(settings.path("logs")).mkdir(parents=True, exist_ok=True)
    configure("supervisor")
    sys.exit(Supervisor(settings, main_job=False, build=build).run())
