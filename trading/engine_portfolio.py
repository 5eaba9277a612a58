"""Limits that look at the past and at the whole portfolio, compiled: breakers and their halts, correlation, value at risk, rates.

Each is the rule of the same name in trading/risk_rules, or the breaker in desk/breakers.py, over the backtest's records; the
arithmetic is trading.portfolio_math's. What they measure is prepared by trading.risk_history and read only as of the moment.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from trading import engine_orders, engine_records, engine_rules, limit_math, portfolio_math
from trading.compiled import kernel
from trading.engine_orders import end_order
from trading.engine_records import (
    CANCELED,
    CIRCUIT_BREAKER,
    CORRELATION,
    DAILY_LOSS,
    DRAWDOWN,
    FLATTEN,
    HALTED,
    LEVEL_FLATTEN,
    NO_REFUSAL,
    OPEN,
    ORDER_RATE,
    RESUME_AT_ONCE,
    RESUME_NEXT_SESSION,
    RISK_INPUT_MISSING,
    VALUE_AT_RISK,
    Floats,
    Ints,
    Record,
    Records,
)  # fmt: skip
from trading.limit_math import exceeds
from trading.portfolio_math import all_known, correlation, newest_returns, tail_loss

_compiled = kernel(engine_orders, engine_records, engine_rules, limit_math, portfolio_math)
_DAY_US = 86_400_000_000


class Past(NamedTuple):
    """What the limits of one run are measured on, M instruments by their code.

    risk: one RISK record. time, session, level: flat daily columns, versions: VERSION records over them, those of instrument m at
    version_at[m] <= v < version_at[m + 1], ascending by from_time. abnormal, tripped: flat times of closes after an abnormal
    move, and of those at which a breaker trips, by instrument at *_at; cursor: (M,) next trip; priced: (M,) first close there is.
    sent: ring of the times of the newest entries.
    """

    risk: Records
    time: Ints
    session: Ints
    level: Floats
    versions: Records
    version_at: Ints
    abnormal: Ints
    abnormal_at: Ints
    tripped: Ints
    tripped_at: Ints
    cursor: Ints
    priced: Ints
    sent: Ints


# -- breakers and halts ------------------------------------------------------------------------------------------------


@_compiled
def _note(book: Record, halts: Records, now: int, slot: int, code: int, level: int) -> None:
    halt = halts[book["n_halts"]]
    halt["time"], halt["slot"], halt["code"], halt["level"] = now, slot, code, level
    book["n_halts"] += 1


@_compiled
def _stop(slots: Records, states: Records, book: Record, orders: Records, symbol: int, level: int, now: int) -> None:
    """Entries that have not filled end; at FLATTEN positions are closed at their next open. symbol -1: all of them."""
    for k in range(len(slots)):
        state = states[k]
        if symbol >= 0 and slots[k]["symbol"] != symbol:
            continue
        if state["pending"] != 0.0 and (state["pending"] == state["ordered"] or slots[k]["algo"] != 0):
            end_order(state, book, orders, k, now, CANCELED)
        if level == LEVEL_FLATTEN and state["quantity"] != 0.0:
            state["flatten"] = 1
            if state["next_time"] != now:  # the others' own exits are asked first, as at the desk
                flatten(state, book)


@_compiled
def flatten(state: Record, book: Record) -> None:
    """Close the position at the next open, unless an exit is under way."""
    state["flatten"] = 0
    if state["quantity"] != 0.0 and state["exit_reason"] == OPEN:
        state["exit_reason"] = FLATTEN
        book["orders"] += 1


@_compiled
def _latch_desk(
    slots: Records, states: Records, book: Record, orders: Records, halts: Records, resume: int, code: int, level: int, now: int
) -> None:  # fmt: skip
    _note(book, halts, now, -1, code, level)
    _stop(slots, states, book, orders, -1, level, now)
    if resume != RESUME_AT_ONCE:
        book["halt"] = max(book["halt"], level)
        book["halt_session"] = book["session"]


@_compiled
def _first_of(slots: Records, symbol: int) -> int:
    for k in range(len(slots)):
        if slots[k]["symbol"] == symbol:
            return k
    return 0


@_compiled
def _lift(slots: Records, states: Records, book: Record, halts: Records, now: int) -> None:
    """The operator resumes what was halted in an earlier session."""
    if book["halt"] != 0 and book["session"] > book["halt_session"]:
        book["halt"] = 0
        _note(book, halts, now, -1, -1, 0)
    for k in range(len(slots)):
        if states[k]["halted"] != 0 and book["session"] > states[k]["halted_session"]:
            states[k]["halted"] = 0
            if _first_of(slots, slots[k]["symbol"]) == k:
                book["halted"] -= 1
                _note(book, halts, now, k, -1, 0)


@_compiled
def break_at(slots: Records, states: Records, book: Record, orders: Records, halts: Records, past: Past, now: int) -> None:
    """Before the decisions of a close: what its prices trip, each limit by itself. A day's loss trips once a session, a fall once
    a peak, a move while its instrument is not halted."""
    risk = past.risk[0]
    book["peak"] = max(book["peak"], book["equity"])
    if risk["resume"] == RESUME_NEXT_SESSION and (book["halt"] != 0 or book["halted"] != 0):
        _lift(slots, states, book, halts, now)
    equity, start, allowed = book["equity"], book["day_start_equity"], math.inf
    if not math.isnan(risk["loss_amount"]):
        allowed = risk["loss_amount"]
    if not math.isnan(risk["loss_percent"]):
        allowed = min(allowed, start * risk["loss_percent"] / 100.0)
    if equity <= start - allowed and book["loss_session"] != book["session"]:
        book["loss_session"] = book["session"]
        level = risk["loss_level"]
        _latch_desk(slots, states, book, orders, halts, risk["resume"], DAILY_LOSS, level, now)
    if equity <= book["peak"] * (1.0 - risk["drawdown"] / 100.0) and book["peak"] > book["halted_peak"]:
        book["halted_peak"] = book["peak"]
        level = risk["drawdown_level"]
        _latch_desk(slots, states, book, orders, halts, risk["resume"], DRAWDOWN, level, now)
    if risk["pause_us"] < 0:
        return
    for m in range(len(past.cursor)):
        at, moved = past.cursor[m], False
        while at < past.tripped_at[m + 1] and past.tripped[at] <= now:
            moved = True
            at += 1
        past.cursor[m] = at
        if not moved:
            continue
        first = _first_of(slots, m)
        if states[first]["halted"] != 0:
            continue
        _note(book, halts, now, first, CIRCUIT_BREAKER, risk["breaker_level"])
        _stop(slots, states, book, orders, m, risk["breaker_level"], now)
        if risk["resume"] == RESUME_AT_ONCE:
            continue
        book["halted"] += 1
        for k in range(len(slots)):
            if slots[k]["symbol"] == m:
                states[k]["halted"], states[k]["halted_session"] = risk["breaker_level"], book["session"]


@_compiled
def is_flat(state: Record, book: Record) -> bool:
    """Must the position be closed because of a halt?"""
    return state["flatten"] != 0 or book["halt"] == LEVEL_FLATTEN or state["halted"] == LEVEL_FLATTEN


@_compiled
def halted(slots: Records, states: Records, book: Record, past: Past, s: int, now: int) -> int:
    """The refusal of an entry by a halt or just after an abnormal move, else NO_REFUSAL."""
    if book["halt"] != 0 or states[s]["halted"] != 0:
        return HALTED
    pause = past.risk[0]["pause_us"]
    if pause < 0:
        return NO_REFUSAL
    m = slots[s]["symbol"]
    if past.priced[m] > now:
        return RISK_INPUT_MISSING
    begin, end = past.abnormal_at[m], past.abnormal_at[m + 1]
    newest = begin + np.searchsorted(past.abnormal[begin:end], now, side="right") - 1
    return CIRCUIT_BREAKER if newest >= begin and past.abnormal[newest] >= now - pause else NO_REFUSAL


# -- orders within a time ----------------------------------------------------------------------------------------------


@_compiled
def sent(book: Record, state: Record, past: Past, now: int) -> None:
    """An entry, or a slice of one, is ordered at this close."""
    if past.risk[0]["rate_orders"] > 0:
        past.sent[book["sent"] % len(past.sent)] = now
        book["sent"] += 1
        state["sent"] += 1


@_compiled
def too_many(book: Record, past: Past, now: int) -> bool:
    """Were there as many entries within the time before `now` as there may be?"""
    orders = past.risk[0]["rate_orders"]
    if orders <= 0 or book["sent"] < orders:
        return False
    return past.sent[(book["sent"] - orders) % len(past.sent)] > now - past.risk[0]["rate_us"]


# -- the whole portfolio -----------------------------------------------------------------------------------------------


@_compiled
def _version(past: Past, m: int, now: int) -> int:
    chosen = -1
    for v in range(past.version_at[m], past.version_at[m + 1]):
        if past.versions[v]["from_time"] <= now:
            chosen = v
    return chosen


@_compiled
def _returns(past: Past, symbols: Ints, now: int) -> tuple[Floats, int]:
    """(daily returns of the instruments, how many of the newest rows are there), as the desk would read them at `now`."""
    count, wanted = len(symbols), past.risk[0]["sessions"]
    begins, ends = np.zeros(count, np.int64), np.zeros(count, np.int64)
    out = np.empty((wanted, count))
    oldest = now // _DAY_US - (2 * wanted + 30)
    for k in range(count):
        v = _version(past, symbols[k], now)
        if v < 0:
            return out, 0
        begin, end = past.versions[v]["begin"], past.versions[v]["end"]
        ends[k] = begin + np.searchsorted(past.time[begin:end], now, side="right")
        begins[k] = begin + np.searchsorted(past.session[begin:end], oldest, side="left")
        if begins[k] < ends[k] and past.session[begins[k]] < past.versions[v]["broken"]:
            return out, 0  # an action whose factor nobody knows lies between these prices
    return out, newest_returns(past.session, past.level, begins, ends, wanted, out)


@_compiled
def portfolio(
    slots: Records, states: Records, book: Record, past: Past, s: int, side: int, value: float, now: int
) -> int:  # fmt: skip
    """The refusal of an entry worth `value` by correlation, then value at risk and expected shortfall; else NO_REFUSAL."""
    risk, own = past.risk[0], slots[s]["symbol"]
    net, involved = np.zeros(len(past.cursor)), np.zeros(len(past.cursor), np.bool_)
    for k in range(len(slots)):
        its, m, unit = states[k], slots[k]["symbol"], slots[k]["multiplier"] * states[k]["fx"]
        if its["quantity"] != 0.0:
            net[m] += its["quantity"] * its["mark"] * unit
            involved[m] = True
        if its["pending"] != 0.0:
            net[m] += its["pending"] * its["pending_reference"] * unit
            involved[m] = True
    involved[own] = True
    net[own] += side * value
    symbols = np.flatnonzero(involved)
    me, others = 0, False
    for k in range(len(symbols)):
        if symbols[k] == own:
            me = k
        else:
            others = others or net[symbols[k]] != 0.0
    asked = not math.isnan(risk["var_percent"])
    returns, rows = np.empty((0, 0)), 0
    if asked or others:
        returns, rows = _returns(past, symbols, now)
    if not math.isnan(risk["correlated_percent"]):
        together = max(net[own] * side, abs(value))
        if others:
            newest = risk["correlated_sessions"]
            if rows < newest or not all_known(returns, newest):
                return RISK_INPUT_MISSING
            for k in range(len(symbols)):
                exposure = net[symbols[k]]
                if k == me or exposure == 0.0:
                    continue
                moved = correlation(returns, newest, me, k)
                if math.isnan(moved):
                    return RISK_INPUT_MISSING
                if moved * (1.0 if exposure > 0.0 else -1.0) * side >= risk["correlated_above"]:
                    together += abs(exposure)
        if exceeds(together, book["equity"] * risk["correlated_percent"] / 100.0):
            return CORRELATION
    if asked:
        newest = risk["var_sessions"]
        if rows < newest or not all_known(returns, newest):
            return RISK_INPUT_MISSING
        values = net[symbols]
        if not math.isfinite(values.sum()):
            return RISK_INPUT_MISSING
        loss, shortfall = tail_loss(returns, newest, values, risk["confidence"], risk["z"], risk["density"])
        values[me] -= side * value
        before, shortfall_before = tail_loss(returns, newest, values, risk["confidence"], risk["z"], risk["density"])
        if exceeds(loss, book["equity"] * risk["var_percent"] / 100.0) and loss > before:
            return VALUE_AT_RISK
        most = risk["shortfall_percent"]
        if not math.isnan(most) and exceeds(shortfall, book["equity"] * most / 100.0) and shortfall > shortfall_before:
            return VALUE_AT_RISK
    return NO_REFUSAL


@_compiled
def rate_refusal(book: Record, past: Past, now: int) -> int:
    """ORDER_RATE when there were too many entries within the time, else NO_REFUSAL."""
    return ORDER_RATE if too_many(book, past, now) else NO_REFUSAL
