"""The MLflow server in one process instead of two.

    python -m pipelines.mlflow_server --host ... --port ...        (arguments of `mlflow server`)

`mlflow server` checks its options, prepares the database, and starts uvicorn as a child that imports everything again: a
parent of 200 MB that then only waits. Here the same command becomes the uvicorn it would have started. Where MLflow has
changed how it starts it, the stock two processes run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


def become_uvicorn(command: Sequence[str], *, extra_env: Mapping[str, str] | None = None, **_: Any) -> NoReturn:
    """Run the uvicorn command line in this process; does not return."""
    import uvicorn.main

    os.environ.update(extra_env or {})
    sys.exit(uvicorn.main.main(list(command[command.index("uvicorn") + 1 :])))


def main() -> None:
    import uvicorn  # noqa: F401, I001 - MLflow takes its presence for being the server and then guards the Host header

    import mlflow.cli
    import mlflow.server

    stock = getattr(mlflow.server, "_exec_cmd", None)
    if stock is None:
        print("this MLflow has no _exec_cmd: it runs as two processes", file=sys.stderr)  # noqa: T201
    else:

        def start(command: Sequence[str], **options: Any) -> Any:
            alone = "uvicorn" in command and "--workers" in command and command[command.index("--workers") + 1] == "1"
            return become_uvicorn(command, **options) if alone else stock(command, **options)

        mlflow.server._exec_cmd = start  # type: ignore[assignment]
    sys.argv = ["mlflow", "server", *sys.argv[1:]]
    mlflow.cli.cli()


if __name__ == "__main__":
    main()
