"""What a plan asks of its open trade, compiled: stop moves, parts closed at the next open, exits.

The answers of the execution functions (trading.trade_paths) stand in flat columns, one value per bar of a managed slot:
path_stop, the level asked for; path_leave, the exit reason or OPEN; path_due, bit j set where scale-out j is due. They are
computed when a trade is entered and whenever the rows known so far are used up, so that no Python runs bar by bar.
"""

from __future__ import annotations

from trading import engine_records
from trading.compiled import kernel
from trading.engine_records import OPEN, Floats, Ints, Record, Records

_compiled = kernel(engine_records)


@_compiled
def unknown_paths(slots: Records, states: Records, now: int) -> bool:
    """Is a managed trade open whose answer for its bar closing now is not known?"""
    for s in range(len(slots)):
        state = states[s]
        open_now = state["next_time"] == now and state["quantity"] != 0.0
        if slots[s]["path_at"] >= 0 and open_now and state["path_end"] <= state["cursor"]:
            return True
    return False


@_compiled
def manage(
    slot: Record, state: Record, book: Record, path_stop: Floats, path_leave: Ints, path_due: Ints, left: Floats,
    closing: Floats, row: int, close: float,
) -> None:  # fmt: skip
    """At a close, nothing having ended the trade: an exit for the next open; else the stop, never looser and never on the wrong
    side of the close, and the parts that are closed at the next open."""
    i = slot["path_at"] + row
    if path_leave[i] != OPEN:
        state["exit_reason"] = path_leave[i]
        book["orders"] += 1
        return
    side = 1 if state["quantity"] > 0 else -1
    level = path_stop[i]
    if (level - state["stop"]) * side > slot["tick"] / 2 and (close - level) * side > 0.0:
        state["stop"] = level
        book["orders"] += 1
    due = path_due[i]
    if due != 0:
        for k in range(slot["scale_from"], slot["scale_to"]):
            if (due >> (k - slot["scale_from"])) & 1 and left[k] > 0.0 and closing[k] == 0.0:
                closing[k] = left[k]
                book["orders"] += 1
