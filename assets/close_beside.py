"""The paper book beside an account in the step of a bar close: its stages, and one page for both books."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import dagster as dg

from assets.books import merged
from assets.close_stages import BookRun, Report, stages
from trading.timeframes import iso


def beside(run: BookRun, wanted: list[str]) -> tuple[dict[str, Report], Exception | None]:
    """The stages on the paper book, for the closes its desk has taken. One that it has not: nothing is decided there."""
    try:
        run = replace(run, config=run.book.config(run.config))
        missing = [at for at in run.closes if not run.book.waits_for(at)]
    except Exception as error:  # noqa: BLE001 - raised by the caller, once the account's stages are told
        return {}, error
    taken = replace(run, closes=[at for at in run.closes if at not in missing])
    ends: list[Callable[[], None]] = []
    reports, problem = stages(taken, wanted, run.book.desk, ends, checked=True)
    try:
        for end in ends:
            end()
    except dg.Failure as error:
        problem = problem or error
    if missing and problem is None:
        problem = dg.Failure(
            f"The desk of the paper book has not taken the bar close {', '.join(map(iso, missing[:5]))}: nothing was decided on "
            "it there. Is it running (data/logs/desk_paper.log)? The account's decisions of this close are made."
        )
    return reports, problem


def together(main: Report, paper: Report | None) -> Report:
    """One page for both books: what is said of the paper book stands under its own names, and both must be in order."""
    if paper is None:
        return main

    def report() -> dg.MaterializeResult:
        first, second = main(), paper()
        checks = [
            dg.AssetCheckResult(
                check_name=a.check_name, passed=a.passed and b.passed, severity=a.severity,
                metadata=merged(a.metadata, b.metadata),
            )
            for a, b in zip(first.check_results or (), second.check_results or (), strict=False)
        ]  # fmt: skip
        metadata = merged(first.metadata or {}, second.metadata or {})
        return dg.MaterializeResult(asset_key=first.asset_key, metadata=metadata, check_results=checks)

    return report
