"""An installation in a temporary folder whose lake holds part of the sample: indices daily, EURUSD hourly, with features."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from resources.config import load_config
from resources.feeds import get_feed
from resources.lake import FeatureFrame, Lake
from resources.settings import ROOT, Settings, settings
from trading.bars import Bars
from trading.calendars import calendar
from trading.features import FEATURES_VERSION, compute_anchored
from trading.resample import resample
from trading.timeframes import Timeframe

END = date(2017, 12, 29)
STARTS = {"SPX": date(2006, 1, 3), "COMP": date(2006, 1, 3), "EURUSD": date(2017, 1, 2)}


@contextlib.contextmanager
def installation(folder: Path, **environment: str) -> Iterator[Settings]:
    """Settings of a data folder of its own, with the committed configuration copied so that a test may spoil it."""
    config = folder / "config"
    shutil.copytree(ROOT / "data" / "config", config)
    values = {"TAPELINE_DATA_DIR": str(folder / "data"), "TAPELINE_CONFIG_DIR": str(config), **environment}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    settings.cache_clear()
    try:
        yield settings()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        settings.cache_clear()


def fill(of: Settings) -> Lake:
    """Write the bars of STARTS up to END in every timeframe they have, and daily features."""
    lake, universe = Lake(of.lake_dir), load_config(of).universe
    made: dict[Timeframe, dict[str, Bars]] = {}
    for symbol, start in STARTS.items():
        instrument = universe.instruments[symbol]
        native = get_feed(instrument.feed, of).history(instrument, instrument.native_timeframe, start, END)
        made.setdefault(instrument.native_timeframe, {})[symbol] = native
        for timeframe in (Timeframe.H4, Timeframe.D1, Timeframe.W1):
            if timeframe.minutes > instrument.native_timeframe.minutes:
                made.setdefault(timeframe, {})[symbol] = resample(native, timeframe, calendar(instrument.calendar))
    first = min(STARTS.values())
    for timeframe, bars in made.items():
        lake.write_bars(f"bars_{timeframe}", bars, start=first, end=END, source="sample", instruments=universe.instruments)
    frames = []
    for symbol, daily in made[Timeframe.D1].items():
        names, values = compute_anchored(daily, calendar(universe.instruments[symbol].calendar))
        frames.append(FeatureFrame(symbol, tuple(names), daily.close_time, daily.session, values, FEATURES_VERSION))
    lake.write_feature_frames("features_1d", frames, start=first, end=END)
    return lake
