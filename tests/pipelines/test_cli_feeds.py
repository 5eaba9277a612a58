"""`tapeline feeds`: what sources can, what is left of their plans, and a look at their bars."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from resources.feeds.budget import Budget
from resources.ledger.base import connect
from resources.ledger.store import Ledger
from resources.settings import settings

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs ``tapeline feeds ...`` on the universe simulated, whose market stands at 16:00 UTC of 4 March 2026."""
    server, _, database = ledger_url.rpartition("/")
    environment = {
        "UNIVERSE": "simulated", "DATA_DIR": str(tmp_path), "POSTGRES_URL": server, "LEDGER_DATABASE": database,
        "SIMULATED_START": "2026-03-04T16:00:00Z", "SIMULATED_SPEED": "0.001",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(f"TAPELINE_{name}", value)
    settings.cache_clear()
    yield lambda *arguments: CliRunner().invoke(app, ["feeds", *arguments])
    settings.cache_clear()


def test_list_shows_limits_what_is_left_and_the_live_status(run: Run, ledger_url: str) -> None:
    engine = connect(ledger_url)
    assert Budget(engine, "fmp", 300, 250, zone="America/New_York").take(3) == 0
    feed = {
        "feed": "simulated",
        "timeframe": "1m",
        "connected": True,
        "reconnects": 2,
        "last_error": "",
        "symbols": {"BTCUSD": {}},
    }
    Ledger(engine).put_state("live_feed", {"wall": 1, "trouble": {"BTCUSD": "x"}, "feeds": [feed]})
    engine.dispose()
    result = run("list", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["feed"]: row for row in json.loads(result.stdout)}
    assert rows["fmp"]["limits"] == "300 a minute, 250 a day"
    assert rows["fmp"]["left"] == "297 this minute, 247 this day"
    assert rows["simulated"]["simulated"] == "SIMULATED"
    assert "connected, 1 symbols, 2 reconnects, in trouble: BTCUSD" in rows["simulated"]["status"]
    assert rows["sample_forex"]["live"] == ""
    assert "SIMULATED" in run("list").stdout


def test_check_asks_a_feed_for_a_little_history_and_shows_it(run: Run) -> None:
    result = run("check", "simulated", "ALPHA")
    assert result.exit_code == 0, result.output
    assert "bars in sessions 2026-02-25 to 2026-03-04 (SIMULATED prices)" in result.stdout
    assert "2026-03-04T16:00:00Z" in result.stdout
    assert "quote 2026-03-04T15:59:" in result.stdout
    daily = run("check", "sample_stocks", "IBM", "--start", "2012-01-03", "--end", "2012-01-06")
    assert "sample_stocks IBM 1d: 4 bars" in daily.stdout


def test_what_cannot_be_asked_is_one_line(run: Run) -> None:
    for arguments, says in (
        (("check", "fmp", "AAPL"), "set TAPELINE_FMP_API_KEY"),
        (("check", "simulatd", "X"), "did you mean 'simulated'"),
        (("check", "simulated", "ALPHA", "--timeframe", "7m"), "timeframes are 1m"),
        (("check", "simulated", "ALPHA", "--start", "monday"), "dates like"),
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert says in result.stderr
        assert "Traceback" not in result.output


def test_lookup_finds_symbols(run: Run) -> None:
    assert run("lookup", "btc").stdout.startswith("simulated: BTCUSD")
    assert run("lookup", "ib", "--feed", "sample_stocks").stdout.strip() == "sample_stocks: IBM"
    assert run("lookup", "no such thing", "--feed", "sample_stocks").exit_code == 1
