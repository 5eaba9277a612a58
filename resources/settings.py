"""Every setting of Tapeline, read from TAPELINE_* environment variables and an optional .env file at the root.

The table in docs/settings.md is generated from the field descriptions below.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED_HOST = "127.0.0.1"
"""The embedded Postgres listens on loopback only, whatever `host` says."""


class Settings(BaseSettings):
    """Settings of one installation. Paths are absolute or relative to the project root."""

    model_config = SettingsConfigDict(env_prefix="TAPELINE_", env_file=ROOT / ".env", extra="ignore", frozen=True)

    universe: str = Field("sample", description="Universe file in data/config/universe, without .yaml")
    mode: Literal["shadow", "paper"] = Field(
        "paper", description="Highest mode any strategy may run in: shadow sends nothing, paper sends to the paper broker"
    )
    data_dir: Path = Field(Path("data"), description="Home of everything written: lake, postgres, mlflow, dagster, reports")
    config_dir: Path = Field(Path("data/config"), description="Strategies, plans, universe and risk files edited by people")
    lean_data: Path | None = Field(None, description="LEAN Data folder; needed by universes whose feed is lean")

    host: str = Field("127.0.0.1", description="Address every server binds to")
    webserver_port: int = Field(3000, ge=1, le=65535, description="Dagster UI")
    code_server_port: int = Field(4266, ge=1, le=65535, description="Dagster code server (gRPC)")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="MLflow UI and tracking server")
    desk_port: int = Field(8600, ge=1, le=65535, description="Desk control API")
    postgres_port: int = Field(5433, ge=1, le=65535, description="Embedded Postgres")

    postgres_url: SecretStr | None = Field(
        None,
        description="External server as postgresql+psycopg2://user:password@host:port (no database name); "
        "unset: the embedded one is started",
    )
    ledger_database: str = Field("tapeline", description="Database of the ledger")
    dagster_database: str = Field("dagster", description="Database of Dagster's runs, events and schedules")
    mlflow_database: str = Field("mlflow", description="Database of MLflow")

    replay_sessions: int = Field(3, ge=0, description="How many last sessions of the sample the live day replays; 0: none")
    replay_speed: float = Field(
        0.0, ge=0, description="Simulated seconds per real second; 0: each bar close waits only for the run of the one before"
    )
    replay_barrier_seconds: float = Field(
        120.0, gt=0, description="Longest wait for the trade run of a bar close before the replay goes on without it"
    )
    run_launcher: Literal["warm", "stock"] = Field(
        "warm", description="How Dagster runs start: forked from the pre-imported run host, or new processes of the code server"
    )
    run_slots: int = Field(2, ge=1, description="Runs outside the trade lane that the run host executes at once; more wait")
    sensor_loop_seconds: float = Field(
        1.0, ge=0.1, le=60, description="Shortest time between two rounds of the sensor daemon; stock Dagster has 5"
    )
    reconcile_seconds: float = Field(60.0, gt=0, description="Interval of ledger-against-broker reconciliation")
    heartbeat_seconds: float = Field(5.0, gt=0, description="Interval of the desk's heartbeat in the ledger")
    paper_cash: float = Field(100_000.0, gt=0, description="Starting cash of the paper account")
    account_currency: str = Field("USD", description="Currency of the account")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Log level of all processes")

    def path(self, *parts: str) -> Path:
        """Absolute path below data_dir."""
        base = self.data_dir if self.data_dir.is_absolute() else ROOT / self.data_dir
        return base.joinpath(*parts)

    @property
    def config(self) -> Path:
        return self.config_dir if self.config_dir.is_absolute() else ROOT / self.config_dir

    @property
    def lake_dir(self) -> Path:
        return self.path("lake")

    @property
    def run_host_socket(self) -> Path:
        """Unix socket of the run host. Short on purpose: socket paths end at 107 bytes."""
        return self.path("dagster", "run_host.sock")

    @property
    def desk_url(self) -> str:
        return f"http://{self.host}:{self.desk_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://{self.host}:{self.mlflow_port}"

    @property
    def webserver_url(self) -> str:
        return f"http://{self.host}:{self.webserver_port}"

    @property
    def token_file(self) -> Path:
        """The desk's API token: made at first start, mode 600."""
        return self.path("secrets", "desk_token")

    @property
    def postgres_password_file(self) -> Path:
        """Password of the embedded server: made at first start, mode 600."""
        return self.path("secrets", "postgres_password")

    def server_url(self) -> str:
        """``postgresql+psycopg2://user:password@host:port`` of the server, external or embedded.

        Raises FileNotFoundError when the embedded server was never started. The result is a secret: never log it.
        """
        if self.postgres_url is not None:
            return self.postgres_url.get_secret_value().rstrip("/")
        password = self.postgres_password_file.read_text().strip()
        return f"postgresql+psycopg2://tapeline:{password}@{EMBEDDED_HOST}:{self.postgres_port}"

    def ledger_url(self) -> str:
        return f"{self.server_url()}/{self.ledger_database}"

    def dagster_url(self) -> str:
        return f"{self.server_url()}/{self.dagster_database}"

    def mlflow_db_url(self) -> str:
        return f"{self.server_url()}/{self.mlflow_database}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
