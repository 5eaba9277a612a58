"""`kill_switch_drill`: the kill switch is tried on a paper book of its own, and the check says whether that book was flat."""

from typing import Any

import dagster as dg

from resources.settings import settings

FLAT = "drill_ends_flat"
GOAL_SECONDS = 30.0


@dg.asset(
    group_name="desk",
    owners=["team:trading"],
    kinds={"python", "postgres"},
    tags={"lane": "operation"},
    check_specs=[
        dg.AssetCheckSpec(
            FLAT, asset="kill_switch_drill",
            description=f"With no desk there, the switch cancels and closes within {GOAL_SECONDS:g} s, and the book agrees.",
        )
    ],
    description="The kill switch, pulled as a process of its own on a paper book made for it: position closed, order cancelled.",
)  # fmt: skip
def kill_switch_drill() -> dg.MaterializeResult:
    from desk.drill import run_drill

    drill = run_drill(settings())
    good = drill.flat and drill.seconds <= GOAL_SECONDS
    metadata: dict[str, Any] = {
        "seconds": drill.seconds,
        "seconds_until_flat_at_broker": drill.at_broker_seconds,
        "symbol": drill.symbol,
        "orders_cancelled": drill.orders_cancelled,
        "positions_closed": drill.positions_closed,
        "said": drill.said or "nothing went wrong",
    }
    result = dg.AssetCheckResult(
        passed=good, check_name=FLAT, severity=dg.AssetCheckSeverity.ERROR, metadata=metadata,
        description=f"flat after {drill.seconds:.1f} s" if good else f"NOT flat in time ({drill.seconds:.1f} s) {drill.said}",
    )  # fmt: skip
    return dg.MaterializeResult(metadata={"mode": "DRILL", **metadata}, check_results=[result])


ASSETS = [kill_switch_drill]

drill_job = dg.define_asset_job(
    "kill_switch_drill_job",
    selection=dg.AssetSelection.assets("kill_switch_drill"),
    executor_def=dg.in_process_executor,
    description="Try the kill switch on a paper book of its own. Touches nothing else.",
)
weekly_drill = dg.ScheduleDefinition(
    name="weekly_kill_switch_drill",
    job=drill_job,
    cron_schedule="0 12 * * 0",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Sunday noon, before the week's first session.",
)
JOBS = [drill_job]
SCHEDULES = [weekly_drill]
