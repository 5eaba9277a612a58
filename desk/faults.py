"""Named places where a fault test may kill the process. Off unless TAPELINE_CRASH_AT is set; never set it in operation.

``TAPELINE_CRASH_AT=after_ack`` kills the process with SIGKILL (no clean-up, as a power cut would) when it first
passes that place; ``after_ack:3`` when it passes it the third time. `BOUNDARIES` lists the places.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Final

VARIABLE: Final = "TAPELINE_CRASH_AT"

BOUNDARIES: Final = (
    "intent_committed",  # the intents are committed as SENDING, nothing else has happened
    "before_send",  # last moment before the broker call
    "after_send_before_answer",  # the broker has the orders, its answer is not looked at
    "answer_before_commit",  # the answer is written but not committed
    "after_ack",  # the acknowledgement is committed
    "between_fill_events",  # one broker event is written, the batch is not committed
    "between_partial_fills",  # a part of an order is filled and written, the rest is not
    "during_cancel",  # the cancel request is committed, the broker does not know it
    "during_exit",  # the protective legs are cancelled, the exit order is not sent; in their place: nothing of it is committed
    "during_modify",  # the wish for a change is committed, the broker does not know it
    "modify_sent",  # the broker knows of the change, its answer is not looked at
    "during_bracket_legs",  # the intents of an entry and its legs are written, their orders are not
    "legs_answered",  # the entry's answer is written, its legs' answers are not
    "during_flatten",  # some positions are being closed, others are not yet asked for
)
ACTION_BOUNDARIES: Final = (
    "action_started",  # a split is noted with what is held and what rests
    "action_cancelled",  # what rested is cancelled
    "action_at_broker",  # the broker has exchanged the units, the ledger does not know it
    "action_adjusted",  # the ledger's position is adjusted, nothing protects it yet
    "action_legs_committed",  # the new legs are committed as SENDING
    "action_protected",  # the new legs rest at the broker, the action is not marked done
)
PLAN_BOUNDARIES: Final = (
    "move_committed",  # the leg that replaces another is committed as SENDING, the old one rests
    "move_sent",  # both rest at the broker
    "scale_committed",  # the order that closes a part is committed as SENDING, its stop rests
    "scale_sent",  # both rest at the broker, one cancels the other
)
REDUCE_BOUNDARIES: Final = (
    "reduce_wanted",  # the wish to reduce is committed, nothing else has happened
    "reduce_legs_committed",  # the smaller legs are committed as SENDING beside the old ones
    "reduce_legs_sent",  # smaller and old legs rest, of each pair one cancels the other
    "reduce_guards_fit",  # what rests guards what is to stay, the order that reduces is not sent
)
ALGO_BOUNDARIES: Final = (
    "algo_committed",  # the parent is committed, no slice of it exists
    "slice_committed",  # a slice and its legs are committed as SENDING
    "slice_sent",  # the slice is acknowledged
    "algo_ending",  # it is committed that no slice follows, those at work are not taken back yet
    "algo_cancelled",  # they are taken back, the parent is not marked ended
)
REVERSE_BOUNDARIES: Final = (
    "reverse_wanted",  # the wish to reverse is committed, the exit is not wanted yet
    "reverse_flat",  # the trade is over, the entry of the other side is not routed
    "reverse_routed",  # the entry is routed, the wish still stands
)
"""Every place, in the order of an order's life, of a split's, of a managed trade's, and of what a person changes of one."""
TORTURED: Final = (*BOUNDARIES, *REDUCE_BOUNDARIES, *ALGO_BOUNDARIES, *REVERSE_BOUNDARIES)
"""What ``make torture`` kills at: a life has orders, slices, and a person's hand in them."""

_lock = threading.Lock()
_passed: dict[str, int] = {}
observer: Callable[[str], None] | None = None
"""Told of every place that is passed: a fault test chooses its moment by what else has happened. None in operation."""


def crash_point(name: str) -> None:
    """Kill this process here when TAPELINE_CRASH_AT says so. Costs one dictionary look-up otherwise."""
    if observer is not None:
        observer(name)
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    place, _, count = wanted.partition(":")
    if place != name:
        return
    with _lock:
        _passed[name] = _passed.get(name, 0) + 1
        due = _passed[name] == (int(count) if count else 1)
    if due:
        os.kill(os.getpid(), signal.SIGKILL)
