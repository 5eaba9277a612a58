"""The control API against its own description, by schemathesis: what it finds in a running desk.

Calls everything, halts and flattens included: only ever against a desk that was started for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.desk.running import Installation

CONFIG = """\
[[operations]]
include-name = "POST /v1/decisions"
# A decision's id is the hash of its content, which no schema can say: well-formed inventions are refused with 422.
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "GET /v1/closes"
# It waits as long as it is asked to: here not at all.
parameters = { wait_seconds = 0 }
"""


def run(installation: Installation, folder: Path, examples: int, *phases: str) -> tuple[int, str]:
    """Run it; (exit code, what it says). examples: made up for each operation."""
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    token = installation.settings.token_file.read_text().strip()
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config), "run",
        f"{installation.settings.desk_url}/openapi.json", "-H", f"Authorization: Bearer {token}", "--max-examples", str(examples),
        "--phases", ",".join(phases or ("examples", "coverage", "fuzzing")), "--seed", "7", "--no-color",
        "--generation-database", "none", "--request-timeout", "60", "--suppress-health-check", "all", "--continue-on-failure",
    ]  # fmt: skip
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3000)
    return done.returncode, done.stdout + done.stderr
