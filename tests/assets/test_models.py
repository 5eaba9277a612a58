"""Training sets and the baseline from the lake to MLflow; what may be promoted: test_model_assets.py."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest

from assets import model_assets, model_run, models
from resources.config import load_config
from resources.dagster_resources import resource_definitions
from resources.lake import FeatureFrame, Lake
from resources.settings import Settings
from resources.tracking import CHALLENGER, CHAMPION, Tracking
from tests.assets.sample_lake import installation
from tests.mlflow_server import mlflow_url
from trading.bars import Bars
from trading.calendars import calendar
from trading.features import FEATURES_VERSION, compute_anchored
from trading.timeframes import Timeframe, session_date

pytestmark = pytest.mark.e2e

SYMBOLS = ("AAA", "BBB", "CCC")
ROWS = 1300


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation whose universe is three stocks of our making."""
    port = mlflow_url().rsplit(":", 1)[1]
    folder = tmp_path_factory.mktemp("models")
    with installation(folder, TAPELINE_UNIVERSE="planted", TAPELINE_MLFLOW_PORT=port) as settings:
        planted_universe(settings)
        yield settings


def planted_universe(settings: Settings) -> None:
    stock = "{asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: sample_stocks, native_timeframe: 1d"
    lines = [f"  {s}: {stock}, tradable_in: [backtest]}}" for s in SYMBOLS]
    lines.append(f"  WATCHED: {stock}, tradable_in: []}}")
    text = "name: planted\nhistory_start: 2005-01-03\nhistory_end: 2012-12-31\nsimulated: true\ninstruments:\n"
    (settings.config / "universe" / "planted.yaml").write_text(text + "\n".join(lines) + "\n")


def write_market(settings: Settings, drift: float, count: int = ROWS) -> Lake:
    """`count` daily bars whose mean return turns sign every three months, by `drift` deviations a day; 0 is a random walk."""
    lake, universe, venue = Lake(settings.lake_dir), load_config(settings).universe, calendar("XNYS")
    at = venue.position(date(2005, 1, 3))
    rows = slice(at, at + count)
    made, frames = {}, []
    for i, symbol in enumerate(SYMBOLS):
        rng = np.random.default_rng(10 + i)
        trend = np.where((np.arange(count) // 60 + i) % 2 == 0, 1.0, -1.0)
        close = np.round(500 * np.exp(np.cumsum(0.01 * (drift * trend + rng.standard_normal(count)))), 2)
        open_ = np.concatenate([[500.0], close[:-1]])
        high, low = np.round(np.maximum(open_, close) * 1.003, 2), np.round(np.minimum(open_, close) * 0.997, 2)
        volume = rng.integers(1_000_000, 2_000_000, count).astype(float)
        made[symbol] = bars = Bars(
            symbol, Timeframe.D1, venue.close_time[rows].copy(), venue.number[rows].copy(), open_, high, low, close, volume
        )
        names, values = compute_anchored(bars, venue)
        frames.append(FeatureFrame(symbol, tuple(names), bars.close_time, bars.session, values, FEATURES_VERSION))
    start, end = (session_date(int(made["AAA"].session[i])) for i in (0, -1))
    lake.write_bars("bars_1d", made, start=start, end=end, source="test", instruments=universe.instruments)
    lake.write_feature_frames("features_1d", frames, start=start, end=end)
    return lake


def materialise(*, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [*models.ASSETS, model_assets.leakage_audit], resources=resource_definitions(), instance=dg.DagsterInstance.ephemeral(),
        raise_on_error=raise_on_error,
    )  # fmt: skip


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (made,) = result.asset_materializations_for_node(asset)
    return {k: v.value for k, v in made.metadata.items()}


def test_the_baseline_is_tracked_and_never_promoted(desk: Settings) -> None:
    tracking, name = Tracking(desk.mlflow_url), "tapeline-baseline-planted"
    write_market(desk, drift=0.35)
    first = materialise()
    enough, audit = first.get_asset_check_evaluations()
    assert (enough.check_name, enough.passed) == (models.LONG_ENOUGH, True)
    assert (audit.check_name, audit.passed, audit.blocking) == ("leakage_audit", True, True)
    shown = metadata_of(first, "baseline_model")
    assert tracking.version_of(name, CHALLENGER) == shown["model_version"]
    assert tracking.version_of(name, CHAMPION) is None
    tags = tracking.version_tags(name, shown["model_version"])
    assert tags["dagster_run_id"] == first.run_id
    assert tags["asset_key"] == "baseline_model"
    assert tags["dagster_run_url"] == f"{desk.webserver_url}/runs/{first.run_id}"
    assert tags["model_hash"] == shown["model_hash"]
    assert tags["data_hash"] == shown["data_hash"] == metadata_of(first, "training_set")["data_hash"]
    assert {"features_version", "code_revision", "partition", "seed", "schema_hash", "trials", "data_kind"} <= set(tags)
    assert (
        shown["mlflow_run"]
        == f"{desk.mlflow_url}/#/experiments/{shown['mlflow_run'].split('/')[-3]}/runs/{shown['mlflow_run_id']}"
    )
    assert shown["forecast_quality"].startswith("![ROC")


def test_a_feature_that_looks_ahead_blocks_training(desk: Settings) -> None:
    lake = write_market(desk, drift=0.0)
    frame = lake.read_features("features_1d", "AAA")
    start, end = (session_date(int(frame.session[i])) for i in (0, -1))
    values = frame.values.copy()
    column = frame.names.index("rsi_14")
    values[:-1, column] = values[1:, column]  # tomorrow's value
    leaky = FeatureFrame("AAA", frame.names, frame.close_time, frame.session, values, frame.version)
    lake.write_feature_frames("features_1d", [leaky], start=start, end=end)
    result = materialise(raise_on_error=False)
    _, audit = result.get_asset_check_evaluations()
    assert not audit.passed
    assert "rsi_14 is" in str(audit.metadata["audit"].value)
    assert not result.asset_materializations_for_node("baseline_model")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (80, "AAA: 80 1d bars, its first complete row needs 225"),
        (250, "give no walk-forward step with 250 rows to learn from"),
    ],
)
def test_a_history_that_is_too_short_is_waited_for_and_nothing_is_trained_or_failed(
    tmp_path: Path, count: int, said: str
) -> None:
    with installation(tmp_path, TAPELINE_UNIVERSE="planted") as settings:
        planted_universe(settings)
        write_market(settings, 0.0, count)
        result = materialise()
    assert result.success
    (enough,) = result.get_asset_check_evaluations()
    assert (enough.check_name, enough.passed, enough.severity) == (models.LONG_ENOUGH, False, dg.AssetCheckSeverity.WARN)
    assert "training waits for history in universe planted" in str(enough.description)
    assert said in str(enough.description)
    assert not result.get_asset_materialization_events()


def test_the_training_set_names_its_partitions_and_what_was_left_out(desk: Settings) -> None:
    lake = write_market(desk, drift=0.0)
    gathered = model_run.gather(lake, load_config(desk).universe)
    assert gathered.left_out == {"WATCHED": "observed only"}
    data = gathered.training_set
    assert {(s.dataset, s.symbol, s.partitions) for s in data.sources} == {
        (d, s, ROWS) for d in ("bars_1d", "features_1d") for s in SYMBOLS
    }
    before = data.sources_hash()
    write_market(desk, drift=0.01)
    assert model_run.gather(lake, load_config(desk).universe).training_set.sources_hash() != before


def test_features_of_another_definition_are_not_trained_on(desk: Settings) -> None:
    lake = write_market(desk, drift=0.0)
    frame = lake.read_features("features_1d", "AAA")
    start, end = (session_date(int(frame.session[i])) for i in (0, -1))
    old = FeatureFrame("AAA", frame.names, frame.close_time, frame.session, frame.values, "0ld")
    lake.write_feature_frames("features_1d", [old], start=start, end=end)
    gathered = model_run.gather(lake, load_config(desk).universe)
    assert "features of version 0ld" in gathered.left_out["AAA"]
    assert "AAA" not in gathered.training_set.matrix.symbols


def test_an_empty_lake_fails_and_says_what_to_materialise(tmp_path: Path) -> None:
    with installation(tmp_path, TAPELINE_UNIVERSE="sample"):
        result = materialise(raise_on_error=False)
    assert not result.success
    (failure,) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    assert "no features_1d in the lake: materialise them" in str(failure.event_specific_data)
