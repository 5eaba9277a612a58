"""Orders of one slot against one bar, compiled: the general lane of the backtest.

The order of events in a bar is the paper broker's: market exits, entries, the stop, the targets from the first to the last,
then the mark. Prices, slippage, commissions and caps are trading.matching's.
"""

from __future__ import annotations

import math

from trading import engine_records, engine_rules, limit_math, matching, sizing
from trading.compiled import kernel
from trading.engine_records import (
    BUYING_POWER,
    CANCELED,
    ENTRY,
    EXPIRED,
    FILLED,
    OPEN,
    REJECTED,
    ROLL,
    SCALE_OUT,
    STOP,
    TARGET,
    Floats,
    Record,
    Records,
)  # fmt: skip
from trading.engine_rules import count_trade, fee_of, margin_needed, slipped
from trading.limit_math import exceeds, order_notional
from trading.matching import MARKET, fillable, limit_fill, match_bar, stop_fill, trail_on_grid
from trading.matching import STOP as STOP_ORDER

_compiled = kernel(engine_rules, engine_records, matching, sizing, limit_math)
_NOISE = 1e-9  # of a quantity: float noise that is no position


@_compiled
def mark_to(slot: Record, state: Record, price: float) -> None:
    """Value the position at `price`; of a future, pay the move since the last mark."""
    if slot["settled"] != 0:
        gain = state["quantity"] * (price - state["mark"]) * slot["multiplier"] * state["fx"]
        state["cash"] += gain
        state["settled"] += gain
        state["value"] = 0.0
    else:
        state["value"] = state["quantity"] * slot["multiplier"] * price * state["fx"]
    state["mark"] = price


@_compiled
def end_order(state: Record, book: Record, orders: Records, s: int, now: int, end: int) -> None:
    """The entry order ends: one record of it, and nothing of it is pending."""
    order = orders[book["n_orders"]]
    order["slot"], order["time"], order["done_time"], order["end"] = s, state["placed_time"], now, end
    order["type"], order["quantity"] = state["entry_type"], state["ordered"]
    order["filled"] = state["ordered"] - state["pending"]
    order["trade"] = state["trade"] if order["filled"] != 0.0 else -1
    order["limit"], order["trigger"] = state["limit"], state["trigger"]
    order["stop"], order["trail"] = state["pending_stop"], state["pending_trail"]
    book["n_orders"] += 1
    state["pending"] = 0.0


@_compiled
def _log(fills: Records, book: Record, s: int, trade: int, now: int, reason: int, quantity: float, price: float, fee: float,
         fx: float) -> None:  # fmt: skip
    fill = fills[book["n_fills"]]
    fill["slot"], fill["trade"], fill["time"], fill["reason"] = s, trade, now, reason
    fill["quantity"], fill["price"], fill["commission"], fill["fx"] = quantity, price, fee, fx
    book["n_fills"] += 1


@_compiled
def enter(slot: Record, state: Record, book: Record, fills: Records, s: int, price: float, quantity: float, now: int) -> None:
    """Book a fill of the entry order: signed quantity at `price`, slippage included."""
    fx, multiplier, held = state["fx"], slot["multiplier"], state["quantity"]
    fee = fee_of(slot, quantity, price) * fx
    value = quantity * multiplier * price * fx
    if held == 0.0:
        state["trade"] = book["trades"]
        book["trades"] += 1
        state["entry_price"], state["entry_fx"], state["entry_commission"] = price, fx, fee
        state["entry_time"], state["signal_time"] = now, state["pending_time"]
        state["stop"], state["trail"] = state["pending_stop"], state["pending_trail"]
        state["held"], state["settled"], state["carried"], state["exit_reason"] = 0, 0.0, 0.0, OPEN
        state["mark"] = price
        state["first_stop"], state["inside"] = state["pending_stop"], 0
        state["risked"], state["made"] = 0.0, 0.0
        if slot["once"] != 0:
            state["wish"] = state["wish_end"]
    else:
        cost = held * state["entry_price"] * state["entry_fx"] + quantity * price * fx
        state["entry_price"] = (held * state["entry_price"] + quantity * price) / (held + quantity)
        if slot["fx_at"] >= 0:
            state["entry_fx"] = cost / ((held + quantity) * state["entry_price"])
        state["entry_commission"] += fee
    state["path_end"] = 0  # what a plan asks for depends on the average price
    state["quantity"] = held + quantity
    state["risked"] += abs(quantity * (price - state["pending_stop"])) * multiplier * fx
    if slot["settled"] != 0:
        gain = quantity * (state["mark"] - price) * multiplier * fx
        state["cash"] += gain - fee
        state["settled"] += gain
    else:
        state["cash"] -= value + fee
        state["mark"] = price
        state["value"] = state["quantity"] * multiplier * price * fx
    rest = state["pending"] - quantity
    state["pending"] = 0.0 if abs(rest) <= _NOISE * abs(state["ordered"]) else rest
    book["traded_value"] += abs(value)
    _log(fills, book, s, state["trade"], now, ENTRY, quantity, price, fee, fx)


@_compiled
def leave(
    slot: Record, state: Record, book: Record, trades: Records, fills: Records, orders: Records, s: int, price: float,
    quantity: float, now: int, reason: int, free: bool,
) -> None:  # fmt: skip
    """Book a fill that closes `quantity` (signed as held) at `price`, slippage included: a trade, or a part of one.

    free: without commission. What was still pending of the entry is canceled.
    """
    fx, multiplier, held = state["fx"], slot["multiplier"], state["quantity"]
    if state["pending"] != 0.0:
        end_order(state, book, orders, s, now, CANCELED)
    rest = held - quantity
    if abs(rest) <= _NOISE * abs(held):
        rest, quantity = 0.0, held
    share = quantity / held
    fee = 0.0 if free else fee_of(slot, quantity, price) * fx
    entry_fee, carried = state["entry_commission"] * share, state["carried"] * share
    value = quantity * multiplier * price * fx
    if slot["settled"] != 0:
        mark_to(slot, state, price)
        gross = state["settled"] * share
        state["settled"] -= gross
        state["cash"] -= fee
    else:
        gross = (price * fx - state["entry_price"] * state["entry_fx"]) * quantity * multiplier
        state["cash"] += value - fee
    trade = trades[book["n_trades"]]
    trade["slot"], trade["trade"], trade["signal_time"] = s, state["trade"], state["signal_time"]
    trade["entry_time"], trade["exit_time"], trade["reason"] = state["entry_time"], now, reason
    # A trade that ends inside a bar was held for that bar, too; one that ends at an open was not.
    trade["bars_held"] = state["held"] + (1 if reason in (STOP, TARGET) else 0)
    trade["quantity"], trade["entry_price"], trade["exit_price"] = quantity, state["entry_price"], price
    trade["commission"] = entry_fee + fee
    trade["pnl"] = gross - (entry_fee + fee) + carried
    state["made"] += trade["pnl"]
    book["n_trades"] += 1
    book["traded_value"] += abs(value)
    _log(fills, book, s, state["trade"], now, reason, -quantity, price, fee, fx)
    state["quantity"] = rest
    state["entry_commission"] -= entry_fee
    state["carried"] -= carried
    if slot["settled"] == 0:
        state["value"] = rest * multiplier * state["mark"] * fx
    if reason == STOP:
        state["stop_time"] = now
    if rest == 0.0:
        if reason != ROLL:
            count_trade(state)
            state["ended_time"], state["ended_made"] = now, state["made"]
        state["exit_reason"] = OPEN
        state["stop"] = state["trail"] = math.nan


@_compiled
def _try_entry(
    slots: Records, states: Records, book: Record, fills: Records, orders: Records, refused: Record, s: int,
    o: float, h: float, l: float, c: float, volume: float, now: int,  # noqa: E741
) -> bool:  # fmt: skip
    """The entry order against the bar. Returns whether it filled inside the bar rather than as a market order."""
    slot, state = slots[s], states[s]
    kind = state["entry_type"]
    if kind == STOP_ORDER and state["triggered"] != 0:
        kind = MARKET  # reached before: the rest is a market order
    side = 1 if state["pending"] > 0 else -1
    wanted = abs(state["pending"])
    if slot["algo"] != 0:
        wanted = min(wanted, state["released"])
        if wanted <= 0.0:
            return False
    state["worked"] += 1
    price, triggered = match_bar(kind, side, state["limit"], state["trigger"], state["triggered"] != 0, o, h, l, c)
    if triggered:
        state["triggered"] = 1
    inside = False
    level = price
    if not math.isnan(price):
        quantity = fillable(wanted, slot["participation"], volume, slot["lot"])
        if quantity > 0.0:
            if kind in (MARKET, STOP_ORDER):
                price = slipped(slot, price, side, quantity, volume)
            if book["margined"] != 0 and state["quantity"] == 0.0:
                share = slot["initial_margin"]
                value = order_notional(quantity, price, slot["multiplier"] * state["fx"])
                needed = margin_needed(slots, states, s) + value * (1.0 if math.isnan(share) else share)
                if exceeds(needed, book["equity"]):  # the open went so far that the account cannot carry it
                    refused[BUYING_POWER] += 1
                    end_order(state, book, orders, s, now, REJECTED)
                    return False
            first = state["quantity"] == 0.0
            enter(slot, state, book, fills, s, price, quantity * side, now)
            left = state["released"] - quantity
            state["released"] = left if left > _NOISE * abs(state["ordered"]) else 0.0
            inside = kind != MARKET
            if first and inside and level != o:
                state["inside"] = 1
            if state["pending"] == 0.0:
                end_order(state, book, orders, s, now, FILLED)
    if state["pending"] != 0.0 and slot["valid_bars"] > 0 and state["worked"] >= slot["valid_bars"]:
        end_order(state, book, orders, s, now, EXPIRED)
    return inside


@_compiled
def trade_bar(
    slots: Records, states: Records, book: Record, trades: Records, fills: Records, orders: Records, legs: Floats,
    left: Floats, closing: Floats, refused: Record, s: int,
    o: float, h: float, l: float, c: float, volume: float, now: int,  # noqa: E741
) -> None:  # fmt: skip
    """Orders of slot s against one bar, then its mark and its trailing stop. legs, left, closing: (K,), levels of the
    targets, what each may still close, and what scale-outs close at this open, unsigned."""
    slot, state = slots[s], states[s]
    cap, lot = slot["participation"], slot["lot"]
    hole = math.isnan(o) or math.isnan(h) or math.isnan(l) or math.isnan(c)
    if state["quantity"] != 0.0 and state["exit_reason"] != OPEN and not hole:
        side = 1 if state["quantity"] > 0 else -1
        quantity = fillable(abs(state["quantity"]), cap, volume, lot)
        if quantity > 0.0:
            price = slipped(slot, o, -side, quantity, volume)
            leave(slot, state, book, trades, fills, orders, s, price, quantity * side, now, state["exit_reason"], False)
    if slot["path_at"] >= 0 and state["exit_reason"] == OPEN and not hole:
        side = 1 if state["quantity"] > 0 else -1
        for k in range(len(closing)):
            if not (closing[k] > 0.0) or state["quantity"] == 0.0:
                continue
            quantity = fillable(min(closing[k], left[k], abs(state["quantity"])), cap, volume, lot)
            if quantity > 0.0:
                price = slipped(slot, o, -side, quantity, volume)
                leave(slot, state, book, trades, fills, orders, s, price, quantity * side, now, SCALE_OUT, False)
                closing[k] -= quantity
                left[k] -= quantity
    inside, before = False, abs(state["quantity"])
    if state["pending"] != 0.0:
        inside = _try_entry(slots, states, book, fills, orders, refused, s, o, h, l, c, volume, now)
    if state["quantity"] == 0.0:
        return
    side = 1 if state["quantity"] > 0 else -1
    guarded = state["exit_reason"] == OPEN  # an exit under way has taken the stop and the targets back
    price = stop_fill(-side, state["stop"], o, h, l) if guarded else math.nan
    if not math.isnan(price):
        for k in range(len(legs)):
            if left[k] > 0.0 and not math.isnan(limit_fill(-side, legs[k], o, h, l)):
                book["ambiguous"] += 1  # the bar reached both, the stop is taken
                break
        if state["pending"] != 0.0:
            end_order(state, book, orders, s, now, CANCELED)
        quantity = fillable(abs(state["quantity"]), cap, volume, lot)
        if quantity > 0.0:
            price = slipped(slot, price, -side, quantity, volume)
            leave(slot, state, book, trades, fills, orders, s, price, quantity * side, now, STOP, False)
        if state["quantity"] != 0.0:
            state["exit_reason"] = STOP  # reached: the rest is a market order, and no target fills any more
    elif guarded and (not inside or slot["algo"] != 0):
        closable = before if inside else abs(state["quantity"])  # of a slice filled inside the bar only the stop is tried
        for k in range(len(legs)):
            if state["quantity"] == 0.0 or not (left[k] > 0.0) or not (closable > 0.0):
                continue
            price = limit_fill(-side, legs[k], o, h, l)
            if math.isnan(price):
                continue
            quantity = fillable(min(left[k], abs(state["quantity"]), closable), cap, volume, lot)
            if quantity > 0.0:
                leave(slot, state, book, trades, fills, orders, s, price, quantity * side, now, TARGET, False)
                left[k] -= quantity
                closable -= quantity
    if state["quantity"] != 0.0:
        if not math.isnan(c):
            mark_to(slot, state, c)
        if not math.isnan(state["trail"]) and not hole:
            # Where the bar was entered inside, its extreme may have come before the entry: only the close counts.
            high, low = (c, c) if inside else (h, l)
            state["stop"] = trail_on_grid(side, state["stop"], state["trail"], slot["tick"], high, low)
