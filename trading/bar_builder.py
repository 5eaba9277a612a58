"""Bars from trades: all at once, or trade by trade as they come; both give the same bars bit for bit.

A bar of an intraday timeframe covers [start, end) of its session's grid, anchored at the session open; the last one ends
at the session close. A trade at the very moment a bar ends belongs to the next one. A bar without a trade does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from trading.bars import TURNOVER_QUANTUM, Bars
from trading.calendars import Calendar
from trading.timeframes import US_PER_MINUTE, Timeframe


@dataclass(frozen=True, slots=True)
class TradeBar:
    """One closed bar. Times UTC us; turnover a whole number of TURNOVER_QUANTUM."""

    close_time: int
    session: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float
    trades: int


def quantised(turnover: NDArray[np.float64]) -> NDArray[np.float64]:
    """price x size of each trade on the grid of turnover, so that sums of it are exact in any order."""
    return np.rint(turnover / TURNOVER_QUANTUM) * TURNOVER_QUANTUM


def bars_of_trades(
    symbol: str,
    timeframe: Timeframe,
    venue: Calendar,
    time: NDArray[np.int64],
    price: NDArray[np.float64],
    size: NDArray[np.float64],
) -> Bars:
    """Bars of N trades, ascending by time (UTC us). Trades outside every session make no bar.

    The last bar is there although more trades of it may come: cut with known_at. Raises ValueError for times that descend
    and for a weekly timeframe, whose bars no single session's trades make.
    """
    if timeframe is Timeframe.W1:
        raise ValueError("weekly bars are made of daily ones")
    if len(time) > 1 and bool((np.diff(time) < 0).any()):
        raise ValueError(f"{symbol}: trades must ascend by time")
    at = np.minimum(np.searchsorted(venue.close_time, time, side="right"), len(venue.number) - 1)
    pause, resume = venue.break_start[at], venue.break_end[at]
    inside = (venue.open_time[at] <= time) & (time < venue.close_time[at]) & ~((pause <= time) & (time < resume))
    at, time, price, size = at[inside], time[inside], price[inside], size[inside]
    opened, closed = venue.open_time[at], venue.close_time[at]
    if timeframe.intraday and venue.has_breaks:  # a break ends a bar, and the grid begins anew behind it
        pause, resume = pause[inside], resume[inside]
        opened = np.where((resume > 0) & (time >= resume), resume, opened)
        closed = np.where((resume > 0) & (time < pause), pause, closed)
    width = timeframe.minutes * US_PER_MINUTE if timeframe.intraday else closed - opened
    close_time = np.minimum(opened + ((time - opened) // width + 1) * width, closed)
    if len(time) == 0:
        return Bars.empty(symbol, timeframe)
    first = np.flatnonzero(np.concatenate([[True], np.diff(close_time) > 0]))
    o, h, low, c, v, t = _build(first, price.astype(np.float64), size.astype(np.float64), quantised(price * size))
    count = np.diff(np.append(first, len(time))).astype(np.float64)
    return Bars(symbol, timeframe, close_time[first], venue.number[at[first]].astype(np.int32), o, h, low, c, v, t, count)


@numba.njit(cache=True)
def _build(first, price, size, turnover):  # type: ignore[no-untyped-def]
    n, bars = len(price), len(first)
    o, h, low, c = np.empty(bars), np.empty(bars), np.empty(bars), np.empty(bars)
    v, t = np.empty(bars), np.empty(bars)
    for k in range(bars):
        lo, hi = first[k], first[k + 1] if k + 1 < bars else n
        o[k], h[k], low[k], c[k] = price[lo], price[lo], price[lo], price[hi - 1]
        volume, money = 0.0, 0.0
        for i in range(lo, hi):
            h[k], low[k] = max(h[k], price[i]), min(low[k], price[i])
            volume += size[i]
            money += turnover[i]
        v[k], t[k] = volume, money
    return o, h, low, c, v, t


class TradeBarBuilder:
    """One symbol's bars while its trades come in.

    late: trades of a bar that had closed already. outside: trades in no session. Neither makes or changes a bar: what
    closed stands, the source's history brings the corrected bar.
    """

    def __init__(self, timeframe: Timeframe, venue: Calendar) -> None:
        if timeframe is Timeframe.W1:
            raise ValueError("weekly bars are made of daily ones")
        self._venue, self._timeframe = venue, timeframe
        self._start = self._end = 0  # of the forming bar
        self._session = 0
        self._pause = self._resume = 0  # the break of its session
        self._forming: list[float] | None = None
        self._trades = 0
        self.closed_until = 0
        """No bar that ends at or before this can change any more, UTC us."""
        self.late = 0
        self.outside = 0

    def add(self, time: int, price: float, size: float) -> TradeBar | None:
        """Take one trade; the bar it closes, if it is the first trade after that bar's end."""
        ended = self.close_until(time)
        if time < self.closed_until:
            self.late += 1
            return ended
        money = round(price * size / TURNOVER_QUANTUM) * TURNOVER_QUANTUM
        if self._forming is None:
            if not self._open(time):
                self.outside += 1
                return ended
            self._forming, self._trades = [price, price, price, price, size, money], 1
            return ended
        if self._pause <= time < self._resume:
            self.outside += 1
            return ended
        bar = self._forming
        bar[1], bar[2], bar[3] = max(bar[1], price), min(bar[2], price), price
        bar[4] += size
        bar[5] += money
        self._trades += 1
        return ended

    def close_until(self, now: int) -> TradeBar | None:
        """The forming bar, when it has ended by `now` (UTC us): time passes although nothing is traded."""
        if self._forming is None or now < self._end:
            return None
        o, h, low, c, volume, money = self._forming
        self._forming, self.closed_until = None, self._end
        return TradeBar(self._end, self._session, o, h, low, c, volume, money, self._trades)

    def _open(self, time: int) -> bool:
        venue = self._venue
        at = int(np.searchsorted(venue.close_time, time, side="right"))
        if at >= len(venue.number) or int(venue.open_time[at]) > time:
            return False
        opened, closed = int(venue.open_time[at]), int(venue.close_time[at])
        pause, resume = int(venue.break_start[at]), int(venue.break_end[at])
        if pause <= time < resume:
            return False
        self._pause, self._resume = pause, resume
        if resume and self._timeframe.intraday:
            opened, closed = (resume, closed) if time >= resume else (opened, pause)
        width = self._timeframe.minutes * US_PER_MINUTE if self._timeframe.intraday else closed - opened
        self._start = opened + (time - opened) // width * width
        self._end = min(self._start + width, closed)
        self._session = int(venue.number[at])
        return True
