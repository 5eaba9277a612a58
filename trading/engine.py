"""The compiled loop behind ``trading.backtest``: one pass over time across all slots, the general lane.

Bars are merged by close_time; slots whose bars close at the same time are handled together, in their order: first what
happens by itself (corporate actions, rolls, borrow cost), then all fills, then the account (equity, margin), then all
decisions. The events of a bar are stated in trading.backtest; the fills are trading.matching's, the sizes trading.sizing's,
the limits trading.limit_math's: this file only orders them in time. trading.engine_plain is the short way for slots that
need none of it.

run_many is resumable: it returns when it needs more staged rows, its buffers are full, or a trade was entered whose stop
moves, parts and exits must be computed (once a trade and window, not once a bar), and goes on from its state.
"""

from __future__ import annotations

import math

from trading import (
    engine_account,
    engine_managed,
    engine_orders,
    engine_pauses,
    engine_portfolio,
    engine_records,
    engine_rules,
    engine_slices,
    engine_together,
    limit_math,
    matching,
    portfolio_math,
    sizing,
)
from trading.compiled import kernel
from trading.engine_account import act, borrow, check_margin
from trading.engine_managed import manage, unknown_paths
from trading.engine_orders import end_order, mark_to, trade_bar
from trading.engine_pauses import cooling, new_close, paused
from trading.engine_portfolio import Past, break_at, flatten, halted, is_flat, portfolio, rate_refusal, sent
from trading.engine_records import (
    ACT_DELIST,
    BARRED,
    BUFFER_FULL,
    CANCELED,
    COOLDOWN,
    DONE,
    END_OF_TIME,
    EXECUTION,
    EXPIRED,
    LEG,
    MAX_BARS,
    NEED_PATH,
    NEED_ROWS,
    NO_REFUSAL,
    NOT_TRADABLE,
    OPEN,
    PLACED,
    POSITION_OPEN,
    PRICE_MISSING,
    RISK_BUDGET,
    RULE,
    SESSION_CLOSED,
    SESSION_END,
    SIZE_ZERO,
    Bools,
    Floats,
    Ints,
    Record,
    Records,
)  # fmt: skip
from trading.engine_rules import buying_power, day_lost, gate, limit, margin_refusal, over_budget, sized, worst_price
from trading.engine_slices import begin, possible, work
from trading.engine_together import alone, resolve, take_back, withdraw
from trading.execution import slicing
from trading.sizing import floor_to_lot, raw_quantity

_compiled = kernel(
    engine_account, engine_managed, engine_orders, engine_pauses, engine_portfolio, engine_rules, engine_records, engine_slices,
    engine_together, slicing, matching, sizing, limit_math, portfolio_math, nogil=True,
)  # fmt: skip

ROOM = 8
"""Trades, fills or orders that one slot can make in one bar, beside its targets."""


@_compiled
def _place(
    slot: Record, state: Record, book: Record, wish: Record, levels: Floats, parts: Floats, legs: Floats, left: Floats,
    closing: Floats, quantity: float, now: int,
) -> None:  # fmt: skip
    """An accepted wish becomes the slot's entry order, with its stop and targets to come."""
    lot = slot["lot"]
    state["pending"] = state["ordered"] = quantity * wish["side"]
    state["pending_stop"], state["pending_trail"] = wish["stop"], wish["trail"]
    state["pending_reference"] = wish["reference"]
    state["pending_time"] = state["placed_time"] = now
    state["entry_type"], state["triggered"], state["worked"] = slot["entry_type"], 0, 0
    state["limit"], state["trigger"] = wish["limit"], wish["trigger"]
    count, given, share = 0, 0.0, 0.0
    for k in range(len(legs)):
        legs[k], left[k], closing[k] = levels[k], 0.0, 0.0
        if not (parts[k] > 0.0):
            continue
        if not math.isnan(levels[k]):  # a part without a target: only the stop, or a scale-out, closes it
            count += 1
        share += parts[k]
        left[k] = floor_to_lot(quantity * parts[k], lot)
        if share >= 1.0 - 1e-9:  # the last target takes what rounding left
            left[k] = quantity - given
        given += left[k]
    book["orders"] += 1 + (0 if math.isnan(wish["stop"]) else 1) + count


@_compiled
def _limits(
    slots: Records, bounds: Records, states: Records, book: Record, past: Past, wish: Record, s: int, quantity: float,
    last: float, now: int,
) -> int:  # fmt: skip
    """The refusal of an entry by the risk rules, in the order of their numbers; NO_REFUSAL when none refuses."""
    slot, state, bound, side = slots[s], states[s], bounds[s], wish["side"]
    refusal = halted(slots, states, book, past, s, now)
    if refusal != NO_REFUSAL:
        return refusal
    value = limit_math.order_notional(quantity, worst_price(wish, last), slot["multiplier"] * state["fx"])
    refusal = limit(slots, bound, states, book, s, wish, quantity, value, last)
    if refusal != NO_REFUSAL:
        return refusal
    if bound["more"] != 0 and cooling(bound, state, now):
        return COOLDOWN
    refusal = day_lost(bound, book)
    if refusal == NO_REFUSAL and bound["more"] != 0:
        refusal = paused(slots, bounds, states, book, s, side, value, now)
    if refusal == NO_REFUSAL and book["looks_back"] != 0:
        refusal = portfolio(slots, states, book, past, s, side, value, now)
    if refusal == NO_REFUSAL:
        refusal = rate_refusal(book, past, now)
    return refusal if refusal != NO_REFUSAL else buying_power(bound, book, value)


@_compiled
def _wish(
    slots: Records, bounds: Records, states: Records, book: Record, wish: Record, levels: Floats, parts: Floats, legs: Floats,
    left: Floats, closing: Floats, past: Past, s: int, closed: bool, rate_known: bool, last: float, now: int,
) -> int:  # fmt: skip
    """An entry wish at this close: gates, size, limits, margin, then an order for the next bar. Returns the refusal."""
    slot, state, bound = slots[s], states[s], bounds[s]
    if state["quantity"] != 0.0 or state["pending"] != 0.0:
        return POSITION_OPEN
    if state["delisted"] != 0:
        return NOT_TRADABLE
    if closed:
        return SESSION_CLOSED
    if not rate_known:
        return PRICE_MISSING
    side, reference, stop = wish["side"], wish["reference"], wish["stop"]
    refusal = gate(slot, side, reference, stop, wish["target"])
    if refusal != NO_REFUSAL:
        return refusal
    amount = sized(slots, states, s, wish["scale"])
    raw = raw_quantity(slot["sizing_kind"], amount, book["equity"], reference, stop, slot["multiplier"], state["fx"])
    quantity = floor_to_lot(raw, slot["lot"])
    if quantity <= 0.0:
        return SIZE_ZERO
    if over_budget(slots, states, book, s, quantity * side, reference, stop):
        return RISK_BUDGET
    if bound["active"] != 0:
        refusal = _limits(slots, bounds, states, book, past, wish, s, quantity, last, now)
        if refusal != NO_REFUSAL:
            return refusal
    refusal = margin_refusal(slots, states, book, s, quantity, reference)
    if refusal != NO_REFUSAL:
        return refusal
    if slot["algo"] != 0 and not possible(slot, wish, quantity):
        return EXECUTION
    _place(slot, state, book, wish, levels, parts, legs, left, closing, quantity, now)
    if slot["algo"] != 0:
        begin(slot, state, wish)
    else:
        sent(book, state, past, now)
    return NO_REFUSAL


@_compiled
def _exit_rule(slot: Record, state: Record, book: Record, exit_long: bool, exit_short: bool, closing: bool) -> None:
    """At the close, with a position open: the exit rule, then max_bars, then the session's end, decide an exit for the next
    open."""
    state["held"] += 1
    # The desk counts the bars after the entry's time, which inside a bar is that bar's close.
    held = state["held"] - (state["inside"] if slot["algo"] != 0 else 0)
    if state["exit_reason"] == OPEN:
        reason = OPEN
        if exit_long if state["quantity"] > 0 else exit_short:
            reason = RULE
        elif slot["max_bars"] > 0 and held >= slot["max_bars"]:
            reason = MAX_BARS
        elif closing:
            reason = SESSION_END
        if reason != OPEN:
            state["exit_reason"] = reason
            book["orders"] += 1


@_compiled
def _new_session(states: Records, book: Record, number: int) -> None:
    book["session"] = number
    book["day_start_equity"] = book["equity"]
    for s in range(len(states)):
        states[s]["day_start"] = states[s]["cash"] + states[s]["value"]


@_compiled
def _begin_bar(
    slot: Record, state: Record, book: Record, trades: Records, fills: Records, orders: Records, actions: Records,
    legs: Floats, left: Floats, closing: Floats, rates: Floats, s: int, row: int, session: int, volume: float, now: int,
) -> None:  # fmt: skip
    """What happens to a slot before its bar's open: the rate, borrow cost of the night, corporate actions and rolls."""
    if slot["fx_at"] >= 0:
        rate = rates[slot["fx_at"] + row]
        if not math.isnan(rate):
            state["fx"] = rate
    if session > state["session"]:
        if state["quantity"] < 0.0 and slot["borrow_rate"] > 0.0:
            borrow(slot, state, book, session - state["session"])
        state["session"] = session
    while state["action"] < state["action_end"]:
        action = actions[state["action"]]
        if action["row"] > row or action["kind"] == ACT_DELIST:
            break
        act(slot, state, book, trades, fills, orders, legs, left, closing, action, s, volume, now)
        state["action"] += 1


@_compiled
def run_many(
    close_time: Ints, session: Ints, open_: Floats, high: Floats, low: Floats, close: Floats, volume: Floats,
    exit_long: Bools, exit_short: Bools, last_call: Bools, shift: Ints, staged: Ints, total: Ints, slots: Records,
    bounds: Records, wishes: Records, heard: Records, levels: Floats, parts: Floats, legs: Floats, left: Floats, closing: Floats,
    actions: Records, rates: Floats, path_stop: Floats, path_leave: Ints, path_due: Ints, weights: Floats,
    past: Past, states: Records, books: Records,
    refused: Ints, trades: Records, fills: Records, orders: Records, halts: Records,
    times: Ints, equity: Floats, gross: Floats, net: Floats,
) -> tuple[int, int]:  # fmt: skip
    """All slots over the staged rows, merged by close_time.

    Row r of slot s is at shift[s] + r of the flat columns; rows below staged[s] are there, total[s] exist. levels, parts:
    (W, K), targets of each wish and the share each closes; legs, left, closing: (S, K), those at work. rates: flat, account
    currency per quote currency. path_*: flat, of managed slots: see trading.engine_managed. weights: flat, of entries
    worked by a volume profile. past: what limits are measured on. times, equity, gross,
    net: written, one value per distinct close. Returns (status, closes written); how many records were written stands in the
    book.
    """
    written, count, book = 0, len(slots), books[0]
    room = ROOM + legs.shape[1]
    while True:
        if book["n_trades"] + count * room > len(trades) or book["n_fills"] + 2 * count * room > len(fills):
            return BUFFER_FULL, written
        if book["n_orders"] + count * room > len(orders) or book["n_halts"] + 2 * count + 2 > len(halts):
            return BUFFER_FULL, written
        now, number = END_OF_TIME, book["session"]
        for s in range(count):
            state = states[s]
            row = state["cursor"]
            if row >= total[s]:
                state["next_time"] = END_OF_TIME
                continue
            if row >= staged[s]:
                return NEED_ROWS, written
            state["next_time"] = close_time[shift[s] + row]
            now = min(now, state["next_time"])
        if now == END_OF_TIME:
            return DONE, written
        for s in range(count):
            if states[s]["next_time"] == now:
                number = max(number, session[shift[s] + states[s]["cursor"]])
        if number > book["session"]:
            _new_session(states, book, number)
        if book["filled"] == 0:
            worth, gross_now, net_now = book["start_cash"], 0.0, 0.0
            for s in range(count):
                state = states[s]
                if state["next_time"] == now:
                    row = state["cursor"]
                    i = shift[s] + row
                    slot = slots[s]
                    if slot["fx_at"] >= 0 or state["action"] < state["action_end"] or session[i] > state["session"]:
                        _begin_bar(
                            slot, state, book, trades, fills, orders, actions, legs[s], left[s], closing[s], rates, s, row,
                            session[i], volume[i], now,
                        )  # fmt: skip
                    if state["quantity"] != 0.0 or state["pending"] != 0.0:
                        trade_bar(
                            slots, states, book, trades, fills, orders, legs[s], left[s], closing[s], refused[s], s, open_[i],
                            high[i], low[i], close[i], volume[i], now,
                        )  # fmt: skip
                        if slot["fx_at"] >= 0 and state["quantity"] != 0.0 and math.isnan(close[i]):
                            mark_to(slot, state, state["mark"])
                    if state["action"] < state["action_end"] and state["delisted"] == 0:
                        action = actions[state["action"]]
                        if action["kind"] == ACT_DELIST and action["row"] == row:
                            act(slot, state, book, trades, fills, orders, legs[s], left[s], closing[s], action, s, volume[i], now)
                            state["action"] += 1
                worth += state["cash"] + state["value"]
                if state["quantity"] != 0.0:
                    held = state["quantity"] * state["mark"] * slots[s]["multiplier"] * state["fx"]
                    gross_now += abs(held)
                    net_now += held
            book["equity"] = worth
            times[written] = now
            equity[written] = worth
            gross[written] = gross_now
            net[written] = net_now
            written += 1
            if book["margined"] != 0 and gross_now > 0.0:
                check_margin(slots, states, book, orders, now)
            if book["managed"] != 0 and unknown_paths(slots, states, now):
                book["filled"] = 1
                return NEED_PATH, written
        book["filled"] = 0
        if book["more"] != 0:
            new_close(slots, states, now)
        if book["breaks"] != 0:
            break_at(slots, states, book, orders, halts, past, now)
        if book["together"] != 0:
            resolve(slots, states, book, wishes, heard, now)
        for s in range(count):
            state = states[s]
            if state["next_time"] != now:
                continue
            row = state["cursor"]
            i = shift[s] + row
            ending = last_call[i]
            if state["quantity"] != 0.0:
                if slots[s]["group"] >= 0 and state["exit_reason"] == OPEN and alone(slots, states, s):
                    state["exit_reason"] = LEG
                    book["orders"] += 1
                _exit_rule(slots[s], state, book, exit_long[i], exit_short[i], ending)
                if slots[s]["path_at"] >= 0 and state["exit_reason"] == OPEN:
                    manage(slots[s], state, book, path_stop, path_leave, path_due, left[s], closing[s], row, close[i])
                if is_flat(state, book):
                    flatten(state, book)
                if state["exit_reason"] != OPEN and state["pending"] != 0.0:
                    end_order(state, book, orders, s, now, CANCELED)
            if ending and state["pending"] != 0.0:
                end_order(state, book, orders, s, now, EXPIRED)
            state["sent"] = 0
            w = state["wish"]
            if w < state["wish_end"] and wishes[w]["row"] == row:
                state["wish"] = w + 1
                rate_known = slots[s]["fx_at"] < 0 or not math.isnan(rates[slots[s]["fx_at"] + row])
                refusal, barred = NO_REFUSAL, False
                if book["together"] != 0:
                    refusal, barred, state["placed"] = state["beaten"], heard[w]["barred"] != 0, book["orders"]
                if refusal == NO_REFUSAL and not barred:
                    refusal = _wish(
                        slots, bounds, states, book, wishes[w], levels[w], parts[w], legs[s], left[s], closing[s], past, s,
                        ending, rate_known, close[i], now,
                    )  # fmt: skip
                if refusal != NO_REFUSAL and not barred:
                    refused[s, refusal] += 1
                if book["together"] != 0:
                    state["placed"] = book["orders"] - state["placed"]
                    state["said"] = BARRED if barred else PLACED if refusal == NO_REFUSAL else refusal
            if slots[s]["algo"] != 0 and state["pending"] != 0.0:
                slices = state["algo_sent"]
                work(slots[s], state, book, orders, weights, s, now, volume[i], legs[s][0])
                if state["algo_sent"] > slices:
                    sent(book, state, past, now)
            group = slots[s]["group"]
            if group >= 0 and (s + 1 == count or slots[s + 1]["group"] != group):
                withdraw(slots, states, book, refused, s)
            state["cursor"] = row + 1
        if book["together"] != 0:
            take_back(slots, states, book, orders, refused, now)
