"""Files people drop: each becomes a source of bars, or is refused with a report that names the lines.

`accepted_files` is no part of `ingest`: its runs are asked for by the sensor `inbox_files`; what it accepts is then
ingested like every other source.
"""

from collections import Counter

import dagster as dg
from pydantic import Field

from assets.common import MARKET_DATA_OWNERS, markdown_table
from resources.inbox import Inbox, Outcome
from resources.settings import settings

JOB = "ingest_files"
TAKEN = "files_accepted"


class Batch(dg.Config):
    """Files to take, as they lie in the inbox (NAME or PROFILE/NAME); none named: every file that waits."""

    files: list[str] = Field(default_factory=list)


@dg.asset(
    group_name="inbox",
    owners=MARKET_DATA_OWNERS,
    kinds={"csv", "parquet"},
    tags={"lane": "ingest"},
    check_specs=[
        dg.AssetCheckSpec(
            TAKEN,
            asset="accepted_files",
            description="Every file of the batch was accepted. Refused ones lie in inbox/rejected with a report of the lines.",
        )
    ],
    description="CSV and Parquet files dropped into data/inbox: detected, judged row by row, sources of the feed `files`.",
)
def accepted_files(context: dg.AssetExecutionContext, config: Batch) -> dg.MaterializeResult:
    inbox = Inbox(settings())
    names = config.files or [w.name for w in inbox.waiting() if w.finished]
    outcomes: list[Outcome] = []
    failed: list[tuple[str, str]] = []
    for name in names:
        try:
            outcome = inbox.take(name)
        except Exception as error:  # the disk or a bug, not the file: it stays in the inbox, the others go on
            context.log.exception(f"{name} could not be taken")
            failed.append((name, f"{type(error).__name__}: {error}"))
            continue
        outcomes.append(outcome)
        context.log.info(f"{name}: {outcome.state} {outcome.why or outcome.path}")
    if failed:
        named = "; ".join(f"{name}: {why}" for name, why in failed)
        raise dg.Failure(
            f"{len(failed)} file(s) could not be taken and stay in the inbox ({named}); the other {len(outcomes)} are done",
            metadata={"outcomes": dg.MetadataValue.md(_table(outcomes))},
            allow_retries=False,
        )
    counts = Counter(o.state for o in outcomes)
    refused = [o for o in outcomes if o.state == "rejected"]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(o.rows for o in outcomes if o.state == "accepted"),
            "accepted": counts["accepted"],
            "rejected": counts["rejected"],
            "duplicates": counts["duplicate"],
            "outcomes": dg.MetadataValue.md(_table(outcomes)),
            "inbox": dg.MetadataValue.path(str(inbox.folder)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=TAKEN,
                passed=not refused,
                severity=dg.AssetCheckSeverity.WARN,
                description="; ".join(f"{o.name}: {o.why}" for o in refused)[:1000] or f"{len(outcomes)} file(s), none refused",
                metadata={
                    "refused": dg.MetadataValue.md(
                        markdown_table(["file", "why", "report"], [[o.name, o.why, o.report] for o in refused])
                    )
                },
            )
        ],
    )


def _table(outcomes: list[Outcome]) -> str:
    rows = [
        [o.name, o.state, ", ".join(o.symbols), o.rows, f"{o.span[0]} to {o.span[1]}" if o.span else "", o.why, o.report]
        for o in outcomes
    ]
    return markdown_table(["file", "state", "instruments", "rows", "sessions", "why", "report"], rows)


ASSETS = [accepted_files]
JOBS = [
    dg.define_asset_job(
        JOB,
        selection=dg.AssetSelection.assets("accepted_files"),
        executor_def=dg.in_process_executor,
        description="Takes the files that wait in data/inbox: accepted ones become sources of the feed `files`.",
    )
]
