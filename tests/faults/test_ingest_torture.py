"""The ingest killed at random moments: the short campaign of tests.faults.ingest_torture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import ingest_torture
from tests.paths import lean_data
from trading.timeframes import Timeframe


@pytest.mark.parametrize("source", ["real minutes", "sample"])
def test_a_killed_ingest_ends_with_the_lake_of_one_that_was_not(ledger_url: str, tmp_path: Path, source: str) -> None:
    if source == "real minutes":
        campaign = ingest_torture.real_us_minutes(ledger_url, lean_data())
        campaign.only = (Timeframe.M1, Timeframe.M30, Timeframe.D1)
    else:
        campaign = ingest_torture.sample_quarter(ledger_url)
    result = ingest_torture.torture(campaign, tmp_path, 5, seed=11)
    assert result.differences == []
    assert result.kills == 5


def test_a_lake_that_differs_is_found(ledger_url: str, tmp_path: Path) -> None:
    campaign = ingest_torture.sample_quarter(ledger_url)
    campaign.only = (Timeframe.D1,)
    for telling in (0, 1):
        ingest_torture.ingest(campaign, tmp_path / str(telling), telling)
    references = [ingest_torture.held(ingest_torture.Lake(tmp_path / str(n))) for n in (0, 1)]
    result = ingest_torture.Result()
    ingest_torture._compare(ingest_torture.Lake(tmp_path / "1"), references[0], result, "now")
    assert any(line.startswith("bars_1d/") for line in result.differences)
    mixed = ingest_torture.Result()
    ingest_torture._whole_versions(ingest_torture.Lake(tmp_path / "1"), references[:1], mixed)
    assert any("a mixture" in line for line in mixed.differences)
