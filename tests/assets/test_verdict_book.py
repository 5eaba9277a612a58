"""Quality verdicts asked for together are those that each signal would be told alone."""

from __future__ import annotations

from sqlalchemy import event

from assets.verdict_book import VerdictBook
from resources.ledger.base import engines_of
from resources.ledger.store import Ledger, VerdictRow
from trading.signals import PartitionRef

A = PartitionRef("bars_1m", "2024-03-04", "AAA", "a")
B = PartitionRef("bars_1m", "2024-03-04", "BBB", "b")
OLDER = PartitionRef("bars_1m", "2024-03-04", "AAA", "older")


class _Signal:
    def __init__(self, *partitions: PartitionRef) -> None:
        self.partitions = partitions


def _put(ledger: Ledger, *refs: PartitionRef) -> None:
    ledger.put_verdicts(
        VerdictRow(ref.dataset, ref.session, ref.symbol, check, True, "error", ref.content_hash, judged_time=1)
        for ref in refs
        for check in ("gaps", "jumps")
    )


def test_each_signal_is_told_what_the_ledger_says_of_its_partitions(ledger: Ledger) -> None:
    _put(ledger, A, B)
    book = VerdictBook(ledger, [_Signal(A), _Signal(B)])  # type: ignore[list-item]
    for required in ((A,), (B,), (A, B), (B, A, A)):
        asked = sorted((v.snapshot() for v in ledger.verdicts(set(required))), key=str)
        assert sorted(book.of(required), key=str) == asked


def test_all_signals_cost_as_many_questions_as_one(ledger: Ledger) -> None:
    _put(ledger, A, B)
    asked: list[str] = []
    for engine in engines_of(ledger.engine):
        event.listen(engine, "before_cursor_execute", lambda *told: asked.append(told[2]))
    ledger.verdicts([A])
    alone = len(asked)
    book = VerdictBook(ledger, [_Signal(A), _Signal(B)])  # type: ignore[list-item]
    assert len(book.of([A, B])) == 4
    assert len(asked) == 2 * alone


def test_two_contents_of_one_partition_are_asked_about_one_after_the_other(ledger: Ledger) -> None:
    _put(ledger, A)
    book = VerdictBook(ledger, [_Signal(A), _Signal(OLDER)])  # type: ignore[list-item]
    assert {v["content_hash"] for v in book.of([OLDER])} == {"a"}, "what was judged, which the gate then finds stale"
    assert book.of([A]) == book.of([OLDER])


def test_a_partition_nobody_judged_has_no_verdicts(ledger: Ledger) -> None:
    assert VerdictBook(ledger, [_Signal(A)]).of([A]) == []  # type: ignore[list-item]
