"""``tapeline actions``: what is known, what an operator says, and how a future rolls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from sqlalchemy import Engine
from typer.testing import CliRunner

from pipelines.cli import app
from resources.config import load_config
from resources.corporate_actions import write_actions
from resources.lake import Lake
from resources.ledger import audit
from resources.ledger.actions import confirmed_actions, decisions_of
from resources.settings import settings
from tests.paths import lean_data
from trading.bars import Bars
from trading.calendars import calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.timeframes import Timeframe, session_number

UNIVERSE = """\
name: small
history_start: 2013-10-07
instruments:
  AAPL: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1m}
  ES:
    {asset_class: future, calendar: CMES, tick_size: 0.25, currency: USD, feed: lean, native_timeframe: 1m,
     feed_symbol: future/cme/es, future: {root: ES, roll: volume}}
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    config = tmp_path / "config" / "universe"
    config.mkdir(parents=True)
    (config / "small.yaml").write_text(UNIVERSE)
    server, _, database = ledger_url.rpartition("/")
    for name, value in {
        "UNIVERSE": "small", "CONFIG_DIR": str(config.parent), "DATA_DIR": str(tmp_path / "data"), "POSTGRES_URL": server,
        "LEDGER_DATABASE": database,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"TAPELINE_{name}", value)
    settings.cache_clear()
    ex = session_number(date(2014, 6, 9))
    paid = CorporateAction("AAPL", ActionKind.DIVIDEND, ex - 30, 1, 1.004, 2.6, source="test")
    write_actions(settings().lake_dir, "AAPL", [CorporateAction("AAPL", ActionKind.SPLIT, ex, 1, 7.0, source="test"), paid])
    yield lambda *arguments: CliRunner().invoke(app, ["actions", *arguments])
    settings.cache_clear()


def test_list_shows_splits_and_dividends_when_asked(run: Run) -> None:
    result = run("list", "--json")
    assert result.exit_code == 0, result.output
    assert [(a["kind"], a["factor"]) for a in json.loads(result.stdout)["actions"]] == [("split", 7.0)]
    assert len(json.loads(run("list", "AAPL", "--dividends", "--json").stdout)["actions"]) == 2
    shown = run("list")
    assert "2014-06-09" in shown.output
    assert "--dividends" in shown.output


def test_confirm_and_dismiss_are_written_and_audited(run: Run, ledger_engine: Engine) -> None:
    assert run("confirm", "AAPL", "--session", "2014-06-10", "--factor", "7", "--reason", "press release").exit_code == 0
    assert run("dismiss", "AAPL", "--session", "2014-06-11").exit_code == 0
    with ledger_engine.connect() as connection:
        said = decisions_of(connection)
    assert said["AAPL", "2014-06-10"].factor == 7.0
    assert not said["AAPL", "2014-06-11"].confirmed
    assert audit.verify(ledger_engine) == []
    spoken = json.loads(run("list", "AAPL", "--json").stdout)["decisions"]
    assert [(d["session"], d["factor"]) for d in spoken] == [("2014-06-10", 7.0), ("2014-06-11", None)]


def test_a_spin_off_is_confirmed_by_its_value_and_the_last_close(run: Run, ledger_engine: Engine) -> None:
    day = date(2014, 6, 6)
    price, closes = np.array([100.0]), np.array([calendar("XNYS").bounds(day)[1]])
    session = np.array([session_number(day)], np.int32)
    bars = Bars("AAPL", Timeframe.M1, closes, session, price, price, price, price, np.array([5.0]))
    universe = load_config(settings()).universe
    Lake(settings().lake_dir).write_bars(
        "bars_1m", {"AAPL": bars}, start=day, end=day, source="test", instruments=universe.instruments
    )
    made = run("confirm", "AAPL", "--session", "2014-06-09", "--value", "20", "--reason", "prospectus")
    assert made.exit_code == 0, made.output
    assert "AAPL closed at 100 on 2014-06-06: 20 off it is 1.25" in made.output
    assert run("confirm", "AAPL", "--session", "2014-06-10", "--value", "100").exit_code == 1
    with ledger_engine.connect() as connection:
        said = decisions_of(connection)
        (action,) = confirmed_actions(connection)
    assert (said["AAPL", "2014-06-09"].kind, said["AAPL", "2014-06-09"].factor) == (ActionKind.SPIN_OFF, 1.25)
    assert (action.kind, action.factor) == (ActionKind.SPIN_OFF, 1.25)
    told = json.loads(run("list", "AAPL", "--json").stdout)["decisions"]
    assert [(d["kind"], d["factor"]) for d in told] == [("spin_off", 1.25)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("confirm", "APPL", "--session", "2014-06-09", "--factor", "7"), "no instrument 'APPL'"),
        (("confirm", "AAPL", "--session", "2014-06-08", "--factor", "7"), "no session 2014-06-08"),
        (("confirm", "AAPL", "--session", "June", "--factor", "7"), "expected a date"),
        (("confirm", "AAPL", "--session", "2014-06-09", "--factor", "1"), "factor 1.0"),
        (("dismiss", "AAPL", "--session", "2014-06-08"), "no session"),
        (("confirm", "AAPL", "--session", "2014-06-09"), "either --factor"),
        (("confirm", "AAPL", "--session", "2014-06-09", "--factor", "2", "--value", "3"), "either --factor"),
        (("confirm", "AAPL", "--session", "2014-06-09", "--value", "3", "--kind", "split"), "expected split with --factor"),
        (("confirm", "AAPL", "--session", "2014-06-09", "--factor", "0.5", "--kind", "spin_off"), "takes value away"),
        (("confirm", "AAPL", "--session", "2014-06-09", "--value", "3"), "no bars in the two weeks before"),
        (("rolls", "NQ"), "no continuous future 'NQ'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    run: Run, ledger_engine: Engine, arguments: tuple[str, ...], says: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output
    with ledger_engine.connect() as connection:
        assert decisions_of(connection) == {}


def test_rolls_prints_the_table_of_a_root(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPELINE_LEAN_DATA", str(lean_data()))
    settings.cache_clear()
    result = run("rolls", "ES", "--json")
    assert result.exit_code == 0, result.output
    first = json.loads(result.stdout)["rolls"][0]
    assert (first["session"], first["from"], first["to"], first["difference"]) == ("2013-12-16", "201312", "201403", "-6.25")
