"""Made-up bars for checks that need some: a seeded walk on the venue's own session grid, the same on any machine."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from trading.bars import Bars
from trading.calendars import Calendar, calendar
from trading.evaluable import Evaluable, context_of
from trading.frame import BarWindow
from trading.instruments import Instrument
from trading.price_grid import on_grid
from trading.resample import session_ends
from trading.timeframes import Timeframe
from trading.universe import Universe

_LAST_SESSION = 20_088  # 2024-12-31: a fixed end, so that no clock is asked
_SPAN = 200
_MOST = 20_000


def sample_bars(instrument: Instrument, timeframe: Timeframe, count: int) -> Bars:
    """The last `count` bars (at most) up to the end of 2024: prices walk, volumes scatter, the same each time."""
    venue = calendar(instrument.calendar)
    close_time, session = _closes(venue, timeframe, count)
    n = len(close_time)
    seed = int.from_bytes(hashlib.sha256(f"{instrument.symbol}/{timeframe}".encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    step = 0.002 * np.sqrt(timeframe.minutes / 60)
    # waves over the walk, so that trends, ranges and their turns all occur
    walk = np.cumsum(random.normal(0, min(step, 0.02), n)) + 0.05 * np.sin(np.arange(n) / 17) + 0.03 * np.sin(np.arange(n) / 5)
    close = 1000 * float(instrument.tick_size) * np.exp(walk) * 10
    open_ = np.concatenate([close[:1], close[:-1]]) * np.exp(random.normal(0, min(step, 0.02) / 4, n))
    spread = np.abs(random.normal(0, min(step, 0.02), (2, n)))
    high, low = np.maximum(open_, close) * np.exp(spread[0]), np.minimum(open_, close) * np.exp(-spread[1])
    volume = np.floor(random.lognormal(8, 0.7, n)) if instrument.has_volume else np.zeros(n)
    open_, high, low, close = (on_grid(values, instrument) for values in (open_, high, low, close))
    return Bars(instrument.symbol, timeframe, close_time, session, open_, high, low, close, volume)


def _closes(venue: Calendar, timeframe: Timeframe, count: int) -> tuple[Any, Any]:
    last = int(np.searchsorted(venue.number, _LAST_SESSION, side="right"))
    times: list[Any] = []
    sessions: list[Any] = []
    held, at = 0, last - 1
    while held < count and at >= 0:
        number = int(venue.number[at])
        if timeframe is Timeframe.W1:
            newest = at + 1 >= last or (int(venue.number[at + 1]) + 3) // 7 != (number + 3) // 7
            ends = venue.close_time[at : at + 1] if newest else np.empty(0, np.int64)
        elif timeframe is Timeframe.D1:
            ends = venue.close_time[at : at + 1]
        else:
            ends = np.unique(np.minimum(session_ends(venue, at, timeframe), venue.close_time[at]))
        times.append(ends)
        sessions.append(np.full(len(ends), number, np.int32))
        held += len(ends)
        at -= 1
    if not times:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    close_time, session = np.concatenate(times[::-1]), np.concatenate(sessions[::-1])
    return close_time[-count:], session[-count:]


def sample_window(evaluable: Evaluable, universe: Universe) -> BarWindow:
    """Made-up bars of everything `evaluable` reads when it looks at its first symbol: its warm-up and some more."""
    symbol = evaluable.symbols[0]
    primary = evaluable.timeframe
    longest = max(int(n * t.minutes / primary.minutes) for t, n in evaluable.warm_up.items())
    rows = min(longest + _SPAN, _MOST)
    window: dict[Any, Bars] = {}
    for timeframe in evaluable.timeframes:
        count = int(rows * primary.minutes / timeframe.minutes) + evaluable.warm_up.get(timeframe, 1) + 2
        window[timeframe] = sample_bars(universe.instruments[symbol], timeframe, min(count, _MOST))
    for other, timeframe in context_of(evaluable, symbol):
        window[other, timeframe] = sample_bars(universe.instruments[other], timeframe, len(window[timeframe]))
    return BarWindow(window)
