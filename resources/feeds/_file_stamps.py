"""From a file's time columns to bar closes: which session a row belongs to and when it is known."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._file_time import Parsed, from_epoch, parse_times, to_utc
from resources.feeds._layout import Grid, Layout, numbers
from trading.calendars import Calendar
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe, session_number

_CLOCK = re.compile(r"^(?P<date>.*?)[ T]?(?P<clock>%[HI].*)$")


@dataclass(frozen=True, slots=True)
class Closes:
    """Per row: close_time UTC us and session; outside: in no session; off_grid: on no bar's edge.

    twice, never: wall-clock times that come twice or never because the clocks change.
    """

    close_time: NDArray[np.int64]
    session: NDArray[np.int32]
    outside: NDArray[np.bool_]
    off_grid: NDArray[np.bool_]
    twice: NDArray[np.bool_]
    never: NDArray[np.bool_]


def split_format(time_format: str) -> tuple[str, str]:
    """(date part, clock part) of a format for two columns."""
    found = _CLOCK.match(time_format)
    return (found["date"], found["clock"]) if found else (time_format, "")


def stamps(grid: Grid, layout: Layout) -> Parsed:
    """The rows' stamps as us: UTC where they carry a zone or count from 1970, else wall clock. Kept with the grid."""
    key = (tuple(layout.time_columns), layout.time_format, layout.epoch, layout.since_midnight, layout.day)
    if key not in grid.parsed:
        grid.parsed[key] = _stamps(grid, layout)
    parsed: Parsed = grid.parsed[key]
    return parsed


def _stamps(grid: Grid, layout: Layout) -> Parsed:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = [grid.columns[i] for i in layout.time_columns]
    first = columns[0]
    if layout.since_midnight or layout.epoch:
        unit = layout.epoch or layout.since_midnight
        if pa.types.is_string(first.type):
            try:
                values: NDArray[Any] = pc.cast(first, pa.int64()).to_numpy(zero_copy_only=False)
                bad = np.zeros(len(values), bool)
            except pa.ArrowException:
                values, bad = numbers(first, layout)
        else:
            values, bad = first.to_numpy(zero_copy_only=False), first.is_null().to_numpy(zero_copy_only=False)
        if values.dtype.kind == "f":
            bad = bad | ~np.isfinite(values)
            values = np.where(bad, 0, values)
        if layout.epoch:
            return Parsed(from_epoch(values, unit), bad, True, True)
        day = session_number(_day(layout.day)) * US_PER_DAY
        offset = from_epoch(values, unit)
        return Parsed(day + offset, bad | (offset < 0) | (offset >= US_PER_DAY), False, True)
    if pa.types.is_timestamp(first.type):
        zoned = first.type.tz is not None
        us = (
            first.cast(pa.timestamp("us", first.type.tz), safe=False).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        )
        return Parsed(us, first.is_null().to_numpy(zero_copy_only=False), zoned, zoned or bool((us % US_PER_DAY).any()))
    if pa.types.is_date(first.type):
        days = first.cast(pa.date32()).cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        one = Parsed(days * US_PER_DAY, first.is_null().to_numpy(zero_copy_only=False), False, False)
    else:
        one = None
    texts = [c if pa.types.is_string(c.type) else c.cast(pa.string()) for c in columns]
    if len(columns) == 1:
        return one or parse_times(texts[0], layout.time_format)
    date_format, clock_format = split_format(layout.time_format)
    date = one or parse_times(texts[0], date_format)
    clock_text = texts[1]
    if clock_format.startswith("%H%M"):
        # A number that lost its leading zeros: 93000 is 09:30:00.
        clock_text = pc.utf8_lpad(clock_text, 6 if "%S" in clock_format else 4, "0")
    clock = parse_times(clock_text, clock_format)
    return Parsed(date.us + clock.us, date.bad | clock.bad, False, True)


def _day(text: str) -> Any:
    from datetime import date

    return date.fromisoformat(text)


def closes(us: NDArray[np.int64], zoned: bool, layout: Layout, venue: Calendar) -> Closes:
    """Closes of rows with stamps `us` (ascending within their symbol) in the venue's sessions."""
    none = np.zeros(len(us), bool)
    zone = real_zone(layout.zone or "UTC", venue)
    if layout.stamp == "date":
        local = to_local(us, zone) if zoned else us
        return _of_days(local // US_PER_DAY, layout.timeframe, venue)
    utc, twice, never = (us, none, none) if zoned else to_utc(us, zone, layout.ambiguous, layout.nonexistent)
    close, session, outside, off_grid = bar_closes(utc, layout.stamp, layout.timeframe, venue)
    return Closes(close, session, outside, off_grid, twice, never)


def real_zone(zone: str, venue: Calendar) -> str:
    """`zone` with the word exchange replaced by the venue's zone."""
    return zone.replace("exchange", venue.timezone)


def to_local(us: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """Wall-clock us in `zone` of UTC us."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from resources.feeds._profiles import zone_parts

    name, shift = zone_parts(zone)
    if name != "UTC":
        us = (
            pc.local_timestamp(pa.array(us, pa.int64()).cast(pa.timestamp("us", name)))
            .cast(pa.int64())
            .to_numpy(zero_copy_only=False)
        )
    return us + shift * US_PER_MINUTE


def _of_days(days: NDArray[np.int64], timeframe: Timeframe, venue: Calendar) -> Closes:
    if timeframe is Timeframe.W1:
        # Any day of the week names it; the bar belongs to the week's last session.
        monday = days - (days + 3) % 7
        row = np.searchsorted(venue.number, monday + 6, side="right") - 1
        outside = (row < 0) | (venue.number[np.maximum(row, 0)] < monday)
    else:
        row = np.minimum(np.searchsorted(venue.number, days), len(venue.number) - 1)
        outside = venue.number[row] != days
    row = np.maximum(row, 0)
    none = np.zeros(len(days), bool)
    return Closes(venue.close_time[row], venue.number[row].astype(np.int32), outside, none, none, none)


def bar_closes(
    utc: NDArray[np.int64], stamp: str, timeframe: Timeframe, venue: Calendar
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_], NDArray[np.bool_]]:
    """(close_time, session, outside any session, on no bar's edge) of stamps at the bars' start or end.

    Bars are anchored at the session's open; the last one ends with the session.
    """
    last = len(venue.number) - 1
    if not timeframe.intraday:
        edge = venue.open_time if stamp == "start" else venue.close_time
        row = np.minimum(np.searchsorted(edge, utc), last)
        off = edge[row] != utc
        return venue.close_time[row], venue.number[row].astype(np.int32), np.zeros(len(utc), bool), off
    step = timeframe.minutes * US_PER_MINUTE
    if stamp == "start":
        row = np.searchsorted(venue.close_time, utc, side="right")
        inside = row <= last
        row = np.minimum(row, last)
        inside &= venue.open_time[row] <= utc
        since = utc - venue.open_time[row]
        off = inside & (since % step != 0)
        close = np.minimum(utc - since % step + step, venue.close_time[row])
    else:
        # The last bar's end may be written as the session's close or as the end it would have had.
        row = np.searchsorted(venue.close_time + step - 1, utc, side="left")
        inside = row <= last
        row = np.minimum(row, last)
        since = utc - venue.open_time[row]
        late = utc > venue.close_time[row]
        nominal = (since % step == 0) & (utc - step < venue.close_time[row]) & (step > US_PER_MINUTE)
        inside &= (since > 0) & (~late | nominal)
        off = inside & (since % step != 0) & (utc != venue.close_time[row])
        close = np.minimum(utc, venue.close_time[row])
        # A stamp just past one close can be the next session's (sessions that follow each other without a break).
        row2 = np.minimum(row + 1, last)
        nxt = ~inside & (venue.open_time[row2] < utc) & (utc <= venue.close_time[row2])
        row, inside = np.where(nxt, row2, row), inside | nxt
        close = np.where(nxt, utc, close)
        off = np.where(nxt, ((utc - venue.open_time[row]) % step != 0) & (utc != venue.close_time[row]), off)
    return close, venue.number[row].astype(np.int32), ~inside, off
