"""Research asset: which gate refused what, and what the refused signals would have earned."""

from typing import Any

import dagster as dg

from assets import gate_run
from assets.common import image, markdown_table
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
    from resources import gate_plots

    loaded = config_files.load()
    prepared, failed = prepare_once(context.run_id, loaded, lake.lake(), settings().paper_cash, config.strategies)
    found = gate_run.reports(prepared, failed)
    for failure in failed:
        context.log.warning(f"{failure.kind} {failure.name}: {failure.reason}")
    header, rows = gate_run.HISTORY_HEADER, gate_run.history_rows(found)
    # Two narrow tables: one of fifteen columns leaves its cell.
    count, earn = gate_run.REFUSED_COLUMNS, gate_run.EARNED_COLUMNS
    metadata: dict[str, Any] = {
        "earned": image(gate_plots.earned(found), "what the refused signals would have earned, by gate"),
        "refused": dg.MetadataValue.md(markdown_table([header[c] for c in count], gate_run.part(rows, count))),
        "results": dg.MetadataValue.md(markdown_table([header[c] for c in earn], gate_run.part(rows, earn))),
        "reading": dg.MetadataValue.md(markdown_table(["word", "means"], gate_run.READING)),
        "dagster/row_count": sum(len(r.lines) for r in found),
        "not_computed": dg.MetadataValue.md(markdown_table(["strategy", "why"], [[f.name, f.reason] for f in failed])),
        "simulated_data": loaded.universe.simulated,
    }
    return dg.MaterializeResult(metadata=metadata)


ASSETS: list[Any] = [gate_analytics]
