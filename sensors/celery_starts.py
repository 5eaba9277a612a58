"""`celery_starts`: a trade run that no Celery worker took in time fails, and its bar close ends without new risk.

Only where TAPELINE_CELERY_BROKER_URL is set. Run monitoring would say so after minutes; meanwhile every later bar close
would wait. The message in the queue has expired by then, so a worker that comes up later does not execute the run.
"""

import time
from collections.abc import Sequence

import dagster as dg

from resources.run_host.protocol import LANE_TAG, TRADE_LANE, WORKER_TAG
from resources.settings import settings

GRACE_SECONDS = 5.0
"""A worker that took the message in its last moment has said so by then."""
LIMIT = 100


def overdue(instance: dg.DagsterInstance, start_seconds: float, now_wall: float) -> list[dg.DagsterRun]:
    """Trade runs that were handed over `start_seconds` ago and that no worker has marked, oldest first. now_wall: UTC s."""
    waiting = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)
    records = instance.get_run_records(
        dg.RunsFilter(statuses=list(waiting), tags={LANE_TAG: TRADE_LANE}), limit=LIMIT, ascending=True
    )
    latest = now_wall - start_seconds - GRACE_SECONDS
    return [r.dagster_run for r in records if WORKER_TAG not in r.dagster_run.tags and r.create_timestamp.timestamp() <= latest]


def fail_overdue(instance: dg.DagsterInstance, start_seconds: float, now_wall: float) -> Sequence[str]:
    """Mark them failed; their ids. What a worker has taken since the look is left alone."""
    failed = []
    for run in overdue(instance, start_seconds, now_wall):
        fresh = instance.get_run_by_id(run.run_id)
        if fresh is None or fresh.is_finished or WORKER_TAG in fresh.tags:
            continue
        where = instance.run_launcher.get_run_worker_debug_info(fresh) or ""
        instance.report_run_failed(
            fresh, f"Not started within {start_seconds:g} s: no new risk from this bar close. {where}".strip()
        )
        failed.append(run.run_id)
    return failed


@dg.sensor(
    name="celery_starts",
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Fails trade runs that no Celery worker took in time, so that the next bar close is not held up.",
)
def celery_starts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    failed = fail_overdue(context.instance, settings().celery_start_seconds, time.time())
    return dg.SkipReason(f"Failed: {', '.join(failed)}" if failed else "Every trade run was taken in time.")


SENSORS: list[dg.SensorDefinition] = [celery_starts] if settings().celery_broker_url is not None else []
