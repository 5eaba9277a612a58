"""Research asset: which gate refused what, and what the refused signals would have earned."""

from typing import Any

import dagster as dg

from assets import gate_run
from assets.common import markdown_table
from assets.research import strategy_backtests
from assets.research_run import prepare_once
from resources.dagster_resources import ConfigFilesResource, LakeResource
from resources.settings import settings


class GatesOf(dg.Config):
    """Which strategies."""

    strategies: list[str] = []  # noqa: RUF012 dagster copies it
    """Names; empty: all."""


@dg.asset(
    group_name="research",
    owners=["team:research"],
    tags={"lane": "research"},
    kinds={"python", "numba"},
    deps=[strategy_backtests],
    description="Which gate refused which signals over the history in the lake, and what those would have earned: each by "
    "itself, beside what was traded, and in the whole backtest with only that gate off.",
)
def gate_analytics(
    context: dg.AssetExecutionContext, config: GatesOf, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    loaded = config_files.load()
    prepared, failed = prepare_once(context.run_id, loaded, lake.lake(), settings().paper_cash, config.strategies)
    found = gate_run.reports(prepared, failed)
    for failure in failed:
        context.log.warning(f"{failure.kind} {failure.name}: {failure.reason}")
    metadata: dict[str, Any] = {
        "gates": dg.MetadataValue.md(
            markdown_table(list(gate_run.HISTORY_HEADER), gate_run.history_rows(found), 200) + "\n\n" + gate_run.HISTORY_NOTE
        ),
        "dagster/row_count": sum(len(r.lines) for r in found),
        "not_computed": dg.MetadataValue.md(markdown_table(["strategy", "why"], [[f.name, f.reason] for f in failed])),
        "simulated_data": loaded.universe.simulated,
    }
    return dg.MaterializeResult(metadata=metadata)


ASSETS: list[Any] = [gate_analytics]
