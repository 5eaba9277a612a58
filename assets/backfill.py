"""``gap_plan`` says which bars are missing and what would be asked for them; ``gap_fill`` asks. Job: ``backfill_gaps``.

Materialise ``gap_plan`` alone for a dry run: its check warns while there is anything to ask for, its metadata hold the table
of requests and what is left of every provider's budget. Filled sessions are judged, what is derived from them follows.
"""

import dagster as dg

from assets.backfill_run import ASK_AGAIN_DAYS, Backfill, BackfillPlan, Filled
from assets.common import MARKET_DATA_OWNERS, markdown_table
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from trading.universe import Universe

GROUP = "backfill"
SHOWN = 100


class GapConfig(dg.Config):
    """start, end: sessions as ISO dates, default: the universe's whole span. symbols: default: all. ask_again_days: how long
    a session the source does not have is left alone."""

    start: str = ""
    end: str = ""
    symbols: list[str] = []  # noqa: RUF012 - a field with a default, copied per instance
    ask_again_days: int = ASK_AGAIN_DAYS


def span(universe: Universe, start: str, end: str) -> tuple[str, str]:
    """The sessions asked about as ISO dates: what is given, else what the universe keeps."""
    from datetime import UTC, datetime

    today = datetime.now(UTC).date()
    return start or universe.history_start.isoformat(), end or (universe.history_end or today).isoformat()


def _plan(work: Backfill, config: GapConfig) -> BackfillPlan:
    from datetime import date

    start, end = span(work.universe, config.start, config.end)
    return work.plan(date.fromisoformat(start), date.fromisoformat(end), config.symbols or None)


def plan_metadata(plan: BackfillPlan) -> dict[str, dg.MetadataValue | int | str]:
    """What a dry run shows."""
    missing = sum(f.request.missing for f in plan.requests)
    left = [[feed, *("no limit" if n is None else n for n in both)] for feed, both in sorted(plan.left.items())]
    empty = [[*name, why] for name, why in sorted(plan.empty.items())]
    return {
        "sessions": f"{plan.start} to {plan.end}",
        "requests": len(plan.requests),
        "missing_bars": missing,
        "plan": dg.MetadataValue.md(markdown_table(*plan.table(), SHOWN)),
        "budgets_left": dg.MetadataValue.md(markdown_table(["feed", "this minute", "today"], left)),
        "known_empty": len(empty),
        "not_asked_again_yet": dg.MetadataValue.md(markdown_table(["bars", "symbol", "session", "evidence"], empty, SHOWN)),
        "problems": dg.MetadataValue.md(markdown_table(["symbol", "why"], sorted(plan.problems.items()))),
    }


@dg.asset(
    group_name=GROUP,
    owners=MARKET_DATA_OWNERS,
    kinds={"python"},
    tags={"lane": "ingest"},
    check_specs=[
        dg.AssetCheckSpec("no_gaps_to_fill", asset="gap_plan", description="No bar is missing that a source could be asked for.")
    ],
    description="Dry run: bars missing against the calendar and the fewest requests that would bring them. Asks nobody.",
)
def gap_plan(
    context: dg.AssetExecutionContext,
    config: GapConfig,
    config_files: ConfigFilesResource,
    lake: LakeResource,
    ledger: LedgerResource,
) -> dg.MaterializeResult:
    plan = _plan(Backfill(config_files, lake.lake(), ledger.ledger(), run_id=context.run.run_id), config)
    missing = sum(f.request.missing for f in plan.requests)
    said = f"{missing} bars missing, {len(plan.requests)} requests would be made"
    context.log.info(f"{said}; {len(plan.empty)} sessions are known to be empty")
    return dg.MaterializeResult(
        metadata=plan_metadata(plan),
        check_results=[
            dg.AssetCheckResult(
                passed=not plan.requests and not plan.problems,
                check_name="no_gaps_to_fill",
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{said}.",
                metadata={"requests": len(plan.requests), "missing_bars": missing, "problems": len(plan.problems)},
            )
        ],
    )


@dg.asset(
    group_name=GROUP,
    owners=MARKET_DATA_OWNERS,
    kinds={"parquet", "python"},
    tags={"lane": "ingest"},
    deps=[gap_plan],
    description="Missing bars from the sources, within their budgets; what a source does not have is written down. Resumable.",
)
def gap_fill(
    context: dg.AssetExecutionContext,
    config: GapConfig,
    config_files: ConfigFilesResource,
    lake: LakeResource,
    ledger: LedgerResource,
) -> dg.MaterializeResult:
    work = Backfill(config_files, lake.lake(), ledger.ledger(), run_id=context.run.run_id)
    plan = _plan(work, config)  # planned anew: what came since the dry run is not asked for
    filled = work.run(
        plan,
        ask_again_days=config.ask_again_days,
        progress=lambda done, total, item, said: context.log.info(f"{done}/{total} {item.feed} {item.request}: {said}"),
    )
    if filled.failed:
        raise dg.Failure(
            f"{len(filled.failed)} of {len(plan.requests)} requests failed ({next(iter(filled.failed.values()))}); the others "
            "are done. Mend the source and run again: only what is still missing is asked for.",
            metadata=dict(fill_metadata(plan, filled)),
            allow_retries=False,
        )
    return dg.MaterializeResult(metadata=fill_metadata(plan, filled))


def fill_metadata(plan: BackfillPlan, filled: Filled) -> dict[str, dg.MetadataValue | int | str]:
    """What a run did."""
    return {
        "sessions": f"{plan.start} to {plan.end}",
        "asked": filled.asked,
        "filled_bars": filled.filled_bars,
        "filled_sessions": filled.filled_sessions,
        "known_empty": filled.empty_sessions,
        "requests": dg.MetadataValue.md(markdown_table(["feed", "request", "what became of it"], filled.rows, SHOWN)),
        "left_for_later": dg.MetadataValue.md(markdown_table(["feed", "why"], sorted(filled.stopped.items()))),
        "failed": dg.MetadataValue.md(markdown_table(["request", "why"], sorted(filled.failed.items()))),
    }


ASSETS: list[dg.AssetsDefinition] = [gap_plan, gap_fill]
CHECKS: list[dg.AssetChecksDefinition] = []
JOBS = [
    dg.define_asset_job(
        "backfill_gaps",
        selection=dg.AssetSelection.assets("gap_plan", "gap_fill"),
        executor_def=dg.in_process_executor,
        description="Missing bars: the plan, then the requests, within every provider's budget. gap_plan alone is a dry run.",
    )
]
