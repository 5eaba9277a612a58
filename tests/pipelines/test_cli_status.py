"""`tapeline status` for a person: halts by name, times as times, doubts said, nothing that is not known."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.cli_status import halts_text, status_rows
from resources.settings import settings

MARK = {"level": "FLATTEN", "reason": "news", "who": "ana", "since_time": 1_794_925_160_000_000}


def test_halts_are_named_with_level_reason_who_and_since_the_desk_first() -> None:
    halt = {
        "global": "HALTED",
        "reason": "lunch",
        "who": "bob",
        "since_time": 1_794_925_160_000_000,
        "strategies": {"often": MARK},
    }
    assert halts_text(halt) == ("desk HALTED (lunch, bob, 2026-11-17T14:19:20Z); often FLATTEN (news, ana, 2026-11-17T14:19:20Z)")
    assert halts_text({}) == halts_text({"global": "", "strategies": {}}) == "none"


def test_what_keeps_the_desk_from_trading_is_said() -> None:
    state = {
        "state": "degraded", "mode": "PAPER", "no_new_risk": "the feed is stale", "market_time": 1, "market_time_text": "then",
        "halt": {}, "in_doubt": [{}, {}], "mismatches": {"EURUSD": {"kind": "POSITION"}}, "unknown_orders": 1,
        "working_orders": 3,
        "strategies": {"a": {"status": "active", "mode": "paper"}, "b": {"status": "paused", "mode": "shadow"}},
        "config_problems": ["x.yaml:3: k: wrong"],
        "account": {"equity": 99_990.5, "cash": 1.0, "currency": "USD", "close_time": 1_794_925_160_000_000},
    }  # fmt: skip
    said = dict(status_rows(state))
    assert said["new risk"] == "NONE: the feed is stale"
    assert said["in doubt"] == "2: see `tapeline doubts`"
    assert said["ledger against broker"].startswith("differ: EURUSD")
    assert said["strategies, plans"] == "PAPER: a\nSHADOW: b (paused)"
    assert said["config problems"] == "x.yaml:3: k: wrong"
    assert said["account"] == "equity 99,990.50, cash 1.00 USD at 2026-11-17T14:19:20Z"
    assert "replay" not in said, "what is not there takes no line"


def test_a_desk_that_is_halted_does_not_look_as_if_it_traded() -> None:
    state = {"no_new_risk": "", "halt": {"global": "FLATTEN", "reason": "r", "who": "w", "since_time": 0}}
    assert dict(status_rows(state))["new risk"] == "NONE: the desk is halted at FLATTEN"
    assert dict(status_rows({"no_new_risk": "", "halt": {}}))["new risk"].startswith("taken")


@pytest.fixture
def deaf_desk(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[None]:
    """A port that takes connections and never answers, as a desk that hangs does; patience cut short."""
    listening = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("TAPELINE_DESK_PORT", str(listening.getsockname()[1]))
    monkeypatch.setenv("TAPELINE_DATA_DIR", str(tmp_path))
    settings.cache_clear()
    settings().token_file.parent.mkdir(parents=True, exist_ok=True)
    settings().token_file.write_text("token-of-a-test")
    settings().token_file.chmod(0o600)
    monkeypatch.setattr("pipelines.cli_support.ANSWER_SECONDS", 0.2)
    yield
    listening.close()
    settings.cache_clear()


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        (["halt"], "tapeline kill --level halted"),
        (["halt", "--level", "flatten"], "tapeline kill --level flatten"),
        (["flatten"], "tapeline kill --reason"),
    ],
)
def test_a_stop_that_a_hanging_desk_does_not_answer_says_what_works_without_it(
    deaf_desk: None, command: list[str], instead: str
) -> None:
    said = CliRunner().invoke(app, [*command, "--reason", "now"])
    assert said.exit_code == 3
    assert "not known to be done" in said.stderr, "it may have been done: nobody heard"
    assert instead in said.stderr
