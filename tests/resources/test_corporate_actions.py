"""Corporate actions as files, stored in versions, gathered from their sources."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from resources.corporate_actions import (
    action_versions,
    gather,
    read_actions,
    read_config,
    read_version,
    stored_symbols,
    write_actions,
)
from resources.feeds.lean import LeanFeed
from resources.feeds.protocol import SourceMissing
from resources.lake import CorruptPartition, Lake
from resources.settings import ROOT
from tests.paths import lean_data
from tests.trading.samples import universe
from trading.action_files import parse_actions, parse_actions_csv
from trading.calendars import Calendar, calendar
from trading.corporate_actions import ActionKind, CorporateAction
from trading.instruments import ActionSource, AssetClass, Instrument
from trading.timeframes import Timeframe, session_number

EX = session_number(date(2014, 6, 9))
SPLIT = CorporateAction("AAPL", ActionKind.SPLIT, EX, calendar("XNYS").bounds(EX)[0], 7.0, source="test")


def venue_of(symbol: str) -> Calendar | None:
    return calendar("XNYS") if symbol in ("AAPL", "KO") else None


class TestStore:
    def test_what_is_written_is_read_and_nothing_changed_writes_nothing(self, tmp_path: Path) -> None:
        assert read_actions(tmp_path, "AAPL") == []
        assert write_actions(tmp_path, "AAPL", [SPLIT])
        assert not write_actions(tmp_path, "AAPL", [SPLIT])
        assert read_actions(tmp_path, "AAPL") == [SPLIT]
        assert read_actions(Lake(tmp_path), "AAPL") == [SPLIT]
        assert stored_symbols(tmp_path) == ["AAPL"]
        assert Lake(tmp_path).datasets() == []

    def test_every_version_can_be_read_back(self, tmp_path: Path) -> None:
        unknown = replace(SPLIT, factor=math.nan)
        write_actions(tmp_path, "AAPL", [unknown])
        write_actions(tmp_path, "AAPL", [SPLIT])
        newest, first = action_versions(tmp_path, "AAPL")
        assert (newest.number, first.number) == (2, 1)
        assert math.isnan(read_version(tmp_path, first, "AAPL")[0].factor)
        assert read_version(tmp_path, newest, "AAPL") == read_actions(tmp_path, "AAPL") == [SPLIT]

    def test_taking_all_actions_away_is_a_version_too(self, tmp_path: Path) -> None:
        write_actions(tmp_path, "AAPL", [SPLIT])
        assert write_actions(tmp_path, "AAPL", [])
        assert read_actions(tmp_path, "AAPL") == []

    @pytest.mark.parametrize("damage", ["", "{", '{"format": 1}', "changed"])
    def test_a_damaged_file_is_named(self, tmp_path: Path, damage: str) -> None:
        write_actions(tmp_path, "AAPL", [SPLIT])
        path = tmp_path / "corporate_actions" / "symbol=AAPL" / "manifest.json"
        path.write_text(path.read_text().replace("7.0", "6.0") if damage == "changed" else damage)
        with pytest.raises(CorruptPartition, match="symbol=AAPL"):
            read_actions(tmp_path, "AAPL")

    def test_a_symbol_cannot_leave_its_folder(self, tmp_path: Path) -> None:
        for symbol in ("..", "a/../../b", "^GSPC"):
            write_actions(tmp_path / "lake", symbol, [replace(SPLIT, symbol=symbol)])
        assert [p.name for p in tmp_path.iterdir()] == ["lake"]
        assert stored_symbols(tmp_path / "lake") == sorted(("..", "a/../../b", "^GSPC"))

    def test_another_symbols_action_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="AAPL is not one of MSFT"):
            write_actions(tmp_path, "MSFT", [SPLIT])


YAML = """\
actions:
  - {symbol: AAPL, kind: split, ex_date: 2014-06-09, factor: 7, known: 2014-04-23}
  - {symbol: KO, kind: dividend, ex_date: 2020-03-13, amount: 0.41}
  - {symbol: ZZZ, kind: split, ex_date: 2014-06-09, factor: 7}
"""


class TestFiles:
    def test_yaml_says_what_csv_says(self) -> None:
        rows = "symbol,kind,ex_date,factor,amount,known\nAAPL,split,2014-06-09,7,,2014-04-23\nKO,dividend,2020-03-13,,0.41,\n"
        one, problems = parse_actions(YAML, "a", venue_of)
        two, more = parse_actions_csv(rows, "a", venue_of)
        assert (problems, more) == ([], [])
        assert [str(a) for a in one] == [str(a) for a in two]
        assert (one[0].symbol, one[0].factor, one[0].ex_session) == ("AAPL", 7.0, EX)
        assert one[0].known_time == (session_number(date(2014, 4, 23)) + 1) * 86_400_000_000
        assert math.isnan(one[1].factor)
        assert one[1].known_time == calendar("XNYS").bounds(date(2020, 3, 13))[0]

    @pytest.mark.parametrize(
        ("change", "line", "key"),
        [
            (("AAPL, kind: split", "AAPL, kind: spilt"), 2, "actions[0].kind"),
            (("2014-06-09, factor: 7, known", "2014-06-08, factor: 7, known"), 2, "actions[0].ex_date"),
            (("factor: 7, known", "factor: 0, known"), 2, "actions[0].factor"),
            (("factor: 7, known: 2014-04-23", "factor: 7, known: 2014-06-10"), 2, "actions[0]"),
            (("amount: 0.41", "amount: -1"), 3, "actions[1].amount"),
            ((", amount: 0.41", ""), 3, "actions[1]"),
            (("kind: dividend", "kind: roll"), 3, "actions[1]"),
            (
                ("KO, kind: dividend, ex_date: 2020-03-13, amount: 0.41", "AAPL, kind: split, ex_date: 2014-06-09"),
                3, "actions[1]",
            ),
        ],
    )  # fmt: skip
    def test_each_mistake_is_named_at_its_line(self, change: tuple[str, str], line: int, key: str) -> None:
        found, problems = parse_actions(YAML.replace(*change), "a.yaml", venue_of)
        assert found == []
        assert [(p.file, p.line, p.key) for p in problems] == [("a.yaml", line, key)]

    @pytest.mark.parametrize(
        ("rows", "line", "key"),
        [
            ("symbol,kind\nAAPL,split\n", 1, ""),
            ("symbol,kind,ex_date,factr\n", 1, ""),
            ("symbol,kind,ex_date,factor\nAAPL,split,2014-06-09,seven\n", 2, "factor"),
            ("symbol,kind,ex_date,factor\nAAPL,split,2014-06-08,7\n", 2, "ex_date"),
            ("symbol,kind,ex_date,factor\nAAPL,split,June,7\n", 2, "ex_date"),
        ],
    )
    def test_each_mistake_in_csv_is_named_at_its_line(self, rows: str, line: int, key: str) -> None:
        found, problems = parse_actions_csv(rows, "a.csv", venue_of)
        assert (found, [(p.line, p.key) for p in problems]) == ([], [(line, key)])

    def test_the_samples_own_file_is_good_and_explains_its_splits(self) -> None:
        found, problems = read_config(ROOT / "data" / "config" / "actions", universe().instruments)
        assert problems == []
        assert [(a.symbol, a.factor) for a in found] == [("AAPL", 2.0), ("AAPL", 2.0), ("MSFT", 2.0)]


class TestGather:
    @pytest.fixture
    def stocks(self) -> dict[str, Instrument]:
        return {
            s: Instrument(
                s, AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "lean", f"equity/usa/{s.lower()}", Timeframe.D1,
                actions=ActionSource.LEAN,
            )
            for s in ("AAPL", "AIG")
        }  # fmt: skip

    def test_the_vendors_files_are_read_and_a_persons_word_stands_above_them(
        self, stocks: dict[str, Instrument], tmp_path: Path
    ) -> None:
        (tmp_path / "mine.yaml").write_text("actions:\n  - {symbol: AAPL, kind: split, ex_date: 2014-06-09, factor: 6.9}\n")
        said = CorporateAction("AIG", ActionKind.SPLIT, session_number(date(2009, 7, 1)), 1, 0.04, source="operator:x")
        got = gather(stocks, tmp_path, LeanFeed(lean_data()).actions, [said])
        assert (got.problems, got.failed) == ([], {})
        apple = {a.ex_session: a for a in got.actions["AAPL"] if a.kind is ActionKind.SPLIT}
        assert (apple[EX].factor, apple[EX].source) == (6.9, "file:actions/mine.yaml")
        assert {a.factor for a in got.actions["AIG"] if a.ex_session == said.ex_session and a.kind is said.kind} == {0.04}
        assert [(str(a.kind), a.factor, b.factor) for a, b in got.overruled] == [("split", 6.9, 7.0), ("split", 0.04, 0.05)]

    def test_a_source_that_fails_leaves_what_is_stored(self, stocks: dict[str, Instrument], tmp_path: Path) -> None:
        def missing(instrument: Instrument) -> list[CorporateAction]:
            raise SourceMissing("gone")

        got = gather(stocks, tmp_path, missing)
        assert got.actions == {}
        assert got.failed == {"AAPL": "gone", "AIG": "gone"}
