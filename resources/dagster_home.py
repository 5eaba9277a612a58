"""What Dagster's processes need to know about this installation, as environment variables read by dagster.yaml."""

from __future__ import annotations

from resources.settings import ROOT, Settings

WORKSPACE_FILE = "workspace.yaml"
LOCATION = "tapeline"


def environment(settings: Settings) -> dict[str, str]:
    """Variables for any process that opens the Dagster instance or loads the code location. Holds a password."""
    return {
        "DAGSTER_HOME": str(ROOT),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "TAPELINE_DAGSTER_URL": settings.dagster_url(),
        "TAPELINE_DAGSTER_DIR": str(settings.path("dagster")),
        "TAPELINE_DAGSTER_LOGS": str(settings.path("dagster", "storage")),
        "TAPELINE_RUN_HOST_SOCKET": str(settings.run_host_socket),
    }


def write_workspace(settings: Settings) -> str:
    """Write data/dagster/workspace.yaml, which names the running code server; return its path."""
    path = settings.path("dagster", WORKSPACE_FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "load_from:\n"
        "  - grpc_server:\n"
        f"      host: {settings.host}\n"
        f"      port: {settings.code_server_port}\n"
        f"      location_name: {LOCATION}\n"
    )
    return str(path)
