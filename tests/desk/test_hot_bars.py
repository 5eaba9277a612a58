"""The desk's view of bars: the lake's history, extended by what closes, never more than is known."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from desk import hot_bars
from desk.hot_bars import BarCache
from resources.feeds.protocol import BarClose
from resources.lake import Lake
from tests.desk.kit import INSTRUMENTS, bar, hour
from trading.bars import Bars, concat
from trading.timeframes import Timeframe, session_date, session_number

CLOSES = [bar("EURUSD", n, 1.2, 1.21 + n / 1000, 1.19, 1.2 + n / 1000) for n in range(40) if n not in (14, 27)]
(WHOLE,) = hot_bars.to_bars(CLOSES)


class Stored:
    """A lake of bars in memory; counts its reads."""

    def __init__(self, bars: Bars) -> None:
        self.bars = bars
        self.reads = 0

    def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Bars:
        self.reads += 1
        lo = session_number(start) if start else 0
        return self.bars.rows(self.bars.session >= lo)


def same(a: Bars, b: Bars) -> bool:
    return a.content_hash() == b.content_hash()


@given(split=st.integers(0, len(WHOLE)), until=st.integers(-1, 41), ask_first=st.booleans(), overlap=st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_history_and_closes_together_are_the_bars_known_by_then(split: int, until: int, ask_first: bool, overlap: int) -> None:
    start = int(WHOLE.session[0])
    cache = BarCache(Stored(WHOLE.rows(slice(0, split))))
    if ask_first:
        cache.bars("EURUSD", Timeframe.H1, start, hour(split))
    for n in range(max(0, split - overlap), len(WHOLE)):  # some of them closed before the desk looked into the lake
        cache.extend(WHOLE.rows(slice(n, n + 1)))
    assert same(cache.bars("EURUSD", Timeframe.H1, start, hour(until)), WHOLE.known_at(hour(until)))


def test_the_lake_is_read_once_and_again_only_for_earlier_sessions() -> None:
    lake = Stored(WHOLE)
    cache = BarCache(lake)
    later, earlier = int(WHOLE.session[-1]), int(WHOLE.session[0])
    assert len(cache.bars("EURUSD", Timeframe.H1, later, hour(99))) < len(WHOLE)
    cache.bars("EURUSD", Timeframe.H1, later, hour(99))
    assert lake.reads == 1
    assert same(cache.bars("EURUSD", Timeframe.H1, earlier, hour(99)), WHOLE)
    cache.bars("EURUSD", Timeframe.H1, later, hour(99))
    assert lake.reads == 2
    cache.forget()
    cache.bars("EURUSD", Timeframe.H1, later, hour(99))
    assert lake.reads == 3


def test_bars_of_a_real_lake_come_back_bit_for_bit(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    for number in np.unique(WHOLE.session):
        lake.append_hot(
            "bars_1h", session_date(int(number)), [WHOLE.rows(WHOLE.session == number)], source="test", instruments=INSTRUMENTS
        )
    cache = BarCache(lake)
    assert same(cache.bars("EURUSD", Timeframe.H1, int(WHOLE.session[0]), hour(99)), WHOLE)


def test_closes_become_bars_per_symbol_and_timeframe_in_order() -> None:
    mixed = [*reversed(CLOSES[:3]), replace(CLOSES[0], symbol="GBPUSD"), replace(CLOSES[0], timeframe=Timeframe.H4)]
    made = hot_bars.to_bars(mixed)
    found = sorted((b.symbol, str(b.timeframe), len(b)) for b in made)
    assert found == [("EURUSD", "1h", 3), ("EURUSD", "4h", 1), ("GBPUSD", "1h", 1)]
    first = next(b for b in made if len(b) == 3)
    assert list(first.close_time) == sorted(first.close_time)


def test_bars_fall_into_their_sessions() -> None:
    parts = hot_bars.by_session(WHOLE)
    assert same(concat(list(parts.values())), WHOLE)
    assert all(set(part.session) == {number} for number, part in parts.items())


@pytest.mark.parametrize(
    ("native", "derived"),
    [
        (Timeframe.M1, ["3m", "5m", "15m", "30m", "1h", "4h", "1d", "1w"]),
        (Timeframe.M3, ["15m", "30m", "1h", "4h", "1d", "1w"]),
        (Timeframe.H1, ["4h", "1d", "1w"]),
        (Timeframe.D1, ["1w"]),
        (Timeframe.W1, []),
    ],
)
def test_higher_timeframes_are_whole_multiples(native: Timeframe, derived: list[str]) -> None:
    assert [str(t) for t in hot_bars.derived_timeframes(native)] == derived


def test_a_week_begins_on_its_monday_and_everything_else_with_its_session() -> None:
    friday = session_number(date(2017, 12, 29))
    assert session_date(hot_bars.period_start(friday, Timeframe.W1)) == date(2017, 12, 25)
    assert hot_bars.period_start(friday, Timeframe.D1) == friday


def test_only_bars_that_close_right_now_are_named() -> None:
    now, before = WHOLE.rows(slice(3, 4)), WHOLE.rows(slice(2, 3))
    closed = {"EURUSD": {Timeframe.H1: now, Timeframe.H4: before}, "AAA": {Timeframe.H1: replace(now, symbol="AAA")}}
    assert hot_bars.closed_at(closed, int(now.close_time[-1])) == {"1h": ["AAA", "EURUSD"]}


def test_a_close_of_the_feed_is_one_row() -> None:
    close = BarClose("X", Timeframe.D1, 5, 7, 1.0, 2.0, 0.5, 1.5, 9.0)
    (made,) = hot_bars.to_bars([close])
    row = (made.close_time[0], made.session[0], made.open[0], made.high[0], made.low[0], made.close[0], made.volume[0])
    assert row == (5, 7, 1.0, 2.0, 0.5, 1.5, 9.0)
