"""A desk process for tests: real server, real ledger, real lake with the history before the live day, sample files."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from desk.replay import replay_sessions
from resources.config import load_config
from resources.desk_client import DeskClient, DeskUnavailable
from resources.feeds import get_feed
from resources.lake import Lake
from resources.ledger.store import Ledger, VerdictRow
from resources.ports import free_port
from resources.secrets import read_secret
from resources.settings import ROOT, Settings
from tests.faults.zygote import Child, zygote
from trading.calendars import calendar
from trading.quality import judge_history
from trading.resample import resample
from trading.timeframes import Timeframe, session_date

UNIVERSE = """\
name: sample
history_start: 2017-07-03
history_end: 2017-12-29
simulated: true
quality:
  max_gap_share: 0.2
  max_gap_bars: 3
  by_asset_class:
    forex: {jump_minimum: 0.02}
instruments:
  EURUSD:
    asset_class: forex
    calendar: FX
    tick_size: 0.00001
    lot_size: 1000
    currency: USD
    feed: sample_forex
    native_timeframe: 1h
    tradable_in: [backtest, paper]
  SPX:
    asset_class: index
    calendar: XNYS
    tick_size: 0.01
    currency: USD
    feed: sample_indices
    native_timeframe: 1d
    tradable_in: [backtest, paper]
"""

STRATEGY = """\
name: often
description: Buys when the fast average is above the slow one, sells short below, out after a few hours.
status: active
mode: paper
symbols: [EURUSD]
timeframe: 1h
confirm: [4h]
entry:
  long:
    all:
      - ">": [{indicator: ema, params: {period: 3}}, {indicator: ema, params: {period: 8}}]
      - ">": [{price: close, timeframe: 4h}, 0]
  short: {"<": [{indicator: ema, params: {period: 3}}, {indicator: ema, params: {period: 8}}]}
exits:
  stop: {kind: atr, period: 14, multiple: 4.0}
  target: {kind: reward, ratio: 3.0}
  max_bars: 3
sizing: {kind: fixed, quantity: 10000}
gates: {min_reward_to_risk: 1.0, quality_sessions: 1, valid_bars: 1}
costs: {commission_kind: per_value, rate: 0.00002, minimum: 2.0, slippage_kind: fixed, value: 2}
"""


Started = subprocess.Popen[bytes] | Child
_PREPARE = "tests.faults.zygote:modules"
DESK_MODULES = ("desk.__main__", "desk.app", "resources.logs")
"""What a desk imports, at its start and later."""


def fork_desk(main: str, environment: Mapping[str, str], log: Path) -> Child:
    """A process that runs the ``module:function`` `main` of a desk, forked from one that has imported what a desk needs."""
    if not zygote().did(_PREPARE):
        zygote().call(_PREPARE, *DESK_MODULES)
    return zygote().spawn(main, env=environment, cwd=ROOT, log=log)


@dataclass(frozen=True)
class History:
    """What every installation starts with: a lake and a ledger that hold everything before the live day."""

    lake: Path
    database: str
    postgres_url: str

    def new_ledger(self, name: str) -> str:
        """URL of a fresh copy of the ledger."""
        server = create_engine(f"{self.postgres_url}/postgres", isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{self.database}"'))
        server.dispose()
        return f"{self.postgres_url}/{name}"


_numbers = itertools.count(1)
_histories: dict[str, History] = {}
MakeInstallation = Callable[..., "Installation"]


@pytest.fixture(scope="session")
def history(postgres_url: str, _ledger_template: str, tmp_path_factory: pytest.TempPathFactory) -> History:
    """The history, ingested once a test run (each module that imports this fixture has its own copy of it)."""
    if postgres_url in _histories:
        return _histories[postgres_url]
    name = f"history_{os.getpid()}"
    blank = History(tmp_path_factory.mktemp("none"), _ledger_template, postgres_url)
    installation = Installation(tmp_path_factory.mktemp("history") / "at", postgres_url, blank.new_ledger(name))
    installation.ingest_history()
    installation.stop()
    _histories[postgres_url] = History(installation.settings.lake_dir, name, postgres_url)
    return _histories[postgres_url]


@pytest.fixture(scope="module")
def install(history: History, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeInstallation]:
    """Makes installations with the history in them; their desks are stopped at the end of the module."""
    made: list[Installation] = []

    def new(**more: Any) -> Installation:
        url = history.new_ledger(f"desk_{os.getpid()}_{next(_numbers)}")
        made.append(Installation(tmp_path_factory.mktemp("installation") / "at", history.postgres_url, url, history, **more))
        return made[-1]

    yield new
    for installation in made:
        installation.stop()


@dataclass
class Installation:
    """One installation below `room`: settings, config files, lake, and desk processes."""

    room: Path
    postgres_url: str
    ledger_url: str
    history: History | None = None
    overrides: dict[str, str] = field(default_factory=dict)
    strategies: Mapping[str, str] = field(default_factory=lambda: {"often": STRATEGY})

    def __post_init__(self) -> None:
        self.config_dir = self.room / "config"
        (self.config_dir / "universe").mkdir(parents=True)
        (self.config_dir / "strategies").mkdir()
        (self.config_dir / "universe" / "sample.yaml").write_text(UNIVERSE)
        shutil.copytree(ROOT / "data" / "config" / "risk", self.config_dir / "risk")
        for name, rules in self.strategies.items():
            (self.config_dir / "strategies" / f"{name}.yaml").write_text(rules)
        self.environment = {
            "TAPELINE_UNIVERSE": "sample",
            "TAPELINE_DATA_DIR": str(self.room / "data"),
            "TAPELINE_CONFIG_DIR": str(self.config_dir),
            "TAPELINE_POSTGRES_URL": self.postgres_url,
            "TAPELINE_LEDGER_DATABASE": self.ledger_url.rsplit("/", 1)[1],
            "TAPELINE_DESK_PORT": str(free_port()),
            "TAPELINE_WEBSERVER_PORT": str(free_port()),
            "TAPELINE_REPLAY_SESSIONS": "1",
            "TAPELINE_REPLAY_BARRIER_SECONDS": "20",
            "TAPELINE_HEARTBEAT_SECONDS": "0.5",
            **self.overrides,
        }
        names = {k.removeprefix("TAPELINE_").lower(): v for k, v in self.environment.items()}
        self.settings = Settings(_env_file=None, **names)  # type: ignore[arg-type]
        self.ledger = Ledger.at(self.ledger_url)
        self.lake = Lake(self.settings.lake_dir)
        self.processes: list[Started] = []
        if self.history is not None:
            shutil.copytree(self.history.lake, self.settings.lake_dir)

    def ingest_history(self) -> None:
        """Everything before the live day: bars, derived bars, good verdicts."""
        config = load_config(self.settings)
        universe = config.universe
        live = replay_sessions(universe, self.settings.replay_sessions)
        end = live[0] - timedelta(days=1) if live else universe.history_end
        assert end is not None
        for instrument in universe.instruments.values():
            venue = calendar(instrument.calendar)
            feed = get_feed(instrument.feed, self.settings)
            native = feed.history(instrument, instrument.native_timeframe, universe.history_start, end)
            for timeframe in Timeframe:
                if timeframe.minutes < instrument.native_timeframe.minutes:
                    continue
                bars = resample(native, timeframe, venue)
                self.lake.write_bars(
                    f"bars_{timeframe}", {instrument.symbol: bars}, start=universe.history_start, end=end,
                    source=instrument.feed, instruments=universe.instruments,
                )  # fmt: skip
                rows = []
                for number, results in judge_history(bars, instrument, venue, universe.quality).items():
                    part = bars.rows(bars.session == number)
                    rows += [
                        VerdictRow(
                            f"bars_{timeframe}", session_date(number).isoformat(), instrument.symbol, r.check, r.passed,
                            r.severity, part.content_hash(), judged_time=venue.bounds(number)[1],
                        )
                        for r in results
                    ]  # fmt: skip
                self.ledger.put_verdicts(rows)

    def start(self, *, crash_at: str = "", wait: bool = True, interpreter: bool = False) -> Started:
        """Start a desk process; wait until it takes decisions.

        It is forked from one that has imported what a desk needs; interpreter: start ``python -m desk`` itself.
        """
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TAPELINE_")} | self.environment
        if crash_at:
            environment["TAPELINE_CRASH_AT"] = crash_at
        log = self.room / f"desk-{len(self.processes)}.log"
        process: Started
        if interpreter:
            with log.open("wb") as sink:
                process = subprocess.Popen([sys.executable, "-m", "desk"], cwd=ROOT, env=environment, stdout=sink, stderr=sink)
        else:
            process = fork_desk("desk.__main__:main", environment, log)
        self.processes.append(process)
        if wait:
            self.wait_for(lambda: self.client().health()["status"] == "ok", process)
        return process

    def client(self, **kw: Any) -> DeskClient:
        if not self.settings.token_file.exists():
            raise DeskUnavailable("no token yet")
        return DeskClient(self.settings.desk_url, read_secret(self.settings.token_file), **{"attempts": 1, **kw})

    def wait_for(self, condition: Any, process: Started | None = None, seconds: float = 150.0) -> Any:
        """The first truthy answer of `condition`; a desk that is not there yet is waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if process is not None and process.poll() is not None:
                raise AssertionError(f"the desk ended with {process.returncode}:\n{self.log()}")
            try:
                answer = condition()
            except DeskUnavailable:
                answer = None
            if answer:
                return answer
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s in vain:\n{self.log()}")

    def log(self) -> str:
        texts = [path.read_text(errors="replace")[-6000:] for path in sorted(self.room.glob("desk-*.log"))]
        return "\n----\n".join(texts)

    def decide(self, row: Mapping[str, Any], run_id: str = "test-run") -> list[Any]:
        """Signals and decisions of one bar close into the ledger; the approved decisions."""
        from assets import trade_lane

        close_time, session = int(row["close_time"]), str(row["session"])
        config = load_config(self.settings)
        outcome = trade_lane.evaluate_close(close_time, session, config, self.lake, self.ledger, self.settings.mode)
        self.ledger.insert_signals(outcome.signals, session=session, code_revision="test", run_id=run_id)
        made = trade_lane.decide(outcome.signals, config, self.ledger, close_time)
        self.ledger.insert_decisions(made, session=session, code_revision="test", run_id=run_id)
        return [item.decision for item in made if item.decision.approved]

    def trade(self, row: Mapping[str, Any], run_id: str = "test-run", attempts: int = 60) -> list[Any]:
        """What the trade run does at one bar close, without Dagster around it."""
        approved = self.decide(row, run_id)
        with self.client(attempts=attempts, pause_seconds=0.1) as desk:
            answers = [desk.submit_decision(decision, int(row["close_time"])) for decision in approved]
            desk.close_done(int(row["close_time"]), run_id)
        return answers

    def trade_closes(self, count: int) -> int:
        """The trade runs of the next `count` closes; the close_time of the last one, itself complete."""
        for _ in range(count):
            row = self.wait_for(lambda: self.ledger.closes(pending=True))[0]
            self.trade(row)
        return int(row["close_time"])

    def trade_until_finished(self, seconds: float = 400.0) -> list[Any]:
        """Run every close's trade run as it comes, until the replay is over."""
        deadline, answers = time.monotonic() + seconds, []
        while time.monotonic() < deadline:
            for row in self.ledger.closes(pending=True):
                answers += self.trade(row)
            state = self.ledger.get_state("replay")
            if state and state["state"] == "finished":
                return answers
            time.sleep(0.02)
        raise AssertionError(f"the replay did not finish:\n{self.log()}")

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.ledger.engine.dispose()
