"""The processes of one installation: how each is started, when it is ready, how it is stopped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from resources import dagster_home
from resources.settings import ROOT, Settings

PROBE_SECONDS = 2.0
LONG_POLL_STOP_SECONDS = 4.0
"""Patience with the daemon and the code server: while a sensor waits in its tick for the next bar close they hear nothing."""
BESIDE_NICE = 5
"""Of Dagster and MLflow: what they do waits for what the desk does with open positions, when the cores are short."""
_DROPPED = ("PYTHON", "DAGSTER", "MLFLOW_", "PG", "VIRTUAL_ENV", "LD_PRELOAD", "TAPELINE_INSTALL")


class NotReady(Exception):
    """Not ready for a reason a person should see."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process. ready: cheap question, asked again and again until it says yes; may raise NotReady. after: services
    that must be ready before it starts. stop_seconds: patience between the polite signal and SIGKILL. once: it ends by
    itself and is done. nice: how far it steps back (0 to 19) when the cores are wanted by others."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[], bool]
    environment: Mapping[str, str]
    after: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 8.0
    start_seconds: float = 120.0
    once: bool = False
    address: str = ""
    ports: tuple[int, ...] = field(default=())
    nice: int = 0


def services(
    settings: Settings, module: str = "pipelines.definitions", desk_command: tuple[str, ...] = ("-m", "desk")
) -> list[Service]:
    """Every process after Postgres, in order of starting. Needs the databases: their URLs are in the environments.

    module: the code location. desk_command: arguments that make Python the desk.
    """
    common = environment(settings)
    dagster = {**common, **dagster_home.environment(settings)}
    workspace = dagster_home.write_workspace(settings)
    host = settings.host
    python = sys.executable
    schema = settings.path("dagster", "schema")
    instance = Service(
        "instance",
        (python, "-m", "pipelines.instance", str(schema)),
        lambda: False,
        dagster,
        once=True,
    )
    mlflow = Service(
        "mlflow",
        (
            python, "-m", "pipelines.mlflow_server", "--host", host, "--port", str(settings.mlflow_port), "--workers", "1",
            "--serve-artifacts", "--artifacts-destination", str(settings.path("mlflow", "artifacts")),
        ),
        lambda: answers(f"{settings.mlflow_url}/health"),
        {
            **common,
            "MLFLOW_BACKEND_STORE_URI": settings.mlflow_db_url(),  # not an argument: arguments can be read by everyone
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(_mlflow_hosts(settings)),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        },
        address=settings.mlflow_url,
        ports=(settings.mlflow_port,),
        nice=BESIDE_NICE,
    )  # fmt: skip
    code_server = Service(
        "code_server",
        (
            python, "-m", "dagster", "code-server", "start", "--host", host, "--port", str(settings.code_server_port),
            "--module-name", module, "--location-name", dagster_home.LOCATION,
            "--working-directory", str(ROOT), "--log-level", "warning",
        ),
        lambda: code_server_answers(host, settings.code_server_port),
        dagster,
        after=("instance",),
        stop_seconds=LONG_POLL_STOP_SECONDS,
        ports=(settings.code_server_port,),
        nice=BESIDE_NICE,
    )  # fmt: skip
    run_host = Service(
        "run_host",
        (python, "-m", "resources.run_host.host", "--module", module),
        lambda: run_host_answers(settings.run_host_socket),
        dagster,
        after=("instance",),
        stop_seconds=10.0,
        nice=BESIDE_NICE,
    )
    webserver = Service(
        "webserver",
        (
            python, "-m", "dagster_webserver", "--host", host, "--port", str(settings.webserver_port), "--workspace", workspace,
            "--dagster-log-level", "warning",
        ),
        lambda: location_loaded(settings.webserver_url),
        dagster,
        after=("instance", "code_server"),
        address=settings.webserver_url,
        ports=(settings.webserver_port,),
        nice=BESIDE_NICE,
    )  # fmt: skip
    daemon = Service(
        "daemon",
        (python, "-m", "pipelines.daemon", "run", "--workspace", workspace, "--log-level", "warning"),
        lambda: daemon_healthy(settings.webserver_url),
        dagster,
        after=("instance", "code_server"),
        stop_seconds=LONG_POLL_STOP_SECONDS,
        nice=BESIDE_NICE,
    )
    desk = Service(
        "desk",
        (python, *desk_command),
        lambda: answers(f"{settings.desk_url}/v1/health"),
        common,
        stop_seconds=10.0,
        address=settings.desk_url,
        ports=(settings.desk_port,),
    )
    notifier = Service(
        "notifier",
        (python, "-m", "resources.notifications.worker"),
        lambda: True,
        common,
        stop_seconds=5.0,
    )
    kill_switch = Service(
        "kill_switch",
        (python, "-m", "desk.kill_switch"),
        lambda: True,
        common,
        after=("desk",),
        stop_seconds=5.0,
    )
    beside = _paper_book(settings, common, desk_command) if settings.two_books else []
    if settings.celery_broker_url is not None:
        warm = [_celery_worker(lane, module, dagster) for lane in ("trade", "runs")]
    else:
        warm = [run_host] if settings.run_launcher == "warm" else []
    return [instance, mlflow, code_server, *warm, desk, notifier, kill_switch, *beside, webserver, daemon]


def _paper_book(settings: Settings, common: Mapping[str, str], desk_command: tuple[str, ...]) -> list[Service]:
    """Desk, notifier and kill switch of the paper book beside an account: the same programs on a book of their own."""
    book = settings.paper_book()
    own = {**common, "TAPELINE_BOOK": book.book}
    python = sys.executable
    desk = Service(
        "desk_paper",
        (python, *desk_command),
        lambda: answers(f"{book.desk_url}/v1/health"),
        own,
        after=("desk",),
        stop_seconds=10.0,
        address=book.desk_url,
        ports=(book.desk_port,),
    )
    notifier = Service("notifier_paper", (python, "-m", "resources.notifications.worker"), lambda: True, own, stop_seconds=5.0)
    kill_switch = Service(
        "kill_switch_paper", (python, "-m", "desk.kill_switch"), lambda: True, own, after=("desk_paper",), stop_seconds=5.0
    )
    return [desk, notifier, kill_switch]


def _celery_worker(lane: str, module: str, environment: Mapping[str, str]) -> Service:
    """Workers of one Celery queue on this machine. Ready at once: a broker that is away is waited for."""
    return Service(
        f"celery_{lane}",
        (sys.executable, "-m", "resources.run_host.celery_worker", lane, "--module", module),
        lambda: True,
        environment,
        after=("instance",),
        stop_seconds=10.0,
        nice=BESIDE_NICE,
    )


def environment(settings: Settings) -> dict[str, str]:
    """What every process gets: the shell's variables without those that would lead Python, Dagster or MLflow elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
    scripts = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": os.pathsep.join([scripts, *(p for p in kept.get("PATH", os.defpath).split(os.pathsep) if p != scripts)]),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": _with_loopback(kept.get("NO_PROXY", "")),
        "no_proxy": _with_loopback(kept.get("no_proxy", "")),
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        # glibc otherwise keeps an arena per thread: several hundred MB over all servers.
        "MALLOC_ARENA_MAX": "2",
    }


def _with_loopback(excluded: str) -> str:
    return ",".join(dict.fromkeys([*filter(None, excluded.split(",")), "127.0.0.1", "localhost"]))


def _mlflow_hosts(settings: Settings) -> list[str]:
    """Host headers MLflow answers to: others could come from a foreign page in the user's browser."""
    names = dict.fromkeys(["localhost", "127.0.0.1", settings.host])
    return [f"{name}{port}" for name in names for port in ("", f":{settings.mlflow_port}")]


def answers(url: str) -> bool:
    """Whether a GET of an http `url` succeeds. Asked many times: http.client, because httpx makes a TLS context each time."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < 400
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def code_server_answers(host: str, port: int) -> bool:
    """Whether the code server has loaded the definitions and serves them."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"{host}:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service="DagsterApi")
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=PROBE_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def run_host_answers(socket_path: Path) -> bool:
    """Whether the run host has imported everything and listens."""
    from resources.run_host.protocol import HostUnavailable, HostUnclear, ask

    try:
        return "pid" in ask(socket_path, {"op": "ping"}, PROBE_SECONDS)
    except (HostUnavailable, HostUnclear, OSError):
        return False


def location_loaded(webserver_url: str) -> bool:
    """Whether the webserver answers and has the code location loaded. Raises NotReady when that cannot be loaded."""
    from pipelines.graphql import DagsterApi, DagsterApiError

    try:
        with DagsterApi(webserver_url, timeout=PROBE_SECONDS) as api:
            state = api.location_state()
    except DagsterApiError:
        return False
    if state not in ("LOADED", "LOADING"):
        raise NotReady(f"Dagster cannot load the definitions: {state.strip().splitlines()[-1]}")
    return state == "LOADED"


def daemon_healthy(webserver_url: str) -> bool:
    """Whether every daemon Dagster needs has reported in."""
    from pipelines.graphql import DagsterApi, DagsterApiError

    try:
        with DagsterApi(webserver_url, timeout=PROBE_SECONDS) as api:
            return api.daemons_healthy()
    except DagsterApiError:
        return False
