"""Out before the venue closes: which bars are the last of their session, half days and early closes included."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import Instrument
from trading.timeframes import US_PER_MINUTE


def near_end(bars: Bars, instrument: Instrument, minutes: int) -> NDArray[np.bool_]:
    """bool over `bars`: at most `minutes` of their session are left at their close. False in sessions no calendar knows."""
    venue = calendar(instrument.calendar)
    row = np.minimum(np.searchsorted(venue.number, bars.session), len(venue.number) - 1)
    known = venue.number[row] == bars.session
    return np.asarray(known & (venue.close_time[row] - bars.close_time <= minutes * US_PER_MINUTE), np.bool_)


def flat_from(bars: Bars, instrument: Instrument, minutes: int) -> NDArray[np.bool_]:
    """bool over `bars`: a position is closed at the next open, and none is opened. At least the session's last bar is left
    then, so that the next open is of the same session."""
    return near_end(bars, instrument, max(minutes, bars.timeframe.minutes))
