"""Running market data, checks and features over real sessions in a temporary installation."""

from __future__ import annotations

from datetime import date
from typing import Any

import dagster as dg

from assets import features, market_data
from assets.quality import checks
from resources.dagster_resources import resource_definitions

INGEST = dg.AssetSelection.groups("market_data", "features")


def run(
    start: date | str,
    end: date | str | None = None,
    *,
    selection: dg.AssetSelection = INGEST,
    definitions: tuple[list[Any], list[Any]] | None = None,
    instance: dg.DagsterInstance | None = None,
) -> dg.ExecuteInProcessResult:
    """One in-process run of `selection` over sessions [start, end], as the ingest job makes it. Failures do not raise."""
    assets, asset_checks = definitions or ([*market_data.ASSETS, *features.ASSETS], checks.CHECKS)
    defs = dg.Definitions(
        assets=assets,
        asset_checks=asset_checks,
        resources=resource_definitions(),
        jobs=[dg.define_asset_job("ingest", selection=selection, executor_def=dg.in_process_executor)],
    )
    tags = {"dagster/asset_partition_range_start": str(start), "dagster/asset_partition_range_end": str(end or start)}
    if end is None:
        tags = {"dagster/partition": str(start)}
    return defs.resolve_job_def("ingest").execute_in_process(
        instance=instance or dg.DagsterInstance.ephemeral(), tags=tags, raise_on_error=False
    )


def metadata(result: dg.ExecuteInProcessResult, asset: str, partition: str | None = None) -> dict[str, Any]:
    """Plain metadata of the last materialisation of `asset`, of one partition when given."""
    found = [
        m
        for m in result.asset_materializations_for_node(asset)
        if partition is None or m.partition == partition
    ]  # fmt: skip
    return {key: value.value for key, value in found[-1].metadata.items()}


def evaluation(result: dg.ExecuteInProcessResult, asset: str, check: str) -> dg.AssetCheckEvaluation:
    """The evaluation of one check in a run."""
    return next(e for e in result.get_asset_check_evaluations() if e.asset_key == dg.AssetKey(asset) and e.check_name == check)


def failure(result: dg.ExecuteInProcessResult, step: str) -> str:
    """What a failed step says."""
    for event in result.filter_events(lambda e: e.is_step_failure and e.step_key == step):
        data = event.step_failure_data
        assert data.error is not None
        return f"{data.error.message} {data.user_failure_data.description if data.user_failure_data else ''}"
    raise AssertionError(f"{step} did not fail")


def materialised(result: dg.ExecuteInProcessResult) -> set[str]:
    """Names of the assets a run materialised."""
    return {e.asset_key.to_user_string() for e in result.get_asset_materialization_events() if e.asset_key is not None}
