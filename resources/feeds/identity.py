"""History of an instrument under all tickers it has had, and of nobody else who has had them.

A ticker says nothing about a company: FB became META, and META had been a fund before. For feeds that know a history by its
ticker alone the universe says when an instrument was called what (`former_symbols`): sessions up to the last one of a former
ticker are asked under that ticker, later ones under the next, and rows a ticker has outside its span are another company's.
LEAN's map files say it by themselves (resources/feeds/_lean_maps.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from trading.bars import Bars
from trading.instruments import Instrument
from trading.timeframes import Timeframe

if TYPE_CHECKING:
    from resources.feeds.protocol import Feed


def tickers(instrument: Instrument) -> set[str]:
    """Every ticker the feed has had it under."""
    return {instrument.feed_symbol, *(former.ticker for former in instrument.former)}


def spans(instrument: Instrument, start: date, end: date) -> Iterator[tuple[Instrument, date, date]]:
    """(the instrument under one ticker, first, last session) of [start, end], oldest first."""
    first = start
    for former in instrument.former:
        if first <= end and first <= former.last:
            yield replace(instrument, feed_symbol=former.ticker, former=()), first, min(former.last, end)
        first = max(first, former.last + timedelta(days=1))
    if first <= end:
        yield replace(instrument, former=()), first, end


def history(feed: Feed, instrument: Instrument, timeframe: Timeframe, start: date, end: date) -> tuple[Bars, dict[int, str]]:
    """(raw bars of sessions [start, end] under the tickers of their time, row -> where the source says it, as far as it does).

    Raises what the feed raises; a former ticker it does not know is a hole nobody may overlook: SymbolNotFound names it.
    """
    parts: list[Bars] = []
    places: dict[int, str] = {}
    rows = 0
    for named, first, last in spans(instrument, start, end) if instrument.former else [(instrument, start, end)]:
        bars = feed.history(named, timeframe, first, last)
        told = getattr(feed, "places", None)
        places |= {rows + row: where for row, where in (told(named) if callable(told) else {}).items()}
        parts.append(bars)
        rows += len(bars)
    if len(parts) <= 1:
        return (parts[0] if parts else Bars.empty(instrument.symbol, timeframe)), places
    extras = [n for n in ("turnover", "trades") if all(n in p.extras for p in parts if len(p))]
    names = ("close_time", "session", "open", "high", "low", "close", "volume", *extras)
    columns = {n: np.concatenate([getattr(p, n) for p in parts if len(p)] or [getattr(parts[0], n)]) for n in names}
    return Bars(instrument.symbol, timeframe, **columns), places
