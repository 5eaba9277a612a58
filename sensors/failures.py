"""`failed_runs`: a failed run is written into the ledger's audit, and a failed trade run releases its bar close."""

import time

import dagster as dg

from assets.trading import CLOSE_TIME_TAG
from resources.dagster_resources import LedgerResource
from resources.ledger import audit


@dg.run_failure_sensor(
    name="failed_runs",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Records failed runs in the audit; a failed trade run ends its bar close as failed: no new risk from it.",
)
def failed_runs(context: dg.RunFailureSensorContext, ledger: LedgerResource) -> None:
    run = context.dagster_run
    store = ledger.ledger()
    close_time = run.tags.get(CLOSE_TIME_TAG)
    content = {"run_id": run.run_id, "job": run.job_name, "error": (context.failure_event.message or "")[:500]}
    with store.engine.begin() as connection:
        audit.append(connection, "dagster", "run_failed", content)
        if close_time is not None:
            store.stamp_close(
                int(close_time), run_id=run.run_id, outcome="failed", done_wall=time.time_ns() // 1000, connection=connection
            )
