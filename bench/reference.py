"""What the backtest is measured against: the SMA cross written by hand, once as a numba loop, once as slow plain Python.

Rules: long when SMA(fast) is above SMA(slow) and was not at the bar before, out when it is not above; both averages
known. Decided at the close, filled at the next bar's open, 100 units, commission as a fraction of the traded value,
equity marked at every close. Running sums in the order TA-Lib adds them, so that the averages agree to the last bit.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Ledger(NamedTuple):
    """N closed trades: rows of the entry and exit bars and their fill prices; equity (T,); the open entry's row or -1."""

    entry_row: Ints
    exit_row: Ints
    entry_price: Floats
    exit_price: Floats
    equity: Floats
    open_row: int


@njit(cache=True, nogil=True)
def _sma_cross(
    open_: Floats, close: Floats, fast: int, slow: int, quantity: float, rate: float, cash: float, equity: Floats,
    entry_row: Ints, exit_row: Ints, entry_price: Floats, exit_price: Floats,
) -> tuple[int, int]:  # fmt: skip
    total_fast, total_slow = 0.0, 0.0
    above_before = False
    wish = 0
    held = 0.0
    n, opened = 0, -1
    for i in range(len(close)):
        if wish == 1:
            held = quantity
            value = quantity * open_[i]
            cash -= value + value * rate
            entry_row[n], entry_price[n], opened = i, open_[i], i
        elif wish == -1:
            value = held * open_[i]
            cash += value - value * rate
            held = 0.0
            exit_row[n], exit_price[n], opened = i, open_[i], -1
            n += 1
        wish = 0
        price = close[i]
        equity[i] = cash + held * price
        total_fast += price
        total_slow += price
        if i >= fast - 1:
            average_fast = total_fast / fast
            total_fast -= close[i - fast + 1]
            if i >= slow - 1:
                average_slow = total_slow / slow
                total_slow -= close[i - slow + 1]
                above = average_fast > average_slow
                if held == 0.0:
                    if above and not above_before:
                        wish = 1
                elif not above:
                    wish = -1
                above_before = above
    return n, opened


def sma_cross(open_: Floats, close: Floats, *, fast: int, slow: int, quantity: float, rate: float, cash: float) -> Ledger:
    """The hand-written numba loop. open_, close: (T,)."""
    rows = len(close)
    room = rows // 2 + 1
    equity = np.empty(rows)
    entry_row, exit_row = np.empty(room, np.int64), np.empty(room, np.int64)
    entry_price, exit_price = np.empty(room), np.empty(room)
    n, opened = _sma_cross(open_, close, fast, slow, quantity, rate, cash, equity, entry_row, exit_row, entry_price, exit_price)
    return Ledger(entry_row[:n], exit_row[:n], entry_price[:n], exit_price[:n], equity, opened)


@njit(cache=True)
def running_mean(close: Floats, period: int) -> Floats:
    """The averages `sma_cross` decides by, (T,), NaN before the first."""
    out, total = np.full(len(close), np.nan), 0.0
    for i in range(len(close)):
        total += close[i]
        if i >= period - 1:
            out[i] = total / period
            total -= close[i - period + 1]
    return out


def sma_cross_plain(open_: Floats, close: Floats, *, fast: int, slow: int, quantity: float, rate: float, cash: float) -> Ledger:
    """The same, written to be read: each average is a mean of its window, each trade a line in a list.

    Agrees with the loop wherever sums are exact; elsewhere a tie of the averages may round the other way.
    """
    windows = {fast: deque[float](maxlen=fast), slow: deque[float](maxlen=slow)}
    trades: list[tuple[int, int, float, float]] = []
    equity: list[float] = []
    position: tuple[int, float] | None = None
    order: str | None = None
    was_above = False
    for row, (opening, closing) in enumerate(zip(open_.tolist(), close.tolist(), strict=True)):
        if order == "buy":
            position = (row, opening)
            cash -= quantity * opening + quantity * opening * rate
        elif order == "sell" and position is not None:
            trades.append((position[0], row, position[1], opening))
            cash += quantity * opening - quantity * opening * rate
            position = None
        order = None
        equity.append(cash + (quantity * closing if position else 0.0))
        for window in windows.values():
            window.append(closing)
        if len(windows[slow]) == slow:
            above = sum(windows[fast]) / fast > sum(windows[slow]) / slow
            if position is None and above and not was_above:
                order = "buy"
            elif position is not None and not above:
                order = "sell"
            was_above = above
    return Ledger(
        np.array([t[0] for t in trades], np.int64),
        np.array([t[1] for t in trades], np.int64),
        np.array([t[2] for t in trades]),
        np.array([t[3] for t in trades]),
        np.array(equity),
        position[0] if position else -1,
    )
