"""``tapeline upkeep``: what an installation collects and nobody needs any more.

Exit codes: 0 done, 1 something could not be done, 3 the ledger cannot be reached.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli_support import UNREACHABLE, WRONG, banner, fail, open_ledger, own_settings, print_json, table, warn, who_asks

app = typer.Typer(help="Keeping the installation small.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeping the installation small."""


@app.command()
def dagster(
    apply: Annotated[
        bool, typer.Option("--apply/--dry-run", help="Delete what is shown; kept in the audit. Without it nothing goes")
    ] = False,
    who: Annotated[str, typer.Option(help="Who asks; kept in the audit; default: the user of this terminal")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table")] = False,
) -> None:
    """Runs, events, checks, ticks and printed lines in Dagster that are older than the settings TAPELINE_DAGSTER_*_DAYS."""
    from sqlalchemy.exc import SQLAlchemyError

    from resources import dagster_upkeep

    own = own_settings()
    try:
        limits = dagster_upkeep.Limits.of(own)
        if apply:
            with open_ledger() as ledger:
                found = dagster_upkeep.apply(own, limits, ledger.engine, who=who_asks(who))
        else:
            found = dagster_upkeep.plan(own, limits)
    except dagster_upkeep.UpkeepRefused as error:
        fail(str(error), WRONG)
    except FileNotFoundError:
        fail("there is no database yet: start Tapeline with `tapeline up`", UNREACHABLE)
    except SQLAlchemyError as error:
        fail(f"Dagster's database does not answer ({type(error).__name__}): is Postgres running?", UNREACHABLE)
    if as_json:
        print_json(found.to_dict())
    else:
        banner()
        rows = [
            ["runs of single bar closes", f"{limits.trade_run_days} days", ""],
            ["all other runs, failed ones", f"{limits.run_days} days", ""],
            ["  deleted whole", "", f"{found.runs:,}"],
            ["  kept for their newest events, without their steps' log", "", f"{found.slimmed:,}"],
            ["  rows of their logs", "", f"{found.run_events:,}"],
            ["events the desk reported", f"{limits.event_days} days", f"{found.runless_events:,}"],
            ["check evaluations", "with their run", f"{found.checks:,}"],
            ["ticks of sensors and schedules", "dagster.yaml", f"{found.ticks:,}"],
            ["folders of printed lines", f"{limits.log_days} days", f"{found.log_folders:,} ({found.log_bytes / 2**20:.1f} MiB)"],
        ]
        table("deleted" if apply else "would be deleted (dry run)", ["what", "kept for", "count"], rows)
    for line in found.problems:
        warn(f"not done: {line}")
    if not apply and found.anything:
        warn("nothing was deleted: `tapeline upkeep dagster --apply` does it and writes it to the audit")
    raise typer.Exit(WRONG if found.problems else 0)
