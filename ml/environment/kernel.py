"""One step of many trading lanes, compiled: decide at a close, fill at the next open, mark at the next close.

Fills, slippage and commission are trading.matching's, so that an agent is trained on the very rules the backtest and the
paper broker follow. State is a struct of arrays, one entry per lane; nothing here allocates.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from trading import matching
from trading.compiled import kernel

HOLD: Final = 0
BUY_LONG: Final = 1
SELL_SHORT: Final = 2
CLOSE_LONG: Final = 3
CLOSE_SHORT: Final = 4

REWARD_LOG_EQUITY: Final = 0
REWARD_PNL: Final = 1
REWARD_DRAWDOWN: Final = 2

OWN: Final = 4
"""Own features after the market's: position, unrealised P&L, bars held, drawdown."""

# Columns of a lane's numbers (float64) and of its counters (int64), of an instrument's terms, of the prices of a row.
# Few wide arrays, not many narrow ones: handing an array to a compiled function costs as much as stepping ten lanes.
CASH, POSITION, ENTRY, EQUITY, PEAK, TRADED, LANE_NUMBERS = range(7)
AT, SEGMENT, HELD, AGE, LANE_COUNTERS = range(5)
MULTIPLIER, TICK, LOT, COMMISSION_KIND, RATE, MINIMUM, SLIPPAGE_KIND, SLIPPAGE, TERMS = range(9)
OPEN, CLOSE, VOLUME, PRICES = range(4)
FIRST, LAST, INSTRUMENT, SEGMENT_COLUMNS = range(4)
TERMINATED, TRUNCATED, ILLEGAL, FLAGS = range(4)
START_CASH, SIZING_KIND, SIZE, MAX_STEPS, RUIN, HELD_SCALE, REWARD_KIND, SETTINGS = range(8)

_compiled = kernel(matching)


@_compiled
def draw(state, lane):  # type: ignore[no-untyped-def]
    """Next uniform number in [0, 1) of a lane's own generator (SplitMix64, Steele, Lea and Flood 2014)."""
    state[lane] += np.uint64(0x9E3779B97F4A7C15)
    z = state[lane]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@_compiled
def _start(n, settings, segments, random, counters, numbers):  # type: ignore[no-untyped-def]
    """Put a lane at a random bar of a random segment, flat."""
    s = int(draw(random, n) * len(segments))
    room = segments[s, LAST] - segments[s, FIRST]
    max_steps = int(settings[MAX_STEPS])
    # An episode of the full length where the segment has one: starting near its end would make endings too frequent.
    free = max(1, room - max_steps + 1) if max_steps > 0 else 1
    counters[n, SEGMENT] = s
    counters[n, AT] = segments[s, FIRST] + int(draw(random, n) * free)
    counters[n, HELD] = 0
    counters[n, AGE] = 0
    numbers[n, CASH] = numbers[n, EQUITY] = numbers[n, PEAK] = settings[START_CASH]
    numbers[n, POSITION] = numbers[n, ENTRY] = 0.0


@_compiled
def _observe(n, row, out, features, close, multiplier, held_scale, counters, numbers):  # type: ignore[no-untyped-def]
    """Write what is known at the close of `row`: the market's features, then the lane's own."""
    width = features.shape[1]
    for f in range(width):
        out[n, f] = features[row, f]
    position = numbers[n, POSITION]
    equity = numbers[n, EQUITY]
    side = 0.0
    gain = 0.0
    if position != 0.0:
        side = 1.0 if position > 0.0 else -1.0
        if equity > 0.0:
            gain = position * (close - numbers[n, ENTRY]) * multiplier / equity
    out[n, width] = side
    out[n, width + 1] = gain
    out[n, width + 2] = min(counters[n, HELD] * held_scale, 10.0)
    out[n, width + 3] = 1.0 - equity / numbers[n, PEAK]


@_compiled
def _allow(n, position, masks):  # type: ignore[no-untyped-def]
    """Which actions a lane may take: enter when flat, close what it has, hold always."""
    masks[n, HOLD] = True
    masks[n, BUY_LONG] = masks[n, SELL_SHORT] = position == 0.0
    masks[n, CLOSE_LONG] = position > 0.0
    masks[n, CLOSE_SHORT] = position < 0.0


@_compiled
def _quantity(settings, lot, equity, price, multiplier):  # type: ignore[no-untyped-def]
    """Units of an entry: a fixed quantity, or a fraction of equity at the price; whole lots, rounded down."""
    wanted = settings[SIZE]
    if settings[SIZING_KIND] != 0.0:
        wanted = wanted * equity / (price * multiplier)
    if not (wanted > 0.0 and lot > 0.0):
        return 0.0
    return math.floor(wanted / lot + 1e-9) * lot


@_compiled
def _fill(n, side, quantity, price, volume, terms, numbers):  # type: ignore[no-untyped-def]
    """Trade `quantity` at `price` with slippage and commission; the fill price."""
    at = matching.with_slippage(price, side, int(terms[SLIPPAGE_KIND]), terms[SLIPPAGE], terms[TICK], quantity, volume)
    fee = matching.commission(quantity, at, terms[MULTIPLIER], int(terms[COMMISSION_KIND]), terms[RATE], terms[MINIMUM])
    value = quantity * at * terms[MULTIPLIER]
    numbers[n, CASH] -= side * value + fee
    numbers[n, TRADED] += value
    return at


@_compiled
def step_lanes(  # type: ignore[no-untyped-def]
    actions, features, prices, segments, table, settings, random, counters, numbers, out, final, rewards, flags, masks
):
    """Step every lane by one bar; a lane that ends is restarted, its last observation left in `final`.

    features float32 (R, F), prices float64 (R, PRICES): rows of all segments joined. segments int64 (S, 3). table
    float64 (I, TERMS). settings float64 (SETTINGS,). out, final float32 (N, F + OWN). flags bool (N, FLAGS). masks
    bool (N, 5). rewards float64 (N,).
    """
    cash = settings[START_CASH]
    for n in range(len(actions)):
        s = counters[n, SEGMENT]
        terms = table[segments[s, INSTRUMENT]]
        action = actions[n]
        position = numbers[n, POSITION]
        before = numbers[n, EQUITY]
        i = counters[n, AT]
        j = i + 1
        numbers[n, TRADED] = 0.0
        flags[n, ILLEGAL] = action < 0 or action >= 5 or not masks[n, action]
        if not flags[n, ILLEGAL] and action != HOLD:
            if position == 0.0:
                side = 1 if action == BUY_LONG else -1
                quantity = _quantity(settings, terms[LOT], before, prices[i, CLOSE], terms[MULTIPLIER])
                if quantity > 0.0:
                    numbers[n, ENTRY] = _fill(n, side, quantity, prices[j, OPEN], prices[j, VOLUME], terms, numbers)
                    position = side * quantity
                    counters[n, HELD] = -1
            else:
                side = -1 if position > 0.0 else 1
                _fill(n, side, abs(position), prices[j, OPEN], prices[j, VOLUME], terms, numbers)
                position = 0.0
                counters[n, HELD] = 0
        equity = numbers[n, CASH]
        if position != 0.0:
            counters[n, HELD] += 1
            equity += position * prices[j, CLOSE] * terms[MULTIPLIER]
        counters[n, AGE] += 1
        counters[n, AT] = j
        over = j >= segments[s, LAST] or equity <= settings[RUIN] * cash
        if over and position != 0.0:
            # The episode ends here for good: what is held is sold at the last close, with its costs.
            side = -1 if position > 0.0 else 1
            _fill(n, side, abs(position), prices[j, CLOSE], prices[j, VOLUME], terms, numbers)
            position = 0.0
            counters[n, HELD] = 0
            equity = numbers[n, CASH]
        numbers[n, POSITION] = position
        numbers[n, EQUITY] = equity
        fallen = 1.0 - before / numbers[n, PEAK]
        if equity > numbers[n, PEAK]:
            numbers[n, PEAK] = equity
        kind = settings[REWARD_KIND]
        if kind == REWARD_PNL:
            rewards[n] = (equity - before) / cash
        else:
            least = cash * 1e-6
            rewards[n] = math.log(max(equity, least) / max(before, least)) if equity != before else 0.0
            if kind == REWARD_DRAWDOWN:
                rewards[n] -= max(0.0, 1.0 - equity / numbers[n, PEAK] - fallen)
        cut = (not over) and settings[MAX_STEPS] > 0.0 and counters[n, AGE] >= settings[MAX_STEPS]
        flags[n, TERMINATED] = over
        flags[n, TRUNCATED] = cut
        if over or cut:
            _observe(n, j, final, features, prices[j, CLOSE], terms[MULTIPLIER], settings[HELD_SCALE], counters, numbers)
            _start(n, settings, segments, random, counters, numbers)
            j = counters[n, AT]
            terms = table[segments[counters[n, SEGMENT], INSTRUMENT]]
            position = 0.0
        _observe(n, j, out, features, prices[j, CLOSE], terms[MULTIPLIER], settings[HELD_SCALE], counters, numbers)
        _allow(n, position, masks)


@_compiled
def reset_lanes(features, prices, segments, table, settings, random, counters, numbers, out, masks):  # type: ignore[no-untyped-def]
    """Start every lane and write its first observation."""
    for n in range(len(counters)):
        _start(n, settings, segments, random, counters, numbers)
        row = counters[n, AT]
        multiplier = table[segments[counters[n, SEGMENT], INSTRUMENT], MULTIPLIER]
        _observe(n, row, out, features, prices[row, CLOSE], multiplier, settings[HELD_SCALE], counters, numbers)
        _allow(n, 0.0, masks)
