"""Orders: words, states and the one (state, event) -> state table.

The table keeps what really happens: a fill after a cancel is real and kept; duplicates and late events are no errors
(they leave the state as it is); an event that cannot be true for the state is reported as anomalous and never applied.
UNKNOWN is the state of an order whose fate is not known: it is left only by evidence from the broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Side(str, Enum):
    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        return 1 if self is Side.BUY else -1

    @property
    def opposite(self) -> Side:
        return Side.SELL if self is Side.BUY else Side.BUY

    def __str__(self) -> str:
        return self.value


class OrderType(str, Enum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TRAILING_STOP = "trailing_stop"

    def __str__(self) -> str:
        return self.value


class TimeInForce(str, Enum):
    DAY = "day"
    GTC = "gtc"
    IOC = "ioc"

    def __str__(self) -> str:
        return self.value


class OrderState(str, Enum):
    INITIALIZED = "initialized"  # intent decided, nothing committed as sent
    DENIED = "denied"  # refused by our own risk, never sent
    SENDING = "sending"  # committed: from here on the broker may have it
    SUBMITTED = "submitted"  # the broker acknowledged receipt
    ACCEPTED = "accepted"  # working at the venue
    REJECTED = "rejected"
    TRIGGERED = "triggered"  # stop touched, now a market or limit order
    PENDING_UPDATE = "pending_update"
    PENDING_CANCEL = "pending_cancel"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    EMULATED = "emulated"  # held by the desk, not at the broker
    UNKNOWN = "unknown"  # no resend, no guess: evidence decides

    def __str__(self) -> str:
        return self.value


class OrderEvent(str, Enum):
    DENY = "deny"
    SEND = "send"
    EMULATE = "emulate"
    ACK = "ack"
    ACCEPT = "accept"
    REJECT = "reject"
    TRIGGER = "trigger"
    REQUEST_UPDATE = "request_update"
    UPDATED = "updated"
    UPDATE_REJECTED = "update_rejected"
    REQUEST_CANCEL = "request_cancel"
    CANCEL_REJECTED = "cancel_rejected"
    CANCELED = "canceled"
    EXPIRED = "expired"
    PARTIAL_FILL = "partial_fill"
    FILL = "fill"
    LOST = "lost"  # time-out, crash, unclear answer
    NOT_FOUND = "not_found"  # evidence: read to the end marker, the broker never had it
    FOUND = "found"  # evidence: the broker's open orders list one that was held for ended

    def __str__(self) -> str:
        return self.value


TERMINAL = frozenset({OrderState.DENIED, OrderState.REJECTED, OrderState.FILLED, OrderState.CANCELED, OrderState.EXPIRED})
"""No further event is expected. Fills may still arrive after CANCELED and EXPIRED and are kept; and what the broker's open
orders list works, whatever was heard before."""

MAY_BE_AT_BROKER = frozenset(set(OrderState) - TERMINAL - {OrderState.INITIALIZED, OrderState.EMULATED})
"""States in which the broker may hold a working order."""


def _build_table() -> dict[tuple[OrderState, OrderEvent], OrderState]:
    s, e = OrderState, OrderEvent
    table: dict[tuple[OrderState, OrderEvent], OrderState] = {
        (s.INITIALIZED, e.DENY): s.DENIED,
        (s.INITIALIZED, e.SEND): s.SENDING,
        (s.INITIALIZED, e.EMULATE): s.EMULATED,
        (s.EMULATED, e.SEND): s.SENDING,
        (s.EMULATED, e.CANCELED): s.CANCELED,
        (s.EMULATED, e.EXPIRED): s.EXPIRED,
    }
    # What the broker may say about an order it may hold, whatever we last heard.
    working = (
        s.SENDING, s.SUBMITTED, s.ACCEPTED, s.TRIGGERED, s.PENDING_UPDATE, s.PENDING_CANCEL, s.PARTIALLY_FILLED, s.UNKNOWN,
    )  # fmt: skip
    for state in working:
        table[state, e.CANCELED] = s.CANCELED
        table[state, e.EXPIRED] = s.EXPIRED
        table[state, e.FILL] = s.FILLED
        table[state, e.PARTIAL_FILL] = s.PARTIALLY_FILLED
        table[state, e.LOST] = s.UNKNOWN
        table[state, e.REJECT] = s.REJECTED
        table[state, e.ACK] = state
        table[state, e.ACCEPT] = state
        table[state, e.TRIGGER] = s.TRIGGERED
        table[state, e.REQUEST_CANCEL] = s.PENDING_CANCEL
        table[state, e.REQUEST_UPDATE] = s.PENDING_UPDATE
        table[state, e.UPDATED] = state
        table[state, e.UPDATE_REJECTED] = state
        table[state, e.CANCEL_REJECTED] = state
        table[state, e.FOUND] = state
    table[s.SENDING, e.ACK] = s.SUBMITTED
    table[s.SENDING, e.ACCEPT] = s.ACCEPTED
    table[s.SUBMITTED, e.ACCEPT] = s.ACCEPTED
    table[s.UNKNOWN, e.ACK] = s.SUBMITTED
    table[s.UNKNOWN, e.ACCEPT] = s.ACCEPTED
    table[s.UNKNOWN, e.NOT_FOUND] = s.REJECTED
    table[s.UNKNOWN, e.FOUND] = s.ACCEPTED
    table[s.PENDING_UPDATE, e.UPDATED] = s.ACCEPTED
    table[s.PENDING_UPDATE, e.UPDATE_REJECTED] = s.ACCEPTED
    table[s.PENDING_CANCEL, e.CANCEL_REJECTED] = s.ACCEPTED
    for state in (s.CANCELED, s.EXPIRED, s.REJECTED):
        table[state, e.FOUND] = s.ACCEPTED
    # A cancel or modify request does not make an unknown order known, nor a fill undo a request under way.
    del table[s.UNKNOWN, e.REQUEST_UPDATE]
    table[s.UNKNOWN, e.REQUEST_CANCEL] = s.UNKNOWN
    table[s.PENDING_CANCEL, e.PARTIAL_FILL] = s.PENDING_CANCEL
    table[s.PENDING_CANCEL, e.TRIGGER] = s.PENDING_CANCEL
    table[s.PENDING_CANCEL, e.REQUEST_UPDATE] = s.PENDING_CANCEL
    table[s.PARTIALLY_FILLED, e.TRIGGER] = s.PARTIALLY_FILLED
    del table[s.PARTIALLY_FILLED, e.REJECT]  # a rejected order cannot have filled
    # Real late fills; everything else that comes late or twice changes nothing.
    for state in (s.CANCELED, s.EXPIRED, s.REJECTED):
        table[state, e.FILL] = s.FILLED
        table[state, e.PARTIAL_FILL] = state
    # Given up for want of evidence, and it was there after all: how the broker says it ended is how it ended.
    table[s.REJECTED, e.CANCELED] = s.CANCELED
    table[s.REJECTED, e.EXPIRED] = s.EXPIRED
    for state in (s.CANCELED, s.EXPIRED, s.FILLED, s.REJECTED):
        for event in (e.ACK, e.ACCEPT, e.TRIGGER, e.UPDATED, e.UPDATE_REJECTED, e.CANCEL_REJECTED, e.LOST):
            table[state, event] = state
    for state, event in (
        (s.CANCELED, e.CANCELED), (s.EXPIRED, e.EXPIRED), (s.REJECTED, e.REJECT), (s.FILLED, e.FILL),
        (s.FILLED, e.PARTIAL_FILL), (s.FILLED, e.CANCELED), (s.FILLED, e.EXPIRED), (s.EXPIRED, e.CANCELED),
        (s.CANCELED, e.EXPIRED), (s.REJECTED, e.NOT_FOUND),
    ):  # fmt: skip
        table[state, event] = state
    return table


TRANSITIONS = _build_table()


@dataclass(frozen=True, slots=True)
class Transition:
    """Outcome of one event: the state after it, whether it changed, whether the table did not allow it."""

    state: OrderState
    changed: bool
    anomalous: bool


def apply(state: OrderState, event: OrderEvent) -> Transition:
    """State after `event`. An event without an entry leaves the state and is marked anomalous; it is never raised."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        return Transition(state, changed=False, anomalous=True)
    return Transition(after, changed=after is not state, anomalous=False)
