"""How the volume of past sessions spread over the slots of a window: the weights of VWAP."""

from __future__ import annotations

import numpy as np

from trading.bars import Bars
from trading.calendars import Calendar
from trading.execution.window import NoSchedule


def volume_weights(bars: Bars, venue: Calendar, start: int, end: int, slices: int, sessions: int) -> tuple[float, ...]:
    """Weight of each slot, summing up to 1: the mean share of the window's volume in the newest past sessions.

    bars: of one timeframe; only sessions before that of `start` and as long as it count. A bar's volume belongs to the slot it
    closes in. Raises NoSchedule where one of `sessions` sessions is missing, has an unknown volume, or none in the window.
    """
    row = int(venue.close_time.searchsorted(start, side="right"))
    today, opened = int(venue.number[row]), int(venue.open_time[row])
    length = int(venue.close_time[row]) - opened
    numbers = np.unique(bars.session[bars.session < today])
    rows = np.searchsorted(venue.number, numbers)
    alike = [
        (int(n), int(venue.open_time[r]))
        for n, r in zip(numbers, rows, strict=True)
        if r < len(venue.number) and int(venue.number[r]) == int(n) and int(venue.close_time[r] - venue.open_time[r]) == length
    ]
    if len(alike) < sessions:
        raise NoSchedule("profile_missing", sessions=len(alike), needed=sessions)
    total = np.zeros(slices)
    for number, began in alike[-sessions:]:
        own = bars.session == number
        after = bars.close_time[own] - began - (start - opened)
        inside = (after > 0) & (after <= end - start)
        volume = np.asarray(bars.volume[own][inside], np.float64)
        whole = float(volume.sum())
        if not (np.isfinite(whole) and whole > 0.0):
            raise NoSchedule("profile_missing", session=number, volume="unknown" if len(volume) else 0)
        slot = ((after[inside] - 1) * slices // (end - start)).astype(np.int64)
        total += np.bincount(slot, weights=volume, minlength=slices) / whole
    return tuple(float(w) for w in total / sessions)
