"""A small lake of minutes, everything derived from them, and its copy made from scratch after a correction."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from assets.features import compute_range
from assets.recompute import derive
from resources.lake import FeatureFrame, Lake, Partition
from tests.trading.test_resample import full_sessions
from trading.bars import Bars
from trading.calendars import calendar
from trading.dependents import derives
from trading.features import FEATURES_VERSION, NAMES, TIMEFRAMES
from trading.timeframes import Timeframe
from trading.universe import Universe, parse_universe

UNIVERSE = """
name: corrected
description: two stocks by the minute, one by the day
history_start: 2014-05-26
history_end: 2014-07-08
simulated: true
instruments:
  AAA: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: sample, native_timeframe: 1m}
  BBB: {asset_class: equity, calendar: XNYS, tick_size: 0.01, currency: USD, feed: sample, native_timeframe: 1m}
  DDD: {asset_class: index, calendar: XNYS, tick_size: 0.01, currency: USD, feed: sample, native_timeframe: 1d}
"""
START, END = date(2014, 6, 25), date(2014, 7, 8)  # a month, a quarter and a holiday lie in between
XNYS = calendar("XNYS")


def universe() -> Universe:
    parsed, problems = parse_universe(UNIVERSE, "corrected.yaml")
    assert parsed is not None, problems
    return parsed


def natives() -> dict[str, Bars]:
    """Prices on the cent grid, every tenth minute missing so that a late bar has a place."""
    made = {}
    for seed, symbol in enumerate(("AAA", "BBB")):
        bars = full_sessions(XNYS, START, END, seed=seed)
        columns = {n: np.round(getattr(bars, n), 2) for n in ("open", "high", "low", "close")}
        bars = replace(bars, symbol=symbol, turnover=None, trades=None, **columns)
        made[symbol] = bars.rows(np.random.default_rng(seed).random(len(bars)) < 0.9)
    days = full_sessions(XNYS, START, END, Timeframe.D1, seed=9)
    ends = np.array([XNYS.bounds(int(n))[1] for n in np.unique(days.session)])
    first = days.rows(np.searchsorted(days.session, np.unique(days.session)))
    made["DDD"] = replace(first, symbol="DDD", close_time=ends, turnover=None, trades=None)
    return made


def build(root: Path, bars: dict[str, Bars], of: Universe) -> Lake:
    """A lake made from scratch of the native `bars`."""
    lake = Lake(root)
    for timeframe in (Timeframe.M1, Timeframe.D1):
        group = {s: b for s, b in bars.items() if b.timeframe is timeframe}
        lake.write_bars(f"bars_{timeframe}", group, start=START, end=END, source="vendor", instruments=of.instruments)
    for timeframe in Timeframe:
        for symbol, instrument in of.instruments.items():
            if derives(instrument.native_timeframe, timeframe):
                made = derive(lake, of, instrument, timeframe, START, END)
                lake.write_bars(
                    f"bars_{timeframe}", {symbol: made}, start=START, end=END, source="derived", instruments=of.instruments
                )
    for timeframe in TIMEFRAMES:
        for symbol in of.instruments:
            if timeframe is Timeframe.D1 or symbol != "DDD":
                rows, values = compute_range(lake, f"bars_{timeframe}", symbol, timeframe, XNYS, START, END)
                frame = FeatureFrame(symbol, NAMES, rows.close_time, rows.session, values, FEATURES_VERSION)
                lake.write_feature_frames(f"features_{timeframe}", [frame], start=START, end=END)
    return lake


def contents(lake: Lake) -> dict[tuple[str, str, str], Partition]:
    """Every partition of the lake by dataset, session and symbol."""
    return {(p.dataset, p.session.isoformat(), p.symbol): p for name in lake.datasets() for p in lake.partitions(name)}


def hashes(lake: Lake) -> dict[tuple[str, str, str], str]:
    return {key: part.content_hash for key, part in contents(lake).items()}


def corrected(bars: Bars, row: int, kind: str) -> Bars:
    """`bars` as the vendor tells them later: a price, a volume, a bar more, a bar less."""
    row %= len(bars)
    if kind == "price":
        high = bars.high.copy()
        high[row] += 0.5
        return replace(bars, high=high)
    if kind == "volume":
        volume = bars.volume.copy()
        volume[row] += 100
        return replace(bars, volume=volume)
    return bars.rows(np.arange(len(bars)) != row)


__all__ = ["END", "START", "XNYS", "build", "contents", "corrected", "hashes", "natives", "universe"]
