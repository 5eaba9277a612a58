"""`champions`: what MLflow names champion or challenger comes to this disk within a minute, whoever moved the alias."""

import time

import dagster as dg

from resources.model_store import ModelStore, named_by
from resources.settings import settings


def changed(url: str, store: ModelStore, registered: list[str]) -> dict[str, str]:
    """Models whose aliases MLflow names otherwise than this disk -> what it names. Raises httpx.HTTPError."""
    found = {}
    for name in registered:
        now = named_by(url, name)
        kept = store.aliases(name)
        before = {a: getattr(kept, a) for a in ("champion", "challenger", "previous")} if kept is not None else {}
        if now and now != {alias: version for alias, version in before.items() if version}:
            named = " ".join(f"{alias}={version}" for alias, version in sorted(now.items()))
            # Since when this disk has said otherwise: the same names may come back later, and are then news again.
            found[name] = f"{named} after {kept.asked_wall if kept is not None else 0}"
    return found


@dg.sensor(
    name="champions",
    job_name="serve_models",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="MLflow names another champion, challenger or previous than this disk: they are fetched. The trade run lets "
    "them take over by each strategy's own policy.",
)
def champions(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    import httpx

    from resources.config import ConfigInvalid
    from resources.config_cache import current_config
    from resources.model_serving import registered_of
    from resources.model_store import ModelRefused
    from trading.models import model_strategies

    own = settings()
    try:
        config = current_config(own)
    except ConfigInvalid:
        return dg.SkipReason("The configuration cannot be used.")
    active = [s for s in model_strategies(config.strategies).values() if s.status == "active"]
    asked = {registered_of(s, config.universe.name) for s in active}
    if not asked:
        return dg.SkipReason("No active strategy asks for a model.")
    try:
        found = changed(own.mlflow_url, ModelStore.of(own), sorted(asked))
    except (httpx.HTTPError, ModelRefused) as error:
        return dg.SkipReason(f"What is kept goes on serving: {type(error).__name__}: {error}")
    if not found:
        return dg.SkipReason("This disk has what MLflow names.")
    # Asked for once, and again every ten minutes where that failed.
    key = "; ".join(f"{name}: {what}" for name, what in found.items()) + f" @{int(time.time()) // 600}"
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key)])


SENSORS = [champions]
