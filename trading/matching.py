"""Filling orders against a bar: the one set of functions that the backtest loop and the paper broker call.

Rules, the same in research, paper and parity tests:

- A market order fills at the open. Decisions are made at a close, so that is the next bar's open.
- A stop fills at its level when the bar trades through it; when the bar opens beyond it, at the open (the gap).
- A limit fills at its level when the bar touches it; at the open when the bar opens better.
- A stop-limit triggers like a stop, then is a limit. When it triggers inside a bar and its limit is not marketable at
  the trigger, it fills in that bar only if the close proves that the price came back to the limit.
- A trailing stop is a stop at its current level; the level moves at the close of a bar, for the next one.
- Within one bar a position's stop is tried before its target, always: which came first is unknown, so the worse is
  taken (`bracket_ambiguous` counts such bars).
- An entry at a bar's open is in the market for the whole bar: its stop and target count in it. An entry by a limit or
  stop inside a bar: its stop counts in that bar, its target not before the next.
- An order under a participation cap fills at most that share of the bar's volume, in whole lots. The rest of a market
  order or of a stop that was reached fills as a market order at the next open; the rest of a limit goes on working.
- NaN anywhere (no bar, no level) fills nothing.

A fill price is always inside [low, high]; slippage is added afterwards, against the trader, never to limit fills.
All functions are numba-compiled and plain Python alike (NUMBA_DISABLE_JIT=1). Prices are float64 in the instrument's
currency; `side` is +1 for buy and -1 for sell.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numba import njit

MARKET: Final = 0
LIMIT: Final = 1
STOP: Final = 2
STOP_LIMIT: Final = 3
TRAILING_STOP: Final = 4
ORDER_TYPE_CODES: Final = {
    "market": MARKET, "limit": LIMIT, "stop": STOP, "stop_limit": STOP_LIMIT, "trailing_stop": TRAILING_STOP,
}  # fmt: skip
"""OrderType value -> code of the compiled functions."""

SLIPPAGE_NONE: Final = 0
SLIPPAGE_FIXED: Final = 1
SLIPPAGE_VOLUME: Final = 2  # and every kind above it: reads the bar's volume
SLIPPAGE_SQRT: Final = 3

COMMISSION_PER_SHARE: Final = 0
COMMISSION_PER_CONTRACT: Final = 1
COMMISSION_PER_VALUE: Final = 2

NO_LEG: Final = 0
STOP_LEG: Final = 1
TARGET_LEG: Final = 2

_GRID_TOLERANCE = 1e-6  # of a tick: float noise of prices that are on the grid


@njit(cache=True)
def limit_fill(side: int, limit_price: float, o: float, h: float, l: float) -> float:  # noqa: E741
    """Fill price of a working limit order against one bar, NaN when it does not fill."""
    if side > 0:
        if o <= limit_price:
            return o
        if l <= limit_price:
            return limit_price
    else:
        if o >= limit_price:
            return o
        if h >= limit_price:
            return limit_price
    return math.nan


@njit(cache=True)
def stop_fill(side: int, stop_price: float, o: float, h: float, l: float) -> float:  # noqa: E741
    """Fill price of a working stop order against one bar before slippage, NaN when it is not reached."""
    if side > 0:
        if o >= stop_price:
            return o
        if h >= stop_price:
            return stop_price
    else:
        if o <= stop_price:
            return o
        if l <= stop_price:
            return stop_price
    return math.nan


@njit(cache=True)
def match_bar(
    order_type: int,
    side: int,
    limit_price: float,
    stop_price: float,
    triggered: bool,
    o: float,
    h: float,
    l: float,  # noqa: E741
    c: float,
) -> tuple[float, bool]:
    """Match one working order against one bar.

    limit_price, stop_price: NaN where the type has none. triggered: a stop-limit whose stop was reached before.
    Returns (fill price before slippage or NaN, triggered after this bar).
    """
    if math.isnan(o) or math.isnan(h) or math.isnan(l) or math.isnan(c):
        return math.nan, triggered
    if order_type == MARKET:
        return o, triggered
    if order_type == LIMIT:
        return limit_fill(side, limit_price, o, h, l), triggered
    if order_type in (STOP, TRAILING_STOP):
        price = stop_fill(side, stop_price, o, h, l)
        return price, triggered or not math.isnan(price)
    if order_type == STOP_LIMIT:
        if triggered:
            return limit_fill(side, limit_price, o, h, l), True
        at = stop_fill(side, stop_price, o, h, l)
        if math.isnan(at):
            return math.nan, False
        if at == o:  # triggered at the open: the whole bar is left for the limit
            return limit_fill(side, limit_price, o, h, l), True
        if (at - limit_price) * side <= 0.0:  # marketable at the trigger
            return at, True
        if (c - limit_price) * side <= 0.0:  # came back to the limit after the trigger
            return limit_price, True
        return math.nan, True
    return math.nan, triggered


@njit(cache=True)
def match_bracket(
    position_side: int,
    stop_price: float,
    target_price: float,
    target_counts: bool,
    o: float,
    h: float,
    l: float,  # noqa: E741
) -> tuple[float, int]:
    """Protective stop and target of an open position against one bar, stop before target.

    position_side: +1 long, -1 short; the legs are orders of the other side. stop_price, target_price: NaN = none.
    target_counts: False in the bar of an entry that happened inside it.
    Returns (fill price before slippage or NaN, STOP_LEG / TARGET_LEG / NO_LEG).
    """
    price = stop_fill(-position_side, stop_price, o, h, l)
    if not math.isnan(price):
        return price, STOP_LEG
    if target_counts:
        price = limit_fill(-position_side, target_price, o, h, l)
        if not math.isnan(price):
            return price, TARGET_LEG
    return math.nan, NO_LEG


@njit(cache=True)
def bracket_ambiguous(position_side: int, stop_price: float, target_price: float, h: float, l: float) -> bool:  # noqa: E741
    """Does the bar reach both levels, so that the stop-first rule decided the outcome?"""
    if position_side > 0:
        return l <= stop_price and h >= target_price
    return h >= stop_price and l <= target_price


@njit(cache=True)
def trail(position_side: int, stop_price: float, distance: float, h: float, l: float) -> float:  # noqa: E741
    """Level of a trailing stop after a bar: `distance` (price units) behind the bar's extreme, never loosened."""
    if position_side > 0:
        level = h - distance
        return level if math.isnan(stop_price) or level > stop_price else stop_price
    level = l + distance
    return level if math.isnan(stop_price) or level < stop_price else stop_price


@njit(cache=True)
def trail_on_grid(
    position_side: int,
    stop_price: float,
    distance: float,
    tick: float,
    h: float,
    l: float,  # noqa: E741
) -> float:
    """`trail`, its level put on the tick grid away from the price: the one way a trailing stop moves."""
    return snap_against(trail(position_side, stop_price, distance, h, l), -position_side, tick)


@njit(cache=True)
def snap_against(price: float, side: int, tick: float) -> float:
    """`price` on the tick grid, rounded against the trader: up for a buy, down for a sell.

    Ticks whose inverse is whole (0.01, 0.25, 0.00001, 0.05) give the same float as the decimal price would.
    """
    if not (tick > 0.0 and math.isfinite(price)):
        return price
    inverse = 1.0 / tick
    scale = float(round(inverse))
    whole = scale >= 1.0 and abs(inverse - scale) <= 1e-9 * scale
    ticks = price * scale if whole else price / tick
    noise = _GRID_TOLERANCE + abs(ticks) * 1e-15
    ticks = np.ceil(ticks - noise) if side > 0 else np.floor(ticks + noise)
    return ticks / scale if whole else ticks * tick


@njit(cache=True)
def with_slippage(
    price: float, side: int, kind: int, value: float, tick: float, quantity: float = 0.0, volume: float = 0.0
) -> float:
    """Fill price after slippage, worse for the trader and on the tick grid. Never call it for limit fills.

    SLIPPAGE_NONE: `price` unchanged. SLIPPAGE_FIXED: `value` ticks. SLIPPAGE_VOLUME (linear impact): price * value *
    participation; SLIPPAGE_SQRT (square-root impact): price * value * sqrt(participation). participation = quantity /
    volume of the bar, at most 1; a bar without volume counts as participation 1.
    """
    if kind == SLIPPAGE_FIXED:
        return snap_against(price + side * value * tick, side, tick)
    if kind >= SLIPPAGE_VOLUME:
        participation = 1.0
        if volume > 0.0 and quantity < volume:
            participation = quantity / volume
        if kind == SLIPPAGE_SQRT:
            participation = math.sqrt(participation)
        return snap_against(price + side * abs(price) * value * participation, side, tick)
    return price


@njit(cache=True)
def fillable(quantity: float, participation: float, volume: float, lot: float) -> float:
    """How much of `quantity` (unsigned) one order may fill in a bar: at most `participation` of its volume, in whole lots.

    participation 0: no cap. A bar without volume fills nothing of a capped order.
    """
    if not (participation > 0.0):
        return quantity
    if not (volume > 0.0):
        return 0.0
    lots = participation * volume / lot
    lots = np.floor(lots + 1e-9 * (1.0 + lots))
    inverse = 1.0 / lot
    scale = float(round(inverse))
    whole = scale >= 1.0 and abs(inverse - scale) <= 1e-9 * scale
    most = lots / scale if whole else lots * lot
    return quantity if quantity <= most * (1.0 + 1e-12) else most


@njit(cache=True)
def commission(quantity: float, price: float, multiplier: float, kind: int, rate: float, minimum: float) -> float:
    """Commission of one fill in the instrument's currency; quantity is unsigned, `minimum` counts per fill.

    COMMISSION_PER_SHARE and COMMISSION_PER_CONTRACT: rate per unit. COMMISSION_PER_VALUE: rate as a fraction of the
    traded value (0.0001 = 1 basis point). Zero quantity costs nothing.
    """
    if quantity <= 0.0:
        return 0.0
    fee = quantity * rate
    if kind == COMMISSION_PER_VALUE:
        fee = quantity * abs(price) * multiplier * rate
    return fee if fee > minimum else minimum
