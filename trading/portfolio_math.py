"""The arithmetic of portfolio limits, compiled: returns that line up, tail losses, correlation, abnormal moves.

The desk's rules (trading/risk_rules) and the backtest loop (trading/engine_portfolio) call the same functions.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True)
def newest_returns(sessions: Ints, levels: Floats, begins: Ints, ends: Ints, wanted: int, out: Floats) -> int:
    """Returns of the newest `wanted` sessions that every one of N symbols has, into the last rows of `out`; how many there are.

    sessions, levels: flat, ascending by session within a symbol, whose rows are begins[k] <= row < ends[k]; levels: closes
    of which a ratio of two says how much a holder made. out: float64 (>= wanted, N). Sessions that a symbol lacks are left
    out: returns of different days are never compared.
    """
    count, room = len(begins), len(out)
    at = ends - 1
    newer = np.empty(count)
    found = 0
    while True:
        target = sessions[at[0]] if at[0] >= begins[0] else -1
        same = True
        for k in range(count):
            if at[k] < begins[k]:
                return max(found - 1, 0)
            own = sessions[at[k]]
            if own != target:
                same = False
                target = min(target, own)
        if not same:
            for k in range(count):
                while at[k] >= begins[k] and sessions[at[k]] > target:
                    at[k] -= 1
            continue
        for k in range(count):
            level = levels[at[k]]
            if found > 0:
                out[room - found, k] = newer[k] / level - 1.0 if level != 0.0 else math.nan
            newer[k] = level
            at[k] -= 1
        found += 1
        if found > wanted:
            return wanted


@njit(cache=True)
def all_known(returns: Floats, rows: int) -> bool:
    """Are the newest `rows` rows numbers?"""
    first = len(returns) - rows
    for t in range(first, len(returns)):
        for k in range(returns.shape[1]):
            if not math.isfinite(returns[t, k]):
                return False
    return True


@njit(cache=True)
def tail_loss(returns: Floats, rows: int, values: Floats, confidence: float, z: float, density: float) -> tuple[float, float]:
    """(value at risk, expected shortfall) of one session, at least 0: the worse of historical and normal.

    returns: float64 (T, N), of which the newest `rows` count; values: (N,) signed. Historical: the loss at the (1 - confidence)
    quantile of returns @ values (the worse neighbour, no interpolation), and the mean of the losses from there on. Normal:
    z s and s density / (1 - confidence), mean 0, with s^2 = values' cov values, which is the variance of returns @ values; z:
    the standard normal's quantile at `confidence`, density: its density there (McNeil, Frey and Embrechts 2015, section 2.3).
    """
    first = len(returns) - rows
    made = np.empty(rows)
    mean = 0.0
    for t in range(rows):
        total = 0.0
        for k in range(len(values)):
            total += returns[first + t, k] * values[k]
        made[t] = total
        mean += total
    mean /= rows
    squares = 0.0
    for t in range(rows):
        squares += (made[t] - mean) ** 2
    deviation = math.sqrt(squares / (rows - 1)) if rows > 1 else math.nan
    tail = max(1, math.floor(rows * (1.0 - confidence) + 1e-9))  # 1 - 0.9 is a little less than a tenth
    made = np.partition(made, tail - 1)
    worst, total = made[tail - 1], 0.0
    for t in range(tail):
        total += made[t]
    return max(0.0, -worst, z * deviation), max(0.0, -total / tail, deviation * density / (1.0 - confidence))


@njit(cache=True)
def correlation(returns: Floats, rows: int, a: int, b: int) -> float:
    """Pearson's correlation of columns a and b over the newest `rows` rows; NaN where one does not vary."""
    first = len(returns) - rows
    mean_a, mean_b = 0.0, 0.0
    for t in range(first, len(returns)):
        mean_a += returns[t, a]
        mean_b += returns[t, b]
    mean_a /= rows
    mean_b /= rows
    both, of_a, of_b = 0.0, 0.0, 0.0
    for t in range(first, len(returns)):
        x, y = returns[t, a] - mean_a, returns[t, b] - mean_b
        both += x * y
        of_a += x * x
        of_b += y * y
    if not (of_a > 0.0 and of_b > 0.0):
        return math.nan
    return both / math.sqrt(of_a * of_b)


@njit(cache=True)
def moves(times: Ints, prices: Floats, window: int, percent: float, out: Floats) -> Ints:
    """The largest move to each price from any of the `window` us before it, percent, into `out`; rows at which a breaker trips.

    times: int64 (T,), UTC us ascending; prices, out: float64 (T,). A breaker that has tripped for a move begins anew after
    it: the next trip is another move. A price that is no positive number is none: its move is 0.
    """
    count = len(times)
    tripped = np.empty(count, np.int64)
    trips = 0
    for own in range(2):  # 0: of every price; 1: since the last trip
        lows, highs = np.empty(count, np.int64), np.empty(count, np.int64)
        low, low_end, high, high_end = 0, 0, 0, 0
        for k in range(count):
            price = prices[k]
            if not (price > 0.0 and price < math.inf):
                if own == 0:
                    out[k] = 0.0
                continue
            while low_end > low and prices[lows[low_end - 1]] >= price:
                low_end -= 1
            while high_end > high and prices[highs[high_end - 1]] <= price:
                high_end -= 1
            lows[low_end], highs[high_end] = k, k
            low_end += 1
            high_end += 1
            while times[lows[low]] < times[k] - window:
                low += 1
            while times[highs[high]] < times[k] - window:
                high += 1
            moved = max(price / prices[lows[low]] - 1.0, 1.0 - price / prices[highs[high]]) * 100.0
            if own == 0:
                out[k] = moved
            elif moved >= percent:
                tripped[trips] = k
                trips += 1
                low, high = low_end, high_end
    return tripped[:trips]


def normal_quantile(confidence: float) -> tuple[float, float]:
    """(the standard normal's quantile at `confidence`, its density there)."""
    z = float(ndtri(confidence))
    return z, math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
