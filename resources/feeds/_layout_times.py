"""What a file's time columns hold (format, epoch, day of the name), and what its name says of the bar length."""

from __future__ import annotations

import re
from datetime import date

from resources.feeds._csv_detect import Finding, Unclear
from resources.feeds._file_stamps import split_format
from resources.feeds._file_text import Opened
from resources.feeds._file_time import epoch_unit, find_format, parse_times
from resources.feeds._layout import Grid, Layout
from resources.feeds._profiles import Profile
from resources.feeds.protocol import MalformedData
from trading.timeframes import Timeframe

_CLOCK_FORMATS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H%M%S", "%H%M", "%I:%M:%S %p", "%I:%M %p")


def find_times(opened: Opened, grid: Grid, profile: Profile, layout: Layout, findings: list[Finding]) -> Layout:
    """The layout with the form of its stamps: the profile's, or the one that fits every row. Raises Unclear."""
    import pyarrow as pa

    given = profile.time
    first = grid.columns[layout.time_columns[0]]
    if given.since_midnight is not None:
        return layout.model_copy(update={"since_midnight": given.since_midnight, "day": _file_day(opened, profile)})
    if given.epoch is not None:
        return layout.model_copy(update={"epoch": given.epoch})
    if given.format is not None:
        return layout.model_copy(update={"time_format": given.format})
    if pa.types.is_temporal(first.type):
        return (
            layout
            if len(layout.time_columns) == 1
            else layout.model_copy(update={"time_format": _clock_format(grid, layout, "", findings)})
        )
    if not pa.types.is_string(first.type):
        values = first.drop_null().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        unit = epoch_unit(float(values.min()), float(values.max())) if len(values) else ""
        if unit:
            findings.append(Finding("time.epoch", unit, f"{first[0]} is a moment between 1990 and 2035 only in {unit}"))
            return layout.model_copy(update={"epoch": unit})
        first = first.cast(pa.string())
    time_format, epoch, found = find_format(first)
    if epoch:
        findings.append(found)
        return layout.model_copy(update={"epoch": epoch})
    if len(layout.time_columns) == 2:
        return layout.model_copy(update={"time_format": _clock_format(grid, layout, time_format, findings)})
    findings.append(found)
    return layout.model_copy(update={"time_format": time_format})


def _clock_format(grid: Grid, layout: Layout, date_format: str, findings: list[Finding]) -> str:
    import pyarrow as pa
    import pyarrow.compute as pc

    if split_format(date_format)[1]:
        raise Unclear(
            f"{grid.where}: the date column already holds a time of day",
            f"columns: {{time: {grid.names[layout.time_columns[0]] or 1}}}",
        )
    column = grid.columns[layout.time_columns[1]]
    text = pc.unique(column if pa.types.is_string(column.type) else column.cast(pa.string()))
    best, share = "", 1.0
    for clock in _CLOCK_FORMATS:
        padded = pc.utf8_lpad(text, 6 if "%S" in clock else 4, "0") if clock.startswith("%H%M") else text
        bad = float(parse_times(padded, clock).bad.mean())
        if bad < share and bad < 0.5:
            best, share = clock, bad
    if not best:
        raise Unclear(f"{grid.where}: {text[0].as_py()!r} is no time of day", 'time: {format: "%Y-%m-%d %H:%M:%S"}')
    both = f"{date_format or 'iso'} {best}"
    findings.append(Finding("time.format", f'"{both}"', f"fits the date and {text[0]}"))
    return both


def _file_day(opened: Opened, profile: Profile) -> str:
    for name in dict.fromkeys([opened.name, opened.given]):
        found = re.search(profile.day or "", name)
        if found:
            digits = re.sub(r"\D", "", found["day"])
            try:
                return date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])).isoformat()
            except ValueError:
                break
    raise MalformedData(
        f"{opened.where}: the file's name has no day that fits `day: {profile.day}`; the stamps count from its midnight"
    )


def timeframe_of_name(name: str) -> Timeframe | None:
    """Timeframe a file's name says in full (``_1m``, ``_M1``, ``5min``, ``daily``); None when it says none or several."""
    words = {"daily": "1d", "day": "1d", "d1": "1d", "1d": "1d", "1day": "1d", "weekly": "1w", "w1": "1w", "1w": "1w",
             "hour": "1h", "hourly": "1h", "h1": "1h", "1h": "1h", "1hour": "1h", "60min": "1h", "h4": "4h", "4h": "4h",
             "minute": "1m"}  # fmt: skip
    for n in (1, 3, 5, 15, 30):
        words.update({f"{n}m": f"{n}m", f"{n}min": f"{n}m", f"m{n}": f"{n}m", f"{n}minute": f"{n}m"})
    found = {words[t] for t in re.split(r"[^a-z0-9]+", name.lower()) if t in words}
    return Timeframe(found.pop()) if len(found) == 1 else None
