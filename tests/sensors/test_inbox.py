"""The inbox from end to end: a dropped file becomes lake partitions with verdicts, or a report; never both, never neither."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from assets.inbox import ASSETS, JOBS
from resources.dagster_resources import LedgerResource, resource_definitions
from resources.feeds import get_feed
from resources.feeds.protocol import MalformedData
from resources.inbox import Inbox, Outcome, Waiting
from resources.lake import Lake
from resources.ledger.store import Ledger
from resources.settings import Settings
from sensors.inbox import MAX_TRIES, inbox_accepted, inbox_files, look, spans
from tests.assets.market_runs import metadata, run
from tests.assets.sample_lake import installation
from trading.bars import Bars
from trading.instruments import AssetClass, Instrument
from trading.signals import PartitionRef
from trading.timeframes import Timeframe, session_date

AAPL_IN_SAMPLE = "  AAPL: &stock\n    description: Apple\n    asset_class: equity\n    calendar: XNYS\n    tick_size: 0.01\n"
AAPL = Instrument("AAPL", AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "sample_stocks", "AAPL", Timeframe.D1)
PROFILE = "name: plain\nmatch: {files: ['*.csv', '*.csv.gz', '*.zip']}\nadjustment: none\n"


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Settings]:
    """The sample universe, its AAPL read from files."""
    with installation(tmp_path) as of:
        file = of.config / "universe" / "sample.yaml"
        text = file.read_text()
        assert AAPL_IN_SAMPLE in text
        file.write_text(text + "  APPL2:\n    <<: *stock\n    description: from files\n    feed: files\n    feed_symbol: AAPL\n")
        (of.config / "feeds" / "plain.yaml").write_text(PROFILE)
        yield of


def daily(of: Settings, start: date, end: date) -> Bars:
    """Real daily bars of the sample, which the files of these tests hold."""
    return get_feed("sample_stocks", of).history(AAPL, Timeframe.D1, start, end)


def csv_of(bars: Bars, times: Callable[[int], str] = lambda n: session_date(n).isoformat()) -> str:
    rows = zip(bars.session, bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True)
    return "Date,Open,High,Low,Close,Volume\n" + "".join(
        f"{times(int(s))},{float(o)!r},{float(h)!r},{float(low)!r},{float(c)!r},{int(v)}\n" for s, o, h, low, c, v in rows
    )


def drop(of: Settings, name: str, content: str | bytes) -> Path:
    path = of.path("inbox") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def tree(of: Settings) -> list[str]:
    """Files of the inbox, the index and the lock aside."""
    inbox = of.path("inbox")
    return sorted(
        p.relative_to(inbox).as_posix() for p in inbox.rglob("*") if p.is_file() and p.name not in ("index.json", ".lock")
    )


MARCH = date(2011, 3, 1), date(2011, 3, 31)


# ---- from the drop to the lake -----------------------------------------------------------------------------------------


def test_a_dropped_file_becomes_partitions_with_verdicts(
    installed: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    expected = daily(installed, *MARCH)
    drop(installed, "AAPL.csv", csv_of(expected))
    instance = dg.DagsterInstance.ephemeral()

    def tick(sensor: dg.SensorDefinition, cursor: str | None) -> dg.SensorResult:
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    first = tick(inbox_files, None)
    assert not first.run_requests, "a file seen for the first time may still grow"
    second = tick(inbox_files, first.cursor)
    assert second.run_requests is not None
    (request,) = second.run_requests
    defs = dg.Definitions(assets=ASSETS, jobs=JOBS, resources=resource_definitions())
    taken = defs.resolve_job_def("ingest_files").execute_in_process(
        instance=instance, run_config=request.run_config, raise_on_error=False
    )
    assert taken.success
    assert metadata(taken, "accepted_files")["accepted"] == 1
    (evaluation,) = taken.get_asset_check_evaluations()
    assert evaluation.passed

    found = tick(inbox_accepted, None)
    assert found.run_requests is not None
    (ingest,) = found.run_requests
    span = (ingest.tags["dagster/asset_partition_range_start"], ingest.tags["dagster/asset_partition_range_end"])
    assert span == ("2011-03-01", "2011-03-31")
    assert run(*span, selection=dg.AssetSelection.assets("bars_1d"), instance=instance).success
    lake = Lake(installed.lake_dir)
    held = lake.read_bars("bars_1d", "APPL2", *MARCH)
    assert np.array_equal(held.close, expected.close)
    assert np.array_equal(held.close_time, expected.close_time)
    partitions = lake.partitions("bars_1d", *MARCH, ["APPL2"])
    verdicts = ledger.verdicts([PartitionRef(p.dataset, p.session.isoformat(), p.symbol, p.content_hash) for p in partitions])
    assert "ohlc_consistent" in {v.check for v in verdicts}
    assert {v.content_hash for v in verdicts} == {p.content_hash for p in partitions}
    assert all(v.passed for v in verdicts if v.severity == "error")
    hashes = {p.session: p.content_hash for p in partitions}
    again = dg.AssetSelection.assets("bars_1d").without_checks()
    assert run("2011-03-07", selection=again, instance=instance).success
    assert {p.session: p.content_hash for p in lake.partitions("bars_1d", *MARCH, ["APPL2"])} == hashes
    assert not tick(inbox_files, second.cursor).run_requests


# ---- what the sensor sees ----------------------------------------------------------------------------------------------


def _look(waiting: list[Waiting], cursor: str | None = None, busy: bool = False) -> tuple[list[str] | None, str]:
    result, cursor = look(waiting, cursor, busy)
    if isinstance(result, dg.SkipReason):
        return None, cursor
    return result.run_config["ops"]["accepted_files"]["config"]["files"], cursor


def test_a_file_is_taken_when_two_looks_find_it_unchanged() -> None:
    growing, whole = Waiting("a.csv", 10, 1), Waiting("b.csv", 20, 1)
    first, cursor = _look([growing, whole])
    assert first is None
    second, cursor = _look([Waiting("a.csv", 15, 2), whole], cursor)
    assert second == ["b.csv"]
    third, _ = _look([Waiting("a.csv", 15, 2)], cursor)
    assert third == ["a.csv"]


@pytest.mark.parametrize("name", ["a.csv.part", "a.csv.tmp", "b.crdownload", "a.csv~"])
def test_a_name_that_says_unfinished_waits_however_long(name: str) -> None:
    cursor = _look([Waiting(name, 10, 1)])[1]
    assert _look([Waiting(name, 10, 1)], cursor)[0] is None


def test_while_a_run_takes_files_no_second_one_starts() -> None:
    cursor = _look([Waiting("a.csv", 10, 1)])[1]
    held, cursor = _look([Waiting("a.csv", 10, 1)], cursor, busy=True)
    assert held is None
    assert _look([Waiting("a.csv", 10, 1)], cursor)[0] == ["a.csv"]


def test_a_file_no_run_could_take_is_not_asked_for_without_end() -> None:
    stuck = [Waiting("a.csv", 10, 1)]
    cursor = _look(stuck)[1]
    keys = []
    for _ in range(MAX_TRIES):
        result, cursor = look(stuck, cursor, False)
        assert isinstance(result, dg.RunRequest)
        keys.append(result.run_key)
    assert len(set(keys)) == MAX_TRIES, "Dagster starts one run per key"
    result, cursor = look(stuck, cursor, False)
    assert isinstance(result, dg.SkipReason)
    assert "a.csv: 3 runs could not take it" in (result.skip_message or "")
    touched = [Waiting("a.csv", 10, 2)]
    assert _look(touched, _look(touched, cursor)[1])[0] == ["a.csv"]


def test_neighbouring_files_are_ingested_in_one_run_and_far_ones_apart(installed: Settings) -> None:
    from resources.config import load_config

    inbox = Inbox(installed)
    for start, end in (
        (date(2011, 3, 1), date(2011, 3, 9)),
        (date(2011, 3, 10), date(2011, 3, 31)),
        (date(2012, 6, 1), date(2012, 6, 8)),
    ):
        drop(installed, "AAPL.csv", csv_of(daily(installed, start, end)))
        assert inbox.take("AAPL.csv").state == "accepted"
    universe = load_config(installed).universe
    index = inbox.index()
    assert spans(index, 0, universe, "2017-12-29") == [MARCH, (date(2012, 6, 1), date(2012, 6, 8))]
    assert spans(index, 2, universe, "2017-12-29") == [(date(2012, 6, 1), date(2012, 6, 8))]
    assert spans(index, 0, universe, "2011-03-09") == [(date(2011, 3, 1), date(2011, 3, 9))]
    assert spans(index, 3, universe, "2017-12-29") == []


# ---- accepted, refused, dropped twice ----------------------------------------------------------------------------------


def take(of: Settings, name: str, content: str | bytes) -> Outcome:
    drop(of, name, content)
    return Inbox(of).take(name)


def report(of: Settings, outcome: Outcome) -> str:
    return (of.path("inbox") / outcome.report).read_text()


def test_an_accepted_file_lies_under_its_day_and_hash_with_a_report(installed: Settings) -> None:
    outcome = take(installed, "AAPL.csv", csv_of(daily(installed, *MARCH)))
    assert (outcome.state, outcome.symbols, outcome.rows, outcome.span) == ("accepted", ("APPL2",), 23, MARCH)
    folder, day, name = outcome.path.split("/")
    assert folder == "done"
    assert date.fromisoformat(day)
    assert name.endswith("-AAPL.csv")
    assert len(name.split("-")[0]) == 12
    assert tree(installed) == [outcome.path, outcome.report]
    said = report(installed, outcome)
    assert "| APPL2 | AAPL | 23 | 2011-03-01 to 2011-03-31 |" in said
    assert '| time.format | `"iso"` |' in said


def test_a_bad_row_refuses_the_file_and_the_report_names_its_line(installed: Settings) -> None:
    lines = csv_of(daily(installed, *MARCH)).splitlines()
    lines[5] = lines[5].replace(lines[5].split(",")[1], "n.a.")
    o, h, low, c = lines[9].split(",")[1:5]
    lines[9] = lines[9].replace(f"{o},{h},{low},{c}", f"{o},{low},{h},{c}")
    lines[12] += ",1"
    outcome = take(installed, "AAPL.csv", "\n".join(lines))
    assert outcome.state == "rejected"
    assert "3 of 23 rows are bad, the first on line 6: open is no number" in outcome.why
    said = report(installed, outcome)
    assert "| 6 | AAPL |" in said
    assert "| 10 | AAPL |" in said
    assert "high lies below open or close" in said
    assert "| 13 |  |" in said
    assert "7 columns, expected 6" in said
    assert tree(installed) == [outcome.path, outcome.report]
    assert Inbox(installed).index().files == []


def test_the_same_content_twice_is_recognised_and_said(installed: Settings) -> None:
    content = csv_of(daily(installed, *MARCH))
    first = take(installed, "AAPL.csv", content)
    again = take(installed, "AAPL_copy.csv", content)
    assert again.state == "duplicate"
    assert first.path in again.why
    assert len(Inbox(installed).index().files) == 1
    assert tree(installed) == [first.path, first.report]


def test_a_lost_accepted_file_is_healed_by_dropping_it_again(installed: Settings) -> None:
    content = csv_of(daily(installed, *MARCH))
    first = take(installed, "AAPL.csv", content)
    (installed.path("inbox") / first.path).unlink()
    assert take(installed, "AAPL.csv", content).state == "duplicate"
    assert (installed.path("inbox") / first.path).read_text() == content


def test_a_file_read_another_way_after_its_profile_changed_is_accepted_anew(installed: Settings) -> None:
    content = csv_of(daily(installed, *MARCH))
    assert take(installed, "AAPL.csv", content).order == 1
    (installed.config / "feeds" / "plain.yaml").write_text(PROFILE + "volume_unit: 100\n")
    inbox = Inbox(installed)
    assert inbox.retry("AAPL.csv") == "AAPL.csv"
    again = inbox.take("AAPL.csv")
    assert (again.state, again.order) == ("accepted", 2)
    assert "Replaces" in report(installed, again)


def test_a_newer_file_wins_where_files_overlap(installed: Settings) -> None:
    bars = daily(installed, *MARCH)
    instrument = replace(AAPL, symbol="APPL2", feed="files")
    feed = get_feed("files", installed)
    take(installed, "AAPL.csv", csv_of(bars))
    corrected = bars.rows(slice(5, 8))
    corrected.volume[:] = 7
    second = take(installed, "AAPL_fix.csv", csv_of(corrected))
    got = feed.history(instrument, Timeframe.D1, *MARCH)
    assert len(got) == len(bars)
    assert got.volume[5:8].tolist() == [7, 7, 7]
    assert np.array_equal(np.delete(got.volume, [5, 6, 7]), np.delete(bars.volume, [5, 6, 7]))
    assert "AAPL: 2011-03-08 to 2011-03-10, before from done/" in report(installed, second)


def test_a_symbol_outside_the_universe_is_refused_with_the_nearest_names(installed: Settings) -> None:
    content = csv_of(daily(installed, *MARCH)).replace("Date,", "Symbol,Date,", 1).replace("\n2011", "\nAAPK,2011")
    outcome = take(installed, "export.csv", content)
    assert outcome.state == "rejected"
    assert "'AAPK' is no feed_symbol" in outcome.why
    assert "nearest: AAPL" in outcome.why


def test_a_folder_of_the_inbox_names_the_profile(installed: Settings) -> None:
    bars = daily(installed, *MARCH)
    content = "\n".join(
        f"{session_date(int(s)):%Y%m%d} 00:00,{o * 1e4:.0f},{h * 1e4:.0f},{low * 1e4:.0f},{c * 1e4:.0f},{v:.0f}"
        for s, o, h, low, c, v in zip(bars.session, bars.open, bars.high, bars.low, bars.close, bars.volume, strict=True)
    )
    outcome = take(installed, "lean_daily/aapl.csv", content)
    assert outcome.state == "accepted", outcome.why
    assert Inbox(installed).index().files[0].profile == "lean_daily"


def test_an_unclear_file_is_refused_with_the_line_to_add_and_goes_in_after_it_was_added(installed: Settings) -> None:
    bars = daily(installed, date(2011, 3, 1), date(2011, 3, 11))
    content = csv_of(bars, lambda n: session_date(n).strftime("%d/%m/%Y"))
    outcome = take(installed, "AAPL.csv", content)
    assert outcome.state == "rejected"
    said = report(installed, outcome)
    assert "day and month cannot be told apart" in said
    assert 'time: {format: "%d/%m/%Y"}' in said
    (installed.config / "feeds" / "plain.yaml").write_text(PROFILE + 'time: {format: "%d/%m/%Y"}\n')
    inbox = Inbox(installed)
    assert inbox.retry(outcome.path.rpartition("/")[2]) == "AAPL.csv"
    assert inbox.take("AAPL.csv").state == "accepted"
    assert inbox.rejected() == []


def test_a_bad_profile_is_named_with_file_line_and_key(installed: Settings) -> None:
    (installed.config / "feeds" / "mine.yaml").write_text("name: mine\nadjustment: none\nseperator: ';'\n")
    outcome = take(installed, "mine/AAPL.csv", csv_of(daily(installed, *MARCH)))
    assert outcome.state == "rejected"
    assert "feeds/mine.yaml:3: seperator: unknown key" in outcome.why
    assert "did you mean 'separator'?" in outcome.why


@pytest.mark.parametrize("moment", ["hashed", "judged"])
def test_a_file_that_changes_while_it_is_read_stays_where_it_is(installed: Settings, moment: str) -> None:
    path = drop(installed, "AAPL.csv", csv_of(daily(installed, *MARCH)))

    def write_on(step: str) -> None:
        if step == moment:
            with path.open("a") as stream:
                stream.write("2011-04-01,1,1,1,1,1\n")

    outcome = Inbox(installed, step=write_on).take("AAPL.csv")
    assert outcome.state == "growing"
    assert tree(installed) == ["AAPL.csv"]


def test_rows_a_profile_quarantines_go_aside_and_the_others_into_the_lake(
    installed: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources.quarantine import Quarantine

    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    (installed.config / "feeds" / "plain.yaml").write_text(PROFILE + "on_bad_rows: quarantine\n")
    lines = csv_of(daily(installed, *MARCH)).splitlines()
    o, h, low, c = lines[9].split(",")[1:5]
    lines[9] = lines[9].replace(f"{o},{h},{low},{c}", f"{o},{low},{h},{c}")
    outcome = take(installed, "AAPL.csv", "\n".join(lines))
    assert outcome.state == "accepted", outcome.why
    run("2011-03-11", "2011-03-11", selection=dg.AssetSelection.assets("bars_1d").without_checks())
    (row,) = Quarantine(ledger.engine).rows(symbol="APPL2")
    assert row["session"] == "2011-03-11"
    assert row["reasons"] == ["ohlc_consistent"]
    assert row["place"].endswith("-AAPL.csv line 10")
    assert Lake(installed.lake_dir).partitions("bars_1d", *MARCH, ["APPL2"]) == []


# ---- crashes -----------------------------------------------------------------------------------------------------------

ACCEPT_STEPS = ("hashed", "judged", "linked", "reported", "indexed", "removed")
REJECT_STEPS = ("hashed", "judged", "linked", "reported", "removed")


def take_and_die(of: Settings, name: str, after: str) -> int:
    """Exit status of a process that takes a file and is killed when it has done the step `after`."""

    def die(step: str) -> None:
        if step == after:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        Inbox(of, step=die).take(name)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize(
    ("good", "step"), [*((True, s) for s in ACCEPT_STEPS), *((False, s) for s in REJECT_STEPS)],
    ids=[*(f"accept-{s}" for s in ACCEPT_STEPS), *(f"reject-{s}" for s in REJECT_STEPS)],
)  # fmt: skip
def test_killed_after_any_step_the_next_run_ends_as_if_nothing_had_happened(installed: Settings, good: bool, step: str) -> None:
    content = csv_of(daily(installed, *MARCH))
    content = content if good else content.replace("\n2011-03-09,", "\n2011-03-09,x")
    drop(installed, "AAPL.csv", content)
    assert os.WTERMSIG(take_and_die(installed, "AAPL.csv", step)) == signal.SIGKILL
    inbox = Inbox(installed)
    holders = [p for p in tree(installed) if p.endswith("AAPL.csv")]
    assert holders, "the file is always somewhere"
    for waiting in inbox.waiting():
        inbox.take(waiting.name)
    (index,) = inbox.index().files if good else (None,)
    kind = "done" if good else "rejected"
    left = tree(installed)
    assert len(left) == 2
    assert all(p.startswith(f"{kind}/") for p in left)
    assert (installed.path("inbox") / left[0]).read_text() == content
    if index is not None:
        assert index.path == left[0]
        assert index.order == 1


def test_a_torn_index_is_named_and_not_written_over(installed: Settings) -> None:
    take(installed, "AAPL.csv", csv_of(daily(installed, *MARCH)))
    index = installed.path("inbox") / "done" / "index.json"
    index.write_text(index.read_text()[:100])
    drop(installed, "AAPL_2.csv", csv_of(daily(installed, date(2011, 4, 1), date(2011, 4, 8))))

    with pytest.raises(MalformedData, match=r"index\.json.*restore it"):
        Inbox(installed).take("AAPL_2.csv")
    assert "AAPL_2.csv" in tree(installed)
