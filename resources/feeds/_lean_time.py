"""The time zone a LEAN market's files are stamped in, and its way to UTC."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resources.feeds.protocol import FeedError, MalformedData
from trading.timeframes import US_PER_HOUR, US_PER_MINUTE

_KNOWN = {
    ("equity", "usa"): "America/New_York",
    ("equity", "india"): "Asia/Kolkata",
    ("forex", "fxcm"): "UTC-05",
    ("forex", "oanda"): "UTC",
}
"""Zones of markets as LEAN documents them, for a folder without its market-hours database. Crypto is UTC."""


def regular_hours(folder: Path, kind: str, market: str, ticker: str) -> tuple[str, int, int] | None:
    """(exchange's zone, first, last minute of its day) of the market hours; None where the folder's database does not say."""
    path = folder / "market-hours" / "market-hours-database.json"
    hours = _hours(path, path.stat().st_mtime_ns) if path.is_file() else {}
    return hours.get(f"{kind}-{market}-{ticker}") or hours.get(f"{kind}-{market}-[*]")


def data_zone(folder: Path, kind: str, market: str, ticker: str) -> str:
    """Zone name or fixed offset (``UTC-05``) of the market's data files. Raises FeedError when nobody knows it."""
    path = folder / "market-hours" / "market-hours-database.json"
    if path.is_file():
        entries = _entries(path, path.stat().st_mtime_ns)
        for name in (f"{kind}-{market}-{ticker}", f"{kind}-{market}-[*]"):
            if name in entries:
                return entries[name]
    if kind == "crypto":
        return "UTC"
    if (kind, market) not in _KNOWN:
        raise FeedError(f"{path}: no entry {kind.capitalize()}-{market}-[*]; without it the files' time zone would be a guess")
    return _KNOWN[(kind, market)]


@lru_cache(maxsize=4)
def _entries(path: Path, changed: int) -> dict[str, str]:
    """Data zone by lower-case entry name. changed: the file's mtime, so that a new file is read anew."""
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))["entries"]
        return {name.lower(): str(entry["dataTimeZone"]) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MalformedData(f"{path}: {error!r}; expected LEAN's market hours with dataTimeZone in every entry") from error


@lru_cache(maxsize=4)
def _hours(path: Path, changed: int) -> dict[str, tuple[str, int, int]]:
    """Exchange zone and market hours of a Monday by lower-case entry name, where that is one stretch."""
    found = {}
    for name, entry in json.loads(path.read_text(encoding="utf-8-sig"))["entries"].items():
        market = [s for s in entry.get("monday", ()) if s.get("state") == "market"]
        if len(market) == 1:
            found[name.lower()] = (str(entry["exchangeTimeZone"]), _minute(market[0]["start"]), _minute(market[0]["end"]))
    return found


def _minute(text: str) -> int:
    """Minute of the day of ``09:30:00``, or of the day's end as LEAN writes it: ``1.00:00:00``."""
    days, _, clock = text.rpartition(".")
    hours, minutes, _ = clock.split(":")
    return int(days or 0) * 1440 + int(hours) * 60 + int(minutes)


def local_to_utc(local: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """UTC us of wall-clock us in `zone`. A wall-clock time that comes twice means the first, one left out the moment
    the clock moved."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if zone == "UTC":
        return local
    fixed = re.fullmatch(r"UTC([+-])(\d{2}):?(\d{2})?", zone)
    if fixed:
        sign = -1 if fixed[1] == "+" else 1
        return local + sign * (int(fixed[2]) * US_PER_HOUR + int(fixed[3] or 0) * US_PER_MINUTE)
    naive = pa.array(local).cast(pa.timestamp("us"))
    try:
        utc = pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="earliest")
    except pa.ArrowException as error:
        raise FeedError(f"time zone {zone!r} of the LEAN market hours is not known: {error}") from error
    return utc.cast(pa.int64()).to_numpy()
