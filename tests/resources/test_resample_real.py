"""Higher timeframes of real minutes: every awkward day gives what a plain reading of the definition gives."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from resources.feeds import get_feed
from resources.feeds.protocol import FeedError
from resources.settings import Settings
from tests.paths import lean_data
from tests.trading.test_resample import reference, rows_of
from trading.aggregate import Aggregator
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument
from trading.resample import resample
from trading.timeframes import Timeframe, from_us

T = Timeframe
TARGETS = (T.M3, T.M5, T.M15, T.M30, T.H1, T.H4, T.D1, T.W1)

CASES = {
    "half day: 13:00 close (GOOG 2015-12-24)":
        ("GOOG", AssetClass.EQUITY, "XNYS", "GOOG", date(2015, 12, 24), date(2015, 12, 24)),
    "minutes missing inside the session (GOOG 2015-12-28)":
        ("GOOG", AssetClass.EQUITY, "XNYS", "GOOG", date(2015, 12, 28), date(2015, 12, 28)),
    "minutes missing inside the session (TWX 2014-06-06), day cut short (TWX 2014-06-23)":
        ("TWX", AssetClass.EQUITY, "XNYS", "TWX", date(2014, 6, 5), date(2014, 6, 23)),
    "US clock change over the weekend (SHY 2008-03-07 to 03-10)":
        ("SHY", AssetClass.EQUITY, "XNYS", "SHY", date(2008, 3, 7), date(2008, 3, 10)),
    "7:1 split between files (AAPL 2014-06-06 / 06-09)":
        ("AAPL", AssetClass.EQUITY, "XNYS", "AAPL", date(2014, 6, 5), date(2014, 6, 9)),
    "Europe and US clocks out of step (EURUSD 2011-10-31)":
        ("EURUSD", AssetClass.FOREX, "FX", "forex/fxcm/EURUSD", date(2011, 10, 31), date(2011, 11, 1)),
    "illiquid: half the minutes absent (JUNIORBEES)":
        ("JUNIORBEES", AssetClass.EQUITY, "XBOM", "equity/india/JUNIORBEES", date(2019, 1, 1), date(2019, 1, 4)),
    "fractional volumes, day cut short (Coinbase BTCUSD 2018-04-04)":
        ("BTCUSD", AssetClass.CRYPTO, "CRYPTO", "crypto/coinbase/BTCUSD", date(2018, 4, 4), date(2018, 4, 4)),
}  # fmt: skip


def minutes(case: str) -> Bars:
    symbol, kind, venue, feed_symbol, start, end = CASES[case]
    instrument = Instrument(symbol, kind, venue, Decimal("0.0001"), "USD", "lean", feed_symbol, T.M1)
    try:
        bars = get_feed("lean", Settings(lean_data=lean_data())).history(instrument, T.M1, start, end)
    except FeedError as error:
        pytest.fail(str(error))
    assert len(bars), case
    return bars


@pytest.mark.parametrize("case", CASES)
def test_every_timeframe_is_the_definition_and_the_same_bar_by_bar(case: str) -> None:
    bars, cal = minutes(case), calendar(CASES[case][2])
    known = int(bars.close_time[-1])
    live = Aggregator(bars.symbol, T.M1, TARGETS, cal)
    for start in range(0, len(bars), 50):
        live.add(bars.rows(slice(start, start + 50)))
    for timeframe in TARGETS:
        made = resample(bars, timeframe, cal)
        assert rows_of(made) == reference(bars, timeframe, cal, known), str(timeframe)
        held = live.bars(timeframe)
        assert rows_of(held) == rows_of(made)[len(made) - len(held) :]


def test_half_day_hours_end_at_one_in_new_york() -> None:
    hours = resample(minutes("half day: 13:00 close (GOOG 2015-12-24)"), T.H1, calendar("XNYS"), known_until=2**60)
    assert [from_us(int(t)).hour for t in hours.close_time] == [15, 16, 17, 18]  # UTC


def test_the_sum_of_fractional_volumes_is_the_decimal_sum() -> None:
    bars = minutes("fractional volumes, day cut short (Coinbase BTCUSD 2018-04-04)")
    (day,) = resample(bars, T.D1, calendar("CRYPTO"), known_until=2**60).volume.tolist()
    assert Decimal(repr(day)) == sum((Decimal(repr(v)) for v in bars.volume.tolist()), Decimal(0))
    assert any(v != int(v) for v in bars.volume.tolist())
