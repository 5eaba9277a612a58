"""How good is a partition? Five shares in [0, 1], 1 is best, and the share of bars that are missing or wrong.

With, for one symbol's bars of one session,

    expected    bars the calendar calls for by now (none on a thin FX day, when every bar that is there is expected)
    rows        bars held
    put_aside   rows in quarantine, unresolved
    invalid     held rows that fail a rule on validity (finite, OHLC consistent, positive, in order, inside the session)
    odd         held rows that fail a rule on consistency (jump, stale_repeat, cross_source)
    repeated    rows put aside because their close_time was there already, or that have it twice in what is held
    late        bars known to have arrived later than `late_minutes` after their close, or due that long and not there
    observed    bars whose arrival is known (the desk saw the session live)

the scores are

    completeness = 1 - missing / expected           missing: expected bars that are not held; 1 when nothing is expected
    validity     = 1 - (invalid + put_aside) / (rows + put_aside)                       1 when there are no rows
    timeliness   = 1 - late / observed              1 when nothing was observed: history loaded later has no arrival
    consistency  = 1 - odd / rows                                                       1 when there are no rows
    uniqueness   = 1 - repeated / (rows + put_aside)                                    1 when there are no rows

    fault_share  = (missing + invalid + odd + put_aside) / max(expected, rows + put_aside), at most 1

A bar that fails two rules counts once in each score it belongs to, and once in fault_share. The aim is a fault_share
below `fault_share_aim` (0.001: fewer than one bar in a thousand missing or wrong).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from trading.quality import VALIDITY_CHECKS, RuleResult

DIMENSIONS: Final = ("completeness", "validity", "timeliness", "consistency", "uniqueness")
CONSISTENCY_CHECKS: Final = ("jump", "stale_repeat", "cross_source")


@dataclass(frozen=True, slots=True)
class Counts:
    """What a score is computed from; see the module. All whole numbers, none negative.

    faulty: held rows that are invalid or odd, each once.
    """

    expected: int
    rows: int
    missing: int = 0
    invalid: int = 0
    odd: int = 0
    faulty: int = 0
    put_aside: int = 0
    repeated: int = 0
    late: int = 0
    observed: int = 0


@dataclass(frozen=True, slots=True)
class Scorecard:
    """The scores of one partition and the counts behind them."""

    completeness: float
    validity: float
    timeliness: float
    consistency: float
    uniqueness: float
    fault_share: float
    counts: Counts

    def lowest(self) -> tuple[str, float]:
        """The worst dimension and its score."""
        return min(((name, float(getattr(self, name))) for name in DIMENSIONS), key=lambda pair: pair[1])


def score(counts: Counts) -> Scorecard:
    """Scorecard of `counts`, by the formulas above."""
    c = counts
    received = c.rows + c.put_aside
    faults = c.missing + c.faulty + c.put_aside
    return Scorecard(
        completeness=_one_less(c.missing, c.expected),
        validity=_one_less(c.invalid + c.put_aside, received),
        timeliness=_one_less(c.late, c.observed),
        consistency=_one_less(c.odd, c.rows),
        uniqueness=_one_less(c.repeated, received),
        fault_share=1.0 - _one_less(faults, max(c.expected, received)),
        counts=counts,
    )


def _one_less(part: int, whole: int) -> float:
    return 1.0 if whole <= 0 else min(1.0, max(0.0, 1.0 - part / whole))


def counts_of(
    results: Iterable[RuleResult],
    *,
    rows: int,
    expected: int,
    missing: int,
    put_aside: int = 0,
    repeated_aside: int = 0,
    late: int = 0,
    observed: int = 0,
) -> Counts:
    """Counts of one partition from the rules' verdicts on it. repeated_aside: rows put aside for their time."""
    invalid: set[int] = set()
    odd: set[int] = set()
    repeated = repeated_aside
    for result in results:
        if result.passed:
            continue
        if result.check in VALIDITY_CHECKS:
            invalid.update(result.failed_rows)
            repeated += len(result.failed_rows) if result.check == "monotonic_unique_times" else 0
        elif result.check in CONSISTENCY_CHECKS:
            odd.update(result.failed_rows)
    return Counts(
        expected, rows, missing, len(invalid), len(odd), len(invalid | odd), put_aside, repeated, min(late, observed), observed
    )


def mean(cards: Sequence[Scorecard]) -> dict[str, float]:
    """Mean of every dimension and of fault_share, each partition weighing the same; {} without any."""
    if not cards:
        return {}
    return {name: sum(float(getattr(c, name)) for c in cards) / len(cards) for name in (*DIMENSIONS, "fault_share")}
