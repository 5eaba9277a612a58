"""A corrected bar: exactly what depends on it is out of date, refused, recomputed, and equal to a lake made from scratch."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets.changes import announce_changes, changed_by, database_now, note_changes, replace_bars, settle_announced, settle_range
from assets.recompute import recompute
from assets.upstream import stale_datasets, traded_on_values, upstream_values
from resources.affected import affected_by
from resources.changes import dependents_of
from resources.lake import Lake
from resources.ledger import changes as book
from resources.ledger.store import DecisionRow, Ledger
from tests.assets.changed_lake import END, START, XNYS, build, contents, corrected, hashes, natives, universe
from trading.bars import Bars
from trading.signals import Action, Decision, PartitionRef, Signal
from trading.timeframes import Timeframe, session_date, session_number

UNIVERSE = universe()
DAY = date(2014, 6, 26)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Bars]]:
    root, bars = tmp_path_factory.mktemp("lake") / "lake", natives()
    build(root, bars, UNIVERSE)
    return root, bars


@pytest.fixture
def new_ledger(ledger: Ledger) -> Ledger:
    """One ledger for all examples of a property: what one leaves behind must not disturb the next."""
    return ledger


@pytest.fixture
def bars(template: tuple[Path, dict[str, Bars]]) -> dict[str, Bars]:
    return template[1]


@pytest.fixture
def lake(template: tuple[Path, dict[str, Bars]], tmp_path: Path) -> Lake:
    shutil.copytree(template[0], tmp_path / "lake")
    return Lake(tmp_path / "lake")


def put(ledger: Ledger, lake: Lake, symbol: str, bars: Bars, start: date = START, end: date = END) -> book.Change | None:
    """The vendor's bars replace those of the span, as a run does it."""
    lo, hi = session_number(start), session_number(end)
    part = bars.rows((bars.session >= lo) & (bars.session <= hi))
    _, noted = replace_bars(
        ledger, lake, UNIVERSE, f"bars_{bars.timeframe}", {symbol: part}, start=start, end=end, source="vendor", run_id="r1",
        reason="vendor correction", before=database_now(ledger.engine),
    )  # fmt: skip
    return noted.changes[0] if noted.changes else None


def of_day(bars: Bars, day: date) -> int:
    """A row in the middle of the day."""
    rows = np.flatnonzero(bars.session == session_number(day))
    return int(rows[len(rows) // 2])


def signal(ref: PartitionRef, close_time: int) -> Signal:
    return Signal(
        strategy="s", strategy_revision="r", symbol=ref.symbol, timeframe=Timeframe.M5, close_time=close_time,
        action=Action.ENTER_LONG, strength=0.5, reference_price=100.0, stop_price=99.0, target_price=None,
        valid_until=close_time + 1, sizing={}, features_version="f", partitions=(ref,),
    )  # fmt: skip


class TestWhatIsStale:
    def test_one_corrected_minute_marks_its_dependents_and_nothing_else(
        self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]
    ) -> None:
        put(ledger, lake, "AAA", corrected(bars["AAA"], of_day(bars["AAA"], DAY), "price"), DAY, DAY)
        marks = book.stale(ledger.engine)
        assert {m.symbol for m in marks} == {"AAA"}
        by_dataset: dict[str, set[str]] = {}
        for mark in marks:
            by_dataset.setdefault(mark.dataset, set()).add(mark.session)
        later = {d.isoformat() for d in XNYS.sessions(DAY, END)}
        for timeframe in ("3m", "5m", "15m", "30m", "1h", "4h", "1d"):
            assert by_dataset.pop(f"bars_{timeframe}") == {"2014-06-26"}
        assert by_dataset.pop("bars_1w") == {"2014-06-27"}, "the week belongs to its last session"
        for timeframe in ("1m", "1h", "1d"):
            assert by_dataset.pop(f"features_{timeframe}") == later, "its window and no earlier row"
        assert by_dataset == {}
        assert marks[0].because == "bars_1m/2014-06-26/AAA changed: vendor correction"

    def test_features_whose_window_begins_later_stay_current(self) -> None:
        ranges = dependents_of("bars_1m", "AAA", [session_number(date(2014, 5, 30))], UNIVERSE)
        assert ranges["features_1m"] == [(session_number(date(2014, 5, 30)), session_number(date(2014, 6, 30)))]
        assert ranges["features_1h"] == [(session_number(date(2014, 5, 30)), session_number(date(2014, 12, 31)))]
        assert ranges["features_1d"] == [(session_number(date(2014, 5, 30)), session_number(date(2017, 12, 29)))]

    def test_a_change_of_derived_bars_reaches_only_their_own_features(self) -> None:
        assert set(dependents_of("bars_1h", "AAA", [session_number(DAY)], UNIVERSE)) == {"features_1h"}
        assert set(dependents_of("bars_1d", "DDD", [session_number(DAY)], UNIVERSE)) == {"bars_1w", "features_1d"}
        assert dependents_of("features_1d", "AAA", [session_number(DAY)], UNIVERSE) == {}

    def test_the_same_content_again_is_no_change(self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> None:
        assert put(ledger, lake, "AAA", bars["AAA"]) is None
        assert book.stale(ledger.engine) == []
        assert book.changes(ledger.engine) == []

    def test_a_hole_that_is_filled_is_a_change_and_a_new_day_is_none(
        self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]
    ) -> None:
        whole = bars["AAA"]
        hole, last = session_number(date(2014, 7, 1)), session_number(END)
        lake.write_bars(
            "bars_1m", {"AAA": whole.rows((whole.session != hole) & (whole.session != last))}, start=START, end=END, source="v",
            instruments=UNIVERSE.instruments,
        )  # fmt: skip
        found = changed_by(lake, "bars_1m", {"AAA": whole}, START, END)
        assert list(found) == [("AAA", date(2014, 7, 1))]
        assert found["AAA", date(2014, 7, 1)][0] == ""
        assert put(ledger, lake, "AAA", whole) is not None
        assert any(m.key == ("bars_5m", "2014-07-01", "AAA") for m in book.stale(ledger.engine))

    def test_a_session_that_is_taken_away_is_a_change(self, lake: Lake, bars: dict[str, Bars]) -> None:
        found = changed_by(lake, "bars_1m", {"AAA": bars["AAA"].rows(slice(0, 0))}, DAY, DAY)
        assert [new for _, new in found.values()] == [""]


class TestNoDecisionOnWhatIsStale:
    def test_a_stale_partition_refuses_whatever_it_holds_and_trades_again_when_recomputed(
        self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]
    ) -> None:
        put(ledger, lake, "AAA", corrected(bars["AAA"], of_day(bars["AAA"], DAY), "price"), DAY, DAY)
        ref = PartitionRef("bars_5m", DAY.isoformat(), "AAA", "any content")
        (verdict,) = [v for v in ledger.verdicts([ref]) if v.check == "upstream_current"]
        assert (verdict.passed, verdict.severity, verdict.content_hash) == (False, "error", "any content")
        assert "bars_1m/2014-06-26/AAA" in str(verdict.examples)
        other = PartitionRef("bars_5m", DAY.isoformat(), "BBB", "h")
        assert [v for v in ledger.verdicts([other]) if v.check == "upstream_current"] == []
        recompute(ledger, lake, UNIVERSE, run_id="r2")
        now = lake.partition("bars_5m", DAY, "AAA").content_hash
        verdicts = ledger.verdicts([replace(ref, content_hash=now)])
        assert [v for v in verdicts if v.check == "upstream_current"] == []
        assert {v.content_hash for v in verdicts} == {now}, "judged anew on what it holds now"

    def test_the_gate_names_the_stale_partition(self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> None:
        from trading.gates import data_quality

        put(ledger, lake, "AAA", corrected(bars["AAA"], of_day(bars["AAA"], DAY), "price"), DAY, DAY)
        ref = PartitionRef("bars_5m", DAY.isoformat(), "AAA", lake.partition("bars_5m", DAY, "AAA").content_hash)
        required = [{"dataset": ref.dataset, "session": ref.session, "symbol": ref.symbol, "content_hash": ref.content_hash}]
        snapshot = {
            "required": required, "required_checks": ["ohlc_consistent"], "signal": {"partitions": required},
            "verdicts": [
                {**required[0], "check": "ohlc_consistent", "passed": True, "severity": "error"},
                *(v.snapshot() for v in ledger.verdicts([ref])),
            ],
        }  # fmt: skip
        verdict = data_quality.DataQuality().judge(snapshot)
        assert verdict.refusal == "DATA_QUALITY: partition=bars_5m/2014-06-26/AAA check=upstream_current reason=failed"


class TestRecomputing:
    @settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_corrections_end_in_the_lake_made_from_scratch(
        self,
        template: tuple[Path, dict[str, Bars]],
        tmp_path_factory: pytest.TempPathFactory,
        new_ledger: Ledger,
        data: st.DataObject,
    ) -> None:
        root, bars = template
        folder = tmp_path_factory.mktemp("corrected")
        shutil.copytree(root, folder / "lake")
        lake, told = Lake(folder / "lake"), dict(bars)
        before = contents(lake)
        days: dict[tuple[str, Timeframe], set[int]] = {}
        for _ in range(data.draw(st.integers(1, 3))):
            symbol = data.draw(st.sampled_from(sorted(bars)))
            kind = data.draw(st.sampled_from(["price", "volume", "less"]))
            row = data.draw(st.integers(0, 10_000)) % len(told[symbol])
            day = session_date(int(told[symbol].session[row]))
            told[symbol] = corrected(told[symbol], row, kind)
            put(new_ledger, lake, symbol, told[symbol], day, day)
            days.setdefault((symbol, told[symbol].timeframe), set()).add(session_number(day))
        done = recompute(new_ledger, lake, UNIVERSE, run_id="r2")
        assert done.left == {}
        assert book.stale(new_ledger.engine) == []
        scratch = build(folder / "scratch", told, UNIVERSE)
        assert hashes(lake) == hashes(scratch)
        touched = {
            (dataset, symbol, number)
            for (symbol, timeframe), numbers in days.items()
            for dataset, ranges in {
                f"bars_{timeframe}": [(n, n) for n in numbers],
                **dependents_of(f"bars_{timeframe}", symbol, numbers, UNIVERSE),
            }.items()
            for first, last in ranges
            for number in range(first, last + 1)
        }
        after = contents(lake)
        for key, part in before.items():
            if (key[0], key[2], session_number(part.session)) not in touched:
                assert after[key] == part, "content, source and time of writing are what they were"
        shutil.rmtree(folder)

    def test_a_change_that_comes_while_it_recomputes_stays_marked(
        self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]
    ) -> None:
        first = corrected(bars["AAA"], of_day(bars["AAA"], DAY), "price")
        put(ledger, lake, "AAA", first, DAY, DAY)
        before = database_now(ledger.engine)  # the recomputation reads its inputs now
        put(ledger, lake, "AAA", corrected(first, of_day(first, DAY), "volume"), DAY, DAY)
        assert settle_range(ledger, "bars_5m", ["AAA"], DAY, DAY, before=before) == 0
        assert settle_range(ledger, "bars_5m", ["AAA"], DAY, DAY, before=database_now(ledger.engine)) == 1

    def test_a_session_open_at_the_desk_is_left_to_the_desk(self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> None:
        put(ledger, lake, "AAA", corrected(bars["AAA"], of_day(bars["AAA"], END), "price"), END, END)
        ledger.open_session(END.isoformat(), opened_time=1, start_equity=1.0)
        before = hashes(lake)
        done = recompute(ledger, lake, UNIVERSE, run_id="r2")
        assert hashes(lake) == before
        assert {m.session for m in book.stale(ledger.engine)} == {END.isoformat()}
        assert set(done.left.values()) == {"the session is open: the desk writes it"}
        ledger.end_session(END.isoformat(), ended_time=2, end_equity=1.0)
        recompute(ledger, lake, UNIVERSE, run_id="r3")
        assert book.stale(ledger.engine) == []

    def test_what_cannot_be_made_stays_marked_and_stops_no_other(self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> None:
        for symbol in ("AAA", "BBB"):
            put(ledger, lake, symbol, corrected(bars[symbol], of_day(bars[symbol], DAY), "price"), DAY, DAY)
        smaller = replace(UNIVERSE, instruments={s: i for s, i in UNIVERSE.instruments.items() if s != "BBB"})
        done = recompute(ledger, lake, smaller, run_id="r2")
        assert {m.symbol for m in book.stale(ledger.engine)} == {"BBB"}
        assert all("not in the universe" in why for why in done.left.values())


class TestWriterThatDies:
    def test_between_its_write_and_its_note_nothing_is_lost(self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> None:
        new = corrected(bars["AAA"], of_day(bars["AAA"], DAY), "price")
        new = new.rows(new.session == session_number(DAY))
        changed = changed_by(lake, "bars_1m", {"AAA": new}, DAY, DAY)
        announce_changes(ledger, "bars_1m", changed, run_id="dies", reason="final bars", universe=UNIVERSE, lake=lake)
        assert any(m.key == ("bars_5m", DAY.isoformat(), "AAA") for m in book.stale(ledger.engine)), "stale before the write"
        lake.write_bars("bars_1m", {"AAA": new}, start=DAY, end=DAY, source="v", instruments=UNIVERSE.instruments)
        # The writer dies here. A second one finds the lake as it should be and has nothing to tell.
        assert changed_by(lake, "bars_1m", {"AAA": new}, DAY, DAY) == {}
        assert book.changes(ledger.engine) == []
        assert settle(ledger, lake) == 1
        (change,) = book.changes(ledger.engine)
        assert (change.old_hash, change.new_hash, change.run_id) == (*changed["AAA", DAY], "dies")
        assert settle(ledger, lake) == 0

    def test_before_its_write_nothing_has_changed(self, ledger: Ledger, lake: Lake) -> None:
        announce_changes(ledger, "bars_1m", {("AAA", DAY): (lake.partition("bars_1m", DAY, "AAA").content_hash, "x")},
                         run_id="dies", reason="final bars", universe=UNIVERSE, lake=lake)  # fmt: skip
        assert settle(ledger, lake) == 1
        assert book.changes(ledger.engine) == []
        before = hashes(lake)
        recompute(ledger, lake, UNIVERSE, run_id="r2")
        assert (hashes(lake), book.stale(ledger.engine)) == (before, [])


def settle(ledger: Ledger, lake: Lake) -> int:
    return settle_announced(ledger, lake=lake, universe=UNIVERSE)


class TestDecisions:
    @pytest.fixture
    def decided(self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> tuple[Signal, Signal, int]:
        """Two signals on the minutes of a day: one before, one after the row that is corrected."""
        row = of_day(bars["AAA"], DAY)
        day = bars["AAA"].rows(bars["AAA"].session == session_number(DAY))
        made = []
        for close_time in (int(bars["AAA"].close_time[row - 5]), int(bars["AAA"].close_time[row + 5])):
            ref = PartitionRef("bars_1m", DAY.isoformat(), "AAA", day.known_at(close_time).content_hash())
            one = signal(ref, close_time)
            ledger.insert_signals([one], session=DAY.isoformat(), code_revision="c", run_id="r")
            decision = Decision(one, True, (), "")
            ledger.insert_decisions([DecisionRow(decision, b"{}", b"{}")], session=DAY.isoformat(), code_revision="c", run_id="r")
            made.append(one)
        return made[0], made[1], row

    def test_those_taken_on_the_former_rows_are_named_and_the_others_not(
        self, ledger: Ledger, lake: Lake, bars: dict[str, Bars], decided: tuple[Signal, Signal, int]
    ) -> None:
        before, after, row = decided
        change = put(ledger, lake, "AAA", corrected(bars["AAA"], row, "price"), DAY, DAY)
        assert change is not None
        (found,) = book.affected(ledger.engine, [change.seq])
        assert found.signal_id == after.id
        assert found.decision_id == Decision(after, True, (), "").id
        assert found.hash_then == after.partitions[0].content_hash != found.hash_now
        everything = affected_by(ledger, lake, UNIVERSE, ("bars_1m", DAY.isoformat(), "AAA"))
        assert [(s.signal_id, s.state) for s in everything.signals] == [(before.id, "same"), (after.id, "differs")]
        assert everything.datasets["bars_1w"] == ["2014-06-27"]
        assert [c.seq for c in everything.changes] == [change.seq]

    def test_what_was_traded_on_is_compared_with_what_the_vendor_says_now(
        self, ledger: Ledger, lake: Lake, bars: dict[str, Bars], decided: tuple[Signal, Signal, int]
    ) -> None:
        clean = traded_on_values("bars_1m", [DAY.isoformat()], ledger, lake, UNIVERSE)
        assert clean["passed"]
        put(ledger, lake, "AAA", corrected(bars["AAA"], decided[2], "price"), DAY, DAY)
        values = traded_on_values("bars_1m", [DAY.isoformat()], ledger, lake, UNIVERSE)
        assert not values["passed"]
        assert (values["metadata"]["partitions_changed"], values["metadata"]["decisions_affected"]) == (1, 1)
        row = values["metadata"]["changes"].value.splitlines()[2]
        assert "2014-06-26" in row
        assert "1 changed (at most 50 ticks)" in row
        assert Decision(decided[1], True, (), "").id in row

    def test_what_was_replaced_back_is_no_difference(
        self, ledger: Ledger, lake: Lake, bars: dict[str, Bars], decided: tuple[Signal, Signal, int]
    ) -> None:
        put(ledger, lake, "AAA", corrected(bars["AAA"], decided[2], "price"), DAY, DAY)
        put(ledger, lake, "AAA", bars["AAA"], DAY, DAY)
        assert len(book.changes(ledger.engine, session=DAY.isoformat(), dataset="bars_1m")) == 2
        assert traded_on_values("bars_1m", [DAY.isoformat()], ledger, lake, UNIVERSE)["passed"]


class TestFacts:
    def test_they_only_grow(self, ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> None:
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError

        put(ledger, lake, "AAA", corrected(bars["AAA"], 3, "price"), START, START)
        for statement in (
            "UPDATE partition_changes SET reason = ''",
            "DELETE FROM partition_changes",
            "DELETE FROM affected_decisions",
        ):
            with pytest.raises(DBAPIError, match="append-only"), ledger.engine.begin() as c:
                c.execute(text(statement))

    def test_telling_a_change_twice_writes_it_once_and_marks_again(self, ledger: Ledger, lake: Lake) -> None:
        told = {("AAA", DAY): ("old", "new")}
        for _ in range(2):
            noted = note_changes(ledger, "bars_1m", told, run_id="r", reason="late", universe=UNIVERSE, lake=lake)
            assert noted.stale
        assert len(book.changes(ledger.engine)) == 1
        first = book.stale(ledger.engine)[0]
        assert first.marked_wall > first.since_wall


def test_the_check_lists_the_stale_partitions_with_the_reason(ledger: Ledger, lake: Lake, bars: dict[str, Bars]) -> None:
    assert stale_datasets(UNIVERSE)[:2] == ["bars_3m", "bars_5m"]
    assert stale_datasets(UNIVERSE)[-3:] == ["features_1m", "features_1h", "features_1d"]
    assert upstream_values("bars_5m", [])["passed"]
    put(ledger, lake, "AAA", corrected(bars["AAA"], of_day(bars["AAA"], DAY), "price"), DAY, DAY)
    values = upstream_values("bars_5m", book.stale(ledger.engine, dataset="bars_5m"))
    assert not values["passed"]
    assert "vendor correction" in values["metadata"]["partitions"].value
