"""The lake's upkeep as assets: folded sessions and the retention plan in the UI; removal only on demand, audited."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import select

from assets.lake_retention import ASSETS, JOBS, lake_compaction, lake_retention
from resources.dagster_resources import resource_definitions
from resources.lake import Lake
from resources.ledger import tables as t
from resources.ledger.store import Ledger
from resources.settings import Settings
from sensors.lake_upkeep import hot_sessions_over, waiting
from tests.assets.sample_lake import installation
from tests.resources.lake_kit import D1, D2, D3, append, minutes, write


@pytest.fixture
def at(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setattr(Settings, "ledger_url", lambda _: ledger.engine.url.render_as_string(hide_password=False))
    with installation(tmp_path) as own:
        lake = Lake(own.lake_dir)
        write(lake, minutes("AAPL", D1), D1, D1)
        write(lake, minutes("AAPL", D1, seed=1), D1, D1)
        append(lake, D2, minutes("AAPL", D2))
        append(lake, D3, minutes("AAPL", D3).rows(slice(0, 5)))
        (own.config / "lake" / "retention.yaml").write_text("superseded_days: 0\n")
        time.sleep(0.002)
        yield own


def materialise(asset: dg.AssetsDefinition, **config: object) -> dg.ExecuteInProcessResult:
    run_config = {"ops": {asset.op.name: {"config": config}}} if config else None
    return dg.materialize(
        [asset], resources={k: v for k, v in resource_definitions().items() if k in ("lake", "ledger")}, run_config=run_config,
        raise_on_error=False,
    )  # fmt: skip


def said(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    (event,) = result.get_asset_materialization_events()
    return {k: v.value for k, v in event.materialization.metadata.items()}


def test_the_compaction_folds_sessions_that_are_over(at: Settings) -> None:
    assert waiting(Lake(at.lake_dir), date(2014, 6, 9)) == [("bars_1m", D2)]
    result = materialise(lake_compaction)
    assert result.success
    values = said(result)
    assert values["sessions_folded"] == 2  # both are long over by today's date
    assert "2014-06-06" in str(values["compacted"])
    assert Lake(at.lake_dir).hot_sessions("bars_1m") == []
    assert waiting(Lake(at.lake_dir), date(2014, 6, 9)) == []


def test_the_sensor_asks_for_a_compaction_once_a_day(at: Settings) -> None:
    with dg.instance_for_test() as instance:
        context = dg.build_sensor_context(instance=instance, resources={"lake": resource_definitions()["lake"]})
        first = hot_sessions_over(context)
        assert isinstance(first, dg.SensorResult)
        (request,) = first.run_requests or []
        assert "bars_1m/2014-06-06" in str(request.run_key)
        assert materialise(lake_compaction).success
        assert isinstance(hot_sessions_over(context), dg.SkipReason)


def test_retention_is_a_dry_run_unless_told_otherwise(at: Settings, ledger: Ledger) -> None:
    shown = said(materialise(lake_retention))
    assert (shown["applied"], shown["partitions"]) == (False, 1)
    assert "bars_1m/2014-06-05/AAPL" in str(shown["named"])
    assert len(Lake(at.lake_dir).superseded("bars_1m")) == 1
    done = said(materialise(lake_retention, apply=True))
    assert done["applied"] is True
    assert Lake(at.lake_dir).superseded("bars_1m") == []
    with ledger.engine.connect() as c:
        (actor,) = c.execute(select(t.audit.c.actor)).scalars()
    assert str(actor).startswith("dagster:")


def test_a_torn_dataset_fails_the_run_by_name_after_the_others(at: Settings) -> None:
    (at.lake_dir / "bars_1m" / "2014-06" / "manifest.json").write_bytes(b"torn")
    for asset in (lake_compaction, lake_retention):
        result = materialise(asset)
        assert not result.success
        failure = next(e for e in result.all_events if e.is_step_failure)
        assert "bars_1m" in str(failure.event_specific_data)


def test_a_bad_policy_fails_the_run_and_nothing_goes(at: Settings) -> None:
    (at.config / "lake" / "retention.yaml").write_text("superseded_days: soon\n")
    assert not materialise(lake_retention, apply=True).success
    assert len(Lake(at.lake_dir).superseded("bars_1m")) == 1


def test_every_asset_and_job_says_what_it_does() -> None:
    for asset in ASSETS:
        assert all(asset.descriptions_by_key.values())
        assert asset.owners_by_key if hasattr(asset, "owners_by_key") else True
    assert all(job.description for job in JOBS)
