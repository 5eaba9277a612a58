"""What slots are to each other at one close, compiled: opposite signals on an instrument, and legs that go together.

The rules are the trade run's and the desk's. A signal is a wish that a live evaluation would have recorded, one that another
gate refuses included: it stands against the other side all the same (trading.conflict_policy). A leg enters when every leg of
its strategy may (gate ``legs``); when the gates let all in and a limit of the desk refuses one, the orders of the others are
cancelled at the same close; a leg that stands alone at a close is closed at the next open.
"""

from __future__ import annotations

from trading import engine_orders, engine_records
from trading.compiled import kernel
from trading.engine_orders import end_order
from trading.engine_records import (
    ALLOW,
    CANCEL_BOTH,
    CANCELED,
    CONFLICT,
    LEG_MISSING,
    NO_REFUSAL,
    NO_WISH,
    PLACED,
    REWARD_TO_RISK,
    RISK_BUDGET,
    SIZE_ZERO,
    STOP_REQUIRED,
    STRONGEST,
    Ints,
    Record,
    Records,
)  # fmt: skip

_compiled = kernel(engine_orders, engine_records)


@_compiled
def wished(state: Record, wishes: Records, now: int) -> int:
    """Number of the slot's wish at this close, -1 when it has none."""
    if state["next_time"] != now:
        return -1
    w = state["wish"]
    return w if w < state["wish_end"] and wishes[w]["row"] == state["cursor"] else -1


@_compiled
def _loses(
    slots: Records, states: Records, book: Record, wishes: Records, heard: Records, s: int, side: int, now: int
) -> bool:  # fmt: skip
    """Does the signal of slot s lose against the other side, or against a position of another strategy?"""
    slot = slots[s]
    opposed, blocked = False, False
    strength, other_strength = 0.0, 0.0  # of a strength in [0, 1]
    first, other_first = slot["precedence"], slot["precedence"]
    for k in range(len(slots)):
        if slots[k]["symbol"] != slot["symbol"]:
            continue
        if slots[k]["strategy"] != slot["strategy"] and states[k]["quantity"] * side < 0.0:
            blocked = True
        w = wished(states[k], wishes, now)
        if w < 0 or heard[w]["signal"] == 0:
            continue
        if wishes[w]["side"] == side:
            strength = max(strength, heard[w]["strength"])
            first = min(first, slots[k]["precedence"])
        else:
            if not opposed:
                other_first = slots[k]["precedence"]
            opposed = True
            other_strength = max(other_strength, heard[w]["strength"])
            other_first = min(other_first, slots[k]["precedence"])
    if blocked and book["block"] != 0:
        return True
    if not opposed or book["policy"] == ALLOW:
        return False
    if book["policy"] == CANCEL_BOTH:
        return True
    if book["policy"] == STRONGEST:
        return not strength > other_strength
    return first > other_first


@_compiled
def resolve(
    slots: Records, states: Records, book: Record, wishes: Records, heard: Records, now: int
) -> None:  # fmt: skip
    """Before the decisions of a close: which wishes lose a conflict, which legs miss another."""
    any_wish = False
    for s in range(len(slots)):
        state = states[s]
        state["beaten"], state["said"] = NO_REFUSAL, NO_WISH
        any_wish = any_wish or wished(state, wishes, now) >= 0
    if not any_wish:
        return
    if book["conflicts"] != 0:
        for s in range(len(slots)):
            w = wished(states[s], wishes, now)
            loses = w >= 0 and heard[w]["signal"] != 0
            if loses and _loses(slots, states, book, wishes, heard, s, wishes[w]["side"], now):
                states[s]["beaten"] = CONFLICT
    for s in range(len(slots)):
        slot = slots[s]
        if slot["group"] < 0 or states[s]["beaten"] != NO_REFUSAL or wished(states[s], wishes, now) < 0:
            continue
        fit = 0
        for k in range(len(slots)):
            if slots[k]["group"] == slot["group"]:
                w = wished(states[k], wishes, now)
                if w >= 0 and heard[w]["barred"] == 0 and heard[w]["signal"] != 0 and states[k]["beaten"] != CONFLICT:
                    fit += 1
        if fit < slot["group_size"]:
            states[s]["beaten"] = LEG_MISSING


@_compiled
def alone(slots: Records, states: Records, s: int) -> bool:
    """Is the position of slot s a leg without the others?"""
    group, held = slots[s]["group"], 0
    for k in range(len(slots)):
        if slots[k]["group"] == group and states[k]["quantity"] != 0.0:
            held += 1
    return held < slots[s]["group_size"]


@_compiled
def withdraw(slots: Records, states: Records, book: Record, refused: Ints, s: int) -> None:
    """After the last leg of a group was decided: when a gate refused one, the others were never ordered."""
    first, gated = s, False
    while first >= 0 and slots[first]["group"] == slots[s]["group"]:
        said = states[first]["said"]
        if said in (STOP_REQUIRED, REWARD_TO_RISK, SIZE_ZERO, RISK_BUDGET):
            gated = True
        first -= 1
    if not gated:
        return
    for k in range(first + 1, s + 1):
        state = states[k]
        if state["said"] == PLACED:
            book["orders"] -= state["placed"]
            book["sent"] -= state["sent"]
            state["pending"] = 0.0
            state["said"] = LEG_MISSING
            refused[k, LEG_MISSING] += 1


@_compiled
def take_back(slots: Records, states: Records, book: Record, orders: Records, refused: Ints, now: int) -> None:
    """After the decisions of a close: a leg that was ordered while a limit refused another is cancelled."""
    for s in range(len(slots)):
        if slots[s]["group"] < 0 or states[s]["said"] != PLACED:
            continue
        placed = 0
        for k in range(len(slots)):
            if slots[k]["group"] == slots[s]["group"] and states[k]["said"] == PLACED:
                placed += 1
        if placed < slots[s]["group_size"]:
            refused[s, LEG_MISSING] += 1
            end_order(states[s], book, orders, s, now, CANCELED)
