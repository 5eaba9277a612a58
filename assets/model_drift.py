"""`model_drift_NAME`: is the world a model was trained in still there? One asset for each file of data/config/models.

What its file says under ``drift:`` happens elsewhere: the decision gate reads the verdict from the ledger, the sensor
`model_retraining` asks for a training, and with ``then: halt`` its strategies are halted at the desk from here, once.
"""

from typing import Any

import dagster as dg

from assets.common import image
from resources.dagster_resources import ConfigFilesResource, DeskResource, LakeResource, LedgerResource, TrackingResource
from resources.model_files import ModelFiles, read_model_files
from resources.settings import settings

FEATURES, OUTPUTS, PERFORMANCE = "features_stable", "outputs_stable", "performance_holds"
_QUESTIONS = {
    FEATURES: "The features of the newest closes lie where those of the training part lay (population stability index and "
    "Kolmogorov-Smirnov, ranked among stretches of the training part).",
    OUTPUTS: "The model says what it used to say, by the same measures.",
    PERFORMANCE: "What its decisions earn net of costs has not fallen (Page-Hinkley and ADWIN), nor have its strategies' trades.",
}


def drift_asset(name: str) -> Any:
    """The asset of one model file."""
    asset = f"model_drift_{name}"

    @dg.asset(
        name=asset,
        group_name="models",
        owners=["team:research"],
        tags={"lane": "research"},
        deps=[f"model_{name}"],
        kinds={"python", "mlflow"},
        check_specs=[dg.AssetCheckSpec(check, asset=asset, description=said) for check, said in _QUESTIONS.items()],
        description="The champion (the newest version while there is none) held against the newest bars: features, what it says, "
        "what it earns. The verdict on a champion goes to the ledger, where the decision gate reads it.",
    )
    def made(
        context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, tracking: TrackingResource,
        ledger: LedgerResource, desk: DeskResource,
    ) -> dg.MaterializeResult:  # fmt: skip
        return _judged(context, asset, name, config_files, lake, tracking, ledger, desk)

    return made


def _judged(
    context: dg.AssetExecutionContext, asset: str, name: str, config_files: ConfigFilesResource, lake: LakeResource,
    tracking: TrackingResource, ledger: LedgerResource, desk: DeskResource,
) -> dg.MaterializeResult:  # fmt: skip
    from assets import model_drift_run as run
    from assets.model_run import NoFeatures
    from resources.ledger import model_verdicts

    found = read_model_files(settings().config / "models")
    if name not in found.trainings:
        raise dg.Failure(f"Model {name} cannot be judged: " + ("\n".join(map(str, found.problems)) or "its file is gone"))
    file, config, mlflow = found.trainings[name], config_files.load(), tracking.tracking()
    watched = run.watched(file, config.universe.name, mlflow)
    if watched is None:
        return _nothing(asset, "never trained: there is nothing to watch")
    book = _book(ledger)
    strategies = run.strategies_with(config, name)
    try:
        rows = run.rows_of(file, lake.lake(), config.universe)
        judged = run.judge(file, watched, mlflow, rows, settings(), run.trades_of(book, strategies) if book else {})
    except (run.CannotJudge, NoFeatures) as error:
        raise dg.Failure(f"No verdict on {name}: {error}. While its policy asks for one, it takes no new risk.") from error
    event, answered = "", "nothing"
    if watched.trusted and book is not None:
        kept = model_verdicts.record(book, run.as_verdict(file, judged, context.run.run_id))
        event = kept.event
        if kept.drifted and file.drift.then == "halt":
            answered = _halt(book, desk, kept, strategies, context)
    v = judged.verdict
    reasons = {
        FEATURES: [r for r in v.reasons if r.startswith("features")],
        OUTPUTS: [r for r in v.reasons if r.startswith("output ")],
        PERFORMANCE: [r for r in v.reasons if r.startswith(("results", "trades"))],
    }
    severity = dg.AssetCheckSeverity.WARN if file.drift.then == "alert" or not watched.trusted else dg.AssetCheckSeverity.ERROR
    return dg.MaterializeResult(
        metadata={
            "verdict": dg.MetadataValue.md(run.summary(file, judged)),
            "drifted": v.drifted,
            "event": event,
            "done_about_it": answered,
            "mlflow_model": dg.MetadataValue.url(watched.run_url),
            "model_version": watched.version,
            "trusted": watched.trusted,
            "judged_until": dg.MetadataValue.timestamp(v.last_time / 1e6),
            "features": dg.MetadataValue.md(run.shifts_table(v.features)),
            "outputs": dg.MetadataValue.md(run.shifts_table(v.outputs)),
            "results": dg.MetadataValue.md(run.results_table(judged)),
            "strategies": ", ".join(strategies) or "none",
            **{f"picture_{k}": image(png, k) for k, png in run.pictures(file, judged).items()},
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=check, passed=not why, severity=severity, description="; ".join(why) or "no change found",
                metadata={"version": watched.version, "trusted": watched.trusted, "rows": v.rows},
            )
            for check, why in reasons.items()
        ],
    )  # fmt: skip


def _nothing(asset: str, why: str) -> dg.MaterializeResult:
    checks = [
        dg.AssetCheckResult(check_name=c, passed=True, severity=dg.AssetCheckSeverity.WARN, description=why) for c in _QUESTIONS
    ]
    return dg.MaterializeResult(metadata={"verdict": why}, check_results=checks)


def _book(ledger: LedgerResource) -> Any:
    """The ledger; None before the first start, when nothing trades either."""
    try:
        return ledger.ledger()
    except FileNotFoundError:
        return None


def _halt(book: Any, desk: DeskResource, kept: Any, strategies: list[str], context: dg.AssetExecutionContext) -> str:
    """Halt each strategy of the model at the desk, once for this drift: a person may resume it. The gate refuses without this
    as well, so that a desk that does not answer loses nothing."""
    from resources.desk_client import DeskError
    from resources.ledger import model_verdicts

    said = []
    reason = f"model {kept.registered} version {kept.version} has drifted: {'; '.join(kept.reasons)}"[:500]
    for strategy in strategies:
        what = f"halt {strategy}"
        if model_verdicts.done(book, what, kept.event):
            said.append(f"{strategy}: was halted for this before")
            continue
        try:
            desk.client().halt("halted", reason, model_verdicts.ACTOR, strategy)
        except DeskError as error:
            context.log.error(f"{strategy} could not be halted at the desk ({error}); the decision gate refuses it")
            said.append(f"{strategy}: the desk did not answer, the gate refuses it")
            continue
        model_verdicts.note_done(book, what, kept.event, {"model": kept.model, "version": kept.version})
        said.append(f"{strategy}: halted")
    return "; ".join(said) or "no strategy trades it"


def build(found: ModelFiles) -> list[Any]:
    return [drift_asset(name) for name in sorted(found.trainings)]


ASSETS: list[Any] = build(read_model_files(settings().config / "models"))
_JOB: Any = (
    dg.define_asset_job(
        "model_drift",
        selection=dg.AssetSelection.assets(*ASSETS),
        executor_def=dg.in_process_executor,
        description="Every model held against the newest bars: features, what it says, what it earns.",
    )
    if ASSETS
    else None
)
JOBS: list[Any] = [_JOB] if ASSETS else []
SCHEDULES: list[Any] = (
    [
        dg.ScheduleDefinition(
            name="daily_model_drift",
            job=_JOB,
            cron_schedule="30 19 * * 1-5",
            execution_timezone="America/New_York",
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description="After the sessions of the day: without a fresh verdict half_size and halt take no new risk.",
        )
    ]
    if ASSETS
    else []
)
