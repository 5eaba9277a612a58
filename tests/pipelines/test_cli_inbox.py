"""`tapeline inbox`: what would be read, what lies where, and how a refused file gets its second chance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from resources.inbox import Inbox
from resources.ledger.store import Ledger
from resources.settings import Settings
from tests.assets.sample_lake import installation

UNIVERSE = """
name: my_stock
history_start: 2024-01-02
instruments:
  AAPL: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: files, native_timeframe: 1d}
"""
TEXT = """Date,Open,High,Low,Close,Volume
2024-01-02,187.15,188.44,183.89,185.64,82488700
2024-01-03,184.22,185.88,183.43,184.25,58414500
2024-01-04,182.15,183.09,180.88,181.91,71983600
"""
PROFILE = 'name: my_vendor\nmatch: {files: ["AAPL*.csv"]}\nadjustment: none\n'


@pytest.fixture
def of(tmp_path: Path) -> Iterator[Settings]:
    with installation(tmp_path, TAPELINE_UNIVERSE="my_stock") as made:
        (made.config / "universe" / "my_stock.yaml").write_text(UNIVERSE)
        made.path("inbox").mkdir(parents=True)
        yield made


def tapeline(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["inbox", *arguments])
    return result.exit_code, result.output


def test_the_example_of_the_docs_runs_as_it_says(of: Settings, tmp_path: Path) -> None:
    file = tmp_path / "AAPL.csv"
    file.write_text(TEXT)
    code, said = tapeline("check", str(file))
    assert code == 1
    assert "add to the profile: adjustment: none" in said
    (of.config / "feeds" / "my_vendor.yaml").write_text(PROFILE)
    code, said = tapeline("check", str(file))
    assert code == 0
    assert "it would be accepted" in said
    assert "2024-01-02T21:00:00Z" in said
    assert file.exists()
    assert Inbox(of).index().files == []


def test_check_as_json_says_what_was_detected(of: Settings, tmp_path: Path) -> None:
    (of.config / "feeds" / "my_vendor.yaml").write_text(PROFILE)
    file = tmp_path / "AAPL.csv"
    file.write_text(TEXT.replace("183.09,180.88", "180.88,183.09"))
    code, said = tapeline("check", str(file), "--json")
    found = json.loads(said)
    assert code == 1
    assert (found["profile"], found["accepted"], found["bad"]) == ("my_vendor", False, 1)
    assert found["bad_rows"][0]["line"] == 4
    assert {"key": "timeframe", "value": "1d", "because": "2 spacings, 1 days in the middle"} in found["detected"]


def test_list_and_retry(of: Settings, ledger: Ledger, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "ledger_url", lambda self: ledger_url)
    (of.path("inbox") / "AAPL.csv").write_text(TEXT)
    inbox = Inbox(of)
    assert inbox.take("AAPL.csv").state == "rejected"
    code, said = tapeline("list", "--json")
    assert code == 0
    assert "adjustment: none" in json.loads(said)["rejected"][0]["why"]
    (of.config / "feeds" / "my_vendor.yaml").write_text(PROFILE)
    code, said = tapeline("retry", "AAPL.csv", "--who", "ann")
    assert (code, said) == (0, "AAPL.csv waits in the inbox; the sensor inbox_files takes it within seconds\n")
    assert inbox.take("AAPL.csv").state == "accepted"
    code, said = tapeline("list")
    assert "2024-01-02 to 2024-01-04" in said
    code, said = tapeline("retry", "nothing.csv")
    assert code == 1
    assert "no refused or accepted file 'nothing.csv'" in said


def test_profiles_are_listed_and_a_bad_one_is_named(of: Settings) -> None:
    code, said = tapeline("profiles")
    assert code == 0
    assert "histdata.com Generic ASCII 1-minute bars" in said
    (of.config / "feeds" / "mine.yaml").write_text("name: mine\ntime: {stamp: begin}\n")
    code, said = tapeline("profiles")
    assert code == 1
    assert "feeds/mine.yaml:2: time.stamp: unknown value 'begin'" in said
