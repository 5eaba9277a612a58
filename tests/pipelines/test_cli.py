# ruff: noqa: F811, F401 - fixtures are imported by name
"""The command line: answers from the ledger with and without the desk, and says what it could not do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pipelines.cli import app
from resources.ports import free_port
from resources.settings import ROOT, settings
from tests.desk.running import Installation, MakeInstallation, history, install

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def at(install: MakeInstallation) -> Installation:
    """A desk in the middle of its day: a position is open."""
    installation = install(overrides={"TAPELINE_REPLAY_BARRIER_SECONDS": "600"})
    installation.start()
    with installation.client() as desk:
        desk.start_replay()
    while not installation.ledger.positions(open_only=True):
        installation.trade(installation.wait_for(lambda: installation.ledger.closes(pending=True))[0])
    installation.wait_for(lambda: installation.ledger.closes(pending=True))
    return installation


@pytest.fixture
def run(at: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs ``tapeline …`` against the installation; keyword arguments are TAPELINE_* settings that differ."""

    def invoke(*arguments: str, **different: str) -> Result:
        for name, value in {**at.environment, **{f"TAPELINE_{k.upper()}": v for k, v in different.items()}}.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        return CliRunner().invoke(app, list(arguments))

    yield invoke
    settings.cache_clear()


def no_desk() -> dict[str, str]:
    return {"desk_port": str(free_port())}


def test_status_says_mode_market_time_and_what_is_open(run: Run) -> None:
    result = run("status")
    assert result.exit_code == 0, result.output
    assert "PAPER" in result.stdout
    assert "2017-12-29T" in result.stdout
    assert json.loads(run("status", "--json").stdout)["open_positions"] == 1


@pytest.mark.parametrize("command", ["orders", "positions", "signals", "fills"])
def test_lists_are_the_ledgers_with_or_without_the_desk(run: Run, at: Installation, command: str) -> None:
    with_desk, without = run(command, "--json"), run(command, "--json", **no_desk())
    assert json.loads(with_desk.stdout) == json.loads(without.stdout) != []
    shown = run(command, **no_desk())
    assert shown.exit_code == 0
    assert f"PAPER {command}" in shown.stdout
    assert "the desk is down" in shown.stderr
    assert "the desk is down" not in run(command).stderr


def test_status_without_the_desk_is_what_the_ledger_knows(run: Run) -> None:
    result = run("status", "--json", **no_desk())
    assert result.exit_code == 3
    state = json.loads(result.stdout)
    assert (state["state"], state["mode"], state["open_positions"]) == ("down", "PAPER", 1)
    assert state["last_heartbeat"].startswith("20")


def test_signals_say_what_became_of_them(run: Run) -> None:
    rows = json.loads(run("signals", "--json").stdout)
    assert "ordered" in {row["outcome"] for row in rows}


def test_trace_prints_the_chain_of_an_order(run: Run, at: Installation) -> None:
    order = at.ledger.fills()[0]["order_id"]
    for argument in (order, order[4:16], at.ledger.fills()[0]["id"]):
        result = run("trace", argument, **no_desk())
        assert result.exit_code == 0, result.output
        links = [line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
        assert list(dict.fromkeys(links)) == [
            "bars", "features", "signal", "decision", "intent", "order", "fill", "position", "report",
        ]  # fmt: skip
    assert run("trace", order, "--markdown").stdout.startswith("### Trace of order")
    missing = run("trace", "int-nothing")
    assert (missing.exit_code, "nothing in the ledger" in missing.stderr) == (1, True)


def test_halt_and_resume_need_a_reason_and_are_audited(run: Run, at: Installation) -> None:
    assert run("halt").exit_code == 2
    assert run("halt", "--reason", "lunch", "--level", "reduce_only", "--who", "ann").exit_code == 0
    assert json.loads(run("status", "--json").stdout)["halt"]["global"] == "REDUCE_ONLY"
    assert "resumed desk" in run("resume", "--reason", "lunch is over").stdout
    assert "was not halted" in run("resume", "--reason", "again").stdout
    verified = run("audit", "verify", **no_desk())
    assert verified.exit_code == 0
    assert verified.stdout.startswith("the audit trail is whole (")
    wrong = run("halt", "--reason", "x", "--level", "a bit")
    assert (wrong.exit_code, "level" in wrong.stderr) == (1, True)


def test_ledger_and_broker_are_compared_on_demand(run: Run) -> None:
    assert run("reconcile").exit_code == 0
    missing = run("clear-mismatch", "EURUSD", "--reason", "nothing there")
    assert (missing.exit_code, "no mismatch of EURUSD" in missing.stderr) == (1, True)


def test_what_needs_the_desk_is_not_done_without_it(run: Run) -> None:
    for command in (["halt"], ["resume"], ["flatten"], ["cancel", "int-1"], ["clear-mismatch", "EURUSD"]):
        result = run(*command, "--reason", "test", **no_desk())
        assert result.exit_code == 3, command
        assert "not done" in result.stderr


def test_modes_are_listed_and_changed_one_step_at_a_time(run: Run, at: Installation) -> None:
    (row,) = [r for r in json.loads(run("modes", "list", "--json", **no_desk()).stdout) if r["name"] == "often"]
    assert (row["mode"], row["effective"], row["stated"], row["who"]) == ("paper", "paper", "paper", "file")
    down = run("modes", "set", "often", "shadow", "--reason", "looks odd", "--who", "ann")
    assert (down.exit_code, "often: paper -> shadow" in down.stdout, "still open" in down.stdout) == (0, True, True), down.output
    too_far = run("modes", "set", "often", "paper", "--reason", "again")
    assert (too_far.exit_code, "skips alert" in too_far.stderr) == (1, True)
    assert run("modes", "set", "often", "paper", "--reason", "again", "--force").exit_code == 0
    live = run("modes", "set", "often", "live", "--reason", "rich soon")
    assert live.exit_code == 1
    for missing in ("live_not_enabled", "broker_is_simulated", "live_account_not_set"):
        assert missing in live.stderr
    assert run("modes", "set", "nobody", "alert", "--reason", "x").exit_code == 1
    shown = run("modes", "list")
    assert "PAPER modes" in shown.stdout
    assert "PAPER: simulated money" in shown.stderr


def test_a_part_of_a_position_is_closed(run: Run, at: Installation) -> None:
    (held,) = at.ledger.positions(open_only=True)
    neither = run("reduce", held["strategy"], held["symbol"], "--reason", "x")
    assert (neither.exit_code, "--quantity or --share" in neither.stderr) == (2, True)
    done = run("reduce", held["strategy"], held["symbol"], "--share", "0.5", "--reason", "half of it")
    assert done.exit_code == 0, done.output
    assert f"{abs(held['quantity']) / 2:.10g} stay" in done.stdout
    assert "PAPER" in done.stderr
    again = run("reduce", held["strategy"], held["symbol"], "--share", "0.5", "--reason", "more")
    assert (again.exit_code, "is under way" in again.stderr) == (1, True)
    assert run("reverse", "nobody", "EURUSD", "--stop", "1.3", "--reason", "x").exit_code == 1


def test_flatten_asks_for_the_exits(run: Run, at: Installation) -> None:
    result = run("flatten", "--reason", "going home")
    assert result.exit_code == 0, result.output
    assert re.search(r"int-[0-9a-f]{24}", result.stdout)
    assert any(o["leg"].startswith("exit:flatten") for o in at.ledger.orders())


def test_a_ledger_that_is_not_there_is_one_line(run: Run) -> None:
    gone = run("orders", postgres_url=f"postgresql+psycopg2://tapeline:s3cret@127.0.0.1:{free_port()}")
    assert gone.exit_code == 3
    assert "is Postgres running" in gone.stderr
    assert "s3cret" not in gone.output
    assert len(gone.stderr.strip().splitlines()) == 1


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The project's own configuration files, to be spoilt."""
    import shutil

    shutil.copytree(ROOT / "data" / "config", tmp_path / "config")
    return tmp_path / "config"


def test_the_projects_own_files_are_good(run: Run, files: Path) -> None:
    for command in (("strategies", "check"), ("plans", "check"), ("config", "check")):
        result = run(*command, config_dir=str(files))
        assert (result.exit_code, "PROBLEM" in result.stdout) == (0, False), result.output


def test_every_problem_of_every_file_has_its_file_and_line(run: Run, files: Path) -> None:
    first = next(iter(sorted((files / "strategies").glob("*.yaml"))))
    text = first.read_text()
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith("timeframe:"))
    first.write_text(
        text.replace("timeframe: 1h", "timeframe: 7h", 1).replace("timeframe: 1d", "timeframe: 7h", 1) + "colour: blue\n"
    )
    result = run("strategies", "check", config_dir=str(files))
    assert result.exit_code == 1
    assert f"strategies/{first.name}:{line}" in result.stdout
    assert "colour" in result.stdout
    assert run("plans", "check", config_dir=str(files)).exit_code == 0
    assert run("config", "check", config_dir=str(files)).exit_code == 1
    missing = run("config", "check", config_dir=str(files), universe="nowhere")
    assert (missing.exit_code, "universe/nowhere.yaml" in missing.stdout) == (1, True)


def test_mistakes_in_every_kind_of_data_file_are_told_at_once_with_file_line_key_and_nearest_name(run: Run, files: Path) -> None:
    (files / "feeds" / "mine.yaml").write_text("name: mine\nseperator: tab\n")
    (files / "calendars" / "mine.yaml").write_text("name: MINE\nbased_on: XNYZ\n")
    (files / "quality" / "default.yaml").write_text("max_gap_shar: 0.1\nby_timeframe: {1m: {volume_ratio: 0}}\n")
    (files / "actions" / "mine.yaml").write_text("actions:\n  - {symbol: A, kind: splitt, ex_date: 2014-06-09}\n")
    (files / "lake" / "retention.yaml").write_text("superseded_day: 90\n")
    sample = files / "universe" / "sample.yaml"
    sample.write_text(sample.read_text().replace("history_start:", "history_begin:", 1))
    result = run("config", "check", config_dir=str(files))
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    for named in (
        "feeds/mine.yaml:2: seperator: unknown key", "separator", "calendars/mine.yaml:2: based_on", "XNYS",
        "quality/default.yaml:1: max_gap_shar: unknown key", "max_gap_share", "quality/default.yaml:2: by_timeframe.1m",
        "actions/mine.yaml:2: actions[0].kind", "lake/retention.yaml:1: superseded_day", "superseded_days",
        "history_begin: unknown key", "history_start",
    ):  # fmt: skip
        assert named in said, (named, result.stdout)
    assert "good     feeds/yfinance.yaml (feed profile yfinance)" in result.stdout


def test_version_and_help_need_nothing(run: Run) -> None:
    assert re.match(r"tapeline \S+.*, code \S+", run("version").stdout)
    assert "audit" in run("--help").stdout


def test_the_command_starts_without_heavy_imports() -> None:
    heavy = ("pandas", "dagster", "sqlalchemy", "numba", "pyarrow")
    code = f"import sys, pipelines.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"
