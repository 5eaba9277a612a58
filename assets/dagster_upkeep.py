"""`dagster_upkeep`: what Dagster itself collects, deleted every night beyond the limits of the settings."""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.common import markdown_table
from resources.dagster_resources import LedgerResource
from resources.settings import settings


class UpkeepConfig(dg.Config):
    """What a run of the upkeep may do."""

    apply: bool = Field(default=False, description="Delete what is beyond the limits; false: only show it")
    nightly: bool = Field(default=False, description="As every night: what TAPELINE_DAGSTER_UPKEEP says")


@dg.asset(
    group_name="desk",
    owners=["team:trading"],
    kinds={"postgres"},
    tags={"lane": "maintenance"},
    description="Runs, events, check evaluations, ticks and printed lines beyond TAPELINE_DAGSTER_*_DAYS. The newest event of "
    "every asset partition and check stays. A dry run unless started with apply: true; every night what TAPELINE_DAGSTER_UPKEEP "
    "says, by default a deletion only after an earlier night has shown what these limits delete. Audited.",
)
def dagster_upkeep(context: dg.AssetExecutionContext, config: UpkeepConfig, ledger: LedgerResource) -> dg.MaterializeResult:
    from resources import dagster_upkeep as upkeep

    own = settings()
    try:
        limits = upkeep.Limits.of(own)
        who = f"dagster:{context.run.run_id}"
        if config.nightly and not config.apply:
            night = upkeep.nightly(own, limits, ledger.ledger().engine, who=who)
        else:
            would = upkeep.plan(own, limits)
            done = upkeep.apply(own, limits, ledger.ledger().engine, who=who) if config.apply else None
            night = upkeep.Night(would, done, "" if config.apply else "a dry run: apply: true deletes it")
    except upkeep.UpkeepRefused as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    would, done = night.would, night.done
    shown = would.to_dict()
    rows = [[name, value, getattr(done, name) if done else ""] for name, value in shown.items() if isinstance(value, int)]
    if night.why and would.anything:
        context.log.warning(f"Nothing was deleted. {night.why}")
    metadata: dict[str, Any] = {
        "applied": done is not None,
        "nothing_deleted_because": night.why,
        "counts": dg.MetadataValue.md(markdown_table(["what", "beyond the limits", "deleted"], rows)),
        "trade_run_days": limits.trade_run_days,
        "run_days": limits.run_days,
        "event_days": limits.event_days,
        "log_days": limits.log_days,
        "runs": would.runs,
        "seconds": done.seconds if done else would.seconds,
    }
    if done and done.problems:
        raise dg.Failure(f"not complete: {'; '.join(done.problems)}", metadata=metadata, allow_retries=False)
    return dg.MaterializeResult(metadata=metadata)


upkeep_job = dg.define_asset_job(
    "dagster_upkeep_job",
    selection=dg.AssetSelection.assets("dagster_upkeep"),
    executor_def=dg.in_process_executor,
    description="Show what Dagster keeps beyond the limits; with config `apply: true` delete it.",
)
nightly_upkeep = dg.ScheduleDefinition(
    name="nightly_dagster_upkeep",
    job=upkeep_job,
    cron_schedule="40 21 * * *",
    execution_timezone="America/New_York",
    run_config={"ops": {"dagster_upkeep": {"config": {"nightly": True}}}},
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Deletes what is beyond the limits, between the US and the Asian session; limits that no night has shown yet are "
    "shown first (TAPELINE_DAGSTER_UPKEEP).",
)

ASSETS: list[Any] = [dagster_upkeep]
JOBS: list[Any] = [upkeep_job]
SCHEDULES = [nightly_upkeep]
