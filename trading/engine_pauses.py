"""The optional limits of the account, compiled: pauses after stops and losses, drawdown, net and sector exposure.

Each is the rule of the same name in trading/risk_rules, over the backtest's records. A pause begins at the end of the bar in
which the trade ended; the desk knows the moment of the fill, up to a bar earlier.
"""

from __future__ import annotations

import math

from trading import engine_records, engine_rules, limit_math
from trading.compiled import kernel
from trading.engine_records import (
    DRAWDOWN,
    LOSING_STREAK,
    NET_EXPOSURE,
    NO_REFUSAL,
    RISK_INPUT_MISSING,
    SECTOR_EXPOSURE,
    Record,
    Records,
)  # fmt: skip
from trading.engine_rules import exposure_of
from trading.limit_math import exceeds

_compiled = kernel(engine_records, engine_rules, limit_math)
_NOISE = 1e-9


@_compiled
def new_close(slots: Records, states: Records, now: int) -> None:
    """Before the decisions of a close: what the trades that ended make of each strategy's streak."""
    for s in range(len(slots)):
        state = states[s]
        if state["ended_time"] != now:
            continue
        first = 0
        while slots[first]["strategy"] != slots[s]["strategy"]:
            first += 1
        if state["ended_made"] >= 0.0:
            states[first]["streak"] = 0
        else:
            states[first]["streak"] += 1
            states[first]["streak_time"] = now


@_compiled
def _streak(slots: Records, bound: Record, states: Records, s: int, now: int) -> bool:
    first = 0
    while slots[first]["strategy"] != slots[s]["strategy"]:
        first += 1
    lost, passed = states[first]["streak"], now - states[first]["streak_time"]
    if lost >= bound["streak_trades"] and passed < bound["streak_us"]:  # NaN: not limited
        return True
    return lost >= bound["own_streak_trades"] and passed < bound["own_streak_us"]


@_compiled
def cooling(bound: Record, state: Record, now: int) -> bool:
    """Was the strategy stopped out of the instrument a short while ago?"""
    return bool(now - state["stop_time"] < bound["cooldown_us"])  # NaN: not limited


@_compiled
def paused(
    slots: Records, bounds: Records, states: Records, book: Record, s: int, side: int, value: float, now: int
) -> int:  # fmt: skip
    """The refusal of an entry worth `value` by these limits, in the order of their numbers; NO_REFUSAL when none refuses."""
    bound = bounds[s]
    if _streak(slots, bound, states, s, now):
        return LOSING_STREAK
    percent = bound["drawdown"]
    if not math.isnan(percent) and not ((1.0 - book["equity"] / book["peak"]) * 100.0 < percent * (1.0 - _NOISE)):
        return DRAWDOWN
    if not math.isnan(bound["net_leverage"]):
        before = 0.0
        for k in range(len(slots)):
            its, unit = states[k], slots[k]["multiplier"] * states[k]["fx"]
            if its["quantity"] != 0.0:
                before += its["quantity"] * its["mark"] * unit
            if its["pending"] != 0.0:
                before += its["pending"] * its["pending_reference"] * unit
        after = abs(before + side * value)
        if exceeds(after, book["equity"] * bound["net_leverage"]) and not after <= abs(before):
            return NET_EXPOSURE
    if not math.isnan(bound["sector_percent"]):
        if bound["sector"] < 0:
            return RISK_INPUT_MISSING
        inside = value
        for k in range(len(slots)):
            if states[k]["quantity"] != 0.0 or states[k]["pending"] != 0.0:
                if bounds[k]["sector"] < 0:
                    return RISK_INPUT_MISSING
                if bounds[k]["sector"] == bound["sector"]:
                    inside += exposure_of(slots[k], states[k], states[k]["fx"])
        if exceeds(inside, book["equity"] * bound["sector_percent"] / 100.0):
            return SECTOR_EXPOSURE
    return NO_REFUSAL
