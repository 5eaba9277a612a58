"""How the simulated broker misbehaves: at random by rate, or once and exactly where a test says."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

ANSWER_FAULTS: Final[Mapping[str, str]] = {
    "late": "does what was asked, answers after the caller has given up",
    "twice": "answers twice",
    "out_of_order": "answers behind the next answer",
    "never": "neither hears nor answers",
    "accept_then_timeout": "does what was asked and never answers",
    "accept_then_5xx": "does what was asked and answers 502",
    "delayed_accept": "does what was asked only after the market has moved on, never answers",
    "disconnect": "does what was asked and drops the connection",
}
BOOK_FAULTS: Final[Mapping[str, str]] = {
    "reject": "refuses an order",
    "partial_fill": "fills a part in this bar, more in later ones",
    "fill_after_cancel": "confirms a cancel and fills the order at the next open all the same",
    "cancel_rejected": "refuses a cancel, the order works on",
    "event_twice": "tells an event a second time, as news",
    "events_swapped": "tells two events in the wrong order",
    "events_late": "tells what a bar did only after the next one",
    "disconnect_daily": "drops every connection when a session begins and refuses new ones for a moment",
}
FAULTS: Final[Mapping[str, str]] = {**ANSWER_FAULTS, **BOOK_FAULTS}
"""Every way to misbehave, and what it means."""

CHANGING: Final = ("submit", "cancel", "modify", "replace")
"""What a caller asks that changes the book; answer faults without an `op` strike these only."""

_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "reject": ("submit",), "fill_after_cancel": ("cancel",), "cancel_rejected": ("cancel",), "partial_fill": ("match",),
    "event_twice": ("tell",), "events_swapped": ("tell",), "events_late": ("tell",), "disconnect_daily": ("session",),
}  # fmt: skip


@dataclass(slots=True)
class Armed:
    """A fault that strikes by itself `count` times, after `skip` occasions of `op` (any that fits when empty)."""

    kind: str
    op: str = ""
    skip: int = 0
    count: int = 1

    def fits(self, op: str, kinds: Mapping[str, str]) -> bool:
        if self.kind not in kinds or self.count <= 0:
            return False
        places = _PLACES.get(self.kind, CHANGING)
        return op == self.op if self.op else op in places


@dataclass
class FaultPlan:
    """rates: share of the occasions at which a kind strikes, by kind. seed: the same seed, the same faults."""

    rates: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    armed: list[Armed] = field(default_factory=list)
    struck: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)  # noqa: S311 - repeatable on purpose
        for kind in (*self.rates, *(a.kind for a in self.armed)):
            check_kind(kind)

    def arm(self, kind: str, op: str = "", skip: int = 0, count: int = 1) -> None:
        check_kind(kind)
        self.armed.append(Armed(kind, op, skip, count))

    def calm(self) -> None:
        """No more faults."""
        self.rates, self.armed = {}, []

    def strike(self, op: str, kinds: Mapping[str, str]) -> str:
        """The fault of this occasion, of `kinds`, or ""."""
        for armed in self.armed:
            if armed.fits(op, kinds):
                if armed.skip > 0:
                    armed.skip -= 1
                    continue
                armed.count -= 1
                return self._note(armed.kind)
        for kind, rate in self.rates.items():
            if kind in kinds and op in _PLACES.get(kind, CHANGING) and self._dice.random() < rate:
                return self._note(kind)
        return ""

    def _note(self, kind: str) -> str:
        self.struck[kind] = self.struck.get(kind, 0) + 1
        return kind


def check_kind(kind: str) -> None:
    """Raises ValueError naming the kinds there are."""
    if kind not in FAULTS:
        raise ValueError(f"no fault {kind!r}: expected one of {', '.join(FAULTS)}")


def parse_rates(text: str) -> dict[str, float]:
    """``late=0.02,reject=0.01`` as rates by kind. Raises ValueError naming what is wrong."""
    rates: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        kind, _, number = part.partition("=")
        check_kind(kind)
        try:
            rates[kind] = float(number)
        except ValueError:
            raise ValueError(f"{part!r}: expected {kind}=SHARE, a number from 0 to 1") from None
        if not 0.0 <= rates[kind] <= 1.0:
            raise ValueError(f"{part!r}: expected a share from 0 to 1")
    return rates
