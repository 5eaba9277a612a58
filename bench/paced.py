"""Latency of a real-time day: closes come every few seconds whatever the runs do, 100 instruments, 100 plans, all of Tapeline.

    python -m bench latency --paced

An installation of its own (Postgres, code server, daemon, run host, desk, webserver, MLflow) is started in a temporary folder
and replays minutes of 100 made-up instruments at a speed at which one closes every `PACE_SECONDS`. In a replay without pace
the next close is there before the daemon's next round: every close then pays for the sensor's pause. Here, as on a live day,
the sensor is back at its place long before. Reads the joints from the ledger, as `python -m bench latency` does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from bench.core import Row

PACE_SECONDS = 5.0
INSTRUMENTS = 100
CLOSES = 48
WARM = 6
"""First closes that are not counted: the first run of each process compiles and connects."""
DAY = "2017-12-29"
START_SECONDS = 420.0
_MINUTES = 240

_UNIVERSE = """\
name: paced
history_start: 2017-12-29
history_end: 2017-12-29
simulated: true
quality: {max_gap_share: 0.9, max_gap_bars: 2000, jump_minimum: 0.5, stale_repeats: 500, volume_ratio: 100000}
instruments:
"""
_INSTRUMENT = """\
  {name}: {{asset_class: crypto, calendar: CRYPTO, tick_size: 0.01, lot_size: 0.01, currency: USD, feed: lean,
         feed_symbol: crypto/coinbase/{lower}, native_timeframe: 1m, tradable_in: [backtest, paper]}}
"""
_PLAN = """\
name: plan_{lower}
universe: paced
status: active
mode: paper
symbol: {name}
direction: long
timeframe: 1m
valid: {{from: 2017-12-29, to: 2017-12-29}}
entry: {{kind: indicator_condition, condition: {{">": [{{indicator: roc, params: {{period: 3}}}}, 0.2]}}}}
stop: {{kind: points, points: 3}}
target: {{kind: reward, ratio: 3}}
max_bars: 4
sizing: {{kind: fixed, quantity: 1}}
gates: {{min_reward_to_risk: 1.0, quality_sessions: 1, valid_bars: 2}}
"""
_RISK = """\
name: default
description: Wide enough that 100 plans may hold a position at once
max_order_quantity: 1000
max_notional: 100000
max_position_notional: 100000
max_concurrent_positions: 200
price_collar_percent: 20
max_gross_leverage: 50
daily_loss: {amount: 50000, percent: 50}
strategies: {}
"""


def run(quick: bool) -> Iterator[Row]:
    """Median and p95 from stored bar to order, p99 of exits inside the desk, the joints, and the machine's load."""
    from bench.latency import rows_of
    from resources.ledger.store import Ledger
    from resources.settings import ROOT

    instruments, closes = (10, 12) if quick else (INSTRUMENTS, CLOSES)
    room = Path(tempfile.mkdtemp(prefix="tapeline-paced-"))
    room.chmod(0o755)
    own = _settings(room, instruments)
    before = os.getloadavg()[0]
    log = (room / "supervisor.log").open("ab")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TAPELINE_", "DAGSTER_"))} | _environment(own)
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.supervisor", "--no-main-job"], cwd=ROOT, env=environment, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    try:
        _until(lambda: "Tapeline is ready" in (room / "supervisor.log").read_text(), process, room, START_SECONDS)
        ledger = Ledger.at(own.ledger_url())
        _start_replay(own)
        done = lambda: sum(c["outcome"] is not None for c in ledger.closes()) >= closes + WARM  # noqa: E731
        _until(done, process, room, (closes + WARM) * (PACE_SECONDS + 10) + 60)
        load = os.getloadavg()[0]
        recorded = ledger.closes()[WARM : closes + WARM]
        yield from rows_of(recorded, ledger.orders())
        emitted = np.array([c["emitted_wall"] for c in recorded]) / 1e6
        yield Row("pace_median", float(np.median(np.diff(emitted))), "s")
        yield Row("orders", float(len([i for i in ledger.intents() if not i["refusal"]])), "orders")
        yield Row("load_before", before, "")
        yield Row("load_at_end", load, "")
        ledger.engine.dispose()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        log.close()
        rmtree(room, ignore_errors=True)


def _settings(room: Path, count: int) -> Any:
    """Settings of the installation, its configuration files and its market data."""
    from resources.ports import free_port
    from resources.settings import Settings

    config, data = room / "config", room / "lean"
    for part in ("universe", "plans", "strategies", "risk", "quality"):
        (config / part).mkdir(parents=True)
    names = [f"C{n:03d}USD" for n in range(count)]
    made = "".join(_INSTRUMENT.format(name=name, lower=name.lower()) for name in names)
    (config / "universe" / "paced.yaml").write_text(_UNIVERSE + made)
    (config / "risk" / "default.yaml").write_text(_RISK)
    for n, name in enumerate(names):
        (config / "plans" / f"plan_{name.lower()}.yaml").write_text(_PLAN.format(name=name, lower=name.lower()))
        _write_minutes(data / "crypto" / "coinbase" / "minute" / name.lower(), name.lower(), n)
    return Settings(
        _env_file=None, universe="paced", data_dir=room / "data", config_dir=config, lean_data=data,  # type: ignore[call-arg]
        webserver_port=free_port(), code_server_port=free_port(), mlflow_port=free_port(), desk_port=free_port(),
        postgres_port=free_port(), replay_sessions=1, replay_speed=60.0 / PACE_SECONDS,
    )  # fmt: skip


def _environment(own: Any) -> dict[str, str]:
    names = ("universe", "data_dir", "config_dir", "lean_data", "webserver_port", "code_server_port", "mlflow_port", "desk_port",
             "postgres_port", "replay_sessions", "replay_speed")  # fmt: skip
    return {f"TAPELINE_{name.upper()}": str(getattr(own, name)) for name in names}


def _write_minutes(folder: Path, name: str, seed: int) -> None:
    """The first hours of a day as LEAN keeps them: milliseconds since midnight, open, high, low, close, volume."""
    dice = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(dice.normal(0, 0.0006, _MINUTES))), 2)
    opened = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opened, close) + 0.02, np.minimum(opened, close) - 0.02
    lines = [
        f"{i * 60_000},{opened[i]:.2f},{high[i]:.2f},{low[i]:.2f},{close[i]:.2f},{dice.integers(5, 50)}" for i in range(_MINUTES)
    ]
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / f"{DAY.replace('-', '')}_trade.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{DAY.replace('-', '')}_{name}_minute_trade.csv", "\n".join(lines) + "\n")


def _start_replay(own: Any) -> None:
    from resources.desk_client import DeskClient
    from resources.secrets import read_secret

    with DeskClient(own.desk_url, read_secret(own.token_file), attempts=30) as desk:
        desk.start_replay()


def _until(condition: Any, process: subprocess.Popen[bytes], room: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or process.poll() is not None:
            tail = "\n".join((room / "supervisor.log").read_text(errors="replace").splitlines()[-30:])
            raise SystemExit(f"paced: not reached within {seconds:.0f} s:\n{tail}")
        time.sleep(0.5)
