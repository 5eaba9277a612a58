"""Real bars for tests: the files that ship inside the sample packages, read as plainly as possible."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tests.paths import ROOT
from trading.bars import Bars
from trading.calendars import calendar
from trading.resample import resample
from trading.timeframes import US_PER_HOUR, Timeframe, session_number, to_us
from trading.universe import Universe, parse_universe

CONFIG = ROOT / "data" / "config"


def _package_file(package: str, *parts: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)), *parts)


@lru_cache(maxsize=1)
def universe() -> Universe:
    """The sample universe."""
    parsed, problems = parse_universe((CONFIG / "universe" / "sample.yaml").read_text(), "sample.yaml")
    assert parsed is not None, problems
    return parsed


@lru_cache(maxsize=1)
def eurusd() -> Bars:
    """EURUSD hours of 2017: 6,225 bars."""
    path = _package_file("gym_anytrading", "datasets", "data", "FOREX_EURUSD_1H_ASK.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    start = [datetime.strptime(r["Time"], "%d.%m.%Y %H:%M:%S.%f").replace(tzinfo=UTC) for r in rows]
    close_time = np.array([to_us(t) for t in start], np.int64) + US_PER_HOUR
    session = calendar("FX").session_of(close_time)
    columns = [np.array([float(r[c]) for r in rows]) for c in ("Open", "High", "Low", "Close", "Volume")]
    inside = session >= 0
    return Bars("EURUSD", Timeframe.H1, close_time[inside], session[inside], *(c[inside] for c in columns))


@lru_cache(maxsize=1)
def spx() -> Bars:
    """S&P 500 days from 1999: about 5,000 bars."""
    path = _package_file("arch", "data", "sp500", "sp500.csv.gz")
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    venue = calendar("XNYS")
    days = [datetime.strptime(r["Date"], "%m/%d/%Y").replace(tzinfo=UTC).date() for r in rows]
    numbers = np.array([session_number(d) for d in days], np.int32)
    close_time = np.array([venue.bounds(int(n))[1] for n in numbers], np.int64)
    columns = [np.array([float(r[c]) for r in rows]) for c in ("Open", "High", "Low", "Close", "Volume")]
    return Bars("SPX", Timeframe.D1, close_time, numbers, *columns)


@lru_cache(maxsize=1)
def eurusd_4h() -> Bars:
    """EURUSD 4-hour bars of 2017, made from the hours."""
    return resample(eurusd(), Timeframe.H4, calendar("FX"))
