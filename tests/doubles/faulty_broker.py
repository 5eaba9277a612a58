"""A broker that answers badly on demand, in front of a real one: late, not at all, twice, in the wrong order, wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from resources.brokers.protocol import (
    Account,
    Broker,
    BrokerError,
    BrokerEvent,
    BrokerPosition,
    Execution,
    Modification,
    OrderReport,
    OrderRequest,
    Replacement,
    Replacing,
)  # fmt: skip


@dataclass
class FaultyBroker:
    """Passes everything to `inner`, but for what the queues say.

    submit_faults: one of SUBMIT_FAULTS per call. cancel_faults: one of "timeout_before", "timeout_after" per call;
    modify_faults likewise.
    read_faults: how many of the next reads of the books fail. mangle: applied to what poll_events gives.
    """

    inner: Broker
    submit_faults: list[str] = field(default_factory=list)
    cancel_faults: list[str] = field(default_factory=list)
    modify_faults: list[str] = field(default_factory=list)
    read_faults: int = 0
    mangle: Callable[[list[BrokerEvent]], list[BrokerEvent]] | None = None
    late: list[Callable[[], list[OrderReport]]] = field(default_factory=list)
    submitted: list[list[str]] = field(default_factory=list)
    name: str = "paper"
    simulated: bool = True

    def submit(self, requests: Sequence[OrderRequest]) -> list[OrderReport]:
        self.submitted.append([r.client_id for r in requests])
        return self._answer(lambda: self.inner.submit(requests))

    def _answer(self, call: Callable[[], list[OrderReport]]) -> list[OrderReport]:
        fault = self.submit_faults.pop(0) if self.submit_faults else ""
        if fault == "timeout_before":
            raise TimeoutError("no answer")
        if fault == "late":  # the broker gets it after the desk has given up
            self.late.append(call)
            raise TimeoutError("no answer")
        reports = call()
        if fault == "timeout_after":
            raise TimeoutError("no answer")
        if fault == "error_after":
            raise BrokerError("code 502: an order may have been placed")
        if fault == "empty":
            return []
        if fault == "half":
            return reports[:1]
        if fault == "garbage":
            return ["ok"] * len(reports)  # type: ignore[list-item]
        if fault == "other":
            return [replace(r, quantity=r.quantity + 1) for r in reports]
        return reports

    def arrive(self) -> None:
        """What was held back reaches the broker now."""
        while self.late:
            self.late.pop(0)()

    def cancel(self, client_id: str) -> None:
        fault = self.cancel_faults.pop(0) if self.cancel_faults else ""
        if fault == "timeout_before":
            raise TimeoutError("no answer")
        self.inner.cancel(client_id)
        if fault == "timeout_after":
            raise TimeoutError("no answer")

    def modify(self, client_id: str, change: Modification) -> None:
        fault = self.modify_faults.pop(0) if self.modify_faults else ""
        if fault == "timeout_before":
            raise TimeoutError("no answer")
        self.inner.modify(client_id, change)
        if fault == "timeout_after":
            raise TimeoutError("no answer")

    def open_orders(self) -> list[OrderReport]:
        if self.read_faults > 0:
            self.read_faults -= 1
            raise BrokerError("the connection was lost")
        return self.inner.open_orders()

    def completed_orders(self, since_us: int) -> list[OrderReport]:
        return self.inner.completed_orders(since_us)

    def executions(self, since_us: int) -> list[Execution]:
        return self.inner.executions(since_us)

    def positions(self) -> list[BrokerPosition]:
        return self.inner.positions()

    def account(self) -> Account:
        return self.inner.account()

    def poll_events(self, after_key: str) -> list[BrokerEvent]:
        events = self.inner.poll_events(after_key)
        return self.mangle(events) if self.mangle else events


class FaultyReplacingBroker(FaultyBroker):
    """A faulty broker that puts orders in the place of others; submit_faults say what becomes of that, too."""

    def replace_groups(self, replacements: Sequence[Replacement]) -> list[list[OrderReport]]:
        assert isinstance(self.inner, Replacing)
        found = []
        for replacement in replacements:
            self.submitted.append([r.client_id for r in replacement.requests])
            found.append(self._answer(lambda one=replacement: self.inner.replace_groups([one])[0]))  # type: ignore[attr-defined,misc]
        return found


SUBMIT_FAULTS = ("timeout_before", "late", "timeout_after", "error_after", "empty", "half", "garbage", "other")
"""Every way an answer can be unclear."""
