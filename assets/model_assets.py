"""What may be promoted: models of data/config/models, their audits and canaries, the gate, and the report.

Each file is one asset ``model_NAME`` with its own blocking check ``promotion_gate``. The champion alias moves nowhere else.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.common import image
from assets.models import baseline_model, training_set
from assets.upstream import MadeOutput
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource, TrackingResource
from resources.model_files import ModelFiles, read_model_files
from resources.revision import code_revision
from resources.settings import settings

_COMMON: dict[str, Any] = {"group_name": "models", "owners": ["team:research"], "tags": {"lane": "research"}}
GATE = "promotion_gate"


@dg.asset(
    **_COMMON,
    kinds={"python", "parquet"},
    description="A training set of a market that was made up: prices lean towards a hidden state that the features show dimly. "
    "Labelled synthetic. A model that finds nothing here is broken; what it earns here says nothing about real markets.",
)
def planted_training_set() -> dg.MaterializeResult:
    from assets import model_data, model_run
    from ml import dataset

    _, data = model_data.planted_set()
    path = model_data.planted_path(settings())
    dataset.save(data, path)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(data),
            "dagster/uri": path.as_uri(),
            "synthetic": data.synthetic,
            "span": data.span(),
            "instruments": dg.MetadataValue.md(model_run.symbols_table(data)),
            "features_version": data.matrix.features_version,
            "data_hash": data.content_hash(),
        },
        data_version=dg.DataVersion(data.content_hash()),
    )


def _audit_result(audit: Any) -> dg.AssetCheckResult:
    from assets import model_data

    return dg.AssetCheckResult(
        passed=audit.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{sum(audit.checked.values())} comparisons, {len(audit.findings)} findings",
        metadata={"audit": dg.MetadataValue.md(model_data.audit_table(audit))},
    )


@dg.asset_check(
    asset=training_set,
    blocking=True,
    description="No feature of a row changes when every later bar is taken away, and no label is known before its event end. "
    "A finding stops every training.",
)
def leakage_audit(config_files: ConfigFilesResource, lake: LakeResource) -> dg.AssetCheckResult:
    from assets import model_data, model_run
    from ml import dataset

    universe = config_files.load().universe
    data = dataset.load(model_run.training_set_path(settings(), universe.name))
    return _audit_result(model_data.market_audit(data, lake.lake(), universe, settings().price_view))


@dg.asset_check(
    asset=planted_training_set,
    name="leakage_audit",
    blocking=True,
    description="The same audit of the made-up market: nothing in it looks ahead.",
)
def planted_leakage_audit() -> dg.AssetCheckResult:
    from assets import model_data
    from ml import dataset

    made, _ = model_data.planted_set()
    return _audit_result(model_data.planted_audit(dataset.load(model_data.planted_path(settings())), made))


@dg.asset(
    **_COMMON,
    kinds={"python", "pytorch"},
    description="Small trainings whose right answer is known: a planted edge must be found, pure noise left alone, planted "
    "leaks caught. Run in every training job; no model of this code is promoted unless all of them pass.",
)
def model_canaries(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    from assets import model_data
    from ml import canaries

    made = canaries.run_all(progress=context.log.info)
    model_data.save_canaries(
        model_data.canaries_path(settings()), made, model_data.learning_revision(), context.run.run_id
    )  # fmt: skip
    return dg.MaterializeResult(
        metadata={
            "canaries": dg.MetadataValue.md(model_data.canaries_table(made)),
            "learning_revision": model_data.learning_revision(),
            **{name: value for c in made for name, value in ((c.name, c.measured), (f"{c.name}_passed", c.passed))},
        }
    )


@dg.asset_check(
    asset=model_canaries,
    blocking=True,
    description="Every canary passed for the code that is running now; else nothing is trained.",
)
def canaries_sing() -> dg.AssetCheckResult:
    from assets import model_data

    passed, why = model_data.canaries_passed(model_data.canaries_path(settings()), model_data.learning_revision())
    return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.ERROR, description=why)


def model_asset(name: str, kind: str, source: str, description: str) -> tuple[Any, Any]:
    """(asset ``model_NAME``, its promotion gate) of one model file. source: market or planted."""
    inputs = training_set if source == "market" else planted_training_set
    label = "" if source == "market" else "Trained on synthetic data. "

    @dg.asset(
        name=f"model_{name}",
        **_COMMON,
        deps=[inputs, model_canaries],
        kinds={"mlflow", "pytorch"},
        description=f"{label}{description} Trained and judged as data/config/models says: audit, walk-forward, locked slice, "
        "baselines, intervals. Every training is a run in MLflow and a new version; the gate decides whether it is trusted.",
    )
    def made(
        context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, tracking: TrackingResource,
        ledger: LedgerResource,
    ) -> dg.MaterializeResult:  # fmt: skip
        return _train(context, name, config_files, lake, MadeOutput(ledger, f"model_{name}", name))

    @dg.asset_check(
        asset=made,
        name=GATE,
        blocking=True,
        description="Moves the alias champion to the newest version when every criterion holds: audit and canaries, trades, "
        "deflated Sharpe, overfitting, superior ability, lower Sharpe bound, twice the costs, drawdown, locked slice, champion. "
        "Otherwise champion stays where it is, and the figures that failed are shown.",
    )
    def gate(config_files: ConfigFilesResource, tracking: TrackingResource) -> dg.AssetCheckResult:
        return _gate(name, config_files, tracking)

    return made, gate


def _file(name: str) -> Any:
    """The model file as it is now. Raises dg.Failure with its problems when it cannot be used."""
    found = read_model_files(settings().config / "models")
    if name not in found.trainings:
        problems = "\n".join(str(p) for p in found.problems) or "its file is gone"
        raise dg.Failure(f"Model {name} cannot be trained: {problems}")
    return found.trainings[name]


def _train(
    context: dg.AssetExecutionContext, name: str, config_files: ConfigFilesResource, lake: LakeResource, output: MadeOutput
) -> dg.MaterializeResult:
    from assets import model_data, model_outcome, model_run, model_train
    from ml import dataset
    from ml.agents import UnknownAgent
    from ml.baseline import TrainingError
    from ml.leakage import LeakageFound

    own, file = settings(), _file(name)
    universe = config_files.load().universe  # loads the plug-ins, too: an agent may be one
    run_id = context.run.run_id
    tags = {
        "dagster_run_id": run_id, "asset_key": context.asset_key.to_user_string(), "code_revision": code_revision(),
        "dagster_run_url": f"{own.webserver_url}/runs/{run_id}",
        "dagster_asset_url": f"{own.webserver_url}/assets/{context.asset_key.to_user_string()}",
    }  # fmt: skip
    try:
        if file.data == "planted":
            made, _ = model_data.planted_set()
            path = model_data.planted_path(own)
            data = dataset.load(path)
            traded, audit = model_data.Traded(made.bars, made.instruments), model_data.planted_audit(data, made)
        else:
            path = model_run.training_set_path(own, universe.name)
            data = dataset.load(path)
            traded = model_data.market_of(data, lake.lake(), universe, own.price_view)
            audit = model_data.market_audit(data, lake.lake(), universe, own.price_view)
        done = model_train.run(
            file, data, traded, audit, data_path=path, settings=own, tags=tags, say=context.log.info
        )  # fmt: skip
    except (dataset.DatasetError, TrainingError, LeakageFound, UnknownAgent) as error:
        raise dg.Failure(f"No model was trained: {error}") from error
    # What was made up follows from its seed: no partition of the lake can overtake it.
    output.record(() if done.data.synthetic else done.data.sources)
    j = done.judged.judgement
    tracked = done.tracked
    tables = {key.lower().replace(" ", "_"): dg.MetadataValue.md(text) for key, text in done.tables.items()}
    pictures = {f"picture_{key.removesuffix('.png')}": image(png, key) for key, png in done.figures.items()}
    return dg.MaterializeResult(
        metadata={
            "mlflow_run": dg.MetadataValue.url(tracked.run_url),
            "mlflow_model": dg.MetadataValue.url(tracked.model_url),
            "model": f"{tracked.name} version {tracked.version}",
            "mlflow_run_id": tracked.run_id,
            "model_version": tracked.version,
            "model_hash": done.model_hash,
            "data_hash": done.data.content_hash(),
            "data_kind": f"synthetic: {done.data.synthetic}" if done.data.synthetic else "market",
            "kind": kind_of(file),
            "dagster/row_count": len(done.data),
            "gate": dg.MetadataValue.md(model_run.criteria_table(done.criteria)),
            "kpis": dg.MetadataValue.md(model_outcome.kpi_table(j)),
            "against_baselines": dg.MetadataValue.md(model_outcome.against_table(j)),
            "luck": dg.MetadataValue.md(model_outcome.luck_table(j)),
            "costs": dg.MetadataValue.md(model_outcome.ladder_table(j)),
            "regimes": dg.MetadataValue.md(model_outcome.regime_table(j)),
            **tables,
            **pictures,
            **{
                key: value
                for key, value in done.metrics.items()
                if key in ("sharpe", "sharpe_low", "dsr", "pbo", "spa_worst", "trades")
            },
        },
        data_version=dg.DataVersion(done.model_hash),
    )


def kind_of(file: Any) -> str:
    """``agent recurrent_ppo`` or ``forecaster``."""
    return f"agent {file.agent}" if file.kind == "agent" else str(file.kind)


def _gate(name: str, config_files: ConfigFilesResource, tracking: TrackingResource) -> dg.AssetCheckResult:
    from assets import model_outcome, model_run, model_train
    from ml import planted, promotion
    from resources.tracking import CHALLENGER, CHAMPION, TrackingError

    file, mlflow = _file(name), tracking.tracking()
    universe = planted.UNIVERSE if file.data == "planted" else config_files.load().universe.name
    registered = model_train.registered_name(file, universe)
    version = mlflow.version_of(registered, CHALLENGER)
    if version is None:
        return dg.AssetCheckResult(passed=False, metadata={"reason": f"{registered} has no version: materialise model_{name}"})
    tags = mlflow.version_tags(registered, version)
    if not _untouched(mlflow, registered, version, tags):
        reason = f"{registered} version {version}: the stored model is not the one that was trained; train again"
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.ERROR, metadata={"reason": reason})
    try:
        notes = json.loads(mlflow.run_file(registered, version, model_outcome.REPORT_FILE))["notes"]
    except (TrackingError, ValueError, KeyError):
        notes = {}
    metrics = mlflow.metrics(registered, version)
    criteria = promotion.judge(metrics, notes)
    passed, stays = promotion.promoted(criteria), ""
    if passed:
        stays = mlflow.promote(registered, version, {"promotion": "passed"})
    else:
        mlflow.note(registered, version, {"promotion": "failed: " + ", ".join(promotion.failed(metrics))})
    synthetic = " (synthetic data)" if tags.get("data_kind") == "synthetic" else ""
    said = "is champion" if passed else f"is rejected: {', '.join(promotion.failed(metrics))}; champion stays where it is"
    if stays:
        said = f"meets every criterion, and champion stays where it is: {stays}"
    return dg.AssetCheckResult(
        passed=passed and not stays,
        # A model that is not good enough is a finding, not a breakdown: the run goes on and champion stays.
        severity=dg.AssetCheckSeverity.WARN,
        description=f"version {version}{synthetic} {said}",
        metadata={
            "criteria": dg.MetadataValue.md(model_run.criteria_table(criteria)),
            "version": version,
            "champion": mlflow.version_of(registered, CHAMPION) or "none",
            "model": dg.MetadataValue.url(f"{mlflow.url}/#/models/{registered}/versions/{version}"),
        },
    )


def _untouched(mlflow: Any, registered: str, version: str, tags: Mapping[str, str]) -> bool:
    """Are the stored numbers those that were trained?"""
    from resources.tracking import TrackingError

    digest = hashlib.sha256()
    try:
        for file in tags.get("files", "").split():
            digest.update(file.encode() + b"\0" + mlflow.model_bytes(registered, version, file))
    except TrackingError:
        return False
    return digest.hexdigest() == tags.get("files_hash")


def report_asset(models: Sequence[Any]) -> Any:
    """The asset ``model_report`` over all models."""

    @dg.asset(
        name="model_report",
        **_COMMON,
        deps=list(models),
        kinds={"python", "mlflow"},
        description="Every model against its targets: KPI, target, measured, 95 % interval, verdict, plots; what the gate said, "
        "and which version is champion. Rejected models are shown with their red figures.",
    )
    def model_report(context: dg.AssetExecutionContext, config_files: ConfigFilesResource, tracking: TrackingResource) -> Any:
        from assets.model_page import write_report

        page, overview, details = write_report(
            read_model_files(settings().config / "models"), config_files.load().universe.name, tracking.tracking(), settings()
        )
        return dg.MaterializeResult(
            metadata={"page": dg.MetadataValue.path(str(page)), "models": dg.MetadataValue.md(overview),
                      **{k: dg.MetadataValue.md(v) for k, v in details.items()}}
        )  # fmt: skip

    return model_report


def build(found: ModelFiles) -> tuple[list[Any], list[Any]]:
    """(assets, checks) of the model files; a file with problems is named in the report and has no asset."""
    made = [
        model_asset(name, file.kind, file.data, file.description) for name, file in sorted(found.trainings.items())
    ]  # fmt: skip
    assets = [asset for asset, _ in made]
    return [*assets, report_asset([*assets, baseline_model])], [check for _, check in made]


_FOUND = read_model_files(settings().config / "models")
_MODELS, _GATES = build(_FOUND)
ASSETS: list[Any] = [planted_training_set, model_canaries, *_MODELS]
CHECKS: list[Any] = [leakage_audit, planted_leakage_audit, canaries_sing, *_GATES]
OFFERED_ONLY: list[str] = [f"model_{name}" for name, file in _FOUND.trainings.items() if not file.in_job]
"""Models that the train job leaves out; they are materialised when asked for."""

__all__ = ["ASSETS", "CHECKS", "GATE", "OFFERED_ONLY", "build", "model_asset"]
