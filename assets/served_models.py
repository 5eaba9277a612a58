"""Models that trade: fetched from MLflow to this disk, which version serves which strategy, champion against challenger."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets import model_assets
from assets.common import image, markdown_table
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource, TrackingResource
from resources.settings import settings

_COMMON: dict[str, Any] = {"group_name": "models", "owners": ["team:research"], "tags": {"lane": "research"}}
_HEADER = ["strategy", "mode", "model", "serves", "since", "MLflow run", "trained on (hash)", "champion", "challenger", "refusal"]


@dg.asset(
    **_COMMON,
    deps=[asset for asset in model_assets.ASSETS if str(asset.key.path[-1]).startswith("model_")],
    kinds={"python", "mlflow"},
    description="Champion, challenger and previous of every model, kept on this disk, so that a desk serves them while MLflow "
    "is away; and which version serves which strategy. Changes no alias and swaps nothing: that is the trade run's.",
)
def served_models(
    context: dg.AssetExecutionContext, config_files: ConfigFilesResource, ledger: LedgerResource, tracking: TrackingResource
) -> dg.MaterializeResult:
    from resources.model_serving import registered_models, status
    from resources.model_store import ModelStore
    from resources.tracking import TrackingError

    own, config = settings(), config_files.load()
    store, mlflow = ModelStore.of(own), tracking.tracking()
    for registered in registered_models(config, own):
        try:
            store.fetch(mlflow, registered, context.log.info)
        except TrackingError as error:
            raise dg.Failure(f"Nothing was changed, what is kept goes on serving: {error}") from error
    rows = status(config_files.load(), ledger.ledger(), own)
    return dg.MaterializeResult(
        metadata={
            "strategies": dg.MetadataValue.md(markdown_table(_HEADER, [r.cells() for r in rows])),
            "kept": dg.MetadataValue.md(
                markdown_table(
                    ["model", "version", "files (hash)", "MLflow run"],
                    [[k.registered, k.version, k.files_hash[:12], k.run_id] for n in store.names() for k in store.versions(n)],
                )
            ),
            "dagster/row_count": len(rows),
        }
    )


@dg.asset_check(
    asset=served_models,
    description="Every active model strategy has a version that can be asked. One that has none takes no new risk and says why.",
)
def models_can_serve(config_files: ConfigFilesResource, ledger: LedgerResource) -> dg.AssetCheckResult:
    from resources.model_serving import status

    rows = [r for r in status(config_files.load(), ledger.ledger(), settings()) if r.status == "active"]
    refused = [r for r in rows if r.refusal]
    return dg.AssetCheckResult(
        passed=not refused,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{r.strategy}: {r.refusal}" for r in refused) or f"{len(rows)} active model strategies serve",
        metadata={"strategies": dg.MetadataValue.md(markdown_table(_HEADER, [r.cells() for r in rows]))},
    )


@dg.asset(
    **_COMMON,
    deps=[served_models],
    kinds={"python", "numba"},
    description="Champion against challenger on identical bars, strategy by strategy, over sessions neither was trained on: "
    "paired bootstrap of the difference, and what both signalled live. It decides nothing: the promotion gate does.",
)
def model_comparison(
    config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
) -> dg.MaterializeResult:  # fmt: skip
    from assets.model_comparison import HEADER, SIGNALS_HEADER, compare_all

    done = compare_all(config_files.load(), lake.lake(), ledger.ledger(), settings())
    tables = {
        f"figures_{c.strategy}": dg.MetadataValue.md(markdown_table(HEADER, c.rows)) for c in done if c.rows
    }  # fmt: skip
    pictures = {f"curves_{c.strategy}": image(c.picture, f"{c.strategy}: champion and challenger") for c in done if c.picture}
    return dg.MaterializeResult(
        metadata={
            "verdicts": dg.MetadataValue.md(markdown_table(["strategy", "verdict"], [[c.strategy, c.verdict] for c in done])),
            "signals": dg.MetadataValue.md(markdown_table(SIGNALS_HEADER, [c.signals for c in done])),
            **tables,
            **pictures,
        }
    )


ASSETS: Sequence[Any] = [served_models, model_comparison]
CHECKS: Sequence[Any] = [models_can_serve]
JOBS: Sequence[Any] = [
    dg.define_asset_job(
        "serve_models",
        selection=dg.AssetSelection.assets("served_models"),
        executor_def=dg.in_process_executor,
        description="Fetch what MLflow names champion, challenger and previous now. Sensor `champions` starts it by itself.",
    ),
    dg.define_asset_job(
        "compare_models",
        selection=dg.AssetSelection.assets("model_comparison"),
        executor_def=dg.in_process_executor,
        description="Champion against challenger of every model strategy, on identical bars.",
    ),
]
