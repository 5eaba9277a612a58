"""`hot_sessions_over`: minutes of a session that is over are folded into their month, final bars or not."""

from datetime import UTC, date, datetime

import dagster as dg

from assets.lake_retention import lake_compaction_job
from resources.dagster_resources import LakeResource
from resources.lake import Lake
from resources.lake.maintenance import sessions_over


@dg.sensor(
    name="hot_sessions_over",
    job=lake_compaction_job,
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sessions of the lake that still lie in hot files although a later one has begun, or long after their end: "
    "folded into their month.",
)
def hot_sessions_over(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult | dg.SkipReason:
    today = datetime.now(UTC).date()
    over = waiting(lake.lake(), today)
    if not over:
        return dg.SkipReason("No session lies in hot files that is over.")
    # Once a day for the same sessions: a run that failed is tried again tomorrow, its failure is seen today.
    key = f"{today}:" + ",".join(f"{name}/{day}" for name, day in over)
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key)])


def waiting(lake: Lake, today: date) -> list[tuple[str, date]]:
    """(dataset, session) that a compaction would fold now."""
    return [(name, day) for name in lake.datasets() for day in sessions_over(lake.hot_sessions(name), today)]


SENSORS = [hot_sessions_over]
