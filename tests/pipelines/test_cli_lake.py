"""``tapeline lake``: verified, its versions shown, compacted, its policy carried out only when asked to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import select
from typer.testing import CliRunner

from pipelines import cli_lake
from pipelines.cli import app
from resources.lake import Lake
from resources.ledger import tables as t
from resources.ledger.store import Ledger
from resources.settings import Settings, settings
from tests.assets.sample_lake import installation
from tests.resources.lake_kit import D1, D2, D3, append, minutes, session, write

Run = Callable[..., Result]
POLICY = "superseded_days: 0\ndatasets: {bars_1m: {keep_days: 1}}\n"


@pytest.fixture
def at(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setattr(Settings, "ledger_url", lambda _: ledger.engine.url.render_as_string(hide_password=False))
    with installation(tmp_path) as own:
        lake = Lake(own.lake_dir)
        write(lake, minutes("AAPL", D1, D2), D1, D2)
        write(lake, minutes("AAPL", D1, seed=1), D1, D1, source="vendor")
        append(lake, D3, minutes("AAPL", D3).rows(slice(0, 5)))
        yield own


def run(*arguments: str) -> Result:
    settings.cache_clear()
    return CliRunner().invoke(app, ["lake", *arguments])


def test_verify_says_whole_and_names_a_fault(at: Settings) -> None:
    result = run("verify")
    assert result.exit_code == 0, result.output
    assert "bars_1m: 3 partitions, whole" in result.stdout
    for part in (at.lake_dir / "bars_1m" / "2014-06").glob("*.parquet"):
        part.write_bytes(part.read_bytes()[:-20])
    torn = run("verify", "bars_1m")
    assert torn.exit_code == 1
    assert "torn write" in torn.stdout


def test_versions_list_what_can_be_read_and_show_one(at: Settings) -> None:
    result = run("versions", "bars_1m/2014-06-05/AAPL", "--json")
    now, before = json.loads(result.stdout)
    assert now["source"] == "vendor"
    assert before["content_hash"] == session(minutes("AAPL", D1, D2), D1).content_hash()
    shown = run("versions", "bars_1m/2014-06-05/AAPL", "--hash", before["content_hash"])
    assert shown.exit_code == 0
    assert "390 rows" in shown.stdout
    assert "counts now" in run("versions", "bars_1m/2014-06-05/AAPL").stdout
    missing = run("versions", "bars_1m/2014-06-05/AAPL", "--hash", "0" * 64)
    assert missing.exit_code == 1
    assert "no version" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["versions", "bars_1m"], "expected DATASET/SESSION/SYMBOL"),
        (["versions", "bars_1m/June/AAPL"], "no session's date"),
        (["verify", "bars_7m"], "no dataset bars_7m in the lake; it holds bars_1m"),
    ],
)
def test_wrong_usage_is_one_line(at: Settings, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "Traceback" not in result.output


def test_compact_folds_and_sizes_show_it(at: Settings) -> None:
    (before,) = json.loads(run("sizes", "--json").stdout)
    assert (before["hot_sessions"], before["superseded"]) == (1, 1)
    (done,) = json.loads(run("compact", "--before", "2014-07-01", "--json").stdout)
    assert (done["what"], done["period"], done["rows"]) == ("folded", "2014-06-09", 5)
    (after,) = json.loads(run("sizes", "--json").stdout)
    assert (after["hot_sessions"], after["rows"]) == (0, before["rows"])
    assert "bars_1m" in run("sizes").stdout


def test_retain_is_a_dry_run_until_it_is_told_to_apply(at: Settings, ledger: Ledger) -> None:
    (at.config / "lake" / "retention.yaml").write_text(POLICY)
    time.sleep(0.002)
    shown = run("retain")
    assert shown.exit_code == 0, shown.output
    assert "dry run" in shown.stdout
    assert "nothing was removed" in shown.stderr
    assert len(Lake(at.lake_dir).partitions("bars_1m")) == 3
    done = run("retain", "--apply", "--who", "anna", "--json")
    assert done.exit_code == 0, done.output
    assert {d["what"]: d["partitions"] for d in json.loads(done.stdout)} == {"sessions": 3, "superseded": 1}
    assert Lake(at.lake_dir).partitions("bars_1m") == []
    with ledger.engine.connect() as c:
        assert set(c.execute(select(t.audit.c.actor)).scalars()) == {"anna"}


def test_a_bad_policy_stops_retention(at: Settings) -> None:
    (at.config / "lake" / "retention.yaml").write_text("keep: 5\n")
    result = run("retain", "--apply")
    assert result.exit_code == 1
    assert "no policy, nothing goes: lake/retention.yaml:1: keep" in result.stderr
    assert len(Lake(at.lake_dir).partitions("bars_1m", date(2014, 1, 1))) == 3


def test_a_folder_without_anything_is_an_empty_lake(tmp_path: Path) -> None:
    with installation(tmp_path):
        assert run("verify").exit_code == 0
        assert json.loads(run("sizes", "--json").stdout) == []
        assert cli_lake.app.info.help
