"""A strategy with every optional gate, and the real bars it is judged on."""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np

from tests.trading.samples import _package_file, eurusd, eurusd_4h
from tests.trading.strategies import parsed, sample_text
from trading.bars import Bars
from trading.calendars import calendar
from trading.news import NewsCalendar, parse_news
from trading.quotes import QuoteBars
from trading.resample import resample
from trading.strategy import Strategy
from trading.timeframes import Timeframe, session_number

GATES = """gates:
  min_reward_to_risk: 1.5
  news: {}
  regime: {allowed: [trending, ranging], by: both, history: 100, train: 400, refit: 100, certain: 0.5}
  confluence:
    at_least: 0.7
    long:
      - {name: 4h trend, weight: 2, when: {">": [{price: close, timeframe: 4h}, {indicator: ema, params: {period: 34}, timeframe: 4h}]}}
      - {name: rsi, when: {">": [{indicator: rsi}, 55]}}
    short:
      - {name: 4h trend, weight: 2, when: {"<": [{price: close, timeframe: 4h}, {indicator: ema, params: {period: 34}, timeframe: 4h}]}}
      - {name: rsi, when: {"<": [{indicator: rsi}, 45]}}
  volatility:
    atr: {min_percent: 0.05, max_percent: 0.4}
    vix: {max_level: 11.5}
    volume: {min_ratio: 0.5}
  budget: {percent: 2}
"""  # noqa: E501


def text(gates: str = GATES, sizing: str = "{kind: risk_percent, percent: 0.15}") -> str:
    """ema_trend with other gates and sizing."""
    lines = [
        gates.rstrip() if line.startswith("gates:") else f"sizing: {sizing}" if line.startswith("sizing:") else line
        for line in sample_text("ema_trend").splitlines()
    ]
    return "\n".join(lines) + "\n"


def strategy(gates: str = GATES, sizing: str = "{kind: risk_percent, percent: 0.15}") -> Strategy:
    return parsed(text(gates, sizing))


@lru_cache(maxsize=1)
def news() -> NewsCalendar:
    from tests.trading.samples import CONFIG

    made, problems = parse_news((CONFIG / "news" / "sample.yaml").read_text(), "news/sample.yaml")
    assert made is not None, problems
    return made


@lru_cache(maxsize=1)
def vix() -> Bars:
    """VIX closes by day."""
    path = _package_file("arch", "data", "vix", "vix.csv.gz")
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    venue = calendar("XNYS")
    column = next(c for c in rows[0] if c.lower() in ("vix", "close"))
    kept = [(r["Date"].strip(), float(r[column])) for r in rows if r[column].strip(" .")]
    days = [datetime.strptime(d, "%Y-%m-%d" if "-" in d else "%m/%d/%Y").replace(tzinfo=UTC).date() for d, _ in kept]
    numbers = np.array([session_number(d) for d in days], np.int32)
    known = np.isin(numbers, venue.number)
    level = np.array([v for _, v in kept])[known]
    numbers = numbers[known]
    close_time = venue.close_time[np.searchsorted(venue.number, numbers)]
    return Bars("VIX", Timeframe.D1, close_time, numbers, level, level, level, level, np.zeros(len(level)))


@lru_cache(maxsize=1)
def windows() -> dict[Any, Bars]:
    """Everything the strategy and its gates read."""
    daily = resample(eurusd(), Timeframe.D1, calendar("FX"))
    return {Timeframe.H1: eurusd(), Timeframe.H4: eurusd_4h(), Timeframe.D1: daily, ("VIX", Timeframe.D1): vix()}


def quotes(bars: Bars, spread: float) -> QuoteBars:
    """A quote at each bar's close, `spread` wide."""
    bid, ask = bars.close - spread / 2, bars.close + spread / 2
    ones = np.ones(len(bars))
    return QuoteBars(bars.symbol, Timeframe.M1, bars.close_time, bars.session, bid, bid, bid, bid, ones, ask, ask, ask, ask, ones)
