"""`model_explanation_NAME`: why a model said what it said, decision by decision. Materialised from the UI, when somebody asks."""

from typing import Any

import dagster as dg

from assets.common import image, markdown_table
from resources.dagster_resources import ConfigFilesResource, LakeResource, TrackingResource
from resources.model_files import ModelFiles, read_model_files
from resources.settings import settings

NEWEST = 120
"""Closes among which decisions are looked for."""


class ExplanationConfig(dg.Config):
    """What is explained. samples: decisions; symbol: of one instrument only, empty: of all."""

    samples: int = 6
    symbol: str = ""


def explanation_asset(name: str) -> Any:
    """The asset of one model file."""

    @dg.asset(
        name=f"model_explanation_{name}",
        group_name="models",
        owners=["team:research"],
        tags={"lane": "research"},
        deps=[f"model_{name}"],
        kinds={"python", "mlflow"},
        description="The newest decisions of the champion (of the newest version while there is none), each with what every "
        "feature added to it: integrated gradients of networks and policies, exact Shapley values of trees, sampled ones "
        "of agents that are plug-ins. Ask for more, or for one instrument, in the launchpad (samples, symbol).",
    )
    def made(
        context: dg.AssetExecutionContext, config: ExplanationConfig, config_files: ConfigFilesResource, lake: LakeResource,
        tracking: TrackingResource,
    ) -> dg.MaterializeResult:  # fmt: skip
        return _explain(name, config, config_files, lake, tracking)

    return made


def _explain(
    name: str, config: ExplanationConfig, config_files: ConfigFilesResource, lake: LakeResource, tracking: TrackingResource
) -> dg.MaterializeResult:
    from assets import model_drift_run as run
    from assets import model_explanation_run
    from assets.model_run import NoFeatures
    from ml.agents import UnknownAgent
    from resources import drift_plots
    from resources.tracking import TrackingError
    from trading.timeframes import iso

    found = read_model_files(settings().config / "models")
    if name not in found.trainings:
        raise dg.Failure(f"Model {name} cannot be explained: " + ("\n".join(map(str, found.problems)) or "its file is gone"))
    file, universe, mlflow = found.trainings[name], config_files.load().universe, tracking.tracking()
    watched = run.watched(file, universe.name, mlflow)
    if watched is None:
        return dg.MaterializeResult(metadata={"explained": "never trained: there is nothing to explain"})
    try:
        rows = run.rows_of(file, lake.lake(), universe)
        made, why = model_explanation_run.explain(file, watched, mlflow, rows, config.samples, config.symbol, NEWEST)
    except (run.CannotJudge, NoFeatures, UnknownAgent, TrackingError, ValueError) as error:
        raise dg.Failure(f"No explanation of {name}: {error}") from error
    unit = made[0].unit if made else ""
    label = " (synthetic data)" if file.data == "planted" else ""
    pictures: dict[str, Any] = {}
    table = []
    for number, one in enumerate(made, 1):
        title = f"{one.symbol} {iso(one.close_time)[:16]} {one.what}{label}"
        picture = drift_plots.explained(list(one.values.items()), one.base, one.log_odds, unit, title)
        pictures[f"decision_{number:02d}"] = image(picture, title)
        top = sorted(one.values.items(), key=lambda v: -abs(v[1]))[:4]
        table.append([one.symbol, iso(one.close_time), one.what, f"{one.base:+.4f}", f"{one.log_odds:+.4f}",
                      ", ".join(f"{n} {v:+.3f}" for n, v in top), f"{one.gap:+.1e}"])  # fmt: skip
    header = ["instrument", "bar close", "decision", "average row", "this one", "most of it", "not caught"]
    return dg.MaterializeResult(
        metadata={
            "explained": dg.MetadataValue.md(markdown_table(header, table) + (f"\n\n{why}" if why else "")),
            "unit": unit,
            "mlflow_run": dg.MetadataValue.url(mlflow.run_page(watched.registered, watched.version)),
            "mlflow_model": dg.MetadataValue.url(watched.run_url),
            "model_version": watched.version,
            "trusted": watched.trusted,
            "dagster/row_count": len(made),
            **pictures,
        }
    )


def build(found: ModelFiles) -> list[Any]:
    return [explanation_asset(name) for name in sorted(found.trainings)]


ASSETS: list[Any] = build(read_model_files(settings().config / "models"))
NAMES: list[str] = [asset.key.to_user_string() for asset in ASSETS]
"""Left out of the train job: they are made when somebody asks."""
