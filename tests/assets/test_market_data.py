"""Market data assets on the real sample: what is good is written, what is bad is named."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from assets import market_data
from assets.partitions import session_partitions
from resources.config import load_config
from resources.dagster_resources import LedgerResource
from resources.lake import Lake
from resources.ledger.store import Ledger
from resources.settings import Settings, settings
from tests.assets.market_runs import failure, materialised, metadata, run
from tests.assets.sample_lake import installation
from tests.paths import lean_data
from trading.calendars import calendar
from trading.resample import resample
from trading.timeframes import Timeframe

MARKET = dg.AssetSelection.groups("market_data").without_checks()


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Settings]:
    with installation(tmp_path) as of:
        yield of


def keys(lake: Lake, dataset: str, start: date, end: date) -> list[tuple[str, str]]:
    return sorted((p.session.isoformat(), p.symbol) for p in lake.partitions(dataset, start, end))


def test_a_range_of_sessions_becomes_partitions_of_every_timeframe(installed: Settings) -> None:
    start, end = date(2017, 12, 18), date(2017, 12, 29)
    result = run(start, end, selection=MARKET)
    assert result.success
    assert materialised(result) == {"instruments", "bars_1h", "bars_4h", "bars_1d", "bars_1w"}
    lake = Lake(installed.lake_dir)
    assert ("2017-12-25", "SPX") not in keys(lake, "bars_1d", start, end)
    assert ("2017-12-29", "SPX") in keys(lake, "bars_1d", start, end)
    assert ("2017-12-29", "EURUSD") in keys(lake, "bars_1d", start, end)
    hourly = lake.read_bars("bars_1h", "EURUSD")
    daily = lake.read_bars("bars_1d", "EURUSD")
    assert daily.content_hash() == resample(hourly, Timeframe.D1, calendar("FX")).content_hash()
    weeks = [k for k in keys(lake, "bars_1w", start, end) if k[1] == "SPX"]
    assert weeks == [("2017-12-22", "SPX"), ("2017-12-29", "SPX")]


def test_metadata_say_what_was_written_and_show_it(installed: Settings) -> None:
    result = run("2017-12-18", "2017-12-29", selection=MARKET)
    said = metadata(result, "bars_1d", "2017-12-29")
    held = Lake(installed.lake_dir).partitions("bars_1d", date(2017, 12, 18), date(2017, 12, 29))
    assert said["dagster/row_count"] == sum(p.rows for p in held)
    assert said["dagster/partition_row_count"] == 4
    assert said["last_close"] == "2017-12-29T22:00:00Z"
    assert said["source"] == "derived:bars_1h, sample_indices, sample_stocks"
    assert said["plot"].startswith("![newest bars of bars_1d](data:image/png;base64,")
    newest = next(p for p in held if p.session == date(2017, 12, 29) and p.symbol == "SPX")
    assert newest.content_hash in said["content_hashes"]
    assert f"SPX={newest.content_hash[:12]}" in said["hashes"]
    # Every session of a range gets an event: pictures in all of them would fill the database.
    assert "plot" not in metadata(result, "bars_1d", "2017-12-28")
    assert metadata(result, "bars_1d", "2017-12-28")["dagster/partition_row_count"] == 4


def test_the_same_sessions_again_write_nothing(installed: Settings) -> None:
    lake = Lake(installed.lake_dir)
    span = date(2017, 12, 27), date(2017, 12, 29)
    assert run(*span, selection=MARKET).success
    before = {d: lake.partitions(d, *span) for d in lake.datasets()}
    files = {p: p.stat().st_mtime_ns for p in installed.lake_dir.rglob("*.parquet")}
    assert run(*span, selection=MARKET).success
    assert {d: lake.partitions(d, *span) for d in lake.datasets()} == before
    assert {p: p.stat().st_mtime_ns for p in installed.lake_dir.rglob("*.parquet")} == files


def test_a_week_is_made_of_all_its_sessions_although_the_run_brings_only_the_last(installed: Settings) -> None:
    lake = Lake(installed.lake_dir)
    daily_and_weekly = dg.AssetSelection.assets("bars_1d", "bars_1w").without_checks()
    assert run("2017-12-18", "2017-12-21", selection=daily_and_weekly).success
    assert lake.partitions("bars_1w", date(2017, 12, 18), date(2017, 12, 22)) == []
    assert run("2017-12-22", selection=daily_and_weekly).success
    daily, weekly = lake.read_bars("bars_1d", "SPX"), lake.read_bars("bars_1w", "SPX")
    assert (len(weekly), weekly.open[0], weekly.high[0]) == (1, daily.open[0], max(daily.high))


def test_a_symbol_the_source_does_not_know_is_named_and_the_others_stay(installed: Settings) -> None:
    file = installed.config / "universe" / "sample.yaml"
    file.write_text(file.read_text() + "  NOSUCH:\n    <<: *stock\n    description: not in the source\n")
    result = run("2013-02-25", "2013-03-01", selection=MARKET)
    assert not result.success
    said = failure(result, "bars_1d")
    assert "bars_1d: 1 symbol(s) could not be read (NOSUCH:" in said
    assert "9 other symbol(s) were written" in said
    held = keys(Lake(installed.lake_dir), "bars_1d", date(2013, 3, 1), date(2013, 3, 1))
    assert [s for _, s in held] == ["AAPL", "COMP", "FB", "GOOG", "IBM", "MSFT", "SPX"]
    assert materialised(result) == {"instruments", "bars_1h", "bars_4h"}


def test_a_torn_parquet_file_fails_what_is_made_of_it_by_name_and_the_rest_stays(
    installed: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LedgerResource, "ledger", lambda self: ledger)
    span = date(2017, 12, 18), date(2017, 12, 29)
    assert run(*span, selection=MARKET).success
    torn = next((installed.lake_dir / "bars_1h").rglob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:-100])
    derived = dg.AssetSelection.assets("bars_1d").without_checks()
    result = run(*span, selection=derived)
    assert not result.success
    assert f"bars_1d: 1 symbol(s) could not be read (EURUSD: {torn}" in failure(result, "bars_1d")
    lake = Lake(installed.lake_dir)
    assert len(lake.read_bars("bars_1d", "SPX")) == 9
    assert len(lake.read_bars("bars_1d", "EURUSD")) == 10  # what was derived before is untouched


def test_a_bad_strategy_file_shows_among_the_instruments_and_stops_nothing(installed: Settings) -> None:
    (installed.config / "strategies" / "broken.yaml").write_text("name: broken\nspeling: 1\n")
    result = run("2017-12-29", selection=MARKET)
    assert result.success
    said = metadata(result, "instruments")
    assert said["config_problems"] > 0
    assert "strategies/broken.yaml" in said["problems"]
    assert "| EURUSD | forex | FX | 0.00001 |" in said["instruments"]


def test_minutes_of_a_lean_folder_become_nine_timeframes(tmp_path: Path) -> None:
    with installation(tmp_path, TAPELINE_UNIVERSE="lean_us", TAPELINE_LEAN_DATA=str(lean_data())) as of:
        universe = load_config(settings()).universe
        parts = session_partitions(universe)
        made = [market_data.instruments, *market_data.bars_assets(universe, parts)]
        some = dg.AssetSelection.assets(*(f"bars_{t}" for t in ("1m", "5m", "4h", "1d", "1w"))).without_checks()
        result = run("2013-10-04", "2013-10-11", selection=some, definitions=(made, []))
        assert result.success
        assert len(made) == 1 + len(Timeframe)
        lake = Lake(of.lake_dir)
        minutes = lake.read_bars("bars_1m", "IBM")
        assert len(minutes) > 2000
        for timeframe in (Timeframe.M5, Timeframe.H4, Timeframe.D1):
            derived = lake.read_bars(f"bars_{timeframe}", "IBM")
            assert derived.content_hash() == resample(minutes, timeframe, calendar("XNYS")).content_hash()
        assert [p.session for p in lake.partitions("bars_1w", date(2013, 10, 4), date(2013, 10, 11), ["IBM"])] == [
            date(2013, 10, 4), date(2013, 10, 11),
        ]  # fmt: skip


def test_a_missing_source_folder_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    with installation(tmp_path, TAPELINE_UNIVERSE="lean_us", TAPELINE_LEAN_DATA=str(nowhere)):
        universe = load_config(settings()).universe
        made = [market_data.instruments, *market_data.bars_assets(universe, session_partitions(universe))]
        result = run("2013-10-04", selection=MARKET, definitions=(made, []))
        assert not result.success
        assert str(nowhere) in failure(result, "bars_1m")
        assert materialised(result) == {"instruments"}
