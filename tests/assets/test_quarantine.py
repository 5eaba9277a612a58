"""Rows that fail validity: kept aside at ingest, resolved by an operator, applied on every later ingest of the same source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from assets.bars_run import BarsRun
from assets.quality.recompute import recompute
from pipelines.cli_quality import app
from resources.dagster_resources import ConfigFilesResource, LedgerResource
from resources.feeds.protocol import Capabilities
from resources.lake import Lake
from resources.ledger import audit
from resources.ledger.changes import changes
from resources.ledger.store import Ledger
from resources.quarantine import Quarantine, QuarantineError
from resources.settings import Settings
from tests.assets.market_runs import evaluation, metadata, run
from tests.assets.sample_lake import installation
from trading.bars import Bars
from trading.instruments import Instrument
from trading.signals import PartitionRef
from trading.timeframes import Timeframe

DAY = date(2017, 12, 27)
FIRST = date(2017, 12, 1)
RUNNER = CliRunner()


class Source:
    """EURUSD hours: a real feed's bars, and what the vendor is told to tell otherwise."""

    def __init__(self, true_feed: object) -> None:
        self._feed = true_feed
        self.told: Callable[[Bars], Bars] = lambda bars: bars
        self.asked = 0

    def capabilities(self) -> Capabilities:
        return self._feed.capabilities()  # type: ignore[attr-defined]

    def history(self, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> Bars:
        self.asked += 1
        return self.told(self._feed.history(instrument, timeframe, start, end))  # type: ignore[attr-defined]


def at_noon(bars: Bars) -> int:
    """Row of the bar closing 12:00 UTC on DAY."""
    return int(np.searchsorted(bars.close_time, np.datetime64(f"{DAY}T12:00", "us").astype(np.int64)))


def changed(**values: float) -> Callable[[Bars], Bars]:
    def tell(bars: Bars) -> Bars:
        row = at_noon(bars)
        columns = {name: getattr(bars, name).copy() for name in values}
        for name, value in values.items():
            columns[name][row] = value
        return replace(bars, **columns)

    return tell


@pytest.fixture
def source(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    true_feed = ConfigFilesResource.feed
    with installation(tmp_path):
        made = Source(ConfigFilesResource().feed("sample_forex"))
        monkeypatch.setattr(
            ConfigFilesResource, "feed", lambda self, name: made if name == "sample_forex" else true_feed(self, name)
        )
        yield made


@pytest.fixture
def lake(source: Source) -> Lake:
    from resources.settings import settings

    of: Settings = settings()
    return Lake(of.lake_dir)


def ingest(lake: Lake, ledger: Ledger, start: date = FIRST, end: date = DAY) -> BarsRun:
    made = BarsRun(ConfigFilesResource(), lake, Timeframe.H1, ledger=lambda: ledger, run_id="run")
    outcome = made.ingest(start.isoformat(), end.isoformat(), ["EURUSD"])
    assert not outcome.failed
    return made


def hours(lake: Lake) -> Bars:
    return lake.read_bars("bars_1h", "EURUSD", DAY, DAY)


def gate_checks(ledger: Ledger, lake: Lake, dataset: str = "bars_1h", session: date = DAY) -> set[str]:
    """Checks whose failure refuses the partition."""
    part = lake.partition(dataset, session, "EURUSD")
    found = ledger.verdicts([PartitionRef(dataset, session.isoformat(), "EURUSD", part.content_hash)])
    return {v.check for v in found if not v.passed and v.severity == "error"}


def judged(ledger: Ledger, lake: Lake) -> None:
    recompute(ConfigFilesResource(), lake, ledger, "EURUSD", DAY, DAY, run_id="run")


def only(ledger: Ledger, state: str = "open") -> dict[str, object]:
    (row,) = Quarantine(ledger.engine).rows(state=state)
    return row


def test_a_row_that_fails_validity_is_kept_aside_and_the_valid_rows_are_stored(
    source: Source, lake: Lake, ledger: Ledger
) -> None:
    ingest(lake, ledger)
    whole = len(hours(lake))
    source.told = changed(low=1.195, volume=-2.0)
    ingest(lake, ledger)
    assert len(hours(lake)) == whole - 1
    row = only(ledger)
    assert (row["symbol"], row["dataset"], row["session"], row["feed"]) == ("EURUSD", "bars_1h", "2017-12-27", "sample_forex")
    assert row["reasons"] == ["columns_and_types", "ohlc_consistent"]
    assert row["received"]["low"] == "1.195"  # type: ignore[index]
    assert row["run_id"] == "run"


def test_while_rows_wait_every_partition_made_of_the_session_refuses(source: Source, lake: Lake, ledger: Ledger) -> None:
    source.told = changed(low=1.195)
    ingest(lake, ledger)
    recompute(ConfigFilesResource(), lake, ledger, "EURUSD", DAY, DAY, run_id="run")
    assert gate_checks(ledger, lake) == {"quarantine", "no_gaps"}
    # The four-hour and daily bars are complete in number, and still made without the row.
    assert gate_checks(ledger, lake, "bars_4h") == {"quarantine"}
    assert gate_checks(ledger, lake, "bars_1d") == {"quarantine"}
    assert "quarantine" not in gate_checks(ledger, lake, session=date(2017, 12, 21))


def test_the_check_and_the_run_s_metadata_name_the_rows(source: Source, lake: Lake, ledger: Ledger) -> None:
    source.told = changed(high=1.1)
    result = run(DAY)
    said = metadata(result, "bars_1h")
    assert said["quarantined"] == 1
    assert "2017-12-27T12:00:00Z" in said["quarantined_rows"]
    check = evaluation(result, "bars_1h", "quarantine")
    assert (check.passed, check.severity.value) == (False, "ERROR")
    assert "ohlc_consistent" in (check.description or "")
    assert not evaluation(result, "bars_1d", "quarantine").passed
    card = evaluation(result, "bars_1h", "scorecard")
    assert not card.passed
    assert card.metadata["validity"].value < 1.0


def test_a_row_of_the_week_is_counted_once_by_the_weekly_bars(source: Source, lake: Lake, ledger: Ledger) -> None:
    source.told = changed(high=1.1)
    check = evaluation(run(DAY, "2017-12-29"), "bars_1w", "quarantine")
    assert (check.metadata["rows"].value, check.metadata["partitions"].value) == (1, 1)


def test_an_accepted_row_enters_as_it_came_and_the_rules_no_longer_count_for_it(
    source: Source, lake: Lake, ledger: Ledger
) -> None:
    source.told = changed(low=1.195)
    ingest(lake, ledger)
    row = only(ledger)
    Quarantine(ledger.engine).resolve("accept", [str(row["id"])], who="ann", why="the broker confirms it")
    recompute(ConfigFilesResource(), lake, ledger, "EURUSD", DAY, DAY, run_id="run")
    bars = hours(lake)
    assert bars.low[at_noon(bars)] == 1.195
    assert gate_checks(ledger, lake) == set()
    part = lake.partition("bars_1h", DAY, "EURUSD")
    verdicts = ledger.verdicts([PartitionRef("bars_1h", DAY.isoformat(), "EURUSD", part.content_hash)])
    (said,) = [v.examples for v in verdicts if v.check == "ohlc_consistent"]
    assert said[0]["message"] == "accepted by ann: the broker confirms it"


def test_a_repaired_row_enters_with_the_values_given_and_again_on_every_later_ingest(
    source: Source, lake: Lake, ledger: Ledger
) -> None:
    ingest(lake, ledger)
    true_hash = hours(lake).content_hash()
    true_low = float(hours(lake).low[at_noon(hours(lake))])
    source.told = changed(low=-1.0)
    ingest(lake, ledger)
    row = only(ledger)
    Quarantine(ledger.engine).resolve("repair", [str(row["id"])], who="ann", why="digit lost", given={"low": true_low})
    for _ in range(2):
        ingest(lake, ledger)
        assert hours(lake).content_hash() == true_hash
    judged(ledger, lake)
    assert gate_checks(ledger, lake) == set()
    assert only(ledger, "repaired")["id"] == row["id"]


def test_a_change_by_an_operator_s_decision_names_the_operator_and_the_reason(source: Source, lake: Lake, ledger: Ledger) -> None:
    source.told = changed(low=-1.0)
    ingest(lake, ledger)
    judged(ledger, lake)
    row = only(ledger)
    Quarantine(ledger.engine).resolve("repair", [str(row["id"])], who="ann", why="digit lost", given={"low": 1.1})
    judged(ledger, lake)
    found = {c.dataset: c.reason for c in changes(ledger.engine, session=DAY.isoformat())}
    said = "repaired by ann: digit lost (row of 2017-12-27T12:00:00Z), ingested from "
    assert found["bars_1h"] == f"{said}sample_forex"
    assert found["bars_4h"] == found["bars_1d"] == f"{said}derived:bars_1h"

    source.told = lambda bars: changed(low=-1.0)(replace(bars, high=bars.high + 0.0001))
    ingest(lake, ledger, DAY)
    newest = changes(ledger.engine, session=DAY.isoformat(), dataset="bars_1h")[0]
    assert newest.reason == "ingested from sample_forex", "the vendor changed the session after the operator had"


def test_a_discarded_row_stays_out_and_leaves_a_gap(source: Source, lake: Lake, ledger: Ledger) -> None:
    source.told = changed(low=1.195)
    ingest(lake, ledger)
    Quarantine(ledger.engine).resolve("discard", [str(only(ledger)["id"])], who="ann", why="test tick")
    judged(ledger, lake)
    assert gate_checks(ledger, lake) == {"no_gaps"}


def test_a_changed_source_row_makes_the_decision_void_and_says_so(source: Source, lake: Lake, ledger: Ledger) -> None:
    source.told = changed(low=1.195)
    ingest(lake, ledger)
    Quarantine(ledger.engine).resolve("accept", [str(only(ledger)["id"])], who="ann", why="fine")
    ingest(lake, ledger)
    source.told = changed(low=1.196)
    ingest(lake, ledger)
    void = only(ledger, "void")
    assert "does not tell this row any more" in str(void["note"])
    assert "accepted is void" in str(void["note"])
    assert only(ledger)["received"]["low"] == "1.196"  # type: ignore[index]
    # The row comes back as it was: the decision counts again.
    source.told = changed(low=1.195)
    ingest(lake, ledger)
    assert only(ledger, "accepted")["id"] == void["id"]
    assert hours(lake).low[at_noon(hours(lake))] == 1.195


def test_a_row_told_twice_with_other_values_is_put_aside_in_both_forms(source: Source, lake: Lake, ledger: Ledger) -> None:
    def twice(bars: Bars) -> Bars:
        row = at_noon(bars)
        doubled = bars.rows(np.insert(np.arange(len(bars)), row, row))
        close = doubled.close.copy()
        close[row + 1] = doubled.low[row + 1]
        return replace(doubled, close=close)

    source.told = twice
    ingest(lake, ledger)
    rows = Quarantine(ledger.engine).rows(state="open")
    assert [r["reasons"] for r in rows] == [["monotonic_unique_times"]] * 2
    assert int(np.isin(hours(lake).close_time, [rows[0]["close_time"]]).sum()) == 0
    quarantine = Quarantine(ledger.engine)
    quarantine.resolve("accept", [rows[0]["id"]], who="ann", why="first print")
    with pytest.raises(QuarantineError, match="enters at the same close already"):
        quarantine.resolve("accept", [rows[1]["id"]], who="ann", why="both?")
    quarantine.resolve("discard", [rows[1]["id"]], who="ann", why="second print")
    judged(ledger, lake)
    assert gate_checks(ledger, lake) == set()


def test_without_a_ledger_invalid_rows_are_refused_not_dropped(source: Source, lake: Lake) -> None:
    source.told = changed(low=1.195)
    made = BarsRun(ConfigFilesResource(), lake, Timeframe.H1)
    outcome = made.ingest(FIRST.isoformat(), DAY.isoformat(), ["EURUSD"])
    assert "1 rows fail validity" in outcome.failed["EURUSD"]
    assert lake.partitions("bars_1h") == []


@pytest.mark.parametrize(
    ("action", "given", "said"),
    [
        ("repair", {"low": 1.5}, "expected low <= open"),
        ("repair", {"low": -1.0}, "above 0"),
        ("repair", {"vwap": 1.0}, "no value of a bar"),
        ("repair", {}, "the new values"),
    ],
)
def test_a_repair_is_checked_like_any_bar(
    source: Source, lake: Lake, ledger: Ledger, action: str, given: dict[str, float], said: str
) -> None:
    source.told = changed(low=1.195)
    ingest(lake, ledger)
    with pytest.raises(QuarantineError, match=said):
        Quarantine(ledger.engine).resolve(action, [str(only(ledger)["id"])], who="ann", why="x", given=given)
    assert only(ledger)["state"] == "open"


def test_a_row_that_is_no_number_cannot_enter_as_it_came(source: Source, lake: Lake, ledger: Ledger) -> None:
    source.told = changed(close=float("nan"))
    ingest(lake, ledger)
    row = only(ledger)
    assert row["received"]["close"] == "nan"  # type: ignore[index]
    with pytest.raises(QuarantineError, match="repair or discard"):
        Quarantine(ledger.engine).resolve("accept", [str(row["id"])], who="ann", why="x")


@pytest.fixture
def terminal(ledger_url: str, ledger: Ledger, source: Source, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setattr(Settings, "ledger_url", lambda self: ledger_url)
    return RUNNER


def test_the_operator_lists_shows_and_resolves_at_the_terminal_and_it_is_audited(
    terminal: CliRunner, source: Source, lake: Lake, ledger: Ledger
) -> None:
    source.told = changed(low=1.195)
    ingest(lake, ledger)
    row_id = str(only(ledger)["id"])
    listed = terminal.invoke(app, ["quarantine", "list"]).stdout
    assert row_id in listed
    assert listed.index("open=") < listed.index("high=") < listed.index("low=1.195") < listed.index("close=")
    shown = terminal.invoke(app, ["quarantine", "show", row_id[:9]])
    assert "bars around it in the lake" in shown.stdout
    silent = terminal.invoke(app, ["quarantine", "accept", row_id])
    assert silent.exit_code == 2  # no --why
    done = terminal.invoke(app, ["quarantine", "repair", row_id, "--low", "1.18", "--why", "digits swapped", "--who", "ann"])
    assert done.exit_code == 0, done.output
    assert "repaired: bars_1h/2017-12-27/EURUSD" in done.stdout
    assert hours(lake).low[at_noon(hours(lake))] == 1.18
    with ledger.engine.connect() as connection:
        written = connection.exec_driver_sql("SELECT actor, action FROM audit").all()
    assert ("ann", "quarantine_repair") in [tuple(r) for r in written]
    assert audit.verify(ledger.engine) == []
    scores = terminal.invoke(app, ["score", "--session", DAY.isoformat()])
    assert "bars_1h" in scores.stdout
    assert "100.0000%" in scores.stdout
