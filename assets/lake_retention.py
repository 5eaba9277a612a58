"""Keeping the lake small: past minutes folded into their month, and what the retention policy would remove.

Both are assets so that the UI shows what they did. Retention is a dry run unless the run is started with
``apply: true``; what goes is in the audit first, and nothing the ledger refers to goes.
"""

import time
from typing import Any

import dagster as dg
from pydantic import Field

from assets.common import MARKET_DATA_OWNERS, markdown_table
from resources.dagster_resources import LakeResource, LedgerResource
from resources.lake import LakeError
from resources.settings import settings


class RetentionConfig(dg.Config):
    """What a run of the retention may do."""

    apply: bool = Field(default=False, description="Remove what the policy says; false: only show it")


@dg.asset(
    group_name="lake",
    owners=MARKET_DATA_OWNERS,
    kinds={"parquet"},
    tags={"lane": "maintenance"},
    description="Minutes of past sessions folded from their own files into their month, replaced versions merged into few "
    "files, leftovers of interrupted writes swept. No content and no hash changes. Runs after every session.",
)
def lake_compaction(context: dg.AssetExecutionContext, lake: LakeResource) -> dg.MaterializeResult:
    store = lake.lake()
    began = time.perf_counter()
    done, failed = [], {}
    for dataset in store.datasets():
        try:
            done += store.compact(dataset)
        except LakeError as error:  # a torn period of one dataset keeps no other from being folded
            failed[dataset] = str(error)
    rows = [[c.dataset, c.period, c.what, c.symbols, c.rows, c.files_before, c.files_after] for c in done]
    header = ["dataset", "period", "what", "symbols", "rows", "files before", "files after"]
    metadata: dict[str, Any] = {
        "compacted": dg.MetadataValue.md(markdown_table(header, rows)),
        "sessions_folded": sum(c.what == "folded" for c in done),
        "rows_folded": sum(c.rows for c in done if c.what == "folded"),
        "seconds": round(time.perf_counter() - began, 3),
    }
    if failed:
        named = "; ".join(f"{name}: {why}" for name, why in sorted(failed.items()))
        raise dg.Failure(f"{len(failed)} dataset(s) could not be compacted ({named})", metadata=metadata, allow_retries=False)
    context.log.info(f"{metadata['sessions_folded']} hot sessions folded, {len(done)} changes in all")
    return dg.MaterializeResult(metadata=metadata | {"sizes": dg.MetadataValue.md(_sizes(store))})


@dg.asset(
    group_name="lake",
    owners=MARKET_DATA_OWNERS,
    kinds={"parquet", "yaml"},
    tags={"lane": "maintenance"},
    description="What the retention policy (data/config/lake/retention.yaml) would remove from the lake today, and what is "
    "spared because a signal, decision or order refers to it. A dry run unless started with apply: true, which is audited.",
)
def lake_retention(
    context: dg.AssetExecutionContext, config: RetentionConfig, lake: LakeResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    from resources import retention

    store, engine = lake.lake(), ledger.ledger().engine
    try:
        policy = retention.load_policy(settings())
    except retention.RetentionInvalid as error:
        raise dg.Failure(f"no policy, nothing goes: {error}", allow_retries=False) from error
    made = retention.plan(store, policy, engine)
    failed = retention.apply(store, made, engine, who=f"dagster:{context.run.run_id}") if config.apply else []
    header = ["dataset", "what", "after days", "partitions", "rows", "bytes", "spared, referred to"]
    rows = [[d.dataset, d.what, d.days, len(d.partitions), d.rows, d.bytes, len(d.spared)] for d in made.doomed]
    named = [
        [f"{p.dataset}/{p.session}/{p.symbol}", d.what, p.rows, p.content_hash[:16]] for d in made.doomed for p in d.partitions
    ]
    metadata: dict[str, Any] = {
        "applied": config.apply,
        "plan": dg.MetadataValue.md(markdown_table(header, rows)),
        "partitions": made.partitions,
        "bytes": made.bytes,
        "named": dg.MetadataValue.md(markdown_table(["partition", "what", "rows", "content hash"], named, 100)),
        "policy_revision": made.policy_revision,
        "sizes": dg.MetadataValue.md(_sizes(store)),
    }
    if failed or made.refused:
        said = "; ".join([*failed, *(f"{name}: {why}" for name, why in sorted(made.refused.items()))])
        raise dg.Failure(f"retention is not complete ({said})", metadata=metadata, allow_retries=False)
    return dg.MaterializeResult(metadata=metadata)


def _sizes(lake: Any) -> str:
    found = [lake.size(name) for name in lake.datasets()]
    header = ["dataset", "sessions", "symbols", "rows", "MiB", "bytes/row", "hot sessions", "replaced versions", "replaced MiB"]
    rows = [
        [s.dataset, f"{s.first_session} to {s.last_session}", s.symbols, s.rows, round(s.total_bytes / 2**20, 2),
         round(s.bytes / s.rows, 2) if s.rows else None, s.hot_sessions, s.superseded, round(s.superseded_bytes / 2**20, 2)]
        for s in found
    ]  # fmt: skip
    return markdown_table(header, rows)


lake_retention_job = dg.define_asset_job(
    "lake_retention_job",
    selection=dg.AssetSelection.assets("lake_retention"),
    executor_def=dg.in_process_executor,
    description="Show what the retention policy would remove; with config `apply: true` remove it.",
)
lake_compaction_job = dg.define_asset_job(
    "lake_compaction_job",
    selection=dg.AssetSelection.assets("lake_compaction"),
    executor_def=dg.in_process_executor,
    description="Fold past hot minutes into their month now.",
)

ASSETS: list[Any] = [lake_compaction, lake_retention]
CHECKS: list[Any] = []
JOBS: list[Any] = [lake_retention_job, lake_compaction_job]
SENSORS: list[Any] = []
