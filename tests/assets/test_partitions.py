"""Session partitions: one key per day on which a venue of the universe trades, nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from assets.partitions import configured_universe, opens_the_day_before, session_partitions, session_partitions_def
from resources.settings import ROOT
from trading.instruments import AssetClass, Instrument
from trading.universe import Universe, parse_universe


def universe(name: str) -> Universe:
    path = ROOT / "data" / "config" / "universe" / f"{name}.yaml"
    parsed, problems = parse_universe(path.read_text(), path.name)
    assert parsed is not None, problems
    return parsed


def on(calendar: str, of: Universe, **changes: object) -> Universe:
    """`of` with one instrument, on another calendar."""
    instrument: Instrument = next(iter(of.instruments.values()))
    moved = replace(instrument, calendar=calendar, asset_class=AssetClass.CRYPTO)
    return replace(of, instruments={moved.symbol: moved}, **changes)  # type: ignore[arg-type]


def test_the_sample_has_a_key_for_each_session_of_its_venues_and_keeps_its_last_friday() -> None:
    sample = universe("sample")
    keys = session_partitions(sample).get_partition_keys()
    assert keys == [d.isoformat() for d in sample.sessions(date(1999, 1, 4), date(2017, 12, 29))]
    assert (len(keys), keys[0], keys[-1]) == (4955, "1999-01-04", "2017-12-29")


def test_holidays_of_the_only_venue_are_no_keys() -> None:
    stocks = replace(universe("lean_us"), history_start=date(2013, 11, 25), history_end=date(2013, 12, 2))
    assert session_partitions(stocks).get_partition_keys() == [
        "2013-11-25", "2013-11-26", "2013-11-27", "2013-11-29", "2013-12-02",
    ]  # fmt: skip


def test_venues_with_weekends_get_daily_keys() -> None:
    crypto = on("CRYPTO", universe("lean_us"), history_start=date(2024, 3, 1), history_end=date(2024, 3, 4))
    assert session_partitions(crypto).get_partition_keys() == ["2024-03-01", "2024-03-02", "2024-03-03", "2024-03-04"]


@pytest.mark.parametrize(("calendar", "ahead"), [("XNYS", 0), ("FX", 1), ("CMES", 1), ("CRYPTO", 0)])
def test_an_open_ended_universe_has_a_key_for_the_session_that_trades_now(calendar: str, ahead: int) -> None:
    """FX and futures open on the evening before: tomorrow's session needs its key today."""
    today = None
    while today != datetime.now(UTC).date():  # again, when midnight came between
        today = datetime.now(UTC).date()
        open_ended = on(calendar, universe("lean_us"), history_start=today - timedelta(days=60), history_end=None)
        keys = session_partitions(open_ended).get_partition_keys()
    assert opens_the_day_before(open_ended) == bool(ahead)
    due = [d.isoformat() for d in open_ended.sessions(today - timedelta(days=60), today + timedelta(days=7))]
    known = [k for k in due if k <= today.isoformat()]
    coming = [k for k in due if k > today.isoformat()]
    assert keys[: len(known)] == known
    assert keys[len(known) :] == coming[:ahead]


def test_one_definition_serves_the_whole_code_location() -> None:
    assert session_partitions_def() is session_partitions_def()
    assert session_partitions_def() == session_partitions(configured_universe())
    assert isinstance(session_partitions_def(), dg.TimeWindowPartitionsDefinition)
