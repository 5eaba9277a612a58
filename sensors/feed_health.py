"""`feed_health`: a live feed that falls silent, and one that is back, are told to Dagster within seconds.

No run is started: the evaluation of the check `feed_live` is reported as it is. A feed without news is told again every
quarter of an hour, so that the check's age says that somebody is looking.
"""

import time

import dagster as dg

from assets.common import configured_universe
from assets.quality.feed_live import FEED_LIVE, STATE_KEY, feed_result, native_timeframes
from resources.dagster_resources import LedgerResource
from trading.universe import Universe

REPEAT_SECONDS = 900.0


def evaluate(
    state: dict[str, object] | None, universe: Universe, cursor: str | None, now_wall: int
) -> tuple[list[dg.AssetCheckEvaluation], str]:
    """Evaluations to report and the new cursor. state: what the desk wrote last; now_wall: real time, UTC us."""
    if state is None:
        return [], cursor or ""
    results = [feed_result(state, universe, timeframe, now_wall) for timeframe in native_timeframes(universe)]
    live = [r for r in results if r.metadata["live"].value]
    told, _, at = (cursor or "").rpartition("@")
    # Told when a symbol comes into trouble or out of it; its growing age alone is no news.
    trouble = state.get("trouble")
    now = (
        "|".join(f"{r.asset_key}={r.passed}" for r in live) + ";" + ",".join(sorted(trouble if isinstance(trouble, dict) else ()))
    )
    if not live or (now == told and (now_wall - int(at or 0)) / 1e6 < REPEAT_SECONDS):
        return [], cursor or ""
    made = [
        dg.AssetCheckEvaluation(
            check_name=FEED_LIVE, passed=r.passed, asset_key=r.asset_key or dg.AssetKey([]), metadata=r.metadata,
            severity=r.severity, description=r.description,
        )
        for r in live
    ]  # fmt: skip
    return made, f"{now}@{now_wall}"


@dg.sensor(
    name="feed_health",
    minimum_interval_seconds=2,
    default_status=dg.DefaultSensorStatus.RUNNING,
    asset_selection=dg.AssetSelection.assets(*(f"bars_{t}" for t in native_timeframes(configured_universe()))),
    description="A live feed that falls silent is a failed check within seconds, and a passed one when it is back.",
)
def feed_health(context: dg.SensorEvaluationContext, ledger: LedgerResource) -> dg.SensorResult | dg.SkipReason:
    state = ledger.ledger().get_state(STATE_KEY)
    found, cursor = evaluate(state, configured_universe(), context.cursor, time.time_ns() // 1000)
    if not found:
        return dg.SkipReason("No news of the live feeds.")
    return dg.SensorResult(asset_events=found, cursor=cursor)


SENSORS: list[dg.SensorDefinition] = [feed_health]
