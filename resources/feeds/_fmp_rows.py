"""Rows of Financial Modeling Prep as bars: New York wall time at the bar's start, newest first, to UTC closes ascending."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from resources.feeds._base import LeftOut
from resources.feeds._lean_time import local_to_utc
from resources.feeds.protocol import MalformedData
from trading.bars import Bars
from trading.calendars import Calendar
from trading.resample import session_ends
from trading.timeframes import Timeframe, iso, session_number, to_us

ZONE = "America/New_York"
_PRICES = ("open", "high", "low", "close")
_STAMP = re.compile(r"\d{4}-\d{2}-\d{2}( \d{2}:\d{2}:\d{2})?")


def rows_of(payload: Any, where: str) -> list[Mapping[str, Any]]:
    """`payload` as a list of rows. where: names the request in errors, without its key. Raises MalformedData."""
    if not isinstance(payload, list):
        raise MalformedData(f"{where}: {type(payload).__name__} {str(payload)[:80]!r}, expected an array of rows")
    for number, row in enumerate(payload):
        if not isinstance(row, dict):
            raise MalformedData(f"{where} row {number}: {str(row)[:80]!r}, expected an object with date, open, high, low, close")
    return payload


def bars_of_rows(
    symbol: str,
    timeframe: Timeframe,
    rows: Sequence[Mapping[str, Any]],
    venue: Calendar,
    now: int,
    where: str,
) -> tuple[Bars, list[LeftOut]]:
    """Bars known at `now` (UTC us), and the rows that are none: outside the session, repeated, without a price, not closed.

    Raises MalformedData naming row and column: a value that is no number, a date that is none, two rows of one time that
    say different things.
    """
    left_out: list[LeftOut] = []
    values: dict[int, tuple[float, ...]] = {}
    sessions: dict[int, int] = {}
    stamps = _stamps(rows, timeframe, where)
    closes = _closes(stamps, timeframe, venue)
    for number, (row, close) in enumerate(zip(rows, closes, strict=True)):
        at = f"{where} row {number} ({row.get('date')})"
        if any(row.get(name) is None for name in _PRICES):
            missing = [name for name in _PRICES if name not in row]
            if missing:
                raise MalformedData(f"{at}: no {', '.join(missing)}; expected date, open, high, low, close, volume")
            left_out.append(LeftOut(symbol, at, "no price"))
            continue
        told = (*(_number(row[name], name, at) for name in _PRICES), _number(row.get("volume") or 0, "volume", at))
        if close is None:
            left_out.append(LeftOut(symbol, at, f"no {timeframe} bar of a session of {venue.name} begins then"))
        elif close[0] > now:
            left_out.append(LeftOut(symbol, at, f"not closed yet: it closes at {iso(close[0])}"))
        elif close[0] not in values:
            values[close[0]], sessions[close[0]] = told, close[1]
        elif values[close[0]] == told:
            left_out.append(LeftOut(symbol, at, "repeated"))
        else:
            raise MalformedData(f"{at}: {told}, and another row of that time says {values[close[0]]}; expected one row a bar")
    times = sorted(values)
    columns = np.array([values[t] for t in times], np.float64).reshape(len(times), 5)
    number_of = np.array([sessions[t] for t in times], np.int32)
    o, h, low, c, v = (np.ascontiguousarray(columns[:, k]) for k in range(5))
    return Bars(symbol, timeframe, np.array(times, np.int64), number_of, o, h, low, c, v), left_out


def _stamps(rows: Sequence[Mapping[str, Any]], timeframe: Timeframe, where: str) -> list[datetime]:
    found = []
    for number, row in enumerate(rows):
        text = row.get("date")
        if not isinstance(text, str) or not _STAMP.fullmatch(text) or (timeframe.intraday and len(text) == 10):
            form = "YYYY-MM-DD HH:MM:SS" if timeframe.intraday else "YYYY-MM-DD"
            raise MalformedData(f"{where} row {number}: date {text!r}, expected {form}")
        try:
            found.append(datetime.fromisoformat(text))
        except ValueError:
            raise MalformedData(f"{where} row {number}: date {text!r}, expected a day of the calendar") from None
    return found


def _closes(stamps: Sequence[datetime], timeframe: Timeframe, venue: Calendar) -> list[tuple[int, int] | None]:
    """(close time, session) of the bar that begins at each stamp; None where no bar of a session does."""
    if not timeframe.intraday:
        known = {int(n): int(t) for n, t in zip(venue.number, venue.close_time, strict=True)}
        days = [session_number(stamp.date()) for stamp in stamps]
        return [(known[day], day) if day in known else None for day in days]
    if not stamps:
        return []
    local = np.array([to_us(s.replace(tzinfo=UTC)) for s in stamps], np.int64)
    begins = local_to_utc(local, ZONE)
    row = np.searchsorted(venue.close_time, begins, side="right")
    grid: dict[int, dict[int, int]] = {}
    found: list[tuple[int, int] | None] = []
    for begin, at in zip(begins.tolist(), row.tolist(), strict=True):
        if at >= len(venue.number) or int(venue.open_time[at]) > begin:
            found.append(None)
            continue
        if at not in grid:
            ends = session_ends(venue, at, timeframe).tolist()
            opened, resumed = int(venue.open_time[at]), int(venue.break_end[at])
            # A bar begins where the one before ended; the first after a break where trading resumes.
            starts = [opened, *ends[:-1]]
            pause = int(venue.break_start[at])
            grid[at] = {resumed if resumed and s == pause else s: e for s, e in zip(starts, ends, strict=True)}
        end = grid[at].get(begin)
        found.append(None if end is None else (end, int(venue.number[at])))
    return found


def _number(value: Any, name: str, at: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise MalformedData(f"{at}: {name} {value!r}, expected a number")
    return float(value)
