"""Quality checks: the rule, the count and the bars in the UI; the verdict in the ledger, where the gate reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from assets.market_data import timeframes_of
from assets.partitions import configured_universe
from assets.quality import checks, suites
from assets.quality.history import JudgedPartition, judge_dataset
from assets.quality.verdicts import VERDICT_SESSIONS, missing_or_failed, verdict_rows
from desk.hot_store import HOT_CONFLICT, LAKE_READABLE
from resources.dagster_resources import LedgerResource
from resources.lake import Lake
from resources.ledger.store import Ledger, VerdictRow
from resources.settings import Settings
from tests.assets.market_runs import evaluation, failure, materialised, run
from tests.assets.sample_lake import fill, installation
from trading.bars import Bars
from trading.decisions import build_snapshot, decide, decision_of
from trading.quality import ALL_CHECKS, ERROR_CHECKS
from trading.signals import Action, PartitionRef, Signal
from trading.timeframes import Timeframe, session_number

DAY = date(2017, 12, 29)
HOURLY = dg.AssetSelection.checks_for_assets("bars_1h")
DAILY = dg.AssetSelection.checks_for_assets("bars_1d")


@pytest.fixture
def sample(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    with installation(tmp_path) as of:
        fill(of)
        yield of


def spoil(of: Settings, dataset: str, symbol: str, session: date, **values: float) -> str:
    """Overwrite the session's last bar in the lake; returns the partition's new content hash."""
    lake, instruments = Lake(of.lake_dir), configured_universe().instruments
    bars = lake.read_bars(dataset, symbol, session, session)
    columns = {name: getattr(bars, name).copy() for name in values}
    for name, value in values.items():
        columns[name][-1] = value
    bad = replace(bars, **columns)  # type: ignore[arg-type]
    lake.write_bars(dataset, {symbol: bad}, start=session, end=session, source="spoilt", instruments=instruments)
    return bad.content_hash()


def verdicts(ledger: Ledger, dataset: str, session: date, symbol: str, content_hash: str = "") -> dict[str, VerdictRow]:
    return {v.check: v for v in ledger.verdicts([PartitionRef(dataset, session.isoformat(), symbol, content_hash)])}


def test_a_corrupted_bar_fails_its_rule_shows_itself_and_leaves_a_failed_verdict(sample: Settings, ledger: Ledger) -> None:
    content_hash = spoil(sample, "bars_1h", "EURUSD", DAY, low=1.2009)
    result = run(DAY, selection=HOURLY)
    failed = evaluation(result, "bars_1h", "ohlc_consistent")
    assert not failed.passed
    assert failed.severity is dg.AssetCheckSeverity.ERROR
    said = {key: value.value for key, value in failed.metadata.items()}
    assert said["failed_partitions"] == 1
    assert said["failed_rows"] == 1
    assert said["rule"] == "low <= open <= high and low <= close <= high"
    assert said["expectation"] == "expect_column_values_to_be_in_set"
    assert "| 2017-12-29 | EURUSD | 1 |" in str(said["failures"])
    assert "low=1.2009" in str(said["failures"])
    others = {c for c in (*ALL_CHECKS, "structure") if not evaluation(result, "bars_1h", c).passed}
    assert others == {"ohlc_consistent"}
    row = verdicts(ledger, "bars_1h", DAY, "EURUSD")["ohlc_consistent"]
    assert (row.passed, row.severity, row.failed_count, row.content_hash) == (False, "error", 1, content_hash)
    assert row.examples[0]["low"] == 1.2009


def test_the_source_s_bars_replace_the_corrupted_ones_and_the_verdict_follows(sample: Settings, ledger: Ledger) -> None:
    spoil(sample, "bars_1h", "EURUSD", DAY, low=1.2009)
    run(DAY, selection=HOURLY)
    result = run(DAY, selection=dg.AssetSelection.assets("bars_1h"))
    assert result.success
    assert evaluation(result, "bars_1h", "ohlc_consistent").passed
    part = Lake(sample.lake_dir).partition("bars_1h", DAY, "EURUSD")
    now = verdicts(ledger, "bars_1h", DAY, "EURUSD")
    assert missing_or_failed(list(now.values()), part.content_hash) == []


def test_one_symbol_s_fault_does_not_stop_features_of_the_others(sample: Settings) -> None:
    spoil(sample, "bars_1d", "SPX", DAY, low=-5.0)
    with_features = DAILY | dg.AssetSelection.assets("features_1d")
    result = run(DAY, selection=with_features)
    assert not evaluation(result, "bars_1d", "positive_prices").passed
    assert result.success
    assert materialised(result) == {"features_1d"}


def test_an_unreadable_dataset_stops_what_is_made_of_it(sample: Settings) -> None:
    torn = sorted((sample.lake_dir / "bars_1h").rglob("*.parquet"))
    for path in torn:
        path.write_bytes(path.read_bytes()[:-50])
    result = run(DAY, selection=HOURLY | dg.AssetSelection.assets("features_1h"))
    structure = evaluation(result, "bars_1h", "structure")
    assert not structure.passed
    assert structure.blocking
    assert structure.severity is dg.AssetCheckSeverity.ERROR
    assert any(str(path) in (structure.description or "") for path in torn)
    assert not any(evaluation(result, "bars_1h", check).passed for check in ALL_CHECKS)  # not judged is not passed
    assert materialised(result) == set()


def test_rows_other_than_the_manifest_promises_are_unreadable(sample: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(sample.lake_dir)
    true_rows = lake.read_bars

    def altered(dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Bars:
        bars = true_rows(dataset, symbol, start, end)
        return replace(bars, close=bars.close + 0.0001) if symbol == "EURUSD" else bars

    monkeypatch.setattr(lake, "read_bars", altered)
    judged = judge_dataset(lake, configured_universe(), "bars_1d", ["EURUSD", "SPX"], DAY, DAY)
    assert list(judged.unreadable) == ["bars_1d/2017-12-29/EURUSD"]
    assert [p.symbol for p in judged.partitions] == ["SPX"]


def test_a_session_without_bars_fails_as_a_gap(sample: Settings, ledger: Ledger) -> None:
    lake, instruments = Lake(sample.lake_dir), configured_universe().instruments
    gone = date(2017, 12, 20)
    empty = Bars.empty("SPX", Timeframe.D1)
    lake.write_bars("bars_1d", {"SPX": empty}, start=gone, end=gone, source="gone", instruments=instruments)
    result = run("2017-12-18", "2017-12-22", selection=DAILY)
    failed = evaluation(result, "bars_1d", "no_gaps")
    assert not failed.passed
    assert "| 2017-12-20 | SPX | 0 | 1 of 1 bars missing" in str(failed.metadata["failures"].value)
    assert not verdicts(ledger, "bars_1d", gone, "SPX")["no_gaps"].passed


def test_old_faults_warn_and_stay_visible_new_ones_are_errors(sample: Settings, ledger: Ledger) -> None:
    old = date(2007, 6, 20)
    spoil(sample, "bars_1d", "SPX", old, low=1540.0)  # above the close, and no jump
    result = run("2007-01-02", DAY, selection=DAILY)
    failed = evaluation(result, "bars_1d", "ohlc_consistent")
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert not verdicts(ledger, "bars_1d", old, "SPX")["ohlc_consistent"].passed
    assert set(verdicts(ledger, "bars_1d", old, "SPX")) == {"ohlc_consistent"}
    assert set(verdicts(ledger, "bars_1d", DAY, "SPX")) == set(ALL_CHECKS)
    with ledger.engine.connect() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM quality_verdicts WHERE symbol = 'SPX'").scalar_one()
    jumps = len([1 for part, _ in judged_failures(sample, "jump") if part.symbol == "SPX"])
    assert count == VERDICT_SESSIONS * len(ALL_CHECKS) + 1 + jumps


def judged_failures(of: Settings, check: str) -> list[tuple[JudgedPartition, object]]:
    judged = judge_dataset(Lake(of.lake_dir), configured_universe(), "bars_1d", ["SPX"], date(2007, 1, 2), DAY)
    return list(judged.failures(check))


def test_a_session_alone_is_judged_as_within_its_history(sample: Settings) -> None:
    lake, universe = Lake(sample.lake_dir), configured_universe()
    for dataset, symbols in (("bars_1h", ["EURUSD"]), ("bars_4h", ["EURUSD"]), ("bars_1d", ["SPX", "COMP", "EURUSD"])):
        spoil(sample, dataset, symbols[0], date(2017, 11, 15), close=1e6, high=1e6)
        whole = judge_dataset(lake, universe, dataset, symbols, date(2017, 11, 1), DAY)
        results = {(p.symbol, p.session): p.results for p in whole.partitions}
        for day in (date(2017, 11, 15), date(2017, 11, 16), date(2017, 12, 1)):
            alone = judge_dataset(lake, universe, dataset, symbols, day, day)
            assert {(p.symbol, p.session): p.results for p in alone.partitions} == {
                key: value for key, value in results.items() if key[1] == day
            }


def test_a_symbol_that_ended_has_no_gaps_after_its_end_and_one_that_stopped_lately_has() -> None:
    universe = configured_universe()
    index = universe.instruments["SPX"]

    class Held:
        def __init__(self, bars: Bars) -> None:
            self.bars = bars

        def partitions(self, *_: object) -> list[object]:
            return []

        def read_bars(self, _d: str, _s: str, start: date | None, end: date | None) -> Bars:
            lo = session_number(start) if start else 0
            return self.bars.rows((self.bars.session >= lo) & (self.bars.session <= session_number(end or DAY)))

    venue = universe.calendars()[index.calendar]
    wanted = (venue.number >= session_number(date(2017, 1, 3))) & (venue.number <= session_number(DAY))
    number, close_time = venue.number[wanted], venue.close_time[wanted]
    price = 100 + np.sin(np.arange(len(number)))
    whole = Bars("SPX", Timeframe.D1, close_time, number, price, price + 1, price - 1, price, np.full(len(number), 1e6))
    for missing, failing, ended in ((3, 3, False), (60, 0, True)):
        held = Held(whole.rows(slice(0, len(whole) - missing)))
        judged = judge_dataset(held, universe, "bars_1d", ["SPX"], date(2017, 1, 3), DAY)  # type: ignore[arg-type]
        assert len(list(judged.failures("no_gaps"))) == failing
        assert (judged.ended == {"SPX"}) is ended


def test_the_verdicts_of_the_live_path_follow_new_content_and_a_conflict_stays_until_then(sample: Settings) -> None:
    lake = Lake(sample.lake_dir)
    judged = judge_dataset(lake, configured_universe(), "bars_1h", ["EURUSD"], DAY, DAY)
    held = judged.partitions[0].content_hash
    key = {name: (DAY.isoformat(), "EURUSD", name) for name in (HOT_CONFLICT, LAKE_READABLE)}
    same = {key[HOT_CONFLICT]: (False, "error", held), key[LAKE_READABLE]: (False, "error", held)}
    assert {r.check for r in verdict_rows(judged, "run", same)} == {*ALL_CHECKS, LAKE_READABLE}
    other = {key[HOT_CONFLICT]: (False, "error", "old"), key[LAKE_READABLE]: (True, "error", "old")}
    rows = {r.check: r for r in verdict_rows(judged, "run", other)}
    assert all(rows[c].passed and rows[c].content_hash == held for c in (HOT_CONFLICT, LAKE_READABLE))


def test_verdicts_the_ledger_has_already_are_not_written_again(sample: Settings, ledger: Ledger) -> None:
    run(DAY, selection=HOURLY)
    first = verdicts(ledger, "bars_1h", DAY, "EURUSD")
    result = run(DAY, selection=HOURLY)
    assert evaluation(result, "bars_1h", "structure").metadata["verdicts_recorded"].value == 0
    assert verdicts(ledger, "bars_1h", DAY, "EURUSD") == first


def test_the_gate_refuses_a_corrupted_partition_by_name(sample: Settings, ledger: Ledger) -> None:
    content_hash = spoil(sample, "bars_1h", "EURUSD", DAY, low=1.2009)
    run(DAY, selection=HOURLY)
    ref = PartitionRef("bars_1h", DAY.isoformat(), "EURUSD", content_hash)
    signal = Signal(
        strategy="test", strategy_revision="r", symbol="EURUSD", timeframe=Timeframe.H1, close_time=1_514_584_800_000_000,
        action=Action.ENTER_LONG, strength=1.0, reference_price=1.2, stop_price=1.19, target_price=1.23,
        valid_until=1_514_588_400_000_000, sizing={"kind": "fixed", "quantity": 1000},
        features_version="v", partitions=(ref,),
    )  # fmt: skip
    snapshot = build_snapshot(
        signal,
        instrument=configured_universe().instruments["EURUSD"],
        mode="paper",
        verdicts=[v.snapshot() for v in ledger.verdicts([ref])],
        required=[ref],
        warm=True,
        now_time=signal.close_time,
        session_open=True,
        min_reward_to_risk=1.0,
    )
    refusal = decision_of(snapshot, decide(snapshot)).refusal
    assert refusal.startswith("DATA_QUALITY: partition=bars_1h/2017-12-29/EURUSD check=ohlc_consistent")


def live(ledger: Ledger, of: Settings, dataset: str) -> dg.AssetCheckEvaluation:
    result = run(DAY, selection=dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(dataset), checks.LIVE)))
    return evaluation(result, dataset, checks.LIVE)


def test_live_verdicts_passes_when_the_desk_judged_every_partition_and_names_what_it_did_not(
    sample: Settings, ledger: Ledger
) -> None:
    assert live(ledger, sample, "bars_1d").passed  # a session the desk never opened
    ledger.open_session(DAY.isoformat(), opened_time=1, start_equity=None)
    unjudged = live(ledger, sample, "bars_1d")
    assert (unjudged.passed, unjudged.severity, unjudged.blocking) == (False, dg.AssetCheckSeverity.ERROR, False)
    assert "reason=missing" in (unjudged.description or "")
    parts = Lake(sample.lake_dir).partitions("bars_1d", DAY, DAY)
    good = [
        VerdictRow("bars_1d", DAY.isoformat(), p.symbol, check, True, "error", p.content_hash)
        for p in parts
        for check in ERROR_CHECKS
    ]
    ledger.put_verdicts(good)
    assert live(ledger, sample, "bars_1d").passed
    ledger.put_verdicts([replace(good[0], content_hash="other")])
    stale = live(ledger, sample, "bars_1d")
    assert (stale.passed, stale.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f"check={good[0].check} reason=stale" in (stale.description or "")


def test_every_dataset_has_all_checks_and_none_has_partitions_of_its_own() -> None:
    """Dagster plans a check with partitions once per partition of a range and never completes it."""
    specs = [spec for definition in checks.CHECKS for spec in definition.check_specs]
    for timeframe in timeframes_of(configured_universe()):
        names = {s.name for s in specs if s.asset_key == dg.AssetKey(f"bars_{timeframe}")}
        assert names >= {"structure", *ALL_CHECKS}
    assert all(spec.partitions_def is None for spec in specs)
    assert {s.name for s in specs if s.blocking} == {"structure"}


@pytest.mark.parametrize(
    ("spoilt", "subject"),
    [
        ({"close": np.float32}, "close"),
        ({"session": np.int64}, "session"),
        ({"symbol": object}, "symbol"),
    ],
)
def test_a_frame_with_a_wrong_type_fails_the_structure_suite(spoilt: dict[str, type], subject: str) -> None:
    one = np.array([1.0])
    bars = Bars("SPX", Timeframe.D1, np.array([1], np.int64), np.array([1], np.int32), one, one, one, one, one)
    frame = suites.bars_frame([bars])
    assert all(r.success for r in suites.check_structure(frame))
    name, kind = next(iter(spoilt.items()))
    bad = frame.assign(**{name: [1]}) if kind is object else frame.astype({name: kind})
    assert [r.subject for r in suites.check_structure(bad) if not r.success] == [subject]
    missing = suites.check_structure(frame.drop(columns="volume"))
    assert "expect_table_columns_to_match_ordered_list" in {r.expectation for r in missing if not r.success}


def test_failing_checks_fail_the_run_when_suite_and_kernel_disagree(sample: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = suites.check_rules

    def lying(frame: object) -> dict[str, suites.ExpectationResult]:
        outcome = real(frame)  # type: ignore[arg-type]
        return {**outcome, "jump": replace(outcome["jump"], success=False)}

    monkeypatch.setattr(suites, "check_rules", lying)
    assert "disagree on jump" in failure(run(DAY, selection=HOURLY), "bars_1h_quality")
