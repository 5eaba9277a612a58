"""What happens to positions by themselves, compiled: corporate actions, rolls, borrow cost, margin calls."""

from __future__ import annotations

import math

from trading import engine_orders, engine_records, engine_rules, matching, sizing
from trading.compiled import kernel
from trading.engine_orders import count_trade, end_order, enter, leave, mark_to
from trading.engine_records import (
    ACT_CASH,
    ACT_DELIST,
    ACT_ROLL,
    ACT_SPIN_OFF,
    ACT_SPLIT,
    CANCELED,
    DELISTED,
    MARGIN_CALL,
    OPEN,
    ROLL,
    SPLIT_CASH,
    Floats,
    Record,
    Records,
)  # fmt: skip
from trading.engine_rules import exposure_of, slipped
from trading.matching import snap_against
from trading.sizing import floor_to_lot

_compiled = kernel(engine_orders, engine_rules, engine_records, matching, sizing)
_DAYS = 365.0


@_compiled
def _rescale(slot: Record, state: Record, legs: Floats, factor: float, shift: float) -> None:
    """Every level of the slot to price / factor + shift, on the grid, away from the price it protects from."""
    side = 1 if state["quantity"] + state["pending"] > 0 else -1
    tick = slot["tick"]
    state["stop"] = snap_against(state["stop"] / factor + shift, -side, tick)
    state["pending_stop"] = snap_against(state["pending_stop"] / factor + shift, -side, tick)
    state["limit"] = snap_against(state["limit"] / factor + shift, -side, tick)
    state["trigger"] = snap_against(state["trigger"] / factor + shift, side, tick)
    state["pending_reference"] = state["pending_reference"] / factor + shift
    state["first_stop"] = state["first_stop"] / factor + shift
    state["trail"] /= factor
    state["pending_trail"] /= factor
    state["mark"] = state["mark"] / factor + shift
    for k in range(len(legs)):
        legs[k] = snap_against(legs[k] / factor + shift, side, tick)


@_compiled
def _pay(slot: Record, state: Record, book: Record, amount: float) -> None:
    """Pay `amount` per unit held: received by a long, owed by a short."""
    paid = state["quantity"] * amount * slot["multiplier"] * state["fx"]
    state["cash"] += paid
    state["carried"] += paid
    book["dividends"] += paid


@_compiled
def act(
    slot: Record, state: Record, book: Record, trades: Records, fills: Records, orders: Records, legs: Floats, left: Floats,
    closing: Floats, action: Record, s: int, volume: float, now: int,
) -> None:  # fmt: skip
    """One corporate action or roll. All but a delisting happen before the bar's open, at the mark of the bar before."""
    kind, factor, amount, held = action["kind"], action["factor"], action["amount"], state["quantity"]
    if kind == ACT_DELIST:
        state["delisted"] = 1
        if state["pending"] != 0.0:
            end_order(state, book, orders, s, now, CANCELED)
        if held != 0.0:
            leave(slot, state, book, trades, fills, orders, s, state["mark"], held, now, DELISTED, False)
    elif kind == ACT_CASH:
        if held != 0.0:
            _pay(slot, state, book, amount)
    elif kind == ACT_SPIN_OFF:
        if held != 0.0:
            _pay(slot, state, book, state["mark"] * (1.0 - 1.0 / factor))
        _rescale(slot, state, legs, factor, 0.0)
        if held != 0.0:
            mark_to(slot, state, state["mark"])
    elif kind == ACT_SPLIT:
        _rescale(slot, state, legs, factor, 0.0)
        state["ordered"] *= factor
        if state["pending"] != 0.0:
            side = 1.0 if state["pending"] > 0 else -1.0
            state["pending"] = floor_to_lot(abs(state["pending"] * factor), slot["lot"]) * side
            if state["pending"] == 0.0:
                end_order(state, book, orders, s, now, CANCELED)
        for k in range(len(left)):
            left[k] = floor_to_lot(left[k] * factor, slot["lot"])
            closing[k] = floor_to_lot(closing[k] * factor, slot["lot"])
        if held != 0.0:
            state["quantity"] = held * factor
            state["entry_price"] /= factor
            mark_to(slot, state, state["mark"])
            side = 1.0 if held > 0 else -1.0
            rest = state["quantity"] - floor_to_lot(abs(state["quantity"]), slot["lot"]) * side
            if abs(rest) > 1e-9 * abs(state["quantity"]):
                leave(slot, state, book, trades, fills, orders, s, state["mark"], rest, now, SPLIT_CASH, True)
    elif kind == ACT_ROLL:
        if held != 0.0 and slot["path_at"] >= 0:
            # What a plan's functions would say across the step between two contracts is not known: its trade ends here.
            price = slipped(slot, state["mark"], -1 if held > 0 else 1, held, volume)
            if state["exit_reason"] == OPEN:
                book["orders"] += 1
            leave(slot, state, book, trades, fills, orders, s, price, held, now, ROLL, False)
            count_trade(state)
            book["rolled_out"] += 1
            held = 0.0
        elif held != 0.0:
            _roll(slot, state, book, trades, fills, orders, s, amount, volume, now)
        _rescale(slot, state, legs, 1.0, amount)
        if held != 0.0:
            # The new contract was bought at its own price: take the shift of the mark back, then mark to it.
            state["mark"] -= amount


@_compiled
def _roll(
    slot: Record, state: Record, book: Record, trades: Records, fills: Records, orders: Records, s: int, amount: float,
    volume: float, now: int,
) -> None:  # fmt: skip
    """Close the old contract at its last close and open the same in the new one at that plus `amount`, both with slippage
    and commission. The trade goes on: same number, same holding time."""
    held, trade, reason = state["quantity"], state["trade"], state["exit_reason"]
    stop, trail, bars, signal = state["stop"], state["trail"], state["held"], state["signal_time"]
    first = state["first_stop"]
    side = 1 if held > 0 else -1
    old, new = state["mark"], state["mark"] + amount
    price = slipped(slot, old, -side, held, volume)
    leave(slot, state, book, trades, fills, orders, s, price, held, now, ROLL, False)
    risked, made = state["risked"], state["made"]
    state["pending"], state["ordered"], state["pending_stop"], state["pending_trail"] = held, held, stop, trail
    state["pending_time"] = signal
    enter(slot, state, book, fills, s, slipped(slot, new, side, held, volume), held, now)
    book["trades"] -= 1
    fills[book["n_fills"] - 1]["trade"] = trade
    state["trade"], state["held"], state["exit_reason"] = trade, bars, reason
    state["ordered"], state["first_stop"] = 0.0, first
    state["risked"], state["made"] = risked, made


@_compiled
def borrow(slot: Record, state: Record, book: Record, days: int) -> None:
    """Borrow cost of a short held over `days` calendar days, on its value at the last mark."""
    cost = -state["quantity"] * state["mark"] * slot["multiplier"] * state["fx"] * slot["borrow_rate"] * days / _DAYS
    state["cash"] -= cost
    state["carried"] -= cost
    book["borrow_paid"] += cost


@_compiled
def check_margin(slots: Records, states: Records, book: Record, orders: Records, now: int) -> None:
    """At a close: where the equity is below the maintenance margin, cancel all entries and exit the positions with the
    largest requirement at their next open, until what is left is covered."""
    needed = 0.0
    for k in range(len(slots)):
        if states[k]["quantity"] != 0.0 and states[k]["exit_reason"] != MARGIN_CALL:
            needed += _maintenance(slots[k], states[k])
    if needed <= book["equity"] or needed == 0.0:
        return
    book["margin_calls"] += 1
    for k in range(len(slots)):
        if states[k]["pending"] != 0.0:
            end_order(states[k], book, orders, k, now, CANCELED)
    while needed > book["equity"] and needed > 0.0:
        worst, most = -1, 0.0
        for k in range(len(slots)):
            its = states[k]
            if its["quantity"] != 0.0 and its["exit_reason"] != MARGIN_CALL and _maintenance(slots[k], its) > most:
                worst, most = k, _maintenance(slots[k], its)
        if worst < 0:
            break
        if states[worst]["exit_reason"] == OPEN:
            book["orders"] += 1
        states[worst]["exit_reason"] = MARGIN_CALL
        book["liquidations"] += 1
        needed -= most


@_compiled
def _maintenance(slot: Record, state: Record) -> float:
    """Maintenance margin of what is held."""
    share = slot["maintenance_margin"]
    pending = state["pending"]
    state["pending"] = 0.0
    value = exposure_of(slot, state, state["fx"])
    state["pending"] = pending
    return value * (1.0 if math.isnan(share) else share)
