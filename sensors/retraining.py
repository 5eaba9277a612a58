"""`model_retraining`: a champion that has drifted is trained again, once for each drift; the promotion gate decides as always.

The weekly training is the schedule `weekly_training`. What was asked for is read from Dagster's own runs, so that nothing is
asked for twice and a request that was lost is made again.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from resources.dagster_resources import ConfigFilesResource, LedgerResource
from resources.ledger import model_verdicts
from resources.ledger.model_verdicts import DriftVerdict
from resources.ledger.store import Ledger
from resources.model_files import read_model_files
from resources.settings import settings

JOB_NAME = "train"
MODEL_TAG, EVENT_TAG = "tapeline/retraining", "tapeline/drift_event"
_SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Wish:
    """A training that drift asks for. source: market or planted."""

    model: str
    event: str
    why: str
    source: str
    cooldown_days: float


def wishes(trainings: Mapping[str, Any], ledger: Ledger, universe: str) -> Iterator[Wish]:
    """Models whose newest verdict says drifted and whose file wants them trained again."""
    from ml.planted import UNIVERSE

    for name, file in sorted(trainings.items()):
        if not (file.drift.retrain and file.in_job):
            continue
        registered = f"tapeline-{name}-{UNIVERSE if file.data == 'planted' else universe}"
        verdict = newest(model_verdicts.verdicts_of(ledger, registered))
        if verdict is not None and verdict.drifted:
            yield Wish(name, verdict.event, "; ".join(verdict.reasons), file.data, file.drift.cooldown_days)


def newest(verdicts: Mapping[str, DriftVerdict]) -> DriftVerdict | None:
    """The verdict given last: that on the champion of now."""
    return max(verdicts.values(), key=lambda v: v.judged_wall, default=None)


def request(wish: Wish) -> dg.RunRequest:
    """The training of one model: its inputs, the canaries, the model, its verdict, the report, with all their checks."""
    inputs = "training_set" if wish.source == "market" else "planted_training_set"
    assets = [inputs, "model_canaries", f"model_{wish.model}", f"model_drift_{wish.model}", "model_report"]
    return dg.RunRequest(
        run_key=f"drift:{wish.model}:{wish.event}",
        asset_selection=[dg.AssetKey(a) for a in assets],
        tags={MODEL_TAG: wish.model, EVENT_TAG: wish.event, "tapeline/why": wish.why[:250]},
    )


@dg.sensor(
    name="model_retraining",
    job_name=JOB_NAME,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A champion has drifted: train that model again, once for each drift and not more often than its cooldown; the "
    "promotion gate decides as always.",
)
def model_retraining(
    context: dg.SensorEvaluationContext, config_files: ConfigFilesResource, ledger: LedgerResource
) -> dg.SensorResult | dg.SkipReason:
    found = read_model_files(settings().config / "models")
    book = ledger.ledger()
    wanted = list(wishes(found.trainings, book, config_files.load().universe.name))
    if not wanted:
        return dg.SkipReason("No champion has drifted.")
    if _running(context.instance):
        return dg.SkipReason("A training is under way.")
    waiting = []
    for wish in wanted:
        why = _not_now(context.instance, wish, time.time())
        if why:
            waiting.append(f"{wish.model}: {why}")
            continue
        content = {"model": wish.model, "why": wish.why[:500]}
        model_verdicts.note_done(book, f"retrain {wish.model}", wish.event, content)
        # One at a time: two trainings would share the machine with the desk.
        return dg.SensorResult(run_requests=[request(wish)])
    return dg.SkipReason("; ".join(waiting))


def _not_now(instance: dg.DagsterInstance, wish: Wish, now: float) -> str:
    """Why `wish` is not asked for now, "" when it is."""
    if instance.get_runs(dg.RunsFilter(tags={MODEL_TAG: wish.model, EVENT_TAG: wish.event}), limit=1):
        return f"asked for already because of {wish.event}"
    last = instance.get_run_records(dg.RunsFilter(tags={MODEL_TAG: wish.model}), limit=1)
    days = (now - last[0].create_timestamp.timestamp()) / _SECONDS_A_DAY if last else float("inf")
    return "" if days >= wish.cooldown_days else f"asked {days:.1f} days ago, again after {wish.cooldown_days:g}"


def _running(instance: dg.DagsterInstance) -> bool:
    active = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    return bool(instance.get_runs(dg.RunsFilter(job_name=JOB_NAME, statuses=active), limit=1))


SENSORS = [model_retraining]
