"""Features assets: versioned, point-in-time, the same whatever range a run covers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import dagster as dg
import numpy as np
import pytest

from assets import features
from resources.lake import Lake
from resources.settings import Settings
from tests.assets.market_runs import failure, metadata, run
from tests.assets.sample_lake import fill, installation
from trading.calendars import calendar
from trading.features import FEATURES_VERSION, NAMES, WARM_UP, compute
from trading.timeframes import Timeframe, session_date, session_number
from trading.windows import window_start

FEATURES = dg.AssetSelection.groups("features").without_checks()
SPAN = date(2017, 9, 25), date(2017, 10, 6)  # the hourly window's anchor moves on 1 October


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with installation(tmp_path_factory.mktemp("features")) as of:
        fill(of)
        yield of


def test_a_row_of_a_range_is_what_a_live_computation_of_that_row_gives(sample: Settings) -> None:
    assert run(*SPAN, selection=FEATURES).success
    lake = Lake(sample.lake_dir)
    made = lake.read_features("features_1h", "EURUSD", *SPAN)
    assert made.version == FEATURES_VERSION
    assert made.names == NAMES
    for row in (0, 7, len(made) // 2, len(made) - 1):
        session = int(made.session[row])
        start = session_date(window_start(session, Timeframe.H1, WARM_UP, calendar("FX")))
        live = lake.read_bars("bars_1h", "EURUSD", start, session_date(session)).known_at(int(made.close_time[row]))
        _, values = compute(live)
        np.testing.assert_array_equal(made.values[row], values[-1])


def test_a_session_alone_gives_what_the_range_gave(sample: Settings) -> None:
    assert run(*SPAN, selection=FEATURES).success
    lake = Lake(sample.lake_dir)
    before = lake.partitions("features_1d", *SPAN) + lake.partitions("features_1h", *SPAN)
    assert run("2017-10-03", selection=FEATURES).success
    assert lake.partitions("features_1d", *SPAN) + lake.partitions("features_1h", *SPAN) == before


def test_metadata_carry_version_catalogue_and_plot(sample: Settings) -> None:
    result = run(*SPAN, selection=FEATURES)
    said = metadata(result, "features_1d", "2017-10-06")
    assert said["features_version"] == FEATURES_VERSION
    assert said["columns"] == len(NAMES)
    assert said["dagster/row_count"] == len(SPAN_SESSIONS) * 3
    assert "| rsi_14 |" in said["catalogue"]
    assert "data:image/png;base64," in said["plot"]
    spec = next(a for a in features.ASSETS if a.key == dg.AssetKey("features_1d"))
    assert spec.code_versions_by_key[spec.key] == FEATURES_VERSION


SPAN_SESSIONS = calendar("XNYS").sessions(*SPAN)


def test_unreadable_bars_fail_by_name_and_the_other_symbols_features_stay(sample: Settings) -> None:
    lake = Lake(sample.lake_dir)
    files = {path: path.read_bytes() for path in (sample.lake_dir / "bars_1h").rglob("*.parquet")}
    for path, whole in files.items():
        path.write_bytes(whole[: len(whole) // 2])
    try:
        result = run("2017-10-04", selection=FEATURES)
        assert any(str(path) in failure(result, "features_1h") for path in files)
        assert session_number(date(2017, 10, 4)) in set(lake.read_features("features_1d", "SPX").session.tolist())
    finally:
        for path, whole in files.items():
            path.write_bytes(whole)
