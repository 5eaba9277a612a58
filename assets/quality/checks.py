"""Asset checks on the bars, and which of them stop what.

Every dataset has, from one run over whatever sessions the run covers:

- ``structure`` (blocking): the files can be read and are what their manifest promises, columns and types are right. It
  fails with severity ERROR, and features and everything else downstream in the run do not start: computing on a torn
  dataset would spread the damage. The rules then fail too: what was not judged has not passed.
- one check per rule of the kernel (not blocking): a jump of one symbol in 2005 must not stop the other symbols or the
  rest of the history. What stops trading is the verdict of that symbol's session in the ledger, with severity ``error``:
  the decision gate refuses, by name, whatever needs that partition. In the UI such a check is an ERROR when one of the
  newest RECENT_SESSIONS sessions fails and a WARN when only older ones do.

Beside the rules:

- ``quarantine``: rows of the sessions that were put aside at ingest and that nobody has resolved. While there are any, the
  gate refuses whatever needs the partition (check=quarantine), whatever else was judged.
- ``cross_source``: on native datasets with an instrument that names a second feed.
- ``scorecard``: five scores per partition with a table, a trend and the aim; it never stops trading by itself.

``live_verdicts`` on the native datasets looks the other way round: the desk judges every bar as it closes, and this check
says whether the partitions of sessions the desk has opened have all their verdicts, passed and on the very content the
lake holds. It is an ERROR when no symbol has them (the desk does not judge at all). It blocks nothing: the gate refuses
each signal that needs a partition without good verdicts, by name, and that refusal belongs in the ledger and the report.

None of them has partitions of its own: in a run over a range Dagster 1.13 records a planned evaluation for each partition
and check and never completes them. The sessions judged are in the metadata, the verdict per session in the ledger.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg

from assets.common import configured_universe, markdown_table, session_span
from assets.market_data import sources_of, timeframes_of
from assets.quality import more_checks, suites
from assets.quality.cross import CROSS_SOURCE, compare_sources
from assets.quality.history import Judged, examples, judge_dataset
from assets.quality.known import Knowledge
from assets.quality.score import record_scores, scorecards
from assets.quality.verdicts import missing_or_failed, record
from resources.dagster_resources import ConfigFilesResource, LakeResource, LedgerResource
from resources.feeds.market_clock import market_now
from resources.ledger.put_aside import QUARANTINE
from resources.ledger.store import VerdictRow
from trading.quality import ALL_CHECKS, ERROR, ERROR_CHECKS
from trading.signals import PartitionRef
from trading.timeframes import Timeframe
from trading.universe import Universe

RECENT_SESSIONS = 20
SHOWN_FAILURES = 25
STRUCTURE = "structure"
SCORECARD = more_checks.SCORECARD
LIVE = "live_verdicts"


def bars_checks(universe: Universe, timeframe: Timeframe) -> dg.AssetChecksDefinition:
    """The checks of ``bars_<timeframe>``."""
    dataset = f"bars_{timeframe}"
    specs = [
        dg.AssetCheckSpec(
            STRUCTURE, asset=dataset, blocking=True, description="Every file can be read, with the columns and types of bars."
        ),
        *(
            dg.AssetCheckSpec(name, asset=dataset, description=f"{text[0].upper()}{text[1:]}.")
            for name, text in suites.RULES.items()
        ),
        dg.AssetCheckSpec(
            SCORECARD, asset=dataset, description="Missing and wrong bars stay below the aim, partition by partition."
        ),
        dg.AssetCheckSpec(QUARANTINE, asset=dataset, description="No row of the sessions waits in quarantine for an operator."),
    ]
    if any(i.second_feed and i.native_timeframe is timeframe for i in universe.instruments.values()):
        specs.append(
            dg.AssetCheckSpec(CROSS_SOURCE, asset=dataset, description="Closes and volumes agree with those of a second source.")
        )

    @dg.multi_asset_check(name=f"{dataset}_quality", specs=specs, can_subset=True, op_tags={"lane": "ingest"})
    def quality(
        context: dg.AssetCheckExecutionContext, config_files: ConfigFilesResource, lake: LakeResource, ledger: LedgerResource
    ) -> Iterator[dg.AssetCheckResult]:
        now_universe = config_files.load().universe
        store = lake.lake()
        symbols = [s for group in sources_of(now_universe, timeframe).values() for s in group]
        start, end = session_span(context) or _whole(store, now_universe, dataset)
        now = market_now(now_universe)
        book = ledger.ledger()
        knowledge = Knowledge(store, book, now)
        judged = judge_dataset(store, now_universe, dataset, symbols, start, end, now=now, known_of=knowledge)
        compared = compare_sources(judged, now_universe, config_files.feed)
        written = record(book, judged, context.run.run_id)
        cards = scorecards(judged, now_universe, book)
        record_scores(book, judged, cards, context.run.run_id)
        context.log.info(
            f"{dataset}: {len(judged.partitions)} partitions judged in {judged.seconds:.2f} s, {written} verdicts recorded"
        )
        results = [
            *_results(judged, written),
            more_checks.scorecard(judged, now_universe, cards),
            more_checks.quarantine(judged, book),
            more_checks.cross_source(judged, compared),
        ]
        for result in results:
            if dg.AssetCheckKey(dg.AssetKey(dataset), str(result.check_name)) in context.selected_asset_check_keys:
                yield result

    return quality


def _results(judged: Judged, written: int) -> Iterator[dg.AssetCheckResult]:
    scope = {
        "sessions": f"{judged.start} to {judged.end}",
        "partitions": len(judged.partitions),
    }
    yield _structure(judged, suites.check_structure(suites.bars_frame(judged.bars)), scope, written)
    outcomes = suites.check_rules(suites.verdict_frame(judged))
    recent = set(sorted({p.session for p in judged.partitions})[-RECENT_SESSIONS:])
    for check in ALL_CHECKS:
        outcome = outcomes[check]
        failed = list(judged.failures(check))
        if outcome.success == bool(failed):
            raise dg.Failure(f"{judged.dataset}: suite and kernel disagree on {check}; nothing can be said about it")
        fresh = [part for part, _ in failed if part.session in recent]
        stops = [r.severity == ERROR for part, r in failed if part.session in recent]
        severe = bool(judged.unreadable) or any(stops)
        rows = [
            [part.session, part.symbol, len(result.failed_rows), result.message,
             "; ".join(_example(e) for e in examples(part, result, 2) if "message" not in e)]
            for part, result in failed[:SHOWN_FAILURES]
        ]  # fmt: skip
        metadata: dict[str, Any] = {
            **scope,
            "rule": suites.RULES[check],
            "expectation": outcome.expectation,
            "failed_partitions": outcome.unexpected_count,
            "failed_rows": sum(len(result.failed_rows) for _, result in failed),
            "failed_recently": len(fresh),
            "stops_trading": check in ERROR_CHECKS or any(r.severity == ERROR for _, r in failed),
        }
        if failed:
            header = ["session", "symbol", "rows", "what", "example bars"]
            metadata["failures"] = dg.MetadataValue.md(
                markdown_table(header, rows)
                + (f"\n\n{len(failed) - len(rows)} more, see the ledger" if len(failed) > len(rows) else "")
            )
        yield dg.AssetCheckResult(
            passed=not failed and not judged.unreadable,
            asset_key=judged.dataset,
            check_name=check,
            severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
            description=_sentence(failed, judged),
            metadata=metadata,
        )


def _structure(judged: Judged, outcomes: list[Any], scope: dict[str, Any], written: int) -> dg.AssetCheckResult:
    bad = [o for o in outcomes if not o.success]
    metadata: dict[str, Any] = {
        **scope,
        "rows": sum(len(b) for b in judged.bars),
        "expectations": len(outcomes),
        "verdicts_recorded": written,
    }
    if judged.unreadable:
        metadata["unreadable"] = dg.MetadataValue.md(markdown_table(["what", "why"], sorted(judged.unreadable.items())))
    if bad:
        rows = [[o.expectation, o.subject, o.unexpected_count, o.observed] for o in bad]
        metadata["failures"] = dg.MetadataValue.md(markdown_table(["expectation", "column", "count", "observed"], rows))
    said = [*judged.unreadable.values(), *(f"{o.expectation} on {o.subject}: {o.observed}" for o in bad)]
    return dg.AssetCheckResult(
        passed=not said,
        asset_key=judged.dataset,
        check_name=STRUCTURE,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(said[:3]) if said else f"{metadata['rows']} rows with the right columns and types.",
        metadata=metadata,
    )


def _sentence(failed: list[Any], judged: Judged) -> str:
    count = len(judged.partitions)
    unread = f" {len(judged.unreadable)} could not be read and are not judged." if judged.unreadable else ""
    if not failed:
        return f"{count} partitions passed.{unread}"
    part, result = failed[0]
    return f"{len(failed)} of {count} partitions failed, newest {part.session} {part.symbol}: {result.message}.{unread}"


def _example(values: dict[str, Any]) -> str:
    return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items() if k != "row")


def _whole(lake: Any, universe: Universe, dataset: str) -> tuple[date, date]:
    """The span of everything the lake holds of the dataset."""
    held = lake.partitions(dataset, universe.history_start, universe.history_end or date.max)
    if not held:
        return universe.history_start, universe.history_start
    return min(p.session for p in held), max(p.session for p in held)


def live_checks(universe: Universe, timeframes: Sequence[Timeframe]) -> dg.AssetChecksDefinition:
    """``live_verdicts`` of every ``bars_<timeframe>``: has the desk judged every partition of the session, and passed it?

    One step for all of them: it runs beside every bar close.
    """

    @dg.multi_asset_check(
        name=LIVE,
        specs=[
            dg.AssetCheckSpec(
                LIVE,
                asset=dg.AssetKey(f"bars_{timeframe}"),
                description="The session's partitions have every verdict, passed, on the very content the lake holds now.",
            )
            for timeframe in timeframes
        ],
        can_subset=True,
    )
    def live_verdicts(
        context: dg.AssetCheckExecutionContext, lake: LakeResource, ledger: LedgerResource
    ) -> Iterator[dg.AssetCheckResult]:
        store, book = lake.lake(), ledger.ledger()
        opened = {str(row["session"]) for row in book.sessions()}
        for key in sorted(context.selected_asset_check_keys):
            dataset = key.asset_key.to_user_string()
            start, end = session_span(context) or _whole(store, universe, dataset)
            held = [p for p in store.partitions(dataset, start, end) if p.session.isoformat() in opened]
            # A run that brings the source's final bars makes the verdicts on the live ones stale by itself.
            remade = key.asset_key in context.job_def.asset_layer.executable_asset_keys
            yield live_result(dataset, held, book, f"{start} to {end}", error_when_none_good=not remade)

    return live_verdicts


def live_result(
    dataset: str, partitions: list[Any], ledger: Any, sessions: str, *, error_when_none_good: bool
) -> dg.AssetCheckResult:
    """The verdicts of `partitions` as the gate would see them. None to look at: passed, the desk opened no such session.

    error_when_none_good: a failure is an ERROR when no partition has good verdicts, else always a WARN.
    """
    refs = [PartitionRef(p.dataset, p.session.isoformat(), p.symbol, p.content_hash) for p in partitions]
    verdicts: dict[tuple[str, str], list[VerdictRow]] = {}
    for row in ledger.verdicts(refs):
        verdicts.setdefault((row.session, row.symbol), []).append(row)
    bad: list[list[Any]] = []
    good = 0
    for ref in refs:
        faults = missing_or_failed(verdicts.get((ref.session, ref.symbol), []), ref.content_hash, ERROR_CHECKS)
        good += not faults
        bad += [
            [f"{ref.dataset}/{ref.session}/{ref.symbol}", check, reason, _words(row)] for check, reason, row in faults
        ]  # fmt: skip
    # With none good nobody is judging; with some bad those are refused at the gate, the others trade.
    severity = dg.AssetCheckSeverity.ERROR if error_when_none_good and not good else dg.AssetCheckSeverity.WARN
    said = f"{good} of {len(refs)} partitions of live sessions have all their verdicts"
    return dg.AssetCheckResult(
        passed=not bad,
        asset_key=dataset,
        check_name=LIVE,
        severity=severity,
        description=f"{said}." if not bad else f"{said}; {bad[0][0]} check={bad[0][1]} reason={bad[0][2]}",
        metadata={
            "sessions": sessions,
            "partitions": len(refs),
            "good_partitions": good,
            "faults": dg.MetadataValue.md(markdown_table(["partition", "check", "reason", "what"], bad, SHOWN_FAILURES)),
        },
    )


def _words(row: VerdictRow | None) -> str:
    if row is None:
        return ""
    return "; ".join(str(e["message"]) if "message" in e else _example(dict(e)) for e in row.examples[:2])


def quality_checks(universe: Universe) -> list[dg.AssetChecksDefinition]:
    """Every check on the universe's bars."""
    frames = timeframes_of(universe)
    native = {i.native_timeframe for i in universe.instruments.values()}
    return [*(bars_checks(universe, f) for f in frames), live_checks(universe, [f for f in frames if f in native])]


ASSETS: list[dg.AssetsDefinition] = []
CHECKS: list[dg.AssetChecksDefinition] = quality_checks(configured_universe())
