"""Checks and comparisons of research: no look-ahead, decisions that replay, two revisions of one strategy."""

from typing import Any

import dagster as dg

from assets.common import image, markdown_table
from assets.research import strategies
from assets.research_results import research_store
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from resources.settings import settings
from trading.timeframes import iso

AUDIT_BARS = 1_500
"""Newest bars of an instrument that the catalogue of features, indicators, patterns and functions is audited on."""


@dg.asset_check(
    asset=strategies,
    name="no_look_ahead",
    blocking=True,
    description="Every feature, indicator, pattern, execution function, strategy and plan is computed again on real bars cut at "
    "sampled times and must say the same up to there, bit for bit. What looks ahead is named with the first row that differs; "
    "nothing is backtested or promoted then.",
)
def no_look_ahead(
    context: dg.AssetCheckExecutionContext, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.AssetCheckResult:
    from assets.research_run import NotRun, prepare_once
    from trading import audit

    config, bars = config_files.load(), lake.lake()
    store = research_store()
    made: list[audit.Audited] = []
    catalogue: list[audit.Audited] = []
    # The instrument with the most to audit: one with volume where there is one.
    for instrument in sorted(config.universe.instruments.values(), key=lambda i: (not i.has_volume, i.symbol)):
        read = bars.read_bars(f"bars_{instrument.native_timeframe}", instrument.symbol)
        if len(read) > 500:
            catalogue = audit.audit_catalogue(read.rows(slice(-AUDIT_BARS, None)), instrument, cuts=8)
            break
    prepared, failed = prepare_once(context.run.run_id, config, bars, settings().paper_cash)
    for one in prepared:
        verdicts = [audit.audit_evaluable(one.evaluable, one.windows[i.symbol], i) for i in one.experiment.instruments]
        made += verdicts
        e = one.evaluable
        store.put(e.name, e.revision, "audit", {"passed": all(v.passed for v in verdicts), "snapshot": one.snapshot})
    store.put("catalogue", "all", "audit", {"passed": bool(catalogue) and all(a.passed for a in catalogue)})
    everything = [*catalogue, *made]
    leaks = [a for a in everything if a.leak is not None]
    errors = [a for a in everything if a.error]
    said = [_not_audited(f) for f in failed if isinstance(f, NotRun)]
    header = ["kind", "name", "instrument", "recomputed", "what differs"]
    return dg.AssetCheckResult(
        passed=not leaks,
        description=f"{len(leaks)} look ahead" if leaks else f"{sum(a.passed for a in everything)} audited, none looks ahead",
        metadata={
            "leaks": dg.MetadataValue.md(markdown_table(header, [[a.kind, a.name, a.symbol, a.cuts, a.leak] for a in leaks])),
            "not_audited": dg.MetadataValue.md(
                markdown_table(header, [*[[a.kind, a.name, a.symbol, a.cuts, a.error] for a in errors], *said])
            ),
            "audited": dg.MetadataValue.md(
                markdown_table(["kind", "name", "instrument", "bars", "recomputed"],
                               [[a.kind, a.name, a.symbol, a.rows, a.cuts] for a in everything if a.passed])
            ),
            "count": len(everything),
        },
    )  # fmt: skip


def _not_audited(failed: Any) -> list[Any]:
    return [failed.kind, failed.name, "", 0, failed.reason]


@dg.asset_check(
    asset=dg.AssetKey("decisions"),
    name="decisions_replay",
    description="Every decision of the newest session, decided again from its stored snapshot, gives the same bytes; its "
    "signals, computed again from the lake where the bars are still the same, give the same signals. Differences are named.",
)
def decisions_replay(config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource) -> dg.AssetCheckResult:
    from assets.replay_check import newest_session, replay

    store = ledger.ledger()
    session = newest_session(store)
    if session is None:
        return dg.AssetCheckResult(passed=True, description="no session has decisions yet", metadata={"decisions": 0})
    done = replay(session, config_files.load(), lake.lake(), store, research_store())
    header = ["what", "strategy", "instrument", "close", "where", "was", "is now", "id"]
    rows = [[d.what, d.strategy, d.symbol, iso(d.close_time), d.where, d.was, d.now, d.id] for d in done.differences]
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{session}: {done.decisions} decisions and {done.signals} signals recomputed, {len(rows)} differences",
        metadata={
            "session": session,
            "decisions": done.decisions,
            "signals": done.signals,
            "differences": dg.MetadataValue.md(markdown_table(header, rows)),
            "not_computed": dg.MetadataValue.md(markdown_table(["why", "signals"], list(done.not_computed.items()))),
        },
    )


class Compared(dg.Config):
    """Two revisions of a strategy or plan: the beginnings of their hashes. `tapeline research revisions NAME` lists them."""

    name: str = ""
    revision_a: str = ""
    revision_b: str = ""


@dg.asset(
    group_name="research",
    owners=["team:research"],
    tags={"lane": "research"},
    deps=[strategies],
    kinds={"python", "numba"},
    description="Two revisions of one strategy on identical bars: paired bootstrap of the difference, and what was changed in "
    "the file. Launch job compare_revisions with name, revision_a, revision_b.",
)
def revision_comparison(config: Compared, config_files: ConfigFilesResource, lake: LakeResource) -> dg.MaterializeResult:
    from assets.research_compare import compare_revisions
    from resources.research_store import UnknownRevision

    if not (config.name and config.revision_a and config.revision_b):
        raise dg.Failure("config name, revision_a and revision_b: expected a strategy and two of its revisions "
                         "(`tapeline research revisions NAME`)")  # fmt: skip
    loaded = config_files.load()
    try:
        done = compare_revisions(
            config.name, config.revision_a, config.revision_b, loaded, lake.lake(), settings().paper_cash, research_store()
        )
    except (UnknownRevision, ValueError) as error:
        raise dg.Failure(str(error)) from error
    shown = done.shown
    return dg.MaterializeResult(
        metadata={
            "verdict": shown.figures["verdict"],
            "revisions": f"a {done.a.revision}, b {done.b.revision}",
            "figures": dg.MetadataValue.md(markdown_table(shown.header, shown.rows)),
            "changes": dg.MetadataValue.md(f"```diff\n{done.diff or 'no difference'}\n```"),
            "curves": image(shown.pictures["compare"], "results of both revisions"),
            **{k: v for k, v in shown.figures.items() if isinstance(v, float) and v == v},
        }
    )


ASSETS: list[Any] = [revision_comparison]
CHECKS: list[Any] = [no_look_ahead, decisions_replay]
CHECK_REPLAY = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("decisions"), "decisions_replay"))

JOBS: list[Any] = [
    dg.define_asset_job(
        "compare_revisions",
        selection=dg.AssetSelection.assets("revision_comparison"),
        executor_def=dg.in_process_executor,
        description="Two revisions of one strategy on identical bars; give name, revision_a and revision_b.",
    ),
    dg.define_asset_job(
        "daily_replay",
        selection=CHECK_REPLAY,
        executor_def=dg.in_process_executor,
        description="The newest session's decisions and signals, computed again: no byte may differ.",
    ),
]
SCHEDULES: list[Any] = [
    dg.ScheduleDefinition(
        name="daily_replay",
        job_name="daily_replay",
        cron_schedule="30 6 * * *",
        execution_timezone="America/New_York",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every morning: yesterday's decisions must replay.",
    )
]
