"""Which verdicts a run leaves in the ledger, where the decision gate reads them.

A history of thousands of sessions, nine rules each, would be hundreds of thousands of rows that say "passed". Kept are

- every verdict, passed or failed, of the newest VERDICT_SESSIONS sessions of each symbol that still has bars at the end
  of the run: the gate needs a verdict for each rule of each required partition, and no strategy may require more;
- every failed verdict of any age, so that an old fault stays visible;
- for a fault recorded earlier that this run no longer finds, the passed verdict that replaces it.

A verdict that says what the ledger says already, about the same content, is not written again, unless it has now seen more
of its session or is REFRESH_DAYS old: a verdict expires (docs/quality.md). A partition without
verdicts refuses decisions (reason=missing), so what is left out can only make the desk more careful. Running the checks
on older sessions alone writes their verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from assets.quality.history import Judged, JudgedPartition, examples
from desk.hot_store import HOT_CONFLICT, OWN_CHECKS
from resources.ledger.base import now_us
from resources.ledger.store import VerdictRow
from resources.ledger.verdict_history import Key, Said, copy_verdicts, judged_so_far, known_verdicts
from trading.quality import ALL_CHECKS
from trading.timeframes import US_PER_DAY

if TYPE_CHECKING:
    from resources.ledger.store import Ledger

REFRESH_DAYS = 1
VERDICT_SESSIONS = 300
"""Above the most sessions a strategy or plan may require (quality_sessions, 260 at most)."""


def record(ledger: Ledger, judged: Judged, run_id: str) -> int:
    """Write the verdicts of a run; returns how many rows. Raises sqlalchemy's OperationalError while the ledger is away."""
    said = known_verdicts(ledger.engine, judged.dataset, judged.start, judged.end)
    ages = judged_so_far(ledger.engine, judged.dataset, judged.start, judged.end)
    rows = verdict_rows(judged, run_id, said, ages)
    copy_verdicts(ledger.engine, rows)
    return len(rows)


def verdict_rows(
    judged: Judged, run_id: str, said: dict[Key, Said], ages: Mapping[Key, tuple[int | None, int]] | None = None
) -> list[VerdictRow]:
    """The rows to write, see above. said: what the ledger holds; ages: up to when it was judged, and when (real clock)."""
    evaluated = now_us()
    by_symbol: dict[str, list[JudgedPartition]] = {}
    for part in judged.partitions:
        by_symbol.setdefault(part.symbol, []).append(part)
    rows: list[VerdictRow] = []
    for symbol, parts in by_symbol.items():
        parts.sort(key=lambda p: p.session)
        for age, part in enumerate(reversed(parts)):
            session = part.session.isoformat()
            # What the lake does not hold cannot be required; its failed gap rule is the one thing to say.
            newest = age < VERDICT_SESSIONS and bool(part.content_hash) and symbol not in judged.ended
            for result in (*part.results, *part.extra):
                key = (session, symbol, result.check)
                before = said.get(key)
                if before == (bool(result.passed), str(result.severity), part.content_hash) and not _aged(
                    part, (ages or {}).get(key), evaluated
                ):
                    continue
                if newest or not result.passed or before is not None:
                    rows.append(
                        VerdictRow(
                            judged.dataset, session, symbol, result.check, bool(result.passed), str(result.severity),
                            part.content_hash, len(result.failed_rows) or int(not result.passed),
                            examples(part, result), run_id, evaluated, part.judged_time,
                        )
                    )  # fmt: skip
            for check in OWN_CHECKS:
                held = said.get((session, symbol, check))
                if held is not None and part.content_hash and _settled(check, held, part.content_hash):
                    rows.append(
                        VerdictRow(
                            judged.dataset,
                            session,
                            symbol,
                            check,
                            True,
                            "error",
                            part.content_hash,
                            0,
                            (),
                            run_id,
                            evaluated,
                            part.judged_time,
                        )
                    )
    return rows


def _aged(part: JudgedPartition, before: tuple[int | None, int] | None, evaluated: int) -> bool:
    """Has the verdict to be written again although it says the same?"""
    if before is None or part.judged_time is None:
        return False
    judged_time, wall = before
    return judged_time is None or judged_time < part.judged_time or evaluated - wall > REFRESH_DAYS * US_PER_DAY


def _settled(check: str, held: Said, content_hash: str) -> bool:
    """Does reading and judging this content answer the live path's own verdict `held` anew?

    A verdict on other content would refuse as stale for ever. What could not be read or judged now was. A bar told
    differently twice is settled only by other content: the source's final bars.
    """
    passed, _, judged_hash = held
    return judged_hash != content_hash or (not passed and check != HOT_CONFLICT)


def missing_or_failed(
    verdicts: list[VerdictRow], content_hash: str, required: tuple[str, ...] = ALL_CHECKS
) -> list[tuple[str, str, VerdictRow | None]]:
    """(check, ``failed`` | ``stale`` | ``missing``, its row) of one partition's verdicts: what the gate would refuse for."""
    found: list[tuple[str, str, VerdictRow | None]] = []
    by_check = {v.check: v for v in verdicts}
    for check in sorted({*required, *by_check}):
        row = by_check.get(check)
        if row is None:
            found.append((check, "missing", None))
        elif row.severity == "error" and not row.passed:
            found.append((check, "failed", row))
        elif row.severity == "error" and row.content_hash != content_hash:
            found.append((check, "stale", row))
    return found
