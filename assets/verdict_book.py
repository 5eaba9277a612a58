"""Quality verdicts for the signals of one bar close, asked of the ledger together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from resources.ledger.store import Ledger
from trading.signals import PartitionRef, Signal

_Key = tuple[str, str, str]


class VerdictBook:
    """Verdicts on the partitions of `signals`, and later on whatever else a signal needs; each partition is asked for once."""

    def __init__(self, ledger: Ledger, signals: Iterable[Signal]) -> None:
        self._ledger = ledger
        self._known: dict[PartitionRef, list[dict[str, Any]]] = {}
        self._ask(ref for signal in signals for ref in signal.partitions)

    def of(self, required: Iterable[PartitionRef]) -> list[dict[str, Any]]:
        """What a decision's snapshot carries of the verdicts on `required`."""
        wanted = list(dict.fromkeys(required))
        self._ask(wanted)
        return [verdict for ref in wanted for verdict in self._known[ref]]

    def _ask(self, refs: Iterable[PartitionRef]) -> None:
        unknown = [ref for ref in dict.fromkeys(refs) if ref not in self._known]
        while unknown:
            # Some verdicts carry the hash that was asked about: one content of a partition at a time.
            now: dict[_Key, PartitionRef] = {}
            later: list[PartitionRef] = []
            for ref in unknown:
                if now.setdefault(_key(ref), ref) is not ref:
                    later.append(ref)
            self._known |= {ref: [] for ref in now.values()}
            for row in self._ledger.verdicts(now.values()):
                self._known[now[row.dataset, row.session, row.symbol]].append(row.snapshot())
            unknown = later


def _key(ref: PartitionRef) -> _Key:
    return ref.dataset, ref.session, ref.symbol
