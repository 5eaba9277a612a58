"""In a real installation: a vendor's correction is ingested, shown, refused, recomputed by the job, and told by the commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from assets import features, market_data, upstream
from assets.common import configured_universe
from assets.features import compute_range
from assets.recompute import recompute
from ml.dataset import SourceSpan
from pipelines.cli import app
from resources import outputs
from resources.dagster_resources import LedgerResource, resource_definitions
from resources.lake import FeatureFrame, Lake
from resources.ledger import changes as book
from resources.ledger.store import Ledger
from resources.settings import Settings
from sensors.stale import stale_partitions
from tests.assets.market_runs import evaluation, run
from tests.assets.sample_lake import fill, installation
from trading.calendars import calendar
from trading.features import FEATURES_VERSION, NAMES
from trading.signals import Action, PartitionRef, Signal
from trading.timeframes import Timeframe

START, END, DAY = date(2017, 12, 11), date(2017, 12, 29), date(2017, 12, 20)
SOME = dg.AssetSelection.assets("bars_1h", "bars_4h", "features_1h").without_checks()


SIGNAL = Signal(
    strategy="s", strategy_revision="r", symbol="EURUSD", timeframe=Timeframe.H1, close_time=1_514_470_000_000_000,
    action=Action.ENTER_LONG, strength=0.5, reference_price=1.2, stop_price=1.1, target_price=None,
    valid_until=1_514_470_000_000_001, sizing={}, features_version="f",
    partitions=(PartitionRef("bars_1h", "2017-12-20", "EURUSD", "a"),),
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of bars and features, EURUSD by the hour."""
    with installation(tmp_path_factory.mktemp("made")) as of:
        lake = fill(of)
        bars, values = compute_range(lake, "bars_1h", "EURUSD", Timeframe.H1, calendar("FX"), START, END)
        frame = FeatureFrame("EURUSD", NAMES, bars.close_time, bars.session, values, FEATURES_VERSION)
        lake.write_feature_frames("features_1h", [frame], start=START, end=END)
        return of.lake_dir


@pytest.fixture
def sample(
    made: Path, tmp_path: Path, ledger: Ledger, ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    url = ledger_engine.url
    server = url.set(database="").render_as_string(hide_password=False).rstrip("/")
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    with installation(tmp_path, TAPELINE_POSTGRES_URL=server, TAPELINE_LEDGER_DATABASE=str(url.database)) as of:
        shutil.copytree(made, of.lake_dir)
        yield of


def misprint(of: Settings) -> None:
    """An earlier ingest had another high for one hour: what was derived then was derived from that."""
    lake, universe = Lake(of.lake_dir), configured_universe()
    bars = lake.read_bars("bars_1h", "EURUSD", DAY, DAY)
    high = bars.high.copy()
    high[5] += 0.0100
    lake.write_bars(
        "bars_1h", {"EURUSD": replace(bars, high=high)}, start=DAY, end=DAY, source="earlier", instruments=universe.instruments
    )


def hashes(of: Settings) -> dict[Any, str]:
    lake = Lake(of.lake_dir)
    return {(n, p.session): p.content_hash for n in lake.datasets() for p in lake.partitions(n, START, END, ["EURUSD"])}


def test_an_ingest_that_changes_native_bars_leaves_nothing_stale_in_its_range_and_marks_what_lies_behind(
    sample: Settings, ledger: Ledger
) -> None:
    whole = hashes(sample)
    misprint(sample)
    result = run(DAY, selection=SOME)
    assert result.success
    (change,) = book.changes(ledger.engine, dataset="bars_1h")
    assert (change.session, change.symbol, change.reason) == (DAY.isoformat(), "EURUSD", "ingested from sample_forex")
    left = {(m.dataset, m.session) for m in book.stale(ledger.engine)}
    assert ("bars_4h", DAY.isoformat()) not in left, "the same run has derived it again"
    assert ("features_1h", DAY.isoformat()) not in left
    assert ("bars_1w", "2017-12-22") in left, "the week's bar belongs to a session the run did not cover"
    assert ("features_1h", "2017-12-21") in left
    assert hashes(sample) == whole


def test_the_sensor_shows_it_and_the_job_mends_it(sample: Settings, ledger: Ledger) -> None:
    whole = hashes(sample)
    misprint(sample)
    assert run(DAY, selection=dg.AssetSelection.assets("bars_1h").without_checks()).success
    with dg.DagsterInstance.ephemeral() as instance:
        defs = dg.Definitions(
            [*market_data.ASSETS, *features.ASSETS],
            asset_checks=upstream.CHECKS,
            jobs=upstream.JOBS,
            resources=resource_definitions(),
        )
        needed = {name: resource_definitions()[name] for name in ("config_files", "ledger", "lake")}
        context = dg.build_sensor_context(instance=instance, definitions=defs, resources=needed)
        ticked = stale_partitions.evaluate_tick(context)
        assert len(ticked.run_requests or []) == 1
        shown = {e.asset_key.to_user_string(): e.passed for e in ticked.asset_events if isinstance(e, dg.AssetCheckEvaluation)}
        assert shown["bars_4h"] is False
        assert shown["features_1h"] is False
        result = defs.resolve_job_def("recompute_stale").execute_in_process(instance=instance)
        assert result.success
        events = [m for m in result.get_asset_materialization_events() if m.asset_key == dg.AssetKey("bars_4h")]
        assert [e.partition for e in events] == [DAY.isoformat()]
        assert (events[0].step_materialization_data.materialization.tags or {})["dagster/data_version"]
        again = stale_partitions.evaluate_tick(
            dg.build_sensor_context(instance=instance, definitions=defs, resources=needed, cursor=ticked.cursor)
        )
        assert not again.run_requests
        assert all(e.passed for e in again.asset_events if isinstance(e, dg.AssetCheckEvaluation))
    assert book.stale(ledger.engine) == []
    assert hashes(sample) == whole


def test_the_checks_of_a_run_name_what_is_stale_and_what_was_traded_on(sample: Settings, ledger: Ledger) -> None:
    misprint(sample)
    ledger.open_session(DAY.isoformat(), opened_time=1, start_equity=1.0)
    assert run(DAY, selection=dg.AssetSelection.assets("bars_1h").without_checks()).success
    checks = dg.AssetSelection.checks_for_assets("bars_4h", "bars_1h", "features_1h")
    result = run(DAY, selection=checks, definitions=([*market_data.ASSETS, *features.ASSETS], upstream.CHECKS))
    stale = evaluation(result, "bars_4h", "upstream_current")
    assert not stale.passed
    assert "bars_1h/2017-12-20/EURUSD changed" in str(stale.metadata["partitions"].value)
    traded = evaluation(result, "bars_1h", "traded_on")
    assert not traded.passed
    assert "1 changed (at most 1000 ticks)" in str(traded.metadata["changes"].value)


def test_the_commands_tell_what_changed_and_recompute(sample: Settings, ledger: Ledger) -> None:
    misprint(sample)
    assert run(DAY, selection=dg.AssetSelection.assets("bars_1h").without_checks()).success
    cli = CliRunner()

    def ask(*words: str) -> Any:
        result = cli.invoke(app, ["data", *words, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    assert {row["dataset"] for row in ask("stale", "--dataset", "bars_4h")} == {"bars_4h"}
    (change,) = ask("changes", "--session", DAY.isoformat())
    assert (change["dataset"], change["symbol"], change["decisions"]) == ("bars_1h", "EURUSD", [])
    found = ask("affected", f"bars_1h/{DAY}/EURUSD")
    assert found["datasets"]["bars_1w"] == ["2017-12-22"]
    assert found["changes"][0]["reason"] == "ingested from sample_forex"
    assert "bars_4h/2017-12-20/EURUSD" in cli.invoke(app, ["data", "stale"]).stdout
    done = cli.invoke(app, ["data", "recompute"])
    assert done.exit_code == 0, done.output
    assert "partitions recomputed" in done.stdout
    assert ask("stale") == []
    assert book.stale(ledger.engine) == []
    (newest,) = ask("bars", "EURUSD", "1d", "--count", "1")
    assert newest["state"] == "complete"
    forming = ask("bars", "EURUSD", "1w", "--count", "1", "--forming")
    assert [row["state"][:7] for row in forming] == ["complet"], "the last week is over"


class TestModelsAndReports:
    """They are not recomputed by themselves; they say that they were overtaken until somebody makes them again."""

    @staticmethod
    def made_of(of: Settings, ledger: Ledger) -> None:
        lake = Lake(of.lake_dir)
        held = [(p.session.isoformat(), p.content_hash) for p in lake.partitions("features_1h", symbols=["EURUSD"])]
        seq = outputs.newest_change(ledger)
        span = SourceSpan.of("features_1h", "EURUSD", held)
        outputs.record_output(ledger, outputs.TRAINING_SET, "sample_1h", read_seq=seq, sources=[span])
        outputs.record_output(ledger, outputs.MODEL, "tapeline-baseline-sample", read_seq=seq, sources=[span])
        outputs.record_output(ledger, outputs.REPORT, DAY.isoformat(), read_seq=seq)

    def test_what_was_made_of_changed_data_is_named_until_it_is_made_again(self, sample: Settings, ledger: Ledger) -> None:
        misprint(sample)
        lake = Lake(sample.lake_dir)
        bars, values = compute_range(lake, "bars_1h", "EURUSD", Timeframe.H1, calendar("FX"), START, END)
        frame = FeatureFrame("EURUSD", NAMES, bars.close_time, bars.session, values, FEATURES_VERSION)
        lake.write_feature_frames("features_1h", [frame], start=START, end=END)
        self.made_of(sample, ledger)
        assert outputs.stale_outputs(ledger, lake) == []
        assert run(DAY, selection=dg.AssetSelection.assets("bars_1h").without_checks()).success
        assert [s.asset for s in outputs.stale_outputs(ledger, lake)] == list(outputs.OUTPUTS), "its sources are marked"
        recompute(ledger, lake, configured_universe(), run_id="test")
        found = {s.asset: s for s in outputs.stale_outputs(ledger, lake)}
        assert list(found) == list(outputs.OUTPUTS), "its sources are others now"
        assert found[outputs.MODEL].because == "bars_1h/2017-12-20/EURUSD changed: ingested from sample_forex"
        self.made_of(sample, ledger)
        assert outputs.stale_outputs(ledger, lake) == []

    def test_the_command_and_the_check_name_them(self, sample: Settings, ledger: Ledger) -> None:
        misprint(sample)
        self.made_of(sample, ledger)
        assert run(DAY, selection=dg.AssetSelection.assets("bars_1h").without_checks()).success
        told = json.loads(CliRunner().invoke(app, ["data", "stale", "--dataset", "daily_report", "--json"]).stdout)
        assert [(row["asset"], row["name"]) for row in told] == [("daily_report", DAY.isoformat())]
        assert "daily_report 2017-12-20" in CliRunner().invoke(app, ["data", "stale"]).stdout
        with ledger.transaction() as c:  # the features came out as they were
            book.clear_stale(c, [m.key for m in book.stale(ledger.engine)], before=2**62)
        events = {e.asset_key.to_user_string(): e for e in upstream.upstream_evaluations(
            ledger, configured_universe(), Lake(sample.lake_dir)
        )}  # fmt: skip
        assert not events["daily_report"].passed
        assert events["baseline_model"].passed

    def test_a_report_is_overtaken_by_rows_behind_its_decisions_wherever_they_lie(self, ledger: Ledger, tmp_path: Path) -> None:
        outputs.record_output(ledger, outputs.REPORT, "2017-12-28", read_seq=0)
        with ledger.transaction() as c:
            (change,) = book.record_changes(c, [book.Change("bars_1h", "2017-12-20", "EURUSD", "a", "b", "late", "run")])
            book.put_affected(c, [book.AffectedDecision(change.seq, SIGNAL.id, "", "a", "b")])
        ledger.insert_signals([SIGNAL], session="2017-12-28", code_revision="x", run_id="run")
        (report,) = outputs.stale_outputs(ledger, Lake(tmp_path / "lake"))
        assert (report.name, report.because) == ("2017-12-28", "bars_1h/2017-12-20/EURUSD changed: late")
        outputs.record_output(ledger, outputs.REPORT, "2017-12-28", read_seq=change.seq)
        assert outputs.stale_outputs(ledger, Lake(tmp_path / "lake")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["affected", "EURUSD"], "is no bars partition"),
        (["affected", "bars_1h/20th/EURUSD"], "is no bars partition"),
        (["affected", "features_1h/2017-12-20/EURUSD"], "is no bars partition"),
        (["affected", "bars_1h/2017-12-20/NOBODY"], "NOBODY is not in the universe"),
        (["bars", "NOBODY", "1h"], "expected one of"),
        (["bars", "EURUSD", "2h"], "expected one of 1m"),
    ],
)
def test_wrong_questions_are_answered_in_one_line(sample: Settings, words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["data", *words])
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output
