"""Strategy files for tests, and the bars they read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from tests.trading.samples import CONFIG, spx, universe
from trading.bars import Bars
from trading.calendars import calendar
from trading.config_text import Problem
from trading.sample_bars import sample_bars
from trading.strategy import Strategy, parse_strategy
from trading.timeframes import Timeframe


def parsed(text: str, file: str = "probe.yaml") -> Strategy:
    strategy, problems = parse_strategy(text, file, universe())
    assert strategy is not None, [str(p) for p in problems]
    return strategy


def problems_of(text: str) -> list[Problem]:
    return parse_strategy(text, "probe.yaml", universe())[1]


def sample_text(name: str) -> str:
    return (CONFIG / "strategies" / f"{name}.yaml").read_text()


@lru_cache(maxsize=16)
def stock(symbol: str, rows: int = 1500) -> Bars:
    """Made-up daily bars of one of the sample stocks."""
    return sample_bars(universe().instruments[symbol], Timeframe.D1, rows)


@lru_cache(maxsize=4)
def tied(kept: float = 0.95, rows: int = 1500, noise: float = 0.004) -> tuple[Bars, Bars]:
    """Daily SPX and COMP of which log SPX = 1 + 0.8 log COMP + a residual that keeps `kept` of itself a day."""
    venue = calendar("XNYS")
    at = slice(int(np.searchsorted(venue.number, 14_000)), int(np.searchsorted(venue.number, 14_000)) + rows)
    random = np.random.default_rng(5)
    comp = np.log(3000) + np.cumsum(random.normal(0, 0.01, rows))
    residual = np.zeros(rows)
    for i in range(1, rows):
        residual[i] = kept * residual[i - 1] + random.normal(0, noise)
    made = []
    for symbol, logs in (("SPX", 1 + 0.8 * comp + residual), ("COMP", comp)):
        close = np.round(np.exp(logs), 2)
        made.append(
            Bars(symbol, Timeframe.D1, venue.close_time[at], venue.number[at], close, close + 1, close - 1, close, np.ones(rows))
        )
    return made[0], made[1]


def real_days() -> Bars:
    return spx()


def window_of(strategy: Strategy, symbol: str, bars: dict[str, Bars]) -> dict[Any, Bars]:
    """What `strategy` reads of `symbol` when every timeframe is daily."""
    return {Timeframe.D1: bars[symbol], **{key: bars[key[0]] for key in strategy.context if key[0] != symbol}}
