"""Session partitions: one key per trading day on which any venue of the universe has a session.

Instruments live inside a partition, never beside it: a day x symbol grid of hundreds of thousands of keys stops the UI.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache

import dagster as dg

from resources.settings import settings
from trading.calendars import LAST_DAY
from trading.timeframes import from_us, session_number
from trading.universe import Universe

KEY_FORMAT = "%Y-%m-%d"
WEEKDAYS = "0 0 * * 1-5"
EVERY_DAY = "0 0 * * *"


def session_partitions(universe: Universe) -> dg.TimeWindowPartitionsDefinition:
    """Partitions of the universe: from history_start to history_end inclusive, or for ever, today included.

    Days without a session of any venue are excluded. Venues with weekend sessions get daily keys.
    """
    last = universe.history_end or LAST_DAY
    days = set(universe.sessions(universe.history_start, last))
    weekends = any(day.weekday() >= 5 for day in days)
    cron = EVERY_DAY if weekends else WEEKDAYS
    ticks = [
        day
        for day in (universe.history_start + timedelta(days=i) for i in range((last - universe.history_start).days + 1))
        if weekends or day.weekday() < 5
    ]
    closed = [_midnight(day) for day in ticks if day not in days]
    if universe.history_end is not None:
        # A partition is there once its window, which lasts to the next key, lies before `end`.
        after = last + timedelta(days=1)
        while not weekends and after.weekday() >= 5:
            after += timedelta(days=1)
        return dg.TimeWindowPartitionsDefinition(
            start=_midnight(universe.history_start), end=_midnight(after), fmt=KEY_FORMAT, cron_schedule=cron, exclusions=closed
        )
    return dg.TimeWindowPartitionsDefinition(
        start=_midnight(universe.history_start),
        end_offset=2 if opens_the_day_before(universe) else 1,
        fmt=KEY_FORMAT,
        cron_schedule=cron,
        exclusions=closed,
    )


def opens_the_day_before(universe: Universe) -> bool:
    """Does a venue's session begin on the UTC day before its date (FX, futures)? Then tomorrow's key is needed today."""
    for venue in universe.calendars().values():
        for number, opened in zip(venue.number[-10:], venue.open_time[-10:], strict=True):
            if session_number(from_us(int(opened)).date()) < int(number):
                return True
    return False


@lru_cache(maxsize=1)
def configured_universe() -> Universe:
    """The universe the code location was loaded with. Raises resources.config.ConfigInvalid, file and line first."""
    from resources.config import load_config

    return load_config(settings()).universe


@lru_cache(maxsize=1)
def session_partitions_def() -> dg.TimeWindowPartitionsDefinition:
    """The one partitions definition of this code location: assets of one run must share it."""
    return session_partitions(configured_universe())


def session_span(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> tuple[date, date] | None:
    """First and last session date a run covers; None when the run has no partitions."""
    run = context.run
    lo = run.tags.get("dagster/asset_partition_range_start") or run.tags.get("dagster/partition")
    hi = run.tags.get("dagster/asset_partition_range_end") or run.tags.get("dagster/partition")
    if lo is None or hi is None:
        return None
    return date.fromisoformat(lo), date.fromisoformat(hi)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
