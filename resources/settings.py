"""Every setting of Tapeline, read from TAPELINE_* environment variables and an optional .env file at the root.

The table in docs/settings.md is generated from the field descriptions below.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED_HOST = "127.0.0.1"
"""The embedded Postgres listens on loopback only, whatever `host` says."""
SIMULATED_BROKERS = frozenset({"paper", "simulated_remote"})
"""Brokers that never see real money: nothing of theirs may be called live."""
PAPER_BOOK = "paper"
"""The book beside an account with real money: a desk, a ledger schema and a paper account of its own."""
PAPER_SEARCH_PATH = "?options=-csearch_path%3Dpaper_book%2Cpublic"
"""Tables of the book first, then those that all books share (resources/ledger/books.py)."""


class Settings(BaseSettings):
    """Settings of one installation. Paths are absolute or relative to the project root."""

    model_config = SettingsConfigDict(env_prefix="TAPELINE_", env_file=ROOT / ".env", extra="ignore", frozen=True)

    universe: str = Field("sample", description="Universe file in data/config/universe, without .yaml")
    mode: Literal["shadow", "alert", "paper", "live"] = Field(
        "paper", description="Highest mode any strategy may run in: shadow sends nothing, alert tells, paper sends to a paper "
        "broker; live needs a real broker and live_account as well",
    )  # fmt: skip
    live_account: str = Field("", description="Account id at the broker that live orders may go to; empty: none may")
    paper_beside: bool = Field(
        True, description="Whether strategies in mode paper trade on a paper book of their own beside an account with real "
        "money; without effect where the broker is simulated",
    )  # fmt: skip
    book: Literal["main", "paper"] = Field(
        "main", description="Book a process works on: main, or paper, the one beside an account with real money; set by "
        "`tapeline --book paper`",
    )  # fmt: skip
    data_dir: Path = Field(Path("data"), description="Home of everything written: lake, postgres, mlflow, dagster, reports")
    config_dir: Path = Field(Path("data/config"), description="Strategies, plans, universe and risk files edited by people")
    lake_url: str = Field(
        "", description="Lake in an object store, s3://bucket/prefix?endpoint_override=host:port&scheme=http&region=name; "
        "empty: the folder lake in the data folder",
    )  # fmt: skip
    lake_access_key: SecretStr | None = Field(
        None, description="Key of the lake's object store; unset: AWS_ACCESS_KEY_ID, a profile or the machine's role"
    )
    lake_secret_key: SecretStr | None = Field(None, description="Secret that belongs to lake_access_key")
    price_view: Literal["adjusted", "raw"] = Field(
        "adjusted", description="Prices that backtests, features and labels see across splits and spin-offs: adjusted, each row "
        "as of its own moment, or raw, as traded",
    )  # fmt: skip
    lean_data: Path | None = Field(None, description="LEAN Data folder; needed by universes whose feed is lean")

    fmp_api_key: SecretStr | None = Field(None, description="Key of Financial Modeling Prep, for universes whose feed is fmp")
    fmp_url: str = Field("https://financialmodelingprep.com/stable/", description="Where Financial Modeling Prep answers")
    fmp_requests_per_minute: int = Field(300, ge=0, description="Requests a minute of your FMP plan; 0: no limit")
    fmp_requests_per_day: int = Field(250, ge=0, description="Requests a day of your FMP plan (250: the free one); 0: no limit")
    fmp_timeout_seconds: float = Field(20.0, gt=0, description="Longest wait for one answer of Financial Modeling Prep")
    fmp_max_wait_seconds: float = Field(65.0, ge=0, description="Longest wait for the request budget before a read is refused")

    live_feed: Literal["auto", "on", "off"] = Field(
        "auto", description="Whether the desk listens to live feeds: auto when the universe's feeds are live, else it replays"
    )
    live_grace_seconds: float = Field(
        2.0, ge=0, description="How long a bar close waits for stragglers of the same moment before it is processed without them"
    )
    live_stale_seconds: float = Field(
        10.0, gt=0, description="A bar missing this long after it was due means a stale feed: no new risk on its instrument"
    )
    live_silence_seconds: float = Field(
        30.0, gt=0, description="A live connection that says nothing for this long while its venue is open is made anew"
    )
    quote_seconds: float = Field(
        1.0, ge=0, description="How often feeds with free quotes are asked for prices between bars: daily loss, drawdown and "
        "circuit breakers trip on them; 0: at bar closes only",
    )  # fmt: skip
    simulated_seed: int = Field(7, ge=0, description="Seed of the simulated exchange: the same seed, the same market")
    simulated_speed: float = Field(
        1.0, gt=0, le=3600, description="Simulated seconds per real second, until the simulated market has reached real time"
    )
    simulated_start: str = Field(
        "", description="Where the simulated market begins at its first start, like 2026-03-02T14:00:00Z; empty: now"
    )
    simulated_dirt: str = Field(
        "", description="What goes wrong on the simulated wire, as shares: gaps=0.01,duplicates=0.01,late=0.01,spikes=0.001,"
        "crossed=0.01,cuts=0.002",
    )  # fmt: skip

    host: str = Field("127.0.0.1", description="Address every server binds to")
    webserver_port: int = Field(3000, ge=1, le=65535, description="Dagster UI")
    code_server_port: int = Field(4266, ge=1, le=65535, description="Dagster code server (gRPC)")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="MLflow UI and tracking server")
    desk_port: int = Field(8600, ge=1, le=65535, description="Desk control API")
    paper_desk_port: int = Field(8601, ge=1, le=65535, description="Control API of the paper book beside an account")
    desk_requests_per_second: float = Field(
        200.0, gt=0, description="Requests of one address the control API takes a second, twice that at once; more get a 429"
    )
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
    celery_broker_url: SecretStr | None = Field(
        None, description="Celery broker, redis://:password@host:6379/0: runs start in Celery workers instead of the run host; "
        "needs requirements-celery.txt (docs/operating.md)",
    )  # fmt: skip
    celery_queue: str = Field(
        "tapeline", min_length=1, description="Prefix of the Celery queues; two installations at one broker need different ones"
    )
    celery_start_seconds: float = Field(
        30.0, ge=1, description="A trade run that no Celery worker took for this long fails, and its bar close with it"
    )
    sensor_loop_seconds: float = Field(
        1.0, ge=0.1, le=60, description="Shortest time between two rounds of the sensor daemon; stock Dagster has 5"
    )
    dagster_trade_run_days: int = Field(
        30, ge=1, description="Days Dagster keeps finished runs of single bar closes; the ledger keeps what they decided for ever"
    )
    dagster_run_days: int = Field(
        180, ge=1, description="Days Dagster keeps all other finished runs, and failed ones of any kind"
    )
    dagster_event_days: int = Field(
        30, ge=1, description="Days Dagster keeps what the desk reports of bars, fills and checks; the newest of each stays"
    )
    dagster_log_days: int = Field(30, ge=1, description="Days that what a finished run printed stays on the disk")
    dagster_upkeep: Literal["announced", "show", "delete"] = Field(
        "announced",
        description="What the nightly upkeep of Dagster's tables does: announced deletes only under limits whose effect an "
        "earlier night has shown, show never deletes, delete always does",
    )
    broker: Literal["paper", "simulated_remote"] = Field(
        "paper", description="Broker the desk trades at: paper, or the simulated one in a process of its own, for drills; "
        "never real money",
    )  # fmt: skip
    simulated_broker: str = Field(
        "127.0.0.1:8611", description="Address of the simulated broker (`tapeline broker simulate`), loopback only; with "
        "`?replacing` behind it exits go in the place of what rests of their trades in one call",
    )  # fmt: skip
    reconcile_seconds: float = Field(60.0, gt=0, description="Interval of ledger-against-broker reconciliation")
    heartbeat_seconds: float = Field(5.0, gt=0, description="Interval of the desk's heartbeat in the ledger")
    kill_switch_seconds: float = Field(
        60.0, gt=0, description="Age of the desk's heartbeat at which the kill switch does what kill_switch_then says"
    )
    kill_switch_then: Literal["alert", "halt", "flatten"] = Field(
        "alert", description="What the kill switch does by itself when the desk is silent and orders or positions are open: "
        "alert only says so, halt cancels entries, flatten closes positions, too",
    )  # fmt: skip
    paper_cash: float = Field(100_000.0, gt=0, description="Starting cash of the paper account")
    account_currency: str = Field("USD", description="Currency of the account")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Log level of all processes")

    @field_validator("broker")
    @classmethod
    def _no_play_money_called_live(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("mode") == "live" and value in SIMULATED_BROKERS:
            raise PydanticCustomError(
                "broker", "TAPELINE_MODE=live needs a broker with real money, {broker} is simulated", {"broker": value}
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _of_the_paper_book(cls, values: Any) -> Any:
        """A process of the paper book sees the paper broker and its own port, whatever the installation trades at."""
        if isinstance(values, dict) and values.get("book") == PAPER_BOOK:
            return {**values, **_paper(values.get("paper_desk_port", cls.model_fields["paper_desk_port"].default))}
        return values

    @property
    def two_books(self) -> bool:
        """Whether a paper book stands beside the account of this installation."""
        at_account = self.book != PAPER_BOOK and self.broker not in SIMULATED_BROKERS
        return at_account and self.paper_beside and self.mode in ("paper", "live")

    @property
    def paper_half(self) -> bool | None:
        """Is this the paper book beside an account (True), the account's (False), or the only book there is (None)?"""
        return True if self.book == PAPER_BOOK else False if self.two_books else None

    def paper_book(self) -> Settings:
        """The same installation as processes of its paper book see it."""
        return self.model_copy(update={"book": PAPER_BOOK, **_paper(self.paper_desk_port)})

    @property
    def label(self) -> str:
        """What stands over everything that is shown: PAPER, LIVE, ..., or the paper book beside an account."""
        return "PAPER BOOK" if self.book == PAPER_BOOK else self.mode.upper()

    def path(self, *parts: str) -> Path:
        """Absolute path below data_dir."""
        base = self.data_dir if self.data_dir.is_absolute() else ROOT / self.data_dir
        return base.joinpath(*parts)

    def book_path(self, *parts: str) -> Path:
        """Absolute path of what each book has of its own: journals, anchors, reports."""
        return self.path("paper_book", *parts) if self.book == PAPER_BOOK else self.path(*parts)

    @property
    def config(self) -> Path:
        return self.config_dir if self.config_dir.is_absolute() else ROOT / self.config_dir

    @property
    def lake_dir(self) -> Path:
        return self.path("lake")

    @property
    def lake_location(self) -> Path | str:
        """Where the lake is: its folder, or the URL of an object store."""
        return self.lake_url or self.lake_dir

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
        """The ledger's database; for the paper book with the search path that puts its tables before the shared ones."""
        return f"{self.server_url()}/{self.ledger_database}" + (PAPER_SEARCH_PATH if self.book == PAPER_BOOK else "")

    def dagster_url(self) -> str:
        return f"{self.server_url()}/{self.dagster_database}"

    def mlflow_db_url(self) -> str:
        return f"{self.server_url()}/{self.mlflow_database}"


def _paper(port: Any) -> dict[str, Any]:
    return {"broker": "paper", "mode": "paper", "live_account": "", "desk_port": port}


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
