"""Models: the training set and the baseline forecaster tracked in MLflow. What may be promoted: assets/model_assets.py."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets import model_run
from assets.common import image
from assets.upstream import MadeOutput
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource, TrackingResource
from resources.outputs import MODEL, TRAINING_SET
from resources.price_view import outcome_bars
from resources.revision import code_revision
from resources.settings import settings

LONG_ENOUGH = "long_enough"
_COMMON: dict[str, Any] = {"group_name": "models", "owners": ["team:research"], "tags": {"lane": "research"}}

_TRAINING_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("close_time", "timestamp[us, UTC]", "when the row was known and the forecast is made"),
        dg.TableColumn("session", "int32", "days since 1970-01-01"),
        dg.TableColumn("symbol", "string"),
        dg.TableColumn("event_end", "timestamp[us, UTC]", "when the label is known; splits purge by it"),
        dg.TableColumn("forward_return", "float64", "next open to the open HORIZON bars later, as a fraction"),
        dg.TableColumn("direction", "int8", "1 when forward_return is positive"),
        dg.TableColumn("forward_return_*", "float64", "the same over other horizons"),
        dg.TableColumn("barrier", "int8", "triple barrier: 1 the upper came first, -1 the lower, 0 neither in time"),
        dg.TableColumn("f_*", "float32", "one column per feature, prices relative to the close"),
    ],
    constraints=dg.TableConstraints(other=["unique(close_time, symbol)", "no missing values"]),
)


@dg.asset(
    **_COMMON,
    deps=[dg.AssetKey(f"features_{model_run.TIMEFRAME}"), dg.AssetKey(f"bars_{model_run.TIMEFRAME}")],
    kinds={"python", "parquet"},
    metadata={"dagster/column_schema": _TRAINING_SCHEMA},
    description="Labelled feature rows of every instrument that may be backtested: what was known at each daily close, and "
    "whether a trade entered at the next open was up a week later. One Parquet file that names the partitions it came from. "
    "While the history is too short it waits: nothing is trained, and check `long_enough` says what is missing.",
    check_specs=[
        dg.AssetCheckSpec(
            LONG_ENOUGH,
            asset="training_set",
            description="The history is long enough to train on. Fails as a warning while it is not: no model is trained then, "
            "the rest goes on, and the next training looks again.",
        )
    ],
    output_required=False,
)
def training_set(
    config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    from ml import dataset

    universe = config_files.load().universe
    made = MadeOutput(ledger, TRAINING_SET, f"{universe.name}_{model_run.TIMEFRAME}")
    try:
        gathered = model_run.gather(lake.lake(), universe)
    except model_run.TooYoung as error:
        yield dg.AssetCheckResult(
            check_name=LONG_ENOUGH, passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error)
        )
        return
    except model_run.NoFeatures as error:
        raise dg.Failure(str(error)) from error
    data = gathered.training_set
    path = model_run.training_set_path(settings(), universe.name)
    dataset.save(data, path)
    made.record(data.sources)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(data),
            "dagster/uri": path.as_uri(),
            "span": data.span(),
            "share_of_rises": data.prior,
            "horizon_bars": data.horizon,
            "instruments": dg.MetadataValue.md(model_run.symbols_table(data)),
            "left_out": dg.MetadataValue.md("\n".join(f"- {s}: {why}" for s, why in gathered.left_out.items()) or "none"),
            "features": len(data.matrix.names),
            "features_version": data.matrix.features_version,
            "schema_hash": data.matrix.schema_hash,
            "data_hash": data.content_hash(),
            "sources_hash": data.sources_hash(),
        },
        data_version=dg.DataVersion(data.content_hash()),
    )
    yield dg.AssetCheckResult(check_name=LONG_ENOUGH, passed=True, description=f"{len(data)} rows, {data.span()}")


@dg.asset(
    **_COMMON,
    deps=[training_set],
    kinds={"mlflow", "sklearn"},
    description="Logistic regression or gradient boosting, whichever forecast better on past data, judged walk-forward "
    "against the class prior and in money after costs. It is what the other models are held against and is never promoted.",
)
def baseline_model(
    context: dg.AssetExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, tracking: TrackingResource,
    ledger: LedgerResource,
) -> dg.MaterializeResult:  # fmt: skip
    from ml import baseline, dataset, promotion, rule

    universe = config_files.load().universe
    made = MadeOutput(ledger, MODEL, model_run.model_name(universe.name))
    path = model_run.training_set_path(settings(), universe.name)
    try:
        data = dataset.load(path)
        result = baseline.train(data)
    except (dataset.DatasetError, baseline.TrainingError) as error:
        raise dg.Failure(f"No model was trained: {error}") from error
    place, view = lake.lake(), settings().price_view
    bars = {s: outcome_bars(place, place.read_bars(f"bars_{data.matrix.timeframe}", s), view) for s in data.matrix.symbols}
    money = rule.evaluate_rule(data, result.out_of_sample, bars, model_run.tradable(universe))
    criteria = promotion.skill({**result.metrics(), **money.metrics()})
    figures = {
        "forecast.png": model_run.forecast_picture(data, result),
        "rule.png": model_run.rule_picture(money, settings().account_currency),
    }
    tags = {
        "dagster_run_id": context.run.run_id,
        "dagster_run_url": f"{settings().webserver_url}/runs/{context.run.run_id}",
        "dagster_asset_url": f"{settings().webserver_url}/assets/{context.asset_key.to_user_string()}",
        "asset_key": context.asset_key.to_user_string(),
        "partition": data.span(),
        "code_revision": code_revision(),
        "data_kind": "market",
        "trials": str(len(baseline.KINDS)),
    }
    tracked = tracking.tracking().log_model(
        model_run.record(data, result, money, criteria, path=path, tags=tags, figures=figures)
    )
    made.record(data.sources)
    context.log.info(f"{tracked.name} version {tracked.version}: {result.model.kind}, AUC {result.overall.auc:.3f}")
    return dg.MaterializeResult(
        metadata={
            "mlflow_run": dg.MetadataValue.url(tracked.run_url),
            "mlflow_model": dg.MetadataValue.url(tracked.model_url),
            "model": f"{tracked.name} version {tracked.version}",
            "mlflow_run_id": tracked.run_id,
            "model_version": tracked.version,
            "model_hash": result.model.content_hash(),
            "data_hash": data.content_hash(),
            "kind": result.model.kind,
            "dagster/row_count": len(data),
            "skill": dg.MetadataValue.md(model_run.criteria_table(criteria)),
            "walk_forward": dg.MetadataValue.md(model_run.folds_table(result)),
            "in_money": dg.MetadataValue.md(model_run.rule_table(money)),
            "forecast_quality": image(figures["forecast.png"], "ROC, calibration and feature importance"),
            "rule_equity": image(figures["rule.png"], "equity of the threshold rule"),
            "test_auc": result.overall.auc,
            "test_auc_low": result.auc_low,
            "test_log_loss": result.overall.log_loss,
            "prior_log_loss": result.overall.prior_log_loss,
            "rule_net_return": money.net_return,
            "rule_trades": money.trades,
        },
        data_version=dg.DataVersion(result.model.content_hash()),
    )


ASSETS: list[Any] = [training_set, baseline_model]
