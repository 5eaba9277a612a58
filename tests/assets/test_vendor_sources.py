"""Vendors' files to the lake: a company under all its tickers and nobody else's, prices below zero where they may be, and
rows in quarantine that name file and line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assets.bars_run import BarsRun, Outcome
from assets.quality.history import Judged, judge_dataset
from pipelines.cli_quality import app
from resources.config import ConfigInvalid, load_config
from resources.dagster_resources import ConfigFilesResource
from resources.inbox import Inbox
from resources.lake import Lake
from resources.ledger.store import Ledger
from resources.quarantine import Quarantine
from resources.read import Market
from resources.settings import Settings
from tests.assets.sample_lake import installation
from trading.timeframes import Timeframe, session_date

UNIVERSE = """\
name: vendors
history_start: 2020-01-02
history_end: 2022-12-30
instruments:
  META:
    {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: files, native_timeframe: 1d,
     former_symbols: {FB: 2022-06-08}}
  CL: &oil
    {asset_class: future, calendar: CMES, tick_size: 0.01, currency: USD, feed: files, native_timeframe: 1d, multiplier: 1000,
     prices: any}
  RB: {<<: *oil, prices: positive}
"""
HEADER = "Date,Open,High,Low,Close,Volume\n"


@dataclass
class Room:
    """An installation, its lake and ledger."""

    settings: Settings
    lake: Lake
    ledger: Ledger

    def drop(self, name: str, rows: str) -> None:
        path = self.settings.path("inbox") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + rows)
        outcome = Inbox(self.settings).take(name)
        assert outcome.state == "accepted", outcome.why

    def ingest(self, symbol: str, start: str, end: str) -> Outcome:
        run = BarsRun(ConfigFilesResource(), self.lake, Timeframe.D1, ledger=lambda: self.ledger, run_id="test")
        outcome = run.ingest(start, end, [symbol])
        assert outcome.failed == {}
        return outcome

    def closes(self, symbol: str) -> dict[str, float]:
        bars = self.lake.read_bars("bars_1d", symbol)
        return {session_date(int(s)).isoformat(): float(c) for s, c in zip(bars.session, bars.close, strict=True)}

    def judged(self, symbol: str, start: date, end: date) -> Judged:
        return judge_dataset(self.lake, load_config(self.settings).universe, "bars_1d", [symbol], start, end)

    def failing(self, symbol: str, day: date) -> set[str]:
        (part,) = self.judged(symbol, day, day).partitions
        return {r.check for r in part.results if not r.passed and r.severity == "error"} - {"no_gaps"}


@pytest.fixture
def room(tmp_path: Path, ledger_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setattr(Settings, "ledger_url", lambda self: ledger_url)
    with installation(tmp_path, TAPELINE_UNIVERSE="vendors") as of:
        (of.config / "universe" / "vendors.yaml").write_text(UNIVERSE)
        (of.config / "feeds" / "raw.yaml").write_text(
            "name: raw\nadjustment: none\ntimeframe: 1d\ntime: {stamp: start}\non_bad_rows: quarantine\n"
        )
        yield Room(of, Lake(of.lake_dir), ledger)


class TestARenamedCompany:
    """Facebook's shares were FB until 2022-06-08; META had been a fund, ten dollars a share, until January of that year."""

    FB = "2022-06-07,191,196,190,195.65,100\n2022-06-08,194,202,194,196.64,100\n2022-06-09,1,1,1,1.00,1\n"
    META = (
        "2022-01-03,14,15,14,14.50,5\n2022-06-08,12,13,12,12.50,5\n"
        "2022-06-09,194,199,183,184.00,100\n2022-06-10,183,184,175,175.57,9\n"
    )

    def test_history_continues_under_the_new_ticker_and_joins_nobody_elses_bars(self, room: Room) -> None:
        room.drop("raw/FB.csv", self.FB)
        room.drop("raw/META.csv", self.META)
        room.ingest("META", "2022-01-03", "2022-06-10")
        assert room.closes("META") == {
            "2022-06-07": 195.65, "2022-06-08": 196.64, "2022-06-09": 184.00, "2022-06-10": 175.57
        }  # fmt: skip
        assert Market(room.lake, load_config(room.settings).universe).bars("META", "1d", adjusted=True)["close"].iloc[0] == 195.65

    def test_what_a_ticker_says_outside_its_span_never_enters_whatever_came_last(self, room: Room) -> None:
        room.drop("raw/META.csv", self.META)
        room.ingest("META", "2022-01-03", "2022-06-10")
        assert list(room.closes("META")) == ["2022-06-09", "2022-06-10"]
        room.drop("raw/FB.csv", self.FB)
        room.ingest("META", "2022-01-03", "2022-06-10")
        assert room.closes("META")["2022-06-09"] == 184.00

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("feed: files, native", "feed: lean, native"), "whose map files say them"),
            (("{FB: 2022-06-08}", "{META: 2022-06-08}"), "what it is called now"),
            (("{FB: 2022-06-08}", "{FB: 2022-06-08, THEFB: 2022-06-08}"), "former_symbols overlap"),
        ],
    )
    def test_a_history_of_tickers_that_cannot_be_is_refused(self, room: Room, change: tuple[str, str], said: str) -> None:
        (room.settings.config / "universe" / "vendors.yaml").write_text(UNIVERSE.replace(*change, 1))
        with pytest.raises(ConfigInvalid, match=said):
            load_config(room.settings)


class TestOilBelowZero:
    """The May 2020 contract of crude oil settled at -37.63 on 2020-04-20."""

    ROWS = (
        "2020-04-17,19.87,20.2,17.31,18.27,10\n2020-04-20,17.73,17.85,-40.32,-37.63,10\n2020-04-21,-14.0,13.86,-16.74,10.01,10\n"
    )
    DAY = date(2020, 4, 20)

    def test_where_prices_may_be_negative_they_go_through_all_the_way_and_the_step_is_for_a_person(self, room: Room) -> None:
        room.drop("raw/CL.csv", self.ROWS)
        assert room.ingest("CL", "2020-04-17", "2020-04-21").put_aside == {}
        assert room.closes("CL") == {"2020-04-17": 18.27, "2020-04-20": -37.63, "2020-04-21": 10.01}
        assert room.failing("CL", self.DAY) == {"jump"}
        frame = Market(room.lake, load_config(room.settings).universe).bars("CL", "1d")
        assert frame["low"].tolist() == [17.31, -40.32, -16.74]

    def test_where_they_may_not_the_rows_wait_in_quarantine_with_file_and_line(self, room: Room) -> None:
        room.drop("raw/RB.csv", self.ROWS)
        outcome = room.ingest("RB", "2020-04-17", "2020-04-21")
        assert [r.reasons for r in outcome.put_aside["RB"]] == [("positive_prices",), ("positive_prices",)]
        rows = Quarantine(room.ledger.engine).rows()
        assert sorted((str(r["place"]).rsplit("-", 1)[-1]) for r in rows) == ["RB.csv line 3", "RB.csv line 4"]
        listed = CliRunner().invoke(app, ["quarantine", "list", "--json"])
        assert "RB.csv line 3" in listed.output
        assert room.closes("RB") == {"2020-04-17": 18.27}

    def test_the_same_rule_judges_what_an_operator_repairs(self, room: Room) -> None:
        room.drop("raw/CL.csv", self.ROWS.replace("17.73,17.85,-40.32,-37.63", "17.73,17.00,-40.32,-37.63"))
        assert [r.reasons for r in room.ingest("CL", "2020-04-17", "2020-04-21").put_aside["CL"]] == [("ohlc_consistent",)]
        (row,) = Quarantine(room.ledger.engine).rows()
        done = CliRunner().invoke(
            app, ["quarantine", "repair", str(row["id"]), "--high", "17.85", "--why", "the exchange's file"]
        )
        assert done.exit_code == 0, done.output
        assert room.closes("CL")["2020-04-20"] == -37.63
