"""`session_ended`: when the last venue of a session has closed, the end-of-session job makes its report."""

import dagster as dg

from resources.dagster_resources import LedgerResource


@dg.sensor(
    name="session_ended",
    job_name="end_of_session",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Session over: final bars, checks, features and the daily report of that session.",
)
def session_ended(context: dg.SensorEvaluationContext, ledger: LedgerResource) -> dg.SensorResult | dg.SkipReason:
    ended = [row["session"] for row in ledger.ledger().sessions(state="ended")]
    if not ended:
        return dg.SkipReason("No session waits for its report.")
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=f"end_of_session:{session}", partition_key=session) for session in sorted(ended)]
    )
