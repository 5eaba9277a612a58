"""Which verdicts a run leaves in the ledger, where the decision gate reads them.

A history of thousands of sessions, nine rules each, would be hundreds of thousands of rows that say "passed". Kept are

- every verdict, passed or failed, of each symbol's newest VERDICT_SESSIONS sessions of the run: the gate needs a verdict
  for each rule of each required partition, and no strategy may require more sessions than that;
- every failed verdict of any age, so that an old fault stays visible;
- for a fault recorded earlier that this run no longer finds, the passed verdict that replaces it.

A partition without verdicts refuses decisions (reason=missing), so what is left out can only make the desk more careful.
Running the checks on older sessions alone writes their verdicts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from assets.quality.history import Judged, JudgedPartition, examples
from resources.ledger import tables as t
from resources.ledger.store import VerdictRow, now_us
from trading.quality import ALL_CHECKS

if TYPE_CHECKING:
    from resources.ledger.store import Ledger

VERDICT_SESSIONS = 300
"""Above the most sessions a strategy or plan may require (quality_sessions, 260 at most)."""

READABLE_CHECKS = ("lake_readable", "judged")
"""Faults of the live path that say "could not be read or judged": a run that reads and judges the partition ends them."""


def record(ledger: Ledger, judged: Judged, run_id: str) -> int:
    """Write the verdicts of a run; returns how many rows. Raises sqlalchemy's OperationalError while the ledger is away."""
    rows = verdict_rows(judged, run_id, known_faults(ledger, judged))
    ledger.put_verdicts(rows)
    return len(rows)


def known_faults(ledger: Ledger, judged: Judged) -> set[tuple[str, str, str]]:
    """(session, symbol, check) of the failed verdicts the ledger holds for the span of the run."""
    q = t.quality_verdicts.c
    failed = select(q.session, q.symbol, q.check_name).where(
        q.dataset == judged.dataset,
        q.session >= judged.start.isoformat(),
        q.session <= judged.end.isoformat(),
        q.passed.is_(False),
    )
    with ledger.engine.connect() as connection:
        return {(session, symbol, check) for session, symbol, check in connection.execute(failed)}


def verdict_rows(judged: Judged, run_id: str, faults: set[tuple[str, str, str]]) -> list[VerdictRow]:
    """The rows to write, see above. faults: what the ledger holds as failed."""
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
            newest = age < VERDICT_SESSIONS and bool(part.content_hash)
            for result in part.results:
                if newest or not result.passed or (session, symbol, result.check) in faults:
                    rows.append(
                        VerdictRow(
                            judged.dataset, session, symbol, result.check, bool(result.passed), str(result.severity),
                            part.content_hash, len(result.failed_rows) or int(not result.passed),
                            () if result.passed else examples(part, result), run_id, evaluated,
                        )
                    )  # fmt: skip
            for check in READABLE_CHECKS:
                if (session, symbol, check) in faults and part.content_hash:
                    rows.append(
                        VerdictRow(
                            judged.dataset, session, symbol, check, True, "error", part.content_hash, 0, (), run_id, evaluated
                        )
                    )
    return rows


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
