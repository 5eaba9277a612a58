"""Is a LEAN hour or daily bar a bar of the instrument's calendar?

LEAN cuts hours at full hours and days at midnight, by the clock of the data's zone. Daily files of futures are cut at midnight
or to the market hours of the folder's database, one way for one product, the other for the next. Where the calendar's
sessions are cut in another way, such a bar is no bar of the calendar and is refused, with the calendar that fits it; where the
folder has minutes of the same days, they have the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._lean_symbols import LeanSymbol
from resources.feeds._lean_time import data_zone, regular_hours
from resources.feeds.protocol import FeedError
from trading.calendar_cuts import CLOCK, between, cut_at_full_hours, trades_between, trades_whole_dates
from trading.calendars import Calendar, calendar
from trading.timeframes import Timeframe, session_date

COMPARED = 5
"""Days compared with their minutes."""


def check_cut(folder: Path, symbol: LeanSymbol, timeframe: Timeframe, venue: Calendar) -> None:
    """Raises FeedError when hour or daily bars of `symbol` are no bars of the calendar `venue`."""
    if timeframe is Timeframe.M1:
        return
    named = folder, symbol.kind, symbol.market, symbol.ticker
    zone = data_zone(*named)
    if timeframe is Timeframe.H1:
        if not cut_at_full_hours(venue, zone):
            raise FeedError(
                f"{symbol}: LEAN's hour bars are cut at full hours, those of calendar {venue.name} are not; give the instrument "
                f"calendar: {venue.venue}@{CLOCK} to take them as they are, or take 1m bars and derive 1h"
            )
        return
    if trades_whole_dates(venue, zone):
        return
    way, other = f"{venue.venue}@{zone}", ""
    hours = regular_hours(*named) if symbol.kind == "future" else None
    if hours is not None:
        if trades_between(venue, *hours):
            return
        other = f" (daily bars of the market hours only: {between(calendar(venue.venue), *hours)})"
    raise FeedError(
        f"{symbol}: LEAN's daily bars run from midnight to midnight {zone}, the sessions of calendar {venue.name} do not; give "
        f"the instrument calendar: {way}{other} to take them as they are, or take 1m or 1h bars and derive 1d"
    )


def check_days(
    symbol: LeanSymbol,
    venue: Calendar,
    days: list[NDArray[Any]],
    held: Collection[int],
    minutes: Callable[[int], list[NDArray[Any]]],
) -> None:
    """Raises FeedError when most of the daily bars neither open nor close as their sessions' minutes do.

    days: columns close_time, session, open, high, low, close, volume of the daily bars; held: dates there are minutes of;
    minutes: the same columns of a session's minutes.
    """
    sessions = days[1].astype(np.int64)
    rows = np.flatnonzero(np.isin(sessions, np.fromiter(held, np.int64, len(held))))[:COMPARED]
    told, agree = [], 0
    for row in rows.tolist():
        session = int(sessions[row])
        fine = minutes(session)
        if not len(fine[0]):
            continue
        opened, closed = float(fine[2][0]), float(fine[5][-1])
        agree += opened == float(days[2][row]) or closed == float(days[5][row])
        told.append(f"{session_date(session)} {days[2][row]:g} to {days[5][row]:g}, its minutes {opened:g} to {closed:g}")
    if told and agree * 2 <= len(told):
        raise FeedError(
            f"{symbol}: the daily bars are not cut as calendar {venue.name} is: {'; '.join(told)}; give the instrument a "
            "calendar cut as they are (docs/feeds.md), or take 1m bars and derive 1d"
        )
