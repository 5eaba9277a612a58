"""The compiled loop behind ``trading.backtest``: one pass over time across all slots.

A slot is one (strategy, instrument) with its bars and wishes. Bars are merged by close_time; slots whose bars close at
the same time are handled together, in their order. The events of a bar are stated in trading.backtest; the fills are
trading.matching's, the sizes trading.sizing's, the limits trading.limit_math's: this file only orders them in time.

run_many is resumable: it returns when it needs more staged rows, and goes on from its state. Every trade begins with a
wish, so trades never outnumber wishes; the loops stop with TRADES_FULL rather than write past the buffer.
Slots, state, wishes, bounds and trades are structured arrays: one record each, which compiled code reads by name at the
cost of a pointer.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trading import limit_math, matching, sizing
from trading.compiled import kernel
from trading.limit_math import daily_loss_reached, exceeds, leverage_exceeded, order_notional
from trading.matching import (
    MARKET,
    NO_LEG,
    SLIPPAGE_VOLUME,
    STOP_LEG,
    bracket_ambiguous,
    commission,
    match_bar,
    match_bracket,
    with_slippage,
)  # fmt: skip
from trading.sizing import floor_to_lot, raw_quantity

_compiled = kernel(matching, sizing, limit_math)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Records = NDArray[np.void]
Record = Any
"""One element of a structured array: np.void in plain Python, a pointer in compiled code."""

DONE: Final = 0
NEED_ROWS: Final = 1
TRADES_FULL: Final = 2

# Why a trade ended.
OPEN: Final = 0
STOP: Final = 1
TARGET: Final = 2
RULE: Final = 3
MAX_BARS: Final = 4

# Counted refusals, as columns of `refused` (S, 11).
STOP_REQUIRED: Final = 0
REWARD_TO_RISK: Final = 1
SIZE_ZERO: Final = 2
MAX_ORDER_QUANTITY: Final = 3
MAX_NOTIONAL: Final = 4
MAX_POSITION: Final = 5
CONCURRENT_POSITIONS: Final = 6
POSITION_OPEN: Final = 7
DAILY_LOSS: Final = 8
BUYING_POWER: Final = 9
LIMIT_MISSING: Final = 10
REFUSAL_NAMES: Final = (
    "STOP_REQUIRED", "REWARD_TO_RISK", "SIZE_ZERO", "MAX_ORDER_QUANTITY", "MAX_NOTIONAL", "MAX_POSITION",
    "CONCURRENT_POSITIONS", "POSITION_OPEN", "DAILY_LOSS", "BUYING_POWER", "LIMIT_MISSING",
)  # fmt: skip
NO_REFUSAL: Final = -1

_END_OF_TIME: Final = 2**62


def _dtype(whole: str, real: str) -> np.dtype[np.void]:
    return np.dtype([(name, np.int64) for name in whole.split()] + [(name, np.float64) for name in real.split()])


SLOT: Final = _dtype(
    "symbol strategy commission_kind slippage_kind sizing_kind max_bars require_stop",
    "tick lot multiplier commission_rate commission_minimum slippage_value sizing_parameter min_reward_to_risk",
)
"""Constants of a slot. symbol, strategy: codes that say which slots share one."""

BOUND: Final = _dtype(
    "active",
    "collar_percent order_quantity order_value position_value concurrent own_concurrent loss_amount loss_percent "
    "own_loss_amount own_loss_percent leverage",
)
"""Risk limits of a slot; NaN = missing. active 0: no limits at all. own_*: of the slot's strategy, NaN = none."""

WISH: Final = _dtype("row side", "reference stop target")
"""An entry wish at a bar's row: side +1 or -1, levels on the grid, NaN = none. Ascending by row within a slot."""

STATE: Final = _dtype(
    "cursor wish wish_end next_time pending_time exit_reason held entry_time signal_time",
    "quantity entry_price stop target mark value cash pending pending_stop pending_target pending_reference entry_commission "
    "day_start",
)
"""What changes in a slot. cursor: next row; wish, wish_end: next and last wish; quantity, pending: signed; cash: flows so
far; value: quantity * mark * multiplier; day_start: cash + value when the session began."""

BOOK: Final = _dtype("session orders ambiguous", "start_cash equity day_start_equity traded_value")
"""What changes in the portfolio, one record."""

TRADE: Final = _dtype("slot signal_time entry_time exit_time bars_held reason", "quantity entry_price exit_price commission pnl")
"""A closed trade; quantity signed, pnl net of commission."""


@_compiled
def _fee(slot: Record, quantity: float, price: float) -> float:
    return commission(
        abs(quantity), price, slot["multiplier"], slot["commission_kind"], slot["commission_rate"], slot["commission_minimum"]
    )


@_compiled
def _slipped(slot: Record, price: float, side: int, quantity: float, volume: float) -> float:
    return with_slippage(price, side, slot["slippage_kind"], slot["slippage_value"], slot["tick"], abs(quantity), volume)


@_compiled
def _enter(slot: Record, state: Record, book: Record, price: float, volume: float, now: int) -> None:
    quantity = state["pending"]
    price = _slipped(slot, price, 1 if quantity > 0 else -1, quantity, volume)
    fee = _fee(slot, quantity, price)
    value = quantity * slot["multiplier"] * price
    state["quantity"] = quantity
    state["entry_price"] = price
    state["entry_commission"] = fee
    state["stop"] = state["pending_stop"]
    state["target"] = state["pending_target"]
    state["entry_time"] = now
    state["signal_time"] = state["pending_time"]
    state["held"] = 0
    state["mark"] = price
    state["value"] = value
    state["cash"] -= value + fee
    state["pending"] = 0.0
    book["traded_value"] += abs(value)


@_compiled
def _leave(
    slot: Record, state: Record, book: Record, trade: Record, s: int, price: float, volume: float, now: int, reason: int
) -> None:
    quantity = state["quantity"]
    if reason != TARGET:  # a limit fills at its price or better, never worse
        price = _slipped(slot, price, -1 if quantity > 0 else 1, quantity, volume)
    fee = _fee(slot, quantity, price)
    value = quantity * slot["multiplier"] * price
    fees = state["entry_commission"] + fee
    trade["slot"] = s
    trade["signal_time"] = state["signal_time"]
    trade["entry_time"] = state["entry_time"]
    trade["exit_time"] = now
    # A trade that ends inside a bar was held for that bar, too; one that ends at an open was not.
    trade["bars_held"] = state["held"] + (1 if reason in (STOP, TARGET) else 0)
    trade["reason"] = reason
    trade["quantity"] = quantity
    trade["entry_price"] = state["entry_price"]
    trade["exit_price"] = price
    trade["commission"] = fees
    trade["pnl"] = (price - state["entry_price"]) * quantity * slot["multiplier"] - fees
    state["quantity"] = 0.0
    state["value"] = 0.0
    state["exit_reason"] = OPEN
    state["cash"] += value - fee
    book["traded_value"] += abs(value)


@_compiled
def _trade_bar(
    slot: Record, state: Record, book: Record, trades: Records, n: int, s: int,
    o: float, h: float, l: float, c: float, volume: float, now: int,  # noqa: E741
) -> int:  # fmt: skip
    """Orders of slot s against one bar: market orders at the open, then stop, then target; then the mark.

    Returns the number of trades written so far.
    """
    if state["quantity"] != 0.0:
        if state["exit_reason"] != OPEN:
            side = -1 if state["quantity"] > 0 else 1
            price, _ = match_bar(MARKET, side, math.nan, math.nan, False, o, h, l, c)
            if not math.isnan(price):
                _leave(slot, state, book, trades[n], s, price, volume, now, state["exit_reason"])
                n += 1
    elif state["pending"] != 0.0:
        side = 1 if state["pending"] > 0 else -1
        price, _ = match_bar(MARKET, side, math.nan, math.nan, False, o, h, l, c)
        if not math.isnan(price):
            _enter(slot, state, book, price, volume, now)
    if state["quantity"] != 0.0:
        stop, target = state["stop"], state["target"]
        side = 1 if state["quantity"] > 0 else -1
        price, leg = match_bracket(side, stop, target, True, o, h, l)
        if leg != NO_LEG:
            if bracket_ambiguous(side, stop, target, h, l):
                book["ambiguous"] += 1
            _leave(slot, state, book, trades[n], s, price, volume, now, STOP if leg == STOP_LEG else TARGET)
            n += 1
        elif not math.isnan(c):
            state["mark"] = c
            state["value"] = state["quantity"] * slot["multiplier"] * c
    return n


@_compiled
def _gate(slot: Record, side: int, reference: float, stop: float, target: float) -> int:
    """The gates stop_required and reward_to_risk, in their order."""
    if math.isnan(stop):
        if slot["require_stop"] != 0:
            return STOP_REQUIRED
    elif not ((reference - stop) * side > 0.0):
        return STOP_REQUIRED
    minimum = slot["min_reward_to_risk"]
    if math.isnan(target):
        return REWARD_TO_RISK if minimum > 0.0 else NO_REFUSAL
    reward = (target - reference) * side
    if not (reward > 0.0):
        return REWARD_TO_RISK
    risk = (reference - stop) * side
    if minimum > 0.0 and not (reward / risk >= minimum * (1.0 - 1e-9)):
        return REWARD_TO_RISK
    return NO_REFUSAL


@_compiled
def _limit(slots: Records, bound: Record, states: Records, book: Record, s: int, quantity: float, reference: float) -> int:
    """The risk rules that a backtest can break, in the order of trading/risk_rules."""
    slot = slots[s]
    if math.isnan(bound["collar_percent"]) or math.isnan(bound["order_quantity"]):
        return LIMIT_MISSING
    if exceeds(quantity, bound["order_quantity"]):
        return MAX_ORDER_QUANTITY
    value = order_notional(quantity, reference, slot["multiplier"])
    if math.isnan(bound["order_value"]):
        return LIMIT_MISSING
    if exceeds(value, bound["order_value"]):
        return MAX_NOTIONAL
    gross, here, taken, own_taken, own_pnl = 0.0, 0.0, 0, 0, 0.0
    for k in range(len(slots)):
        other, its = slots[k], states[k]
        mine = other["strategy"] == slot["strategy"]
        if mine:
            own_pnl += its["cash"] + its["value"] - its["day_start"]
        if its["quantity"] != 0.0 or its["pending"] != 0.0:
            exposure = abs(its["value"])
            if its["pending"] != 0.0:
                exposure += order_notional(its["pending"], its["pending_reference"], other["multiplier"])
            gross += exposure
            taken += 1
            own_taken += 1 if mine else 0
            here += exposure if other["symbol"] == slot["symbol"] else 0.0
    if math.isnan(bound["position_value"]):
        return LIMIT_MISSING
    if exceeds(here + value, bound["position_value"]):
        return MAX_POSITION
    if math.isnan(bound["concurrent"]):
        return LIMIT_MISSING
    if taken + 1 > bound["concurrent"] or own_taken + 1 > bound["own_concurrent"]:
        return CONCURRENT_POSITIONS
    amount, percent = bound["loss_amount"], bound["loss_percent"]
    if math.isnan(amount) and math.isnan(percent):
        return LIMIT_MISSING
    start = book["day_start_equity"]
    if daily_loss_reached(book["equity"] - start, start, amount, percent):
        return DAILY_LOSS
    amount, percent = bound["own_loss_amount"], bound["own_loss_percent"]
    if not (math.isnan(amount) and math.isnan(percent)) and daily_loss_reached(own_pnl, start, amount, percent):
        return DAILY_LOSS
    if math.isnan(bound["leverage"]):
        return LIMIT_MISSING
    if leverage_exceeded(gross + value, book["equity"], bound["leverage"]):
        return BUYING_POWER
    return NO_REFUSAL


@_compiled
def _wish(slots: Records, bounds: Records, states: Records, book: Record, wish: Record, s: int, now: int) -> int:
    """An entry wish at this close: gates, size, limits, then a market order for the next open. Returns the refusal."""
    slot, state, bound = slots[s], states[s], bounds[s]
    if state["quantity"] != 0.0 or state["pending"] != 0.0:
        return POSITION_OPEN
    side = wish["side"]
    reference, stop, target = wish["reference"], wish["stop"], wish["target"]
    refusal = _gate(slot, side, reference, stop, target)
    if refusal != NO_REFUSAL:
        return refusal
    raw = raw_quantity(slot["sizing_kind"], slot["sizing_parameter"], book["equity"], reference, stop, slot["multiplier"], 1.0)
    quantity = floor_to_lot(raw, slot["lot"])
    if quantity <= 0.0:
        return SIZE_ZERO
    if bound["active"] != 0:
        refusal = _limit(slots, bound, states, book, s, quantity, reference)
        if refusal != NO_REFUSAL:
            return refusal
    state["pending"] = quantity * side
    state["pending_stop"] = stop
    state["pending_target"] = target
    state["pending_reference"] = reference
    state["pending_time"] = now
    book["orders"] += 1 + (0 if math.isnan(stop) else 1) + (0 if math.isnan(target) else 1)
    return NO_REFUSAL


@_compiled
def _exit_rule(slot: Record, state: Record, book: Record, exit_long: bool, exit_short: bool) -> None:
    """At the close, with a position open: the exit rule, then max_bars, decide an exit for the next open."""
    state["held"] += 1
    if state["exit_reason"] == OPEN:
        if exit_long if state["quantity"] > 0 else exit_short:
            state["exit_reason"] = RULE
            book["orders"] += 1
        elif slot["max_bars"] > 0 and state["held"] >= slot["max_bars"]:
            state["exit_reason"] = MAX_BARS
            book["orders"] += 1


@_compiled
def _new_session(states: Records, book: Record, number: int) -> None:
    book["session"] = number
    book["day_start_equity"] = book["equity"]
    for s in range(len(states)):
        states[s]["day_start"] = states[s]["cash"] + states[s]["value"]


@_compiled
def _quiet(
    slot: Record, state: Record, book: Record, by_session: bool, session: NDArray[np.int32], high: Floats, low: Floats,
    close: Floats, exits: NDArray[np.bool_], equity: Floats, row: int, last: int,
) -> int:  # fmt: skip
    """Bars on which an open position is only marked: from `row` to the first that may bring an event, at most `last`.

    An event: the stop or target within the bar's range, the exit rule, max_bars at its close, no close, and, where
    `by_session`, a new session.
    Writes the equity of the quiet bars and returns the first other row, which is then handled in full.
    """
    if slot["max_bars"] > 0:
        last = min(last, row + slot["max_bars"] - state["held"] - 1)
    quantity, unit = state["quantity"], state["quantity"] * slot["multiplier"]
    cash = book["start_cash"] + state["cash"]
    below, above = (state["stop"], state["target"]) if quantity > 0 else (state["target"], state["stop"])
    levels = not (math.isnan(below) and math.isnan(above))
    number, start = book["session"], row
    while row < last:
        price = close[row]
        if exits[row] or math.isnan(price) or (by_session and session[row] > number):
            break
        if levels and (low[row] <= below or high[row] >= above):
            break
        equity[row] = cash + unit * price
        row += 1
    if row > start:
        state["held"] += row - start
        state["mark"] = close[row - 1]
        state["value"] = unit * close[row - 1]
        book["equity"] = equity[row - 1]
    return row


@_compiled
def run_one(
    close_time: Ints, session: NDArray[np.int32], open_: Floats, high: Floats, low: Floats, close: Floats, volume: Floats,
    exit_long: NDArray[np.bool_], exit_short: NDArray[np.bool_], slots: Records, bounds: Records, wishes: Records,
    states: Records, books: Records, refused: Ints, trades: Records, equity: Floats,
) -> tuple[int, int]:  # fmt: skip
    """The whole history of a single slot. equity: (T,), written. Returns (status, trades written).

    The same events as `run_many`; while nothing is open or pending it jumps to the next wish, and while an open position is
    only marked it does nothing else (`_quiet`).
    """
    n, last = 0, len(close_time)
    slot, state, book = slots[0], states[0], books[0]
    by_session = bounds[0]["active"] != 0  # only limits know sessions
    by_volume = slot["slippage_kind"] == SLIPPAGE_VOLUME
    row = state["cursor"]
    while row < last:
        if n == len(trades):
            state["cursor"] = row
            return TRADES_FULL, n
        w = state["wish"]
        wished = wishes[w]["row"] if w < state["wish_end"] else last
        if state["quantity"] == 0.0 and state["pending"] == 0.0:
            flat = book["equity"]
            for flat_row in range(row, wished):
                equity[flat_row] = flat
            row = wished
            if row == last:
                break
        elif state["quantity"] != 0.0 and state["exit_reason"] == OPEN:
            exits = exit_long if state["quantity"] > 0 else exit_short
            row = _quiet(slot, state, book, by_session, session, high, low, close, exits, equity, row, wished)
            if row == last:
                break
        now = close_time[row]
        if by_session and session[row] > book["session"]:
            _new_session(states, book, session[row])
        if state["quantity"] != 0.0 or state["pending"] != 0.0:
            traded = volume[row] if by_volume else 0.0  # a column less to read
            n = _trade_bar(slot, state, book, trades, n, 0, open_[row], high[row], low[row], close[row], traded, now)
            book["equity"] = book["start_cash"] + state["cash"] + state["value"]
            if state["quantity"] != 0.0:
                _exit_rule(slot, state, book, exit_long[row], exit_short[row])
        equity[row] = book["equity"]
        if row == wished:
            state["wish"] = w + 1
            refusal = _wish(slots, bounds, states, book, wishes[w], 0, now)
            if refusal != NO_REFUSAL:
                refused[0, refusal] += 1
        row += 1
    state["cursor"] = row
    return DONE, n


@_compiled
def run_many(
    close_time: Ints, session: NDArray[np.int32], open_: Floats, high: Floats, low: Floats, close: Floats, volume: Floats,
    exit_long: NDArray[np.bool_], exit_short: NDArray[np.bool_], shift: Ints, staged: Ints, total: Ints, slots: Records,
    bounds: Records, wishes: Records, states: Records, books: Records, refused: Ints, trades: Records, times: Ints,
    equity: Floats,
) -> tuple[int, int, int]:  # fmt: skip
    """All slots over the staged rows, merged by close_time.

    Row r of slot s is at shift[s] + r of the flat columns; rows below staged[s] are there, total[s] exist. times, equity:
    written, one value per distinct close. Returns (status, trades written, closes written).
    """
    n, written, count, book = 0, 0, len(slots), books[0]
    while True:
        if n + count > len(trades):
            return TRADES_FULL, n, written
        now, number = _END_OF_TIME, book["session"]
        for s in range(count):
            state = states[s]
            row = state["cursor"]
            if row >= total[s]:
                state["next_time"] = _END_OF_TIME
                continue
            if row >= staged[s]:
                return NEED_ROWS, n, written
            state["next_time"] = close_time[shift[s] + row]
            now = min(now, state["next_time"])
        if now == _END_OF_TIME:
            return DONE, n, written
        for s in range(count):
            if states[s]["next_time"] == now:
                number = max(number, session[shift[s] + states[s]["cursor"]])
        if number > book["session"]:
            _new_session(states, book, number)
        worth = book["start_cash"]
        for s in range(count):
            state = states[s]
            if state["next_time"] == now and (state["quantity"] != 0.0 or state["pending"] != 0.0):
                i = shift[s] + state["cursor"]
                n = _trade_bar(slots[s], state, book, trades, n, s, open_[i], high[i], low[i], close[i], volume[i], now)
            worth += state["cash"] + state["value"]
        book["equity"] = worth
        times[written] = now
        equity[written] = worth
        written += 1
        for s in range(count):
            state = states[s]
            if state["next_time"] != now:
                continue
            row = state["cursor"]
            if state["quantity"] != 0.0:
                i = shift[s] + row
                _exit_rule(slots[s], state, book, exit_long[i], exit_short[i])
            w = state["wish"]
            if w < state["wish_end"] and wishes[w]["row"] == row:
                state["wish"] = w + 1
                refusal = _wish(slots, bounds, states, book, wishes[w], s, now)
                if refusal != NO_REFUSAL:
                    refused[s, refusal] += 1
            state["cursor"] = row + 1
