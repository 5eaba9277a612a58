"""The assets of corporate actions, rolls and quotes on real files, and what their checks find."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from assets import corporate_actions, market_data, quotes
from resources.corporate_actions import read_actions
from resources.dagster_resources import LedgerResource
from resources.feeds.lean import LeanFeed
from resources.lake import Lake
from resources.ledger.actions import decide
from resources.ledger.store import Ledger
from resources.settings import Settings, settings
from tests.assets.market_runs import evaluation, metadata, run
from tests.paths import lean_data
from trading.corporate_actions import ActionKind
from trading.timeframes import Timeframe, session_date

UNIVERSE = """\
name: lean_actions
history_start: 1998-01-02
history_end: 2021-03-31
instruments:
  AAPL: &stock
    {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: lean, native_timeframe: 1d,
     feed_symbol: equity/usa/aapl}
  USO: {<<: *stock, feed_symbol: equity/usa/uso}
  ES:
    {asset_class: future, calendar: CMES, tick_size: 0.25, multiplier: 50, currency: USD, feed: lean, native_timeframe: 1m,
     feed_symbol: future/cme/es, future: {root: ES, roll: volume}}
  TWX: {<<: *stock, native_timeframe: 1m, feed_symbol: equity/usa/twx, quotes: true}
"""
SELECTION = dg.AssetSelection.assets("instruments", "corporate_actions", "futures_rolls")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> Iterator[Settings]:
    config = tmp_path / "config"
    for folder in ("universe", "actions"):
        (config / folder).mkdir(parents=True)
    (config / "universe" / "lean_actions.yaml").write_text(UNIVERSE)
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: Ledger.at(ledger_url))
    for name, value in {
        "UNIVERSE": "lean_actions", "CONFIG_DIR": str(config), "DATA_DIR": str(tmp_path / "data"), "LEAN_DATA": str(lean_data()),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"TAPELINE_{name}", value)
    settings.cache_clear()
    yield settings()
    settings.cache_clear()


def store_apple(at: Settings) -> Lake:
    """Apple's daily bars since 1998, as the bars asset stores them."""
    from resources.config import load_config

    lake, universe = Lake(at.lake_dir), load_config(at).universe
    apple = universe.instruments["AAPL"]
    bars = LeanFeed(lean_data()).history(apple, Timeframe.D1, universe.history_start, date(2021, 3, 31))
    lake.write_bars(
        "bars_1d", {"AAPL": bars}, start=universe.history_start, end=date(2021, 3, 31), source="lean",
        instruments=universe.instruments,
    )  # fmt: skip
    return lake


def materialise(selection: dg.AssetSelection = SELECTION) -> dg.ExecuteInProcessResult:
    made = ([*market_data.ASSETS[:1], *corporate_actions.ASSETS], corporate_actions.CHECKS)
    return run("2017-12-28", selection=selection, definitions=made)


def test_actions_of_the_universe_are_stored_with_their_table_and_picture(installed: Settings) -> None:
    result = materialise()
    assert result.success
    said = metadata(result, "corporate_actions")
    assert said["changed"] == "AAPL, USO, TWX"
    assert "equity/usa/factor_files/aapl.csv" in said["actions"]
    assert said["timeline"].startswith("![")
    apple = read_actions(installed.lake_dir, "AAPL")
    splits = [(session_date(a.ex_session), a.factor) for a in apple if a.kind is ActionKind.SPLIT]
    assert splits == [(date(2000, 6, 21), 2), (date(2005, 2, 28), 2), (date(2014, 6, 9), 7), (date(2020, 8, 31), 4)]
    assert metadata(materialise(), "corporate_actions")["changed"] == "none"


def test_rolls_of_continuous_futures_are_stored_with_their_table(installed: Settings) -> None:
    result = materialise()
    rolls = read_actions(installed.lake_dir, "ES")
    assert (session_date(rolls[0].ex_session), rolls[0].amount) == (date(2013, 12, 16), -6.25)
    assert "2013-12-16" in metadata(result, "futures_rolls")["rolls"]


def test_a_split_like_step_without_an_action_is_named_until_an_operator_speaks(
    installed: Settings, ledger_engine: Engine
) -> None:
    store_apple(installed)
    found = evaluation(materialise(), "corporate_actions", "splits_explained")
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.WARN
    assert found.metadata["unexplained"].value.count("| AAPL |") == 1  # 2000-09-29: Apple's warning
    assert "2000-09-29" in str(found.metadata["unexplained"].value)
    with ledger_engine.begin() as connection:
        decide(connection, "AAPL", date(2000, 9, 29), factor=None, who="tapeline:x", reason="profit warning", now_time=1)
    assert evaluation(materialise(), "corporate_actions", "splits_explained").passed


def test_an_action_without_bars_on_its_day_is_named(installed: Settings) -> None:
    lake = store_apple(installed)
    assert evaluation(materialise(), "corporate_actions", "actions_have_bars").passed
    from resources.config import load_config

    bars = lake.read_bars("bars_1d", "AAPL")
    day = date(2014, 6, 9)
    lake.write_bars(
        "bars_1d", {"AAPL": bars.rows(bars.session == 0)}, start=day, end=day, source="lean",
        instruments=load_config(installed).universe.instruments,
    )  # fmt: skip
    found = evaluation(materialise(), "corporate_actions", "actions_have_bars")
    assert not found.passed
    assert "2014-06-09" in str(found.metadata["without_bars"].value)


def test_a_file_that_cannot_be_read_leaves_what_is_stored_and_fails_its_check(installed: Settings) -> None:
    materialise()
    before = read_actions(installed.lake_dir, "AAPL")
    (installed.config / "actions" / "mine.yaml").write_text("actions:\n  - {symbol: AAPL, kind: spilt, ex_date: 2014-06-09}\n")
    result = materialise()
    assert result.success
    found = evaluation(result, "corporate_actions", "sources_read")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "mine.yaml" in metadata(result, "corporate_actions")["problems"]
    assert read_actions(installed.lake_dir, "AAPL") == before


def test_a_confirmed_split_becomes_an_action(installed: Settings, ledger_engine: Engine) -> None:
    with ledger_engine.begin() as connection:
        decide(connection, "USO", date(2010, 6, 9), factor=3.0, who="tapeline:x", reason="", now_time=77)
    materialise()
    (made,) = [a for a in read_actions(installed.lake_dir, "USO") if a.source == "operator:tapeline:x"]
    assert (made.factor, made.known_time) == (3.0, 77)


def test_quotes_of_the_instruments_that_ask_for_them_are_stored(installed: Settings) -> None:
    result = run(
        "2014-06-05", "2014-06-09", selection=dg.AssetSelection.assets("quotes_1m"),
        definitions=([market_data.ASSETS[0], quotes.quotes], []),
    )  # fmt: skip
    assert result.success
    held = Lake(installed.lake_dir).read_quotes("quotes_1m", "TWX")
    assert len(held) == metadata(result, "quotes_1m")["dagster/row_count"] > 1000
    direct = LeanFeed(lean_data())
    from resources.config import load_config

    twx = load_config(installed).universe.instruments["TWX"]
    assert held.content_hash() == direct.quotes(twx, Timeframe.M1, date(2014, 6, 5), date(2014, 6, 9)).content_hash()
