"""Bar length, time zone and start-or-end of stamps, found by what fits the spacing and the venue's sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds._csv_detect import Finding, Unclear
from resources.feeds._file_stamps import bar_closes, real_zone, stamps, to_local
from resources.feeds._file_time import to_utc
from resources.feeds._layout import Grid, Layout
from resources.feeds._layout_times import timeframe_of_name
from trading.calendars import Calendar, calendar
from trading.instruments import Instrument
from trading.timeframes import US_PER_DAY, US_PER_MINUTE, Timeframe

if TYPE_CHECKING:
    from resources.feeds._profiles import Profile

Present = Mapping[str, tuple[Instrument, Any]]
_NAMED_ZONES = (
    "America/New_York", "America/Chicago", "Europe/London", "Europe/Berlin", "Europe/Helsinki", "Asia/Kolkata", "Asia/Tokyo",
    "America/New_York+07:00",
)  # fmt: skip
_SAMPLE = 4000
_CLEAR_SHARE = 0.8


def _stamps_of(grid: Grid, layout: Layout, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    parsed = stamps(grid, layout)
    us: NDArray[np.int64] = np.sort(parsed.us[rows][~parsed.bad[rows]])
    return us


def find_timeframe(grid: Grid, profile: Profile, layout: Layout, present: Present, findings: list[Finding]) -> Layout:
    """The bar length: the profile's, else the commonest spacing when every other spacing is a multiple of it."""
    if profile.timeframe is not None:
        return layout.model_copy(update={"timeframe": profile.timeframe})
    gaps = [np.diff(_stamps_of(grid, layout, rows)) for _, rows in present.values()]
    spacing = (np.concatenate(gaps) if gaps else np.empty(0)).astype(np.int64)
    spacing = spacing[spacing > 0]
    example = "timeframe: 1d"
    if not len(spacing):
        named = timeframe_of_name(grid.where)
        if named is None:
            raise Unclear(f"{grid.where}: one row has no spacing, so the bar length is not known", example)
        findings.append(Finding("timeframe", str(named), f"the file's name {grid.where}"))
        return layout.model_copy(update={"timeframe": named})
    found, counts = _counted(spacing)
    common, least = int(found[np.argmax(counts)]), int(found[0])
    minutes = {t.minutes * US_PER_MINUTE: t for t in Timeframe if t.intraday}
    said = f"{int(counts.max())} of {len(spacing)} spacings"
    whole_days = bool(np.all(spacing % US_PER_DAY == 0)) or (least >= 20 * 60 * US_PER_MINUTE)
    if whole_days:
        # Clock changes move moments by an hour; dates by none.
        days = np.rint(spacing / US_PER_DAY).astype(np.int64)
        typical = int(np.median(days))
        if int(days.min()) >= 5 and 5 <= typical <= 8:
            timeframe = Timeframe.W1
        elif int(days.min()) == 1:
            timeframe = Timeframe.D1
        else:
            raise Unclear(f"{grid.where}: the commonest spacing is {typical} days, which is no bar length", example)
        findings.append(Finding("timeframe", str(timeframe), f"{len(spacing)} spacings, {typical} days in the middle"))
        return layout.model_copy(update={"timeframe": timeframe})
    if common in minutes and least == common and bool(np.all(spacing % common == 0)):
        findings.append(
            Finding(
                "timeframe", str(minutes[common]), f"{said} are {common // US_PER_MINUTE} minutes, the others multiples of it"
            )
        )
        return layout.model_copy(update={"timeframe": minutes[common]})
    if common in minutes and counts.max() >= 0.95 * len(spacing):
        findings.append(Finding("timeframe", str(minutes[common]), f"{said} are {common // US_PER_MINUTE} minutes"))
        return layout.model_copy(update={"timeframe": minutes[common]})
    raise Unclear(
        f"{grid.where}: spacings of {least / US_PER_MINUTE:g} to {int(found[-1]) / US_PER_MINUTE:g} minutes, most often "
        f"{common / US_PER_MINUTE:g}: the bar length is not clear", "timeframe: 1m",
    )  # fmt: skip


def _counted(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct values, ascending, and how often each is there."""
    values = np.sort(values)
    first = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return values[first], np.diff(np.concatenate([first, [len(values)]]))


def find_zone_and_stamp(grid: Grid, profile: Profile, layout: Layout, present: Present, findings: list[Finding]) -> Layout:
    """Zone and stamp: the profile's, else the only ones with which every bar lies in a session of its venue."""
    parsed = stamps(grid, layout)
    if not layout.timeframe.intraday:
        return _days(grid, profile, layout, present, parsed.zoned, parsed.has_clock, findings)
    if not parsed.has_clock:
        raise Unclear(
            f"{grid.where}: bars of {layout.timeframe} need a time of day, the file has dates only",
            "columns: {time: [DATE, TIME]}",
        )
    zones = ["UTC"] if parsed.zoned else [profile.time.zone] if profile.time.zone else _candidates(present)
    ways: list[str] = [profile.time.stamp] if profile.time.stamp else ["start", "end"]
    if len(zones) == 1 and len(ways) == 1:
        return layout.model_copy(update={"zone": zones[0], "stamp": ways[0]})
    series = [(calendar(i.calendar), _stamps_of(grid, layout, rows)) for i, rows in present.values()]
    fitting = _fitting(series, zones, ways, layout, parsed.zoned)
    if len(fitting) == 1:
        zone, stamp = fitting[0]
        why = f"with them every bar lies in a session of {series[0][0].name}, and with no other"
    elif not fitting and len(zones) == 1 and (edge := _by_edges(series, zones[0], layout, parsed.zoned)):
        zone, stamp, why = zones[0], *edge
    else:
        raise _unclear(grid, fitting, zones, ways, series)
    if not parsed.zoned and profile.time.zone is None:
        findings.append(Finding("time.zone", zone, why))
    if profile.time.stamp is None:
        findings.append(Finding("time.stamp", stamp, why))
    return layout.model_copy(update={"zone": zone, "stamp": stamp})


def _unclear(
    grid: Grid, fitting: list[tuple[str, str]], zones: list[str], ways: list[str], series: list[tuple[Calendar, Any]]
) -> Unclear:
    keys = [k for k, many in (("zone", len(zones) > 1), ("stamp", len(ways) > 1)) if many]
    example = {"zone": "zone: America/New_York", "stamp": "stamp: start"}
    add = "time: {" + ", ".join(example[k] for k in keys) + "}"
    what = " and ".join({"zone": "the time zone", "stamp": "whether stamps are the bars' start or end"}[k] for k in keys)
    venue = series[0][0].name if series else ""
    if fitting:
        shown = ", ".join(f"{z} {s}" for z, s in fitting[:4])
        return Unclear(f"{grid.where}: the sessions of {venue} do not tell {what}: {shown} all fit", add)
    return Unclear(f"{grid.where}: {what} cannot be told: with none do all bars lie in sessions of {venue}", add)


def _candidates(present: Present) -> list[str]:
    """Zones to try: the venues' own, UTC, the usual ones, every whole hour. Earlier ones name a reading several share."""
    own = list(dict.fromkeys(calendar(i.calendar).timezone for i, _ in present.values()))
    hours = [f"{h:+03d}:00" for h in range(-12, 15) if h]
    return list(dict.fromkeys([*own, "UTC", *_NAMED_ZONES, *hours]))


def _fitting(
    series: list[tuple[Calendar, NDArray[np.int64]]], zones: list[str], ways: list[str], layout: Layout, zoned: bool
) -> list[tuple[str, str]]:
    """(zone, stamp) with which every bar lies on an edge inside a session; of those that give equal closes only the first."""
    found: list[tuple[str, str]] = []
    seen: set[bytes] = set()
    for zone in zones:
        moved: list[NDArray[np.int64]] | None = None
        for stamp in ways:
            if not all(_fits(us[:: max(1, len(us) // _SAMPLE)], zone, stamp, layout, venue, zoned) for venue, us in series):
                continue
            moved = moved or [_utc(us, zone, zoned, layout, venue)[0] for venue, us in series]
            if not all(_fits(us, zone, stamp, layout, venue, zoned) for venue, us in series):
                continue
            mark = b"".join(
                bar_closes(utc, stamp, layout.timeframe, venue)[0].tobytes()
                for (venue, _), utc in zip(series, moved, strict=True)
            )
            if mark not in seen:
                seen.add(mark)
                found.append((zone, stamp))
    return found


def _utc(
    us: NDArray[np.int64], zone: str, zoned: bool, layout: Layout, venue: Calendar
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if zoned:
        return us, np.zeros(len(us), bool)
    utc, _twice, never = to_utc(us, real_zone(zone, venue), "earliest", layout.nonexistent)
    return utc, never


def _fits(us: NDArray[np.int64], zone: str, stamp: str, layout: Layout, venue: Calendar, zoned: bool) -> bool:
    utc, never = _utc(us, zone, zoned, layout, venue)
    _, _, outside, off = bar_closes(utc, stamp, layout.timeframe, venue)
    return not (outside | off | never).any()


def _by_edges(series: list[tuple[Calendar, NDArray[np.int64]]], zone: str, layout: Layout, zoned: bool) -> tuple[str, str] | None:
    """(stamp, evidence) of a file with bars outside the sessions: start when sessions have a row at their open and none at
    their close, end the other way round."""
    opens = shuts = sessions = 0
    for venue, us in series:
        utc, _ = _utc(us, zone, zoned, layout, venue)
        row = np.searchsorted(venue.close_time, utc, side="left")
        row = np.minimum(row, len(venue.number) - 1)
        inside = (venue.open_time[row] < utc) & (utc < venue.close_time[row])
        used = np.unique(row[inside])
        sessions += len(used)
        opens += int(np.isin(venue.open_time[used], utc).sum())
        shuts += int(np.isin(venue.close_time[used], utc).sum())
    if sessions and opens >= _CLEAR_SHARE * sessions and shuts == 0:
        return "start", f"{opens} of {sessions} sessions have a row at their open, none at its close"
    if sessions and shuts >= _CLEAR_SHARE * sessions and opens == 0:
        return "end", f"{shuts} of {sessions} sessions have a row at their close, none at its open"
    return None


def _days(
    grid: Grid, profile: Profile, layout: Layout, present: Present, zoned: bool, has_clock: bool, findings: list[Finding]
) -> Layout:
    """How daily and weekly stamps name their session: by date, or by the moment of its open or close."""
    if not has_clock:
        return layout.model_copy(update={"stamp": "date", "zone": ""})
    series = [(calendar(i.calendar), _stamps_of(grid, layout, rows)) for i, rows in present.values()]
    tried: list[tuple[str, str, str]] = []
    if profile.time.zone:
        zones = [profile.time.zone]
    else:
        zones = list(dict.fromkeys(["UTC", *(venue.timezone for venue, _ in series)])) if zoned else [""]
    for zone in zones:
        local = [(to_local(us, real_zone(zone or "UTC", venue)) if zoned else us) for venue, us in series]
        if all(bool((x % US_PER_DAY == 0).all()) for x in local):
            tried.append(("date", zone, f"every stamp is midnight{' in ' + zone if zone else ''}"))
            break
    if not tried and (zoned or profile.time.zone) and layout.timeframe is Timeframe.D1:
        zone = profile.time.zone or "UTC"
        for stamp in [profile.time.stamp] if profile.time.stamp else ["start", "end"]:
            if all(_fits(us, zone, stamp, layout, venue, zoned) for venue, us in series):
                edge = "open" if stamp == "start" else "close"
                tried.append((stamp, zone, f"every stamp is the {edge} of a session"))
    if len(tried) != 1:
        both = " and ".join(t[2] for t in tried)
        raise Unclear(
            f"{grid.where}: the stamps of bars of {layout.timeframe} are no midnights"
            + (f"; {both}" if both else ", and no sessions' opens or closes"), "time: {zone: America/New_York, stamp: start}",
        )  # fmt: skip
    stamp, zone, why = tried[0]
    if profile.time.zone is None or profile.time.stamp is None:
        findings.append(Finding("time", f"{{zone: {zone or 'none'}, stamp: {stamp}}}", why))
    return layout.model_copy(update={"stamp": stamp, "zone": zone})
